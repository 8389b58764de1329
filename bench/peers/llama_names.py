"""What GGUF calls the tensors of a Llama, and the order of rows in which it keeps queries and keys."""
import numpy as np

OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
INNER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def gguf_names(layers):
    """{GGUF name: transformers name}"""
    names = dict(OUTER)
    for i in range(layers):
        names.update(("blk.%d.%s.weight" % (i, short), "model.layers.%d.%s.weight" % (i, long)) for short, long in INNER.items())
    return names


def heads_to_permute(name, config):
    """The number of heads if the rows of this GGUF tensor are permuted, else 0."""
    if name.endswith("attn_q.weight"):
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if name.endswith("attn_k.weight") else 0


def to_pairs(rows, heads):
    """transformers turns (x[i], x[i + d/2]) together, llama.cpp neighbours: row i of a half becomes row 2 i + half. rows: [heads d, n]"""
    d = rows.shape[0] // heads
    return np.ascontiguousarray(rows.reshape(heads, 2, d // 2, -1).swapaxes(1, 2).reshape(rows.shape))


def from_pairs(rows, heads):
    d = rows.shape[0] // heads
    return np.ascontiguousarray(rows.reshape(heads, d // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape))
