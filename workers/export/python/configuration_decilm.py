"""Configuration of a DeciLM model (model_type "nemotron-nas"): Llama's, with one block config for each block.

block_configs are objects here, as loaders read them (block.attention.no_op, block.ffn.ffn_mult); in config.json they are
dictionaries. A block's key-value heads are num_attention_heads // attention.n_heads_in_group, its channels 2 / 3 of ffn.ffn_mult *
hidden_size, rounded up to 256.
"""

from transformers import LlamaConfig


class Part:
    """The members of a dictionary as attributes."""

    def __init__(self, members):
        self.__dict__.update(members)

    def to_dict(self):
        return dict(self.__dict__)


class BlockConfig:
    def __init__(self, attention, ffn):
        self.attention, self.ffn = Part(attention), Part(ffn)

    def to_dict(self):
        return {"attention": self.attention.to_dict(), "ffn": self.ffn.to_dict()}


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        blocks = [block.to_dict() if isinstance(block, BlockConfig) else block for block in block_configs or []]
        self.block_configs = [BlockConfig(block["attention"], block["ffn"]) for block in blocks]

    def to_dict(self):
        output = super().to_dict()
        output["block_configs"] = [block.to_dict() for block in self.block_configs]
        return output
