"""A tiny Llama with random weights, by the standard library alone: two layers, byte-level BPE, safetensors.

    folder = write_model(path)                      a model that every part of the service accepts
    write_model(path, config={"hidden_size": 999})  the same with some of config.json replaced
    build_tensors(...), write_safetensors(...)      the pieces, for tests that break one of them

Everything is a function of `seed`, so a test may rely on its bytes.
"""
import json
import os
import random
import struct

MERGES = ["t h", "th e", "i n", "a n", "an d", "e r", "o n", "Ġ t"]
END_OF_TEXT = "<|endoftext|>"


def byte_characters():
    """The printable stand-in of each byte, as byte-level BPE spells it."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table = {byte: chr(byte) for byte in printable}
    spare = 0
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + spare)
            spare += 1
    return [table[byte] for byte in range(256)]


def build_tokenizer(extra_tokens=0):
    vocab = {character: index for index, character in enumerate(byte_characters())}
    for merge in MERGES:
        vocab[merge.replace(" ", "")] = len(vocab)
    for index in range(extra_tokens):
        vocab["extra%d" % index] = len(vocab)
    end = len(vocab)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": end, "content": END_OF_TEXT, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": MERGES},
    }


VOCAB_SIZE = 256 + len(MERGES) + 1


def build_config(layers=2, hidden=32, intermediate=48, heads=4, kv_heads=2, context=128):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": context, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": None, "vocab_size": VOCAB_SIZE, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": VOCAB_SIZE - 1, "eos_token_id": VOCAB_SIZE - 1,
        "torch_dtype": "float32", "initializer_range": 0.02, "use_cache": True,
    }


def build_tensors(config, seed=1):
    """{name: (shape, [floats])}, from the shapes that the config asks for."""
    source = random.Random(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {}

    def add(name, *shape, scale=0.08):
        count = 1
        for size in shape:
            count *= size
        values = [1.0] * count if scale is None else [source.gauss(0.0, scale) for _ in range(count)]
        tensors[name] = (list(shape), values)

    add("model.embed_tokens.weight", config["vocab_size"], hidden, scale=0.5)
    for layer in range(config["num_hidden_layers"]):
        prefix = "model.layers.%d." % layer
        add(prefix + "input_layernorm.weight", hidden, scale=None)
        add(prefix + "self_attn.q_proj.weight", hidden, hidden)
        add(prefix + "self_attn.k_proj.weight", kv, hidden)
        add(prefix + "self_attn.v_proj.weight", kv, hidden)
        add(prefix + "self_attn.o_proj.weight", hidden, hidden)
        add(prefix + "post_attention_layernorm.weight", hidden, scale=None)
        add(prefix + "mlp.gate_proj.weight", inner, hidden)
        add(prefix + "mlp.up_proj.weight", inner, hidden)
        add(prefix + "mlp.down_proj.weight", hidden, inner)
    add("model.norm.weight", hidden, scale=None)
    return tensors


def pack_safetensors(tensors, header_edit=None):
    """The bytes of a safetensors file; header_edit(header) may spoil it before it is written."""
    header, body, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        shape, values = tensors[name]
        packed = struct.pack("<%df" % len(values), *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(packed)]}
        offset += len(packed)
        body.append(packed)
    if header_edit is not None:
        header_edit(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(body)


def save(folder, name, content):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def write_model(folder, layers=2, seed=1, config=None, header_edit=None, tokenizer=None):
    """Writes the folder and returns its path. config: replaces members of config.json after the weights were made from
    the true ones."""
    os.makedirs(folder, exist_ok=True)
    truth = build_config(layers=layers)
    tensors = build_tensors(truth, seed)
    save(folder, "model.safetensors", pack_safetensors(tensors, header_edit))
    save(folder, "config.json", {**truth, **(config or {})})
    save(folder, "tokenizer.json", tokenizer if tokenizer is not None else build_tokenizer())
    return folder


def write_text(path, words=6000, seed=7):
    """Words drawn at random, in short paragraphs: enough for calibration and evaluation windows that never meet."""
    source = random.Random(seed)
    stock = ["the", "cat", "and", "dog", "ran", "in", "on", "a", "hill", "under", "stone", "that", "other", "winter"]
    lines = []
    for _ in range(words // 12):
        lines.append(" ".join(source.choice(stock) + str(source.randrange(1000)) for _ in range(12)) + ".")
        if source.random() < 0.2:
            lines.append("")
    with open(path, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    import sys
    print(write_model(sys.argv[1]))
