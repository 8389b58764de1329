#!/usr/bin/env python3
"""Every family's small model (tests/golden/families), pruned by given plans and written in every layout, opens in transformers:
logits, the key-value cache, generate() and a batch with padding give what pruned and the plain forward give. Blocks without attention
or FFN, first and last ones included, and widths that differ from block to block; uniform, padded and identity results in the
stock classes, heterogeneous and decilm ones with their modelling files.

Needs the venv of tests/long_venv.sh; PRUNED_BUILD names the build folder (default: build). Arguments: families, all without.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
FAMILIES = os.path.join(ROOT, "tests", "golden", "families")
NAMES = ["llama", "llama_bias", "llama_headdim", "llama3", "mistral", "qwen2", "qwen2_window", "qwen3", "gemma2", "gemma3_text", "phi3",
         "phi3_longrope", "gpt2", "opt", "gpt_neox", "gpt_neox_serial", "mixtral", "qwen3_moe", "skills"]
TOLERANCE = 1e-5  # of the largest logit
number = failed = 0


def check(name, holds, detail):
    global number, failed
    number += 1
    failed += 0 if holds else 1
    print("%s %d - %s # %s" % ("ok" if holds else "not ok", number, name, detail), flush=True)


class Model:
    """What a plan needs to know of config.json."""

    def __init__(self, name):
        self.name, self.folder = name, os.path.join(FAMILIES, name) if name != "skills" else os.path.join(ROOT, "tests", "skills", "model")
        with open(os.path.join(self.folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self.layers = config.get("num_hidden_layers") or config["n_layer"]
        self.heads = config.get("num_attention_heads") or config["n_head"]
        self.kv_heads = config.get("num_key_value_heads") or self.heads
        self.has_head_dim = config["model_type"] not in ("gpt2", "opt", "gpt_neox") and name != "phi3_longrope"
        self.experts = config.get("num_local_experts") or config.get("num_experts") or 0
        self.plain = [i for i in range(self.layers) if self.experts == 0 or i in config.get("mlp_only_layers", [])]
        self.ffn = config.get("intermediate_size") or config.get("ffn_dim") or config.get("n_inner") or 4 * config["n_embd"]
        with open(os.path.join(FAMILIES, "llama", "tokens.json") if name == "skills" else os.path.join(self.folder, "tokens.json"),
                  encoding="ascii") as file:
            self.tokens = json.load(file)


def narrowed(model, is_alike, has_heads):
    """Widths of plan.json: KV groups, channels, experts that stay, as runs [first, count]."""
    widths, each = [], model.heads // model.kv_heads
    for layer in range(model.layers):
        less = 1 if is_alike else layer
        gone = (model.kv_heads // 2 if is_alike else min(less, model.kv_heads - 1)) * each  # LlamaConfig wants divisors
        if has_heads and gone:
            widths.append({"sublayer": 2 * layer, "heads": [gone, model.heads - gone]})
        if layer in model.plain:
            widths.append({"sublayer": 2 * layer + 1, "channels": [[1, 2, 5 + less, model.ffn - 6 - 2 * less]]})
        elif is_alike or layer > 0:
            widths.append({"sublayer": 2 * layer + 1, "experts": [0, 1, 2, model.experts - 2]})
    return widths


def plans(model):
    """(name, layouts, removed sublayers, widths)."""
    last = 2 * model.layers - 1
    if model.name == "skills":  # 256 channels, as DeciLM wants them
        yield "no last FFN", ["decilm"], [last], []
        yield "no first FFN, no last attention", ["decilm"], [1, last - 1], []
        return
    yield "ends", ["heterogeneous", "identity"], [0, last], []
    yield "no first FFN", ["heterogeneous"], [1], []
    yield "no last attention", ["heterogeneous"], [last - 1], []
    yield "no first block", ["uniform"], [0, 1], []
    yield "widths", ["heterogeneous"], [], narrowed(model, False, True)
    yield "widths, no first attention", ["heterogeneous"], [0], narrowed(model, False, True)
    yield "one width", ["uniform"], [], narrowed(model, True, model.has_head_dim)
    if model.experts == 0:
        yield "widths, filled up", ["padded", "identity"], [], narrowed(model, False, model.has_head_dim)


def write(folder, model, layout, removed, widths):
    plan = {"version": 1, "sublayer_count": 2 * model.layers, "removed_count": len(removed), "widths": widths,
            "points": [{"sublayer": sublayer, "score": 0.5, "is_cut": True} for sublayer in removed]}
    out = os.path.join(folder, "out")
    spec = {"type": "pruning", "model": model.folder, "target": {"sublayers_removed": len(removed)}, "output": {"layout": layout},
            "method": {"type": "replay", "replay": {"source": os.path.join(folder, "plan.json")}}, "evaluation": {"speed": False}}
    for name, value in (("plan.json", plan), ("spec.json", spec), ("tokens.json", model.tokens)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file)
    done = subprocess.run([os.path.join(BUILD, "pruned"), "run", os.path.join(folder, "spec.json"), "--out", out], capture_output=True,
                          text=True)
    if done.returncode != 0:
        raise SystemExit("%s, %s: %s" % (model.name, layout, done.stderr))
    logits = os.path.join(folder, "logits.f32")
    subprocess.run([os.path.join(BUILD, "pruned-dump"), out, "logits", os.path.join(folder, "tokens.json"), logits], check=True)
    return out, np.fromfile(logits, dtype=np.float32)


def forward(loaded, batch, ours):
    """Largest difference from ours; of the second half behind a cache from the whole."""
    worst = cached = 0.0
    at, ours = 0, ours.reshape(-1, loaded.config.vocab_size)
    for tokens in batch:
        ids, half = torch.tensor([tokens]), len(tokens) // 2
        whole = loaded(ids).logits[0]
        worst = max(worst, float(np.abs(whole.numpy() - ours[at:at + len(tokens)]).max()))
        at += len(tokens)
        if half:
            first = loaded(ids[:, :half], use_cache=True)
            second = loaded(ids[:, half:], past_key_values=first.past_key_values, use_cache=True)
            cached = max(cached, float((second.logits[0] - whole[half:]).abs().max()))
    return worst, cached


def padded_batch(loaded, one, other):
    length = max(len(one), len(other))
    ids, mask = torch.zeros(2, length, dtype=torch.long), torch.zeros(2, length, dtype=torch.long)
    for row, tokens in enumerate((one, other)):
        ids[row, length - len(tokens):] = torch.tensor(tokens)
        mask[row, length - len(tokens):] = 1
    positions = {} if loaded.config.model_type.endswith("opt") else {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    together = loaded(ids, attention_mask=mask, **positions).logits
    return max(float((together[row, length - len(tokens):] - loaded(torch.tensor([tokens])).logits[0]).abs().max())
               for row, tokens in enumerate((one, other)))


def writes_the_same(loaded, tokens):
    prompt, count = tokens[:40], 12
    end = loaded.generation_config.eos_token_id
    written = loaded.generate(torch.tensor([prompt]), max_new_tokens=count, min_new_tokens=count, do_sample=False)[0].tolist()
    plain = list(prompt)
    for _ in range(count):
        logits = loaded(torch.tensor([plain]), use_cache=False).logits[0, -1]
        if end is not None:
            logits[end] = -torch.inf
        plain.append(int(logits.argmax()))
    return written == plain


def smaller(loaded, model):
    with open(os.path.join(model.folder, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    whole = sum(int(np.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__")
    return sum(parameter.numel() for parameter in loaded.parameters()) < whole


def try_layout(model, name, layout, removed, widths):
    with tempfile.TemporaryDirectory() as folder:
        out, ours = write(folder, model, layout, removed, widths)
        options = {"trust_remote_code": True} if layout in ("heterogeneous", "decilm") else {}
        loaded, information = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True, **options)
        loaded.eval()
        if layout in ("heterogeneous", "uniform", "decilm"):
            assert smaller(loaded, model), "%s, %s: nothing is gone" % (model.name, name)
        assert not information["missing_keys"] and not information["mismatched_keys"], information
        with torch.no_grad():
            worst, cached = forward(loaded, model.tokens, ours)
            batched = padded_batch(loaded, model.tokens[1], model.tokens[2])
            # longrope turns otherwise from the original context on: a cache keeps what was turned before
            is_same = model.name == "phi3_longrope" or writes_the_same(loaded, model.tokens[-1])
            cached = 0.0 if model.name == "phi3_longrope" else cached
        limit = TOLERANCE * max(1.0, float(np.abs(ours).max()))
        check("%s, %s, %s" % (model.name, layout, name), max(worst, cached, batched) <= limit and is_same,
              "logits %.1e, cache %.1e, batch %.1e of %.1e, generate() %s" % (worst, cached, batched, limit, "the same" if is_same else "differs"))


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in sys.argv[1:] or NAMES:
        model = Model(name)
        for title, layouts, removed, widths in plans(model):
            for layout in layouts:
                try_layout(model, title, layout, removed, widths)
    print("1..%d" % number)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
