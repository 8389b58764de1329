"""A Llama-type model whose blocks may lack attention or FFN. Open it with

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

It is the stock Llama model with other blocks. Blocks with attention are numbered densely for the key-value cache, so that a
block without attention leaves no empty cache layer behind (the cache takes its length from layer 0).
"""

from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaModel

from .configuration_pruned_llama import PrunedLlamaConfig


class PrunedLlamaDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config, layer_idx, has_attention, has_ffn):
        super().__init__(config, layer_idx)
        self.has_attention = has_attention
        self.has_ffn = has_ffn
        if not has_attention:
            del self.self_attn
            del self.input_layernorm
        if not has_ffn:
            del self.mlp
            del self.post_attention_layernorm

    def forward(self, hidden_states, **kwargs):
        if self.has_attention:
            attention = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
            hidden_states = hidden_states + attention
        if self.has_ffn:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class PrunedLlamaModel(LlamaModel):
    config_class = PrunedLlamaConfig
    _no_split_modules = ["PrunedLlamaDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        cache_index = 0
        for index, (has_attention, has_ffn) in enumerate(config.kept_sublayers()):
            self.layers[index] = PrunedLlamaDecoderLayer(config, cache_index, has_attention, has_ffn)
            cache_index += 1 if has_attention else 0
        self.post_init()


class PrunedLlamaForCausalLM(LlamaForCausalLM):
    config_class = PrunedLlamaConfig
    _no_split_modules = ["PrunedLlamaDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        self.model = PrunedLlamaModel(config)
        self.post_init()
