#!/usr/bin/env python3
"""A pruned stories15M as GGUF: the `gguf` package reads from model-F32.gguf what lies in the safetensors beside it, its Q8_0 is
the package's own, bit for bit, and llama.cpp, where llama-cpp-python is installed, continues greedily as transformers does. Small
models whose layers differ (deci), are narrower (llama) or filled up give in llama.cpp the logits that pruned gives.

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


def small_models():
    yield "skills", os.path.join(ROOT, "tests", "skills", "model")
    path = os.path.join(DATA, "models", "stories260K")
    if os.path.exists(path):
        yield "stories260K", os.path.abspath(path)


def widths(config, is_alike):
    """Of plan.json: the first KV groups go, and channels."""
    layers, heads, groups = config["num_hidden_layers"], config["num_attention_heads"], config["num_key_value_heads"]
    result, each, ffn = [], heads // groups, config["intermediate_size"]
    for layer in range(layers):
        gone = groups // 2 if is_alike or layer % 3 == 2 else 0
        less = 24 if is_alike else 8 * (layer % 4)
        if gone:
            result.append({"sublayer": 2 * layer, "heads": [gone * each, heads - gone * each]})
        if less:
            result.append({"sublayer": 2 * layer + 1, "channels": [[0, 4, 4 + less, ffn - 4 - less]]})
    return result


def plans(config):
    """(name, layout, architecture, removed sublayers, widths)."""
    last = 2 * config["num_hidden_layers"] - 1
    yield "no first FFN", "auto", "deci", [1], []
    yield "no last FFN", "auto", "deci", [last], []
    yield "no first attention", "auto", "deci", [0], []
    yield "no last attention", "auto", "deci", [last - 1], []
    yield "no first block and a half", "auto", "deci", [0, 1, 2], []
    yield "both ends and between", "auto", "deci", [0, 3, last], []
    yield "blocks that meet", "auto", "llama", [3, 4], []
    yield "widths", "auto", "deci", [], widths(config, False)
    yield "widths, no first attention, no last FFN", "auto", "deci", [0, last], widths(config, False)
    yield "one width", "uniform", "llama", [], widths(config, True)
    yield "widths, filled up", "padded", "llama", [], widths(config, False)
    yield "identity", "identity", "llama", [1, last - 1], widths(config, False)


def logits_in_llama_cpp(folder, name, tokens):
    import llama_cpp
    loaded = llama_cpp.Llama(os.path.join(folder, name), n_ctx=128, logits_all=True, n_threads=2, verbose=False, type_k=0, type_v=0)
    loaded.eval(tokens)
    return np.array(loaded.scores[:len(tokens)]), loaded.metadata["general.architecture"]


def layers_that_differ(number):
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        print("ok %d - layers that differ in llama.cpp # SKIP no llama-cpp-python" % number)
        return
    for model, source in small_models():
        with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        tokens = [1] + np.random.default_rng(80).integers(3, config["vocab_size"], 40).tolist()
        for name, layout, architecture, removed, narrower in plans(config):
            with tempfile.TemporaryDirectory() as folder:
                plan = {"version": 1, "sublayer_count": 2 * config["num_hidden_layers"], "removed_count": len(removed), "widths": narrower,
                        "points": [{"sublayer": sublayer, "score": 0.5, "is_cut": True} for sublayer in removed]}
                spec = {"type": "pruning", "model": source, "target": {"sublayers_removed": len(removed)}, "evaluation": {"speed": False},
                        "method": {"type": "replay", "replay": {"source": os.path.join(folder, "plan.json")}},
                        "output": {"layout": layout, "formats": ["hf", "gguf:f32", "gguf:q8_0"]}}
                out = os.path.join(folder, "out")
                for file_name, value in (("plan.json", plan), ("spec.json", spec), ("tokens.json", [tokens])):
                    with open(os.path.join(folder, file_name), "w", encoding="utf-8") as file:
                        json.dump(value, file)
                done = subprocess.run([os.path.join(BUILD, "pruned"), "run", os.path.join(folder, "spec.json"), "--out", out],
                                      capture_output=True, text=True)
                if done.returncode != 0:
                    raise SystemExit("%s, %s: %s" % (model, name, done.stderr))
                dump = os.path.join(folder, "out.f32")
                subprocess.run([os.path.join(BUILD, "pruned-dump"), out, "logits", os.path.join(folder, "tokens.json"), dump], check=True)
                ours = np.fromfile(dump, dtype=np.float32).reshape(len(tokens), -1)
                whole, found = logits_in_llama_cpp(out, "model-F32.gguf", tokens)
                small, _ = logits_in_llama_cpp(out, "model-Q8_0.gguf", tokens)
                worst, rounded = (float(np.abs(theirs - ours).max() / np.abs(ours).max()) for theirs in (whole, small))
                check(number, "%s, %s: logits in llama.cpp" % (model, name), worst < 1e-5 and rounded < 0.15 and found == architecture,
                      "%s: F32 differs by %.1e of the largest, Q8_0 by %.1e" % (found, worst, rounded))
                number += 1
    print("1..%d" % (number - 1))


def main():
    try:
        import gguf
    except ImportError:
        print("1..0 # SKIP no gguf package")
        return 77
    if not os.path.exists(MODEL):
        print("1..0 # SKIP no stories15M")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        out = run(folder)
        compare(out, gguf)
        continue_greedily(out)
    layers_that_differ(4)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
