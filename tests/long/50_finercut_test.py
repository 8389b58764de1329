#!/usr/bin/env python3
"""FinerCut's order and scores against the published procedure written plainly in PyTorch: one full forward of
transformers' own model a candidate, on the very windows of the job. Our skills model, five removals, JS."""
import json
import os
import subprocess
import sys
import tempfile

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
MODEL = os.path.join(ROOT, "tests", "skills", "model")
TEXT = os.path.join(ROOT, "tests", "skills", "data", "calibration.txt")
WINDOWS, WINDOW_TOKENS, REMOVALS, PROTECT_RATIO = 32, 128, 5, 0.4
# fp32 logits of two implementations differ by 1e-6; the terms of the divergence are small differences of those.
TOLERANCE = 1e-5


def ours(folder):
    spec = {"type": "pruning", "model": MODEL,
            "method": {"type": "finercut", "finercut": {"metric": "js", "protect_ratio": PROTECT_RATIO}},
            "target": {"sublayers_removed": REMOVALS},
            "calibration": {"source": TEXT, "num_samples": WINDOWS, "window_tokens": WINDOW_TOKENS}}
    path = os.path.join(folder, "spec.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    out = os.path.join(folder, "out")
    subprocess.run([os.path.join(BUILD, "pruned"), "run", path, "--out", out], check=True, capture_output=True)
    with open(os.path.join(out, "plan.json"), encoding="utf-8") as file:
        return [(point["sublayer"], point["score"]) for point in json.load(file)["points"]]


@torch.no_grad()
def published():
    """Greedy removal; scores are the reference form's (structured_pruning 1.2)."""
    with open(TEXT, encoding="utf-8") as file:
        ids = Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json")).encode(file.read()).ids
    tokens = torch.tensor([ids[i * WINDOW_TOKENS:(i + 1) * WINDOW_TOKENS] for i in range(WINDOWS)])
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    removed = set()

    def silence(index):
        return lambda module, inputs, output: torch.zeros_like(output) if index in removed else output

    for number, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_hook(silence(2 * number))
        layer.mlp.down_proj.register_forward_hook(silence(2 * number + 1))
    count = 2 * len(model.model.layers)
    original = torch.log_softmax(model(tokens).logits.double(), -1)

    def divergence():
        pruned = torch.log_softmax(model(tokens).logits.double(), -1)
        middle = (original.exp() + pruned.exp()) / 2
        terms = middle * (2 * middle.log() - original - pruned) / 2
        return float(terms.sum()) / terms.numel()

    points = []
    while len(points) < REMOVALS:
        scores = []
        for index in range(count):
            if index not in removed and index // 2 > int(count * PROTECT_RATIO / 2):
                removed.add(index)
                scores.append((divergence(), index))
                removed.discard(index)
        score, index = min(scores)
        removed.add(index)
        points.append((index, score))
    return points


def main():
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = ours(folder), published()
    same_order = [sublayer for sublayer, _ in mine] == [sublayer for sublayer, _ in theirs]
    worst = max(abs(a[1] - b[1]) / b[1] for a, b in zip(mine, theirs))
    print("1..2")
    print("%s 1 - the same sublayers go in the same order # %s, %s" %
          ("ok" if same_order else "not ok", [s for s, _ in mine], [s for s, _ in theirs]))
    print("%s 2 - their scores agree # %.1e apart, relative" % ("ok" if worst <= TOLERANCE else "not ok", worst))
    return 0 if same_order and worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
