#!/usr/bin/env python3
"""Writes a model with random BF16 weights in the shape of a real one, for benchmarks: time and memory do not depend on what it says.

Usage: make_model.py SHAPE OUT_FOLDER [--seed N] [--tokenizer FOLDER] [--shard-bytes N]

Needs NumPy only and holds one block of random numbers, never a tensor. Weights are normal with deviation 0.02, norms 1. Each tensor has
its own block of 4 M numbers, seeded by its name, laid down again and again from another place each time: 16 GB take as long as the disk
does, and no row repeats at a distance that a kernel could meet. The same seed gives the same bytes.
"""
import argparse
import json
import os
import shutil
import zlib

import numpy as np

DEVIATION = 0.02
BLOCK = 4194301  # prime, so that no row length divides it
LLAMA3_SCALING = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                  "rope_type": "llama3"}
SHAPES = {  # name: hidden, layers, heads, key-value heads, head size, FFN, vocabulary, tied, longest, theta, rope scaling, epsilon
    "smollm2-135m": (576, 30, 9, 3, 64, 1536, 49152, True, 8192, 100000.0, None, 1e-5),
    "llama-1b": (2048, 16, 32, 8, 64, 8192, 128256, True, 131072, 500000.0, LLAMA3_SCALING, 1e-5),
    "llama-8b": (4096, 32, 32, 8, 128, 14336, 128256, False, 8192, 500000.0, None, 1e-5),
}


def config(shape):
    hidden, layers, heads, kv_heads, head_dim, ffn, vocab, tied, longest, theta, scaling, epsilon = SHAPES[shape]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn,
        "vocab_size": vocab, "tie_word_embeddings": tied, "max_position_embeddings": longest, "rope_theta": theta,
        "rope_scaling": scaling, "rms_norm_eps": epsilon, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "initializer_range": DEVIATION, "use_cache": True, "torch_dtype": "bfloat16",
        "bos_token_id": 128000 if vocab == 128256 else 1, "eos_token_id": 128001 if vocab == 128256 else 2,
    }


def tensors(c):
    """Names and shapes, in the order in which a forward pass meets them."""
    hidden, ffn, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    queries, keys = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(c["num_hidden_layers"]):
        prefix = "model.layers.%d." % i
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (queries, hidden)
        yield prefix + "self_attn.k_proj.weight", (keys, hidden)
        yield prefix + "self_attn.v_proj.weight", (keys, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (ffn, hidden)
        yield prefix + "mlp.up_proj.weight", (ffn, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden)


def write_values(file, name, shape, seed):
    if len(shape) == 1:
        file.write(np.full(shape, 0x3F80, "<u2").tobytes())  # 1.0
        return
    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    left = shape[0] * shape[1]
    values = random.standard_normal(min(BLOCK, left), dtype=np.float32) * np.float32(DEVIATION)
    values = np.clip(values, -6 * DEVIATION, 6 * DEVIATION)
    values[np.abs(values) < 1e-9] = 1e-9
    bits = values.view("<u4")
    block = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")  # to nearest, ties to even
    while left:
        start = int(random.integers(len(block)))
        for piece in (block[start:], block[:start]):
            piece = piece[:left]
            file.write(piece.data)
            left -= len(piece)


def shards(c, limit):
    """Lists of tensors whose bytes do not exceed the limit."""
    current, size = [], 0
    for name, shape in tensors(c):
        more = 2 * int(np.prod(shape))
        if current and size + more > limit:
            yield current
            current, size = [], 0
        current.append((name, shape))
        size += more
    yield current


def write_shard(path, content, seed):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in content:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, shape in content:
            write_values(file, name, shape, seed)
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", help="folder whose tokenizer.json and tokenizer_config.json are copied")
    parser.add_argument("--shard-bytes", type=int, default=5000000000)
    args = parser.parse_args()

    c = config(args.shape)
    os.makedirs(args.out, exist_ok=True)
    parts = list(shards(c, args.shard_bytes))
    where, total = {}, 0
    for i, part in enumerate(parts):
        name = "model.safetensors" if len(parts) == 1 else "model-%05d-of-%05d.safetensors" % (i + 1, len(parts))
        total += write_shard(os.path.join(args.out, name), part, args.seed)
        where.update((tensor, name) for tensor, _ in part)
    if len(parts) > 1:
        with open(os.path.join(args.out, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {"total_size": total}, "weight_map": where}, file, indent=2)
    with open(os.path.join(args.out, "config.json"), "w") as file:
        json.dump(c, file, indent=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if args.tokenizer and os.path.exists(os.path.join(args.tokenizer, name)):
            shutil.copyfile(os.path.join(args.tokenizer, name), os.path.join(args.out, name))
    print("%s: %d tensors, %d bytes, %d file(s)" % (args.out, len(where), total, len(parts)))


if __name__ == "__main__":
    main()
