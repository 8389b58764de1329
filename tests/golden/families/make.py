#!/usr/bin/env python3
"""Makes the small models and their logits beside this script: see origin.md.

Usage: make.py [FAMILY ...], in the venv of tests/long_venv.sh. Without names, every family. `make.py --report` prints the tensor
names, shapes and configurations of what lies here as Markdown.

Each family is a row of FAMILIES: a configuration with the family's peculiarities switched on, and the knobs that must matter. For
every tensor and every knob the script checks that forgetting it would move the logits by far more than the tolerance.
"""
import contextlib
import copy
import json
import os
import shutil
import sys
import zlib

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 80
LENGTHS = [1, 7, 33, 71]  # one token; inside the window; around it; beyond it and beyond 64
WINDOW = 24
SEED = 20240  # a family may add to it where routing would be too close to call
VISIBLE = 1e-3  # what forgetting a tensor must change at least, relative; 50 times the tolerance
VISIBLE_KNOB = 1e-4  # and a knob: the two forms of GELU differ by little
ROUTER_GAP = 1e-3  # between the last chosen and the first refused expert, in router logits


def tokens():
    random = np.random.default_rng(SEED)
    return [random.integers(3, VOCAB, size=n).tolist() for n in LENGTHS]


# --- the families ---------------------------------------------------------------------------------------------------------

LLAMA = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=96, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             pad_token_id=None, tie_word_embeddings=False)
BASE = {k: v for k, v in LLAMA.items() if k != "rms_norm_eps"}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.6],
            "long_factor": [1.2, 2.0, 3.5, 6.0], "original_max_position_embeddings": 48}
GEMMA3_ROPE = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
               "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}}

# name: (model_type, configuration, {knob: what a reader that forgets it would assume}, seed offset)
FAMILIES = {
    "llama": ("llama", dict(LLAMA, num_key_value_heads=4, rope_parameters=DEFAULT_ROPE), {}, 0),
    "llama3": ("llama", dict(LLAMA, hidden_size=48, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
                             rope_parameters=LLAMA3_ROPE),
               {"rope_parameters": dict(DEFAULT_ROPE, rope_theta=500000.0)}, 0),
    "llama_linear": ("llama", dict(LLAMA, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
                     {"rope_parameters": DEFAULT_ROPE}, 0),
    "llama_bias": ("llama", dict(LLAMA, attention_bias=True, mlp_bias=True, rope_parameters=DEFAULT_ROPE), {}, 0),
    "llama_headdim": ("llama", dict(LLAMA, head_dim=12, rope_parameters=DEFAULT_ROPE), {}, 0),
    "llama_bf16": ("llama", dict(LLAMA, rope_parameters=DEFAULT_ROPE, dtype="bfloat16"), {}, 0),
    "mistral": ("mistral", dict(LLAMA, sliding_window=WINDOW, rope_parameters=DEFAULT_ROPE), {"sliding_window": None}, 0),
    "qwen2": ("qwen2", dict(LLAMA, rms_norm_eps=1e-6, tie_word_embeddings=True, use_sliding_window=False, sliding_window=WINDOW,
                            rope_parameters=dict(DEFAULT_ROPE, rope_theta=1000000.0)), {"rope_parameters": DEFAULT_ROPE}, 0),
    "qwen2_window": ("qwen2", dict(LLAMA, rms_norm_eps=1e-6, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
                                   rope_parameters=DEFAULT_ROPE),
                     {"layer_types": ["full_attention"] * 2, "layer_types#all": ["sliding_attention"] * 2}, 0),
    "qwen3": ("qwen3", dict(LLAMA, rms_norm_eps=1e-6, head_dim=12, rope_parameters=DEFAULT_ROPE), {}, 0),
    "gemma2": ("gemma2", dict(LLAMA, rms_norm_eps=1e-6, num_hidden_layers=3, head_dim=12, query_pre_attn_scalar=20,
                              attn_logit_softcapping=3.0, final_logit_softcapping=5.0, sliding_window=WINDOW,
                              tie_word_embeddings=True, pad_token_id=0, rope_parameters=DEFAULT_ROPE),
               {"query_pre_attn_scalar": 12, "attn_logit_softcapping": None, "final_logit_softcapping": None,
                "layer_types": ["full_attention"] * 3, "layer_types#all": ["sliding_attention"] * 3}, 0),
    "gemma3_text": ("gemma3_text", dict(LLAMA, rms_norm_eps=1e-6, num_hidden_layers=4, intermediate_size=36, head_dim=12,
                                        num_key_value_heads=1, query_pre_attn_scalar=20, sliding_window=WINDOW,
                                        sliding_window_pattern=3, tie_word_embeddings=True, pad_token_id=0,
                                        rope_parameters=GEMMA3_ROPE),
                    {"query_pre_attn_scalar": 12, "layer_types": ["full_attention"] * 4,
                     "layer_types#all": ["sliding_attention"] * 4,
                     "rope_parameters": dict(GEMMA3_ROPE, full_attention=GEMMA3_ROPE["sliding_attention"]),
                     "rope_parameters#factor": dict(GEMMA3_ROPE, full_attention=dict(DEFAULT_ROPE, rope_theta=1000000.0))}, 0),
    "phi3": ("phi3", dict(LLAMA, sliding_window=WINDOW, rope_parameters=DEFAULT_ROPE), {"sliding_window": None}, 0),
    "phi3_longrope": ("phi3", dict(LLAMA, original_max_position_embeddings=48, rope_parameters=LONGROPE),
                      {"rope_parameters": DEFAULT_ROPE, "rope_parameters#short": dict(LONGROPE, long_factor=LONGROPE["short_factor"]),
                       "rope_parameters#scale": dict(LONGROPE, attention_factor=1.0)}, 0),
    "phi3_partial": ("phi3", dict(LLAMA, rope_parameters=dict(DEFAULT_ROPE, partial_rotary_factor=0.5)),
                     {"rope_parameters": DEFAULT_ROPE}, 0),
    "gpt2": ("gpt2", dict(vocab_size=VOCAB, n_positions=96, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=2),
             {"activation_function": "gelu"}, 0),
    "opt": ("opt", dict(vocab_size=VOCAB, hidden_size=32, ffn_dim=80, num_hidden_layers=2, num_attention_heads=4,
                        max_position_embeddings=96, word_embed_proj_dim=32, dropout=0.0), {"activation_function": "gelu"}, 0),
    "gpt_neox": ("gpt_neox", dict(BASE, num_attention_heads=2, num_key_value_heads=None, intermediate_size=80, hidden_act="gelu",
                                  rope_parameters=dict(DEFAULT_ROPE, partial_rotary_factor=0.25)),
                 {"use_parallel_residual": False, "rope_parameters": dict(DEFAULT_ROPE, partial_rotary_factor=1.0)}, 0),
    "gpt_neox_serial": ("gpt_neox", dict(BASE, num_attention_heads=2, num_key_value_heads=None, intermediate_size=80,
                                         hidden_act="gelu", use_parallel_residual=False,
                                         rope_parameters=dict(DEFAULT_ROPE, partial_rotary_factor=0.5)),
                        {"use_parallel_residual": True}, 0),
    "mixtral": ("mixtral", dict(LLAMA, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
                                rope_parameters=dict(DEFAULT_ROPE, rope_theta=1000000.0)), {"num_experts_per_tok": 1}, 1),
    "qwen3_moe": ("qwen3_moe", dict(LLAMA, rms_norm_eps=1e-6, num_hidden_layers=3, head_dim=12, intermediate_size=40,
                                    moe_intermediate_size=16, num_experts=5, num_experts_per_tok=2, norm_topk_prob=True,
                                    decoder_sparse_step=1, mlp_only_layers=[1], rope_parameters=DEFAULT_ROPE),
                  {"norm_topk_prob": False, "num_experts_per_tok": 1}, 0),
    "bert": ("bert", dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                          max_position_embeddings=96, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12, pad_token_id=0),
             {"hidden_act": "gelu_new"}, 0),
}

# Softmax does not see a term that is the same for every key: a key bias shows only where rotation makes it depend on the position.
# BERT's pooler is in the file but takes no part in the hidden states, and the second token type is not used.
INVISIBLE = {"opt": ["k_proj.bias"], "bert": ["key.bias", "pooler."]}


def build(family, overrides=None):
    model_type, values, _, _ = FAMILIES[family]
    config = AutoConfig.for_model(model_type, **copy.deepcopy(values))
    for key, value in (overrides or {}).items():
        setattr(config, key.split("#")[0], copy.deepcopy(value))
    config._attn_implementation = config._experts_implementation = "eager"  # the plain loops
    make = AutoModel if family == "bert" else AutoModelForCausalLM
    return make.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def initialise(family, model):
    """Norms away from 1, biases away from 0, every sublayer about as large as the residual it is added to."""
    offset = FAMILIES[family][3]
    gemma = family.startswith("gemma")
    tied = getattr(model.config, "tie_word_embeddings", False) and family != "bert"
    for name, parameter in model.named_parameters():
        random = np.random.default_rng([SEED + offset, zlib.crc32(name.encode())])  # by name: independent of the order
        shape = tuple(parameter.shape)
        leaf = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
        normal = random.standard_normal(shape)
        if name.endswith(".bias"):
            value = 0.3 * normal
        elif parameter.dim() == 1:
            value = random.uniform(-0.4, 0.4, shape) + (0.0 if gemma else 1.0)  # Gemma multiplies by 1 + weight
        elif leaf in ("embed_tokens", "wte", "embed_in", "word_embeddings"):
            value = normal * (0.35 if gemma else 0.6 if tied else 1.0)
        elif leaf in ("embed_positions", "wpe", "position_embeddings", "token_type_embeddings"):
            value = 0.5 * normal
        elif leaf in ("lm_head", "embed_out"):
            value = normal * 3.0 / np.sqrt(shape[-1])
        else:
            fan_in = shape[0] if family == "gpt2" else shape[-1]  # Conv1D holds [in, out]
            gain = 1.0
            if any(part in leaf for part in ("q_proj", "k_proj", "query", "key", "qkv", "c_attn")):
                gain = 1.6  # attention that prefers some keys
            elif leaf == "gate" or "router" in name:
                gain = 3.0  # experts that differ
            elif any(part in leaf for part in ("o_proj", "out_proj", "down_proj", "c_proj", "dense", "fc2", "w2")):
                gain = 1.7
            value = normal * gain / np.sqrt(fan_in)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value.astype(np.float32)))
    if model.config.dtype == torch.bfloat16:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(torch.bfloat16).to(torch.float32))


def forward(family, model, sequence):
    with torch.no_grad():
        if family == "bert":
            return model(torch.tensor([sequence])).last_hidden_state[0].numpy().copy()
        return model(torch.tensor([sequence]), use_cache=False).logits[0].numpy().copy()


def difference(a, b):
    """max |a - b| / max |b| over a sequence."""
    return float(np.abs(a.astype(np.float64) - b).max() / np.abs(b).max())


@contextlib.contextmanager
def everything_in_double():
    """transformers computes norms, softmax and rotations in float32 whatever the dtype of the weights; here they are double too."""
    saved = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved


def double_forward(family, weights, sequences):
    torch.set_default_dtype(torch.float64)
    try:
        with everything_in_double():
            model = build(family).double()
            model.load_state_dict({k: v.double() for k, v in weights.items()})
            return [forward(family, model, s) for s in sequences]
    finally:
        torch.set_default_dtype(torch.float32)


# --- checks ---------------------------------------------------------------------------------------------------------------

def check_tensors_visible(family, model, sequence, golden):
    gemma = family.startswith("gemma")
    least = np.inf
    for name, parameter in model.named_parameters():
        if any(part in name for part in INVISIBLE.get(family, [])):
            continue
        pieces = range(parameter.shape[0]) if parameter.dim() == 3 else [slice(None)]  # every expert
        for piece in pieces:
            saved = parameter.detach().clone()
            with torch.no_grad():
                parameter[piece] = 1.0 if parameter.dim() == 1 and not name.endswith(".bias") and not gemma else 0.0
            moved = difference(forward(family, model, sequence), golden)
            with torch.no_grad():
                parameter.copy_(saved)
            least = min(least, moved)
            if not moved > VISIBLE:
                raise SystemExit("%s: forgetting %s[%s] changes only %.2g" % (family, name, piece, moved))
    return least


def check_knobs_visible(family, model, sequence, golden):
    weights = model.state_dict()
    for knob, value in FAMILIES[family][2].items():
        other = build(family, {knob: value})
        other.load_state_dict(weights)
        moved = difference(forward(family, other, sequence), golden)
        if not moved > VISIBLE_KNOB:
            raise SystemExit("%s: %s = %r changes only %.2g" % (family, knob, value, moved))


def check_routing(family, model, sequences):
    """The choice of experts must not hang on a rounding error."""
    gaps = []

    def hook(module, inputs, output):
        scores = torch.nn.functional.linear(inputs[0].reshape(-1, inputs[0].shape[-1]), module.weight)
        top = scores.sort(dim=-1, descending=True).values
        k = model.config.num_experts_per_tok
        gaps.append(float((top[:, k - 1] - top[:, k]).min()))

    handles = [m.register_forward_hook(hook) for n, m in model.named_modules() if n.endswith("mlp.gate")]
    for sequence in sequences:
        forward(family, model, sequence)
    for handle in handles:
        handle.remove()
    if gaps and min(gaps) < ROUTER_GAP:
        raise SystemExit("%s: experts only %.2g apart; add to its seed" % (family, min(gaps)))
    return min(gaps) if gaps else None


def load(folder, family):
    make = AutoModel if family == "bert" else AutoModelForCausalLM
    model = make.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # the file's mapping is aligned otherwise, and a product's bits depend on that
    return model


# --- checkpoints as they stand on the hub ---------------------------------------------------------------------------------

def old_config(config):
    """The keys that transformers 4 wrote: rope_theta and rope_scaling at the top, torch_dtype, no layer_types."""
    config = copy.deepcopy(config)
    rope = config.pop("rope_parameters", None)
    config.pop("layer_types", None)
    config["torch_dtype"] = config.pop("dtype", "float32")
    config["transformers_version"] = "4.40.0"
    if rope and "rope_type" in rope:
        config["rope_theta"] = rope.pop("rope_theta")
        rope.pop("partial_rotary_factor", None)
        config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    return config


def rename(weights, *pairs):
    result = {}
    for name, tensor in weights.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = tensor
    return result


def inverse_frequencies(head_dim, theta=10000.0):
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def causal(n):
    return torch.tril(torch.ones(n, n)).reshape(1, 1, n, n)


def old_llama(config, weights):
    for i in range(config["num_hidden_layers"]):  # buffers that old checkpoints carry and readers ignore
        weights["model.layers.%d.self_attn.rotary_emb.inv_freq" % i] = inverse_frequencies(8)
    config.pop("head_dim", None)
    return config, weights


def old_llama_linear(config, weights):
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}
    config.pop("head_dim", None)
    return config, weights


def old_gemma2(config, weights):
    config["hidden_act"] = config["hidden_activation"]
    config["cache_implementation"] = "hybrid"
    config.pop("tie_word_embeddings", None)  # not written: Gemma's default is true
    return config, weights


def old_gemma3(config, weights):
    config["rope_theta"] = 1000000.0
    config["rope_local_base_freq"] = 10000.0
    config["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    config["sliding_window_pattern"] = 3
    config.pop("_sliding_window_pattern", None)
    config.pop("tie_word_embeddings", None)
    return config, weights


def old_phi3_longrope(config, weights):
    config["rope_scaling"] = {"type": "longrope", "short_factor": LONGROPE["short_factor"], "long_factor": LONGROPE["long_factor"]}
    return config, weights


def old_phi3_partial(config, weights):
    config["partial_rotary_factor"] = 0.5
    return config, weights


def old_gpt2(config, weights):
    weights = rename(weights, ("transformer.", ""))
    for i in range(config["n_layer"]):
        weights["h.%d.attn.bias" % i] = causal(config["n_positions"])  # the mask, not a bias of the projection
    config["n_ctx"] = config["n_positions"]
    config.pop("tie_word_embeddings", None)
    return config, weights


def old_opt(config, weights):
    config.pop("tie_word_embeddings", None)
    return config, rename(weights, ("model.decoder.", "decoder."))


def old_gpt_neox(config, weights):
    for i in range(config["num_hidden_layers"]):
        prefix = "gpt_neox.layers.%d.attention." % i
        weights[prefix + "bias"] = causal(96).to(torch.bool)
        weights[prefix + "masked_bias"] = torch.tensor(-1e9)
        weights[prefix + "rotary_emb.inv_freq"] = inverse_frequencies(4)
    config["rotary_pct"] = 0.25
    config["rotary_emb_base"] = 10000
    for key in ("rope_theta", "rope_scaling", "attention_bias"):
        config.pop(key, None)
    return config, weights


def old_bert(config, weights):
    weights = rename(weights, ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    weights = {"bert." + name: tensor for name, tensor in weights.items()}
    weights["bert.embeddings.position_ids"] = torch.arange(96).reshape(1, 96)
    weights["cls.predictions.bias"] = torch.zeros(VOCAB)
    config["position_embedding_type"] = "absolute"
    config["architectures"] = ["BertForMaskedLM"]
    for key in ("add_cross_attention", "is_decoder", "tie_word_embeddings"):
        config.pop(key, None)
    return config, weights


def as_is(config, weights):
    return config, weights


OLD = {
    "llama": old_llama, "llama3": as_is, "llama_linear": old_llama_linear, "mistral": as_is, "qwen2_window": as_is,
    "qwen3": as_is, "gemma2": old_gemma2, "gemma3_text": old_gemma3, "phi3_longrope": old_phi3_longrope,
    "phi3_partial": old_phi3_partial, "gpt2": old_gpt2, "opt": old_opt, "gpt_neox": old_gpt_neox, "mixtral": as_is,
    "qwen3_moe": as_is, "bert": old_bert,
}


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def read_weights(folder):
    with safe_open(os.path.join(folder, "model.safetensors"), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def write_golden(folder, family, sequences, goldens):
    name = "hidden.f32" if family == "bert" else "logits.f32"
    np.concatenate(goldens).astype("<f4").tofile(os.path.join(folder, name))
    with open(os.path.join(folder, "tokens.json"), "w") as file:
        json.dump(sequences, file)
        file.write("\n")
    if family == "bert":
        means = np.stack([g.astype(np.float64).mean(axis=0) for g in goldens])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        means.astype("<f4").tofile(os.path.join(folder, "embedding.f32"))


def write_old(family, folder, sequences, goldens):
    """The same model under its old names; what is the same file is a link."""
    old = folder + "_old"
    shutil.rmtree(old, ignore_errors=True)
    os.makedirs(old)
    with open(os.path.join(folder, "config.json")) as file:
        config, weights = OLD[family](old_config(json.load(file)), read_weights(folder))
    write_json(os.path.join(old, "config.json"), config)
    same = sorted(os.listdir(folder))
    same.remove("config.json")
    if weights.keys() != read_weights(folder).keys():
        same.remove("model.safetensors")
        save_file({k: v.contiguous() for k, v in weights.items()}, os.path.join(old, "model.safetensors"), metadata={"format": "pt"})
        os.chmod(os.path.join(old, "model.safetensors"), 0o644)
    for name in same:
        os.symlink(os.path.join("..", family, name), os.path.join(old, name))
    model = load(old, family)
    for sequence, golden in zip(sequences, goldens):
        if not np.array_equal(forward(family, model, sequence), golden):
            raise SystemExit("%s: transformers reads another model" % old)


def make(family):
    sequences = tokens()
    model = build(family)
    initialise(family, model)
    goldens = [forward(family, model, s) for s in sequences]
    size = [float(np.abs(g).max()) for g in goldens]
    if not all(0.9 < s < 25 for s in size):
        raise SystemExit("%s: largest logits %s" % (family, size))
    gap = check_routing(family, model, sequences)
    least = check_tensors_visible(family, model, sequences[-1], goldens[-1])
    check_knobs_visible(family, model, sequences[-1], goldens[-1])
    doubles = double_forward(family, model.state_dict(), sequences)
    noise = max(difference(g, d) for g, d in zip(goldens, doubles))

    folder = os.path.join(HERE, family)
    shutil.rmtree(folder, ignore_errors=True)
    stored = copy.deepcopy(model).to(torch.bfloat16) if model.config.dtype == torch.bfloat16 else model
    stored.save_pretrained(folder)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    write_golden(folder, family, sequences, goldens)
    again = load(folder, family)
    for sequence, golden in zip(sequences, goldens):
        if not np.array_equal(forward(family, again, sequence), golden):
            raise SystemExit("%s: the saved folder is another model" % family)
    if family in OLD:
        write_old(family, folder, sequences, goldens)
    print("| %s | %.1f | %.1e | %.1e |%s" % (family, max(size), noise, least, " router gap %.1e" % gap if gap else ""), flush=True)


def report():
    print("# Families: what stands in each folder (generated)\n\ntransformers %s\n" % transformers.__version__)
    for folder in sorted(n for n in os.listdir(HERE) if os.path.isdir(os.path.join(HERE, n)) and n != "__pycache__"):
        print("## %s\n\n```" % folder)
        with safe_open(os.path.join(HERE, folder, "model.safetensors"), "pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                print("%-70s %-5s %s" % (name, part.get_dtype(), part.get_shape()))
        with open(os.path.join(HERE, folder, "config.json")) as file:
            print("```\n```json\n%s```\n" % file.read())


def main():
    if sys.argv[1:] == ["--report"]:
        return report()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("| family | largest logit | fp32 against fp64 | least visible tensor |\n|---|---|---|---|")
    for family in sys.argv[1:] or FAMILIES:
        make(family)


if __name__ == "__main__":
    main()
