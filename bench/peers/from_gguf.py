#!/usr/bin/env python3
"""Makes a folder that transformers opens out of a Llama GGUF: F32 weights as the gguf package dequantises them, and tokenizer.json.

Usage: from_gguf.py FILE.gguf OUT_FOLDER. Needs gguf, numpy, safetensors, tokenizers. The tokenizer is written for byte-level BPE with
the pre-tokenizer `smollm` (digits one by one, then GPT-2's pattern), which is what SmolLM2 has; others are refused.
"""
import json
import os
import sys

import gguf
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llama_names import from_pairs, gguf_names, heads_to_permute


def main(path, out):
    reader = gguf.GGUFReader(path)
    field = {name: f.contents() for name, f in reader.fields.items()}
    if field["general.architecture"] != "llama" or field["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit("only Llama with the tokenizer of SmolLM2")
    tensors = {t.name: t for t in reader.tensors}
    heads = field["llama.attention.head_count"]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": field["llama.embedding_length"],
        "num_hidden_layers": field["llama.block_count"], "num_attention_heads": heads,
        "num_key_value_heads": field["llama.attention.head_count_kv"], "head_dim": field["llama.rope.dimension_count"],
        "intermediate_size": field["llama.feed_forward_length"], "vocab_size": field["llama.vocab_size"],
        "tie_word_embeddings": "output.weight" not in tensors, "max_position_embeddings": field["llama.context_length"],
        "rope_theta": field["llama.rope.freq_base"], "rope_scaling": None,
        "rms_norm_eps": float("%.6g" % field["llama.attention.layer_norm_rms_epsilon"]), "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False, "torch_dtype": "float32", "bos_token_id": field["tokenizer.ggml.bos_token_id"],
        "eos_token_id": field["tokenizer.ggml.eos_token_id"], "pad_token_id": field["tokenizer.ggml.padding_token_id"],
    }
    names, weights = gguf_names(config["num_hidden_layers"]), {}
    for name, tensor in tensors.items():
        value = dequantize(tensor.data, tensor.tensor_type).astype("float32")
        permuted = heads_to_permute(name, config)
        weights[names.pop(name)] = from_pairs(value, permuted) if permuted else value
    if [name for name in names if name != "output.weight"]:
        raise SystemExit("missing: %s" % sorted(names))

    words, merges = field["tokenizer.ggml.tokens"], field["tokenizer.ggml.merges"]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [w for w, kind in zip(words, field["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(w, normalized=False, special=True) for w in control])

    os.makedirs(out, exist_ok=True)
    save_file(weights, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    with open(os.path.join(out, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    with open(os.path.join(out, "tokenizer_config.json"), "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": words[config["bos_token_id"]],
                   "eos_token": words[config["eos_token_id"]], "pad_token": words[config["pad_token_id"]],
                   "chat_template": field.get("tokenizer.chat_template")}, file, indent=2)
    print("%s: %d tensors from %s" % (out, len(weights), path))


if __name__ == "__main__":
    main(*sys.argv[1:])
