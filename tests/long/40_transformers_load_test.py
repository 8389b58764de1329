#!/usr/bin/env python3
"""stories15M pruned for real: calibrated on the first half of a text, evaluated on the second, FinerCut removes 3 of 12
sublayers. The identity and the heterogeneous folder open in transformers with logits within 1e-4 of pruned's, with the
key-value cache and generate(); an evaluation job on the folder repeats the report's perplexity to the last digit.

Needs the venv of tests/long_venv.sh; PRUNED_BUILD names the build folder (default: build), PRUNED_TEST_DATA the data.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
DATA = os.environ.get("PRUNED_TEST_DATA", os.path.join(ROOT, "..", "shared", "data"))
MODEL = os.path.abspath(os.path.join(DATA, "models", "stories15M"))
TEXT = os.path.abspath(os.path.join(DATA, "text", "tinystories_train_head.txt"))
TOLERANCE = 1e-4
failed = 0


def check(number, name, holds, detail):
    global failed
    failed += 0 if holds else 1
    print("%s %d - %s # %s" % ("ok" if holds else "not ok", number, name, detail), flush=True)


def run(folder, name, spec):
    path, out = os.path.join(folder, name + ".json"), os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    done = subprocess.run([os.path.join(BUILD, "pruned"), "run", path, "--out", out], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("pruned run %s: %s" % (name, done.stderr))
    return json.loads(done.stdout), out


def sequences():
    generator = np.random.default_rng(40)
    return [[1] + generator.integers(3, 32000, length).tolist() for length in (7, 63, 200)]


def dump_logits(folder, batch):
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = os.path.join(scratch, "tokens.json"), os.path.join(scratch, "out.f32")
        with open(tokens, "w", encoding="ascii") as file:
            json.dump(batch, file)
        subprocess.run([os.path.join(BUILD, "pruned-dump"), folder, "logits", tokens, out], check=True)
        return np.fromfile(out, dtype=np.float32).reshape(-1, 32000)


def open_in_transformers(number, layout, folder):
    batch = sequences()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
    ours, worst, cache_worst, at = dump_logits(folder, batch), 0.0, 0.0, 0
    with torch.no_grad():
        for tokens in batch:
            ids = torch.tensor([tokens])
            whole = model(ids).logits[0]
            worst = max(worst, float(np.abs(whole.numpy() - ours[at:at + len(tokens)]).max()))
            at += len(tokens)
            half = len(tokens) // 2
            first = model(ids[:, :half], use_cache=True)
            second = model(ids[:, half:], past_key_values=first.past_key_values, use_cache=True)
            cache_worst = max(cache_worst, float((second.logits[0] - whole[half:]).abs().max()))
        prompt = torch.tensor([batch[0]])
        written = model.generate(prompt, max_new_tokens=24, do_sample=False)[0].tolist()
        plain = list(batch[0])
        while len(plain) < len(written):
            plain.append(int(model(torch.tensor([plain]), use_cache=False).logits[0, -1].argmax()))
    check(number, "%s: logits in transformers" % layout, worst <= TOLERANCE, "largest difference %.2e" % worst)
    check(number + 1, "%s: key-value cache" % layout, cache_worst <= TOLERANCE, "largest difference %.2e" % cache_worst)
    check(number + 2, "%s: generate() writes what repeated forwards write" % layout, written == plain, "%d tokens" % len(written))


def main():
    if not os.path.exists(MODEL):
        print("1..0 # SKIP no stories15M")
        return 77
    print("1..9")
    evaluation = {"text": {"source": TEXT, "half": "second"}, "window_tokens": 256, "protocols": ["gptq"], "speed": False}
    base = {"type": "pruning", "model": MODEL, "target": {"sublayers_removed": 3}}
    with tempfile.TemporaryDirectory() as folder:
        result, identity = run(folder, "identity", {
            **base, "method": {"type": "finercut", "finercut": {}}, "output": {"layout": "identity"}, "evaluation": evaluation,
            "calibration": {"source": TEXT, "half": "first", "num_samples": 10, "window_tokens": 256}})
        check(1, "3 of 12 sublayers are gone", len(result["removed"]) == 3, result["removed"])
        before, after = result["before"]["perplexity"]["gptq"], result["after"]["perplexity"]["gptq"]
        check(2, "the model got worse, not broken", before < after < 100, "perplexity %.4f -> %.4f" % (before, after))
        again, _ = run(folder, "again", {"type": "evaluation", "model": identity, "evaluation": evaluation})
        check(3, "an evaluation job repeats the report to the last digit", again["model"]["perplexity"]["gptq"] == after,
              "%.17g" % again["model"]["perplexity"]["gptq"])
        open_in_transformers(4, "identity", identity)
        _, heterogeneous = run(folder, "heterogeneous", {
            **base, "method": {"type": "replay", "replay": {"source": os.path.join(identity, "plan.json")}},
            "output": {"layout": "heterogeneous"}, "evaluation": {"speed": False}})
        open_in_transformers(7, "heterogeneous", heterogeneous)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
