#!/usr/bin/env python3
"""A pruned stories15M as GGUF: the `gguf` package reads from model-F32.gguf what lies in the safetensors beside it, its Q8_0 is
the package's own, bit for bit, and llama.cpp, where llama-cpp-python is installed, continues greedily as transformers does.

Needs the venv of tests/long_venv.sh and `gguf` in it (skips without); PRUNED_BUILD names the build folder, PRUNED_TEST_DATA the data.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
DATA = os.environ.get("PRUNED_TEST_DATA", os.path.join(ROOT, "..", "shared", "data"))
MODEL = os.path.abspath(os.path.join(DATA, "models", "stories15M"))
NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
failed = 0


def check(number, name, holds, detail):
    global failed
    failed += 0 if holds else 1
    print("%s %d - %s # %s" % ("ok" if holds else "not ok", number, name, detail), flush=True)


def run(folder):
    path, out = os.path.join(folder, "spec.json"), os.path.join(folder, "out")
    spec = {"type": "pruning", "model": MODEL, "target": {"num_layers": 4}, "method": {"type": "last_blocks", "last_blocks": {}},
            "output": {"formats": ["hf", "gguf:f32", "gguf:q8_0"]}, "evaluation": {"speed": False}}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    done = subprocess.run([os.path.join(BUILD, "pruned"), "run", path, "--out", out], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("pruned run: %s" % done.stderr)
    return out


def checkpoint_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name in ("output_norm.weight", "output.weight"):
        return {"output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name]
    _, layer, base, _ = name.split(".")
    return "model.layers.%s.%s.weight" % (layer, NAMES[base])


def stored(name, values, config):
    """As llama.cpp's converter permutes the rows of q and k."""
    if ".attn_q." in name or ".attn_k." in name:
        heads = config["num_attention_heads"] if ".attn_q." in name else config["num_key_value_heads"]
        return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    return values


def compare(out, gguf):
    with open(os.path.join(out, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    weights = load_file(os.path.join(out, "model.safetensors"))
    wrong, seen = [], set()
    for tensor in gguf.GGUFReader(os.path.join(out, "model-F32.gguf")).tensors:
        values = stored(tensor.name, weights[checkpoint_name(tensor.name)], config)
        seen.add(checkpoint_name(tensor.name))
        if not np.array_equal(values.view(np.uint32), np.asarray(tensor.data, dtype=np.float32).view(np.uint32)):
            wrong.append(tensor.name)
    check(1, "the gguf package reads the checkpoint's values", not wrong and len(seen) >= len(weights) - 1, wrong or "%d tensors" % len(seen))
    wrong = []
    for tensor in gguf.GGUFReader(os.path.join(out, "model-Q8_0.gguf")).tensors:
        values = stored(tensor.name, weights[checkpoint_name(tensor.name)], config)
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0 and not np.array_equal(gguf.quantize(values, tensor.tensor_type), tensor.data):
            wrong.append(tensor.name)
    check(2, "Q8_0 is the package's own", not wrong, wrong or "bit for bit")


def continue_greedily(out):
    try:
        import llama_cpp
    except ImportError:
        print("ok 3 - llama.cpp continues as transformers # SKIP no llama-cpp-python")
        return
    loaded = llama_cpp.Llama(os.path.join(out, "model-F32.gguf"), n_ctx=128, n_threads=2, verbose=False)
    prompt = loaded.tokenize(b"Once upon a time, there was a little", add_bos=True)
    theirs = []
    for token in loaded.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
        theirs.append(int(token))
        if len(theirs) == 32:
            break
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ours = model.generate(torch.tensor([prompt]), max_new_tokens=32, min_new_tokens=32, do_sample=False)[0, len(prompt):].tolist()
    check(3, "llama.cpp continues as transformers", ours == theirs, "%d tokens" % len(ours))


def main():
    try:
        import gguf
    except ImportError:
        print("1..0 # SKIP no gguf package")
        return 77
    if not os.path.exists(MODEL):
        print("1..0 # SKIP no stories15M")
        return 77
    print("1..3")
    with tempfile.TemporaryDirectory() as folder:
        out = run(folder)
        compare(out, gguf)
        continue_greedily(out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
