"""A pruned model of a stock family: blocks may lack attention or FFN, and widths differ from block to block. Open it with

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

config.json is the family's, with model_type "pruned_<family>" and what is left of each block in

    pruning["layers"][i] = {"attention": {"num_attention_heads": n, "num_key_value_heads": n} or false,
                            "ffn": {"intermediate_size": n} or {"num_experts": n, "num_experts_per_tok": n, "intermediate_size": n}
                                   or false}

true, for either, means the sizes of the config. The blocks are the stock ones, made from a view of the config with that block's
sizes; an absent sublayer, which has neither weights nor norms, adds zero. The key-value cache is the stock one as well: an absent
attention never touches it, and the first attention writes the cache's first layer, by which the cache tells its length.
"""

import importlib

FAMILIES = {  # PrunedXConfig, PrunedXModel, PrunedXForCausalLM: module of transformers, its config, model and causal model
    "Llama": ("llama", "LlamaConfig", "LlamaModel", "LlamaForCausalLM"),
    "Mistral": ("mistral", "MistralConfig", "MistralModel", "MistralForCausalLM"),
    "Qwen2": ("qwen2", "Qwen2Config", "Qwen2Model", "Qwen2ForCausalLM"),
    "Qwen3": ("qwen3", "Qwen3Config", "Qwen3Model", "Qwen3ForCausalLM"),
    "Qwen3Moe": ("qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeModel", "Qwen3MoeForCausalLM"),
    "Mixtral": ("mixtral", "MixtralConfig", "MixtralModel", "MixtralForCausalLM"),
    "Gemma2": ("gemma2", "Gemma2Config", "Gemma2Model", "Gemma2ForCausalLM"),
    "Gemma3": ("gemma3", "Gemma3TextConfig", "Gemma3TextModel", "Gemma3ForCausalLM"),
    "Phi3": ("phi3", "Phi3Config", "Phi3Model", "Phi3ForCausalLM"),
    "GPT2": ("gpt2", "GPT2Config", "GPT2Model", "GPT2LMHeadModel"),
    "OPT": ("opt", "OPTConfig", "OPTModel", "OPTForCausalLM"),
    "GPTNeoX": ("gpt_neox", "GPTNeoXConfig", "GPTNeoXModel", "GPTNeoXForCausalLM"),
}


class LayerConfig:
    """The config as one block sees it: some sizes are its own, everything else is the model's, now and later."""

    def __init__(self, config, sizes):
        self.__dict__["_model"] = config
        self.__dict__.update(sizes)

    def __getattr__(self, name):
        if name == "_model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._model, name)


def kept(config):
    """[(attention, ffn)] of each block: False, or the sizes that it says."""
    pruning = getattr(config, "pruning", None) or {}
    layers = pruning.get("layers") or [{}] * config.num_hidden_layers
    if len(layers) != config.num_hidden_layers:
        raise ValueError(f"pruning.layers has {len(layers)} entries for {config.num_hidden_layers} blocks")
    sides = [[layer.get(side, True) for side in ("attention", "ffn")] for layer in layers]
    return [tuple({} if side is True else side for side in pair) for pair in sides]


def layer_sizes(config, attention, ffn):
    """The attributes under which the families know a block's sizes."""
    sizes = {}
    if attention and "head_dim" not in config.pruning:  # there, attention is as wide as the model: set_head_count
        sizes.update(attention)
        sizes["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if ffn:
        width = ffn["intermediate_size"]
        sizes.update(intermediate_size=width, moe_intermediate_size=width, n_inner=width, ffn_dim=width)
        if "num_experts" in ffn:
            sizes.update(num_experts=ffn["num_experts"], num_local_experts=ffn["num_experts"])
            sizes["num_experts_per_tok"] = ffn["num_experts_per_tok"]
    return sizes


def attention_name(layer):
    return next(name for name in ("self_attn", "attn", "attention") if hasattr(layer, name))


def set_head_count(attention, count):
    """For families whose attention is always as wide as the model."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    size = attention.head_dim if hasattr(attention, "head_dim") else attention.head_size
    inner = ("c_attn", "query_key_value", "q_proj", "k_proj", "v_proj")
    for name in inner + ("c_proj", "dense", "out_proj"):
        old = getattr(attention, name, None)
        if old is None:
            continue
        parts = 3 if name in ("c_attn", "query_key_value") else 1
        is_conv = isinstance(old, Conv1D)
        before = tuple(old.weight.shape) if is_conv else tuple(old.weight.shape)[::-1]
        shape = (before[0], parts * count * size) if name in inner else (count * size, before[1])
        setattr(attention, name, Conv1D(shape[1], shape[0]) if is_conv else nn.Linear(*shape, bias=old.bias is not None))
    for name, value in (("num_heads", count), ("split_size", count * size)):
        if hasattr(attention, name):
            setattr(attention, name, value)


def remove(layer, has_attention, has_ffn):
    from torch import nn

    class Nothing(nn.Module):
        """What an absent sublayer adds."""

        def forward(self, hidden_states):
            return hidden_states.new_zeros(hidden_states.shape)

    class NoAttention(nn.Module):
        def forward(self, hidden_states, *args, **kwargs):
            return hidden_states.new_zeros(hidden_states.shape), None

    is_sandwich = hasattr(layer, "pre_feedforward_layernorm")  # then post_attention_layernorm is what it is called
    if not has_attention:
        setattr(layer, attention_name(layer), NoAttention())
        norms = ["input_layernorm", "self_attn_layer_norm", "ln_1"] + ["post_attention_layernorm"] * is_sandwich
    elif not has_ffn:
        norms = ["pre_feedforward_layernorm", "post_feedforward_layernorm", "final_layer_norm", "ln_2"]
        norms += ["post_attention_layernorm"] * (not is_sandwich)
        if hasattr(layer, "fc1"):
            layer.fc1, layer.activation_fn, layer.fc2 = nn.Identity(), nn.Identity(), Nothing()
        else:
            layer.mlp = Nothing()
    else:
        return
    for name in norms:
        if hasattr(layer, name):
            setattr(layer, name, nn.Identity())


def rebuild(model, config):
    from torch import nn

    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    is_first = True
    for index, (attention, ffn) in enumerate(kept(config)):
        sizes = layer_sizes(config, attention, ffn)
        if any(getattr(config, name, value) != value for name, value in sizes.items()):
            layers[index] = type(layers[index])(LayerConfig(config, sizes), index)
        if attention is not False:
            module = getattr(layers[index], attention_name(layers[index]))
            if attention and "num_attention_heads" not in sizes and attention["num_attention_heads"] != config.num_attention_heads:
                set_head_count(module, attention["num_attention_heads"])
            module.layer_idx = 0 if is_first else index
            is_first = False
        remove(layers[index], attention is not False, ffn is not False)
        if attention is False and ffn is False:
            raise ValueError(f"block {index} has neither attention nor FFN")


def make_causal(stock, config_class):
    class Pruned(stock):
        def __init__(self, config, *args, **kwargs):
            super().__init__(config, *args, **kwargs)
            rebuild(self, config)
            self.post_init()

    Pruned.config_class = config_class
    return Pruned


def convert_as(made, stock):
    """Versions of transformers that rename what checkpoints hold, or keep all experts in one tensor, look it up by class or type."""
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
    except ImportError:
        return
    for name, known in ((made.__name__, stock.__name__), (made.config_class.model_type, stock.config_class.model_type)):
        mapping = get_checkpoint_conversion_mapping(known)
        if mapping is not None:
            register_checkpoint_conversion_mapping(name, mapping, overwrite=True)


def make(family, kind):
    module, config_name, model_name, causal_name = FAMILIES[family]
    name = f"Pruned{family}{kind}"
    if kind == "Config":
        stock = getattr(importlib.import_module(f"transformers.models.{module}.configuration_{module}"), config_name)
        return type(name, (stock,), {"__module__": __name__, "model_type": "pruned_" + stock.model_type})
    modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    config_class = globals()["__getattr__"](f"Pruned{family}Config")
    stock = getattr(modeling, model_name if kind == "Model" else causal_name)
    made = make_causal(stock, config_class)
    made.__name__, made.__qualname__, made.__module__ = name, name, __name__
    convert_as(made, stock)
    return made


def __getattr__(name):
    """Classes are made when they are asked for: no family is imported but the one of the checkpoint."""
    for family in FAMILIES:
        for kind in ("Config", "Model", "ForCausalLM"):
            if name == f"Pruned{family}{kind}":
                if name not in globals():
                    globals()[name] = make(family, kind)
                return globals()[name]
    raise AttributeError(f"module {__name__} has no attribute {name}")
