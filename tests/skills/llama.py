"""A compact Llama with the numerics of transformers' LlamaForCausalLM, and the
tokenizer, loading and saving that train.py and evaluate.py share."""
import json
import os
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
BOS, EOS = "<s>", "</s>"
SHAPE = dict(blocks=12, width=128, heads=4, kv_heads=2, head_dim=32, hidden=256,
             theta=10000.0, eps=1e-5, positions=256)


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s, d = s, s["width"]
        q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
        self.input_layernorm = nn.RMSNorm(d, eps=s["eps"])
        self.qkv = nn.Linear(d, q + 2 * kv, bias=False)
        self.o = nn.Linear(q, d, bias=False)
        self.post_attention_layernorm = nn.RMSNorm(d, eps=s["eps"])
        self.gate_up = nn.Linear(d, 2 * s["hidden"], bias=False)
        self.down = nn.Linear(s["hidden"], d, bias=False)

    def attention(self, x, cos, sin):
        s, (b, t, _) = self.s, x.shape
        hq, hk, d = s["heads"], s["kv_heads"], s["head_dim"]
        y = self.qkv(self.input_layernorm(x)).view(b, t, hq + 2 * hk, d).transpose(1, 2)
        qk, v = y[:, :hq + hk], y[:, hq + hk:]
        a, c = qk.chunk(2, -1)
        qk = torch.cat((a * cos - c * sin, c * cos + a * sin), -1)  # rotate half
        q, k = qk[:, :hq], qk[:, hq:]
        k, v = (z.repeat_interleave(hq // hk, 1) for z in (k, v))
        with torch.autocast("cpu", enabled=False):      # its bf16 backward is slow
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, hq * d))

    def ffn(self, x):
        g, u = self.gate_up(self.post_attention_layernorm(x)).chunk(2, -1)
        return self.down(F.silu(g) * u)


class Llama(nn.Module):
    """Sublayer 2*i is the attention of block i, sublayer 2*i+1 its FFN."""

    def __init__(self, vocab, shape=SHAPE):
        super().__init__()
        self.s = s = shape
        self.embed = nn.Embedding(vocab, s["width"])
        self.layers = nn.ModuleList(Block(s) for _ in range(s["blocks"]))
        self.norm = nn.RMSNorm(s["width"], eps=s["eps"])
        f = s["theta"] ** (-torch.arange(0, s["head_dim"], 2).float() / s["head_dim"])
        a = torch.arange(s["positions"]).float()[:, None] * f
        self.register_buffer("cos", a.cos(), False)
        self.register_buffer("sin", a.sin(), False)
        for n, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * s["blocks"]) ** -0.5 if n.endswith(("o.weight", "down.weight")) else 1
                nn.init.normal_(p, std=scale * (0.02 if n.startswith("embed") else s["width"] ** -0.5))

    def forward(self, ids, removed=(), where=None, gates=None):
        """Logits at every position, or only at the positions of the mask `where`.  The sublayers
        `removed` are left out; `gates` (rows x sublayers, 0 or 1) leaves them out row by row."""
        def gated(y, i):
            return y if gates is None else y * gates[:, i, None, None]
        x = self.embed(ids)
        t = ids.shape[1]
        cos, sin = self.cos[:t].to(x.dtype), self.sin[:t].to(x.dtype)
        for i, layer in enumerate(self.layers):
            if 2 * i not in removed:
                x = x + gated(layer.attention(x, cos, sin), 2 * i)
            if 2 * i + 1 not in removed:
                x = x + gated(layer.ffn(x), 2 * i + 1)
        x = self.norm(x if where is None else x[where])
        return x @ self.embed.weight.T.to(x.dtype)


def split_sizes(s):
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    return [q, kv, kv]


def to_hf(model):
    """State dict under the names LlamaForCausalLM uses (the head is tied)."""
    out = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    for i, b in enumerate(model.layers):
        p = "model.layers.%d." % i
        for n in ("input_layernorm", "post_attention_layernorm"):
            out[p + n + ".weight"] = getattr(b, n).weight
        for n, w in zip("qkv", b.qkv.weight.split(split_sizes(model.s))):
            out[p + "self_attn.%s_proj.weight" % n] = w
        out[p + "self_attn.o_proj.weight"] = b.o.weight
        for n, w in zip(("gate", "up"), b.gate_up.weight.chunk(2)):
            out[p + "mlp.%s_proj.weight" % n] = w
        out[p + "mlp.down_proj.weight"] = b.down.weight
    return {k: v.detach() for k, v in out.items()}


def load(path):
    """The product as a Llama in fp32."""
    from safetensors.torch import load_file
    t = {k: v.float() for k, v in load_file(os.path.join(path, "model.safetensors")).items()}
    model = Llama(t["model.embed_tokens.weight"].shape[0])
    with torch.no_grad():
        model.embed.weight.copy_(t["model.embed_tokens.weight"])
        model.norm.weight.copy_(t["model.norm.weight"])
        for i, b in enumerate(model.layers):
            g = lambda n: t["model.layers.%d.%s.weight" % (i, n)]
            for n in ("input_layernorm", "post_attention_layernorm"):
                getattr(b, n).weight.copy_(g(n))
            b.qkv.weight.copy_(torch.cat([g("self_attn.%s_proj" % n) for n in "qkv"]))
            b.o.weight.copy_(g("self_attn.o_proj"))
            b.gate_up.weight.copy_(torch.cat([g("mlp.gate_proj"), g("mlp.up_proj")]))
            b.down.weight.copy_(g("mlp.down_proj"))
    return model.eval()


def save(model, tok, path):
    """Write the product: weights in bf16, configuration, tokenizer."""
    from safetensors.torch import save_file
    s, bos, eos = model.s, tok.token_to_id(BOS), tok.token_to_id(EOS)
    os.makedirs(path, exist_ok=True)

    def write(name, obj):
        with open(os.path.join(path, name), "w") as f:
            json.dump(obj, f, indent=2)
            f.write("\n")

    save_file({k: v.to(torch.bfloat16).contiguous().clone() for k, v in to_hf(model).items()},
              os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    write("config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": bos, "eos_token_id": eos, "head_dim": s["head_dim"],
        "hidden_act": "silu", "hidden_size": s["width"], "initializer_range": 0.02,
        "intermediate_size": s["hidden"], "max_position_embeddings": s["positions"],
        "mlp_bias": False, "num_attention_heads": s["heads"], "num_hidden_layers": s["blocks"],
        "num_key_value_heads": s["kv_heads"], "pretraining_tp": 1, "rms_norm_eps": s["eps"],
        "rope_scaling": None, "rope_theta": s["theta"], "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": model.embed.weight.shape[0]})
    write("generation_config.json", {"bos_token_id": bos, "eos_token_id": eos, "do_sample": False,
                                     "max_new_tokens": 16})
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
        "pad_token": EOS, "model_max_length": s["positions"], "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"]})
    tok.save(os.path.join(path, "tokenizer.json"))


def make_tokenizer():
    """Byte-level BPE learnt until every word of the language is one token."""
    import generate
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    rng = random.Random(1)
    text = []
    for skill in generate.SKILLS:
        for _ in range(4000):
            p, a = generate.draw(rng, skill, rng.randrange(2))
            text.append(p + " " + a)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=4096, min_frequency=2, special_tokens=[BOS, EOS], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tok.post_processor = processors.TemplateProcessing(
        single=BOS + " $A", pair=BOS + " $A $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return tok
