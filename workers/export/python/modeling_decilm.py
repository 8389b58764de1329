"""A DeciLM model in transformers: the stock Llama with blocks that differ, as modeling_pruned.py makes them."""

from transformers.models.llama.modeling_llama import LlamaForCausalLM

from .configuration_decilm import DeciLMConfig
from .modeling_pruned import rebuild


class DeciLMForCausalLM(LlamaForCausalLM):
    config_class = DeciLMConfig

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        rebuild(self, config)
        self.post_init()
