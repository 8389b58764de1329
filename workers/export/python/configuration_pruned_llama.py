"""Configuration of a Llama-type model from which single attention or FFN sublayers were removed.

`pruning["layers"]` has one entry per block: {"attention": bool, "ffn": bool}. A block without attention has neither
`input_layernorm` nor `self_attn`, one without FFN neither `post_attention_layernorm` nor `mlp`.
"""

from transformers import LlamaConfig


class PrunedLlamaConfig(LlamaConfig):
    model_type = "pruned_llama"

    def kept_sublayers(self):
        """[(has_attention, has_ffn)] per block; everything is there where the config does not say otherwise."""
        pruning = getattr(self, "pruning", None) or {}
        layers = pruning.get("layers") or [{}] * self.num_hidden_layers
        if len(layers) != self.num_hidden_layers:
            raise ValueError(f"pruning.layers has {len(layers)} entries for {self.num_hidden_layers} blocks")
        return [(bool(layer.get("attention", True)), bool(layer.get("ffn", True))) for layer in layers]
