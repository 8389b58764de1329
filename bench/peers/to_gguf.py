#!/usr/bin/env python3
"""Makes a GGUF that llama.cpp loads out of a Llama folder: the peer's copy of a benchmark model.

Usage: to_gguf.py FOLDER OUT.gguf f32|bf16|q8_0 [--pre NAME]

Matrices get the named type, norms stay F32, as in llama.cpp's own converter; rows of queries and keys are put into its order; Llama 3's
rotation becomes `rope_freqs.weight`. One tensor is held at a time. The vocabulary comes from tokenizer.json (byte-level BPE; --pre is the
name of its pre-tokenizer in llama.cpp: smollm, llama-bpe), and without one the file has none. Needs gguf and numpy.
"""
import argparse
import glob
import json
import math
import os

import gguf
import numpy as np
from gguf.quants import quantize

from llama_names import gguf_names, heads_to_permute, to_pairs

TYPES = {"f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
         "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
         "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0)}


def open_tensors(folder):
    """{name: (mapped values, whether they are BF16)}"""
    found = {}
    for path in glob.glob(os.path.join(folder, "*.safetensors")):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                kind = {"F32": "<f4", "BF16": "<u2", "F16": "<f2"}[entry["dtype"]]
                found[name] = (np.memmap(path, kind, "r", 8 + size + entry["data_offsets"][0], tuple(entry["shape"])),
                               entry["dtype"] == "BF16")
    return found


def widen(values, is_bf16):
    return (values.astype("<u4") << 16).view("<f4") if is_bf16 else np.asarray(values, "<f4")


def llama3_factors(config):
    """By how much each of the head_dim / 2 frequencies is divided."""
    scaling, d = config["rope_scaling"], config["head_dim"]
    low, high, old = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["original_max_position_embeddings"]
    factors = []
    for i in range(d // 2):
        length = 2 * math.pi * config["rope_theta"] ** (2 * i / d)
        if length < old / high:
            factors.append(1.0)
        elif length > old / low:
            factors.append(scaling["factor"])
        else:
            smooth = (old / length - low) / (high - low)
            factors.append(1.0 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, "<f4")


def add_vocabulary(writer, folder, config, pre):
    path = os.path.join(folder, "tokenizer.json")
    if not os.path.exists(path):
        writer.add_tokenizer_model("no_vocab")
        return
    with open(path) as file:
        tokenizer = json.load(file)
    words, kinds = [None] * config["vocab_size"], [gguf.TokenType.NORMAL] * config["vocab_size"]
    for word, i in tokenizer["model"]["vocab"].items():
        words[i] = word
    for token in tokenizer["added_tokens"]:
        words[token["id"]] = token["content"]
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    for i, word in enumerate(words):
        if word is None:
            words[i], kinds[i] = "[PAD%d]" % i, gguf.TokenType.UNUSED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("--pre", default="llama-bpe")
    args = parser.parse_args()
    with open(os.path.join(args.folder, "config.json")) as file:
        config = json.load(file)
    kind, file_type = TYPES[args.type]

    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_name(os.path.basename(os.path.abspath(args.folder)))
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, args.folder, config, args.pre)

    tensors = open_tensors(args.folder)
    plan = []  # (GGUF name, mapped values or None, whether BF16, type)
    if config.get("rope_scaling"):
        plan.append(("rope_freqs.weight", llama3_factors(config), False, gguf.GGMLQuantizationType.F32))
    for short, long in gguf_names(config["num_hidden_layers"]).items():
        if long in tensors:
            values, is_bf16 = tensors.pop(long)
            plan.append((short, values, is_bf16, kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32))
    if tensors:
        raise SystemExit("no place for %s" % sorted(tensors))
    for name, values, _, type_ in plan:
        block, size = gguf.GGML_QUANT_SIZES[type_]
        stored = values.shape[:-1] + (values.shape[-1] // block * size,)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values, is_bf16, type_ in plan:
        heads = heads_to_permute(name, config)
        values = to_pairs(np.asarray(values), heads) if heads else np.asarray(values)
        if not (is_bf16 and type_ == gguf.GGMLQuantizationType.BF16):  # BF16 stays as it is
            values = quantize(widen(values, is_bf16), type_)
        writer.write_tensor_data(np.ascontiguousarray(values).view(np.uint8))
    writer.close()
    print("%s: %d tensors, %d bytes" % (args.out, len(plan), os.path.getsize(args.out)))


if __name__ == "__main__":
    main()
