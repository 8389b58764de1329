#!/usr/bin/env python3
"""Perplexity of real models on real text, both protocols, within 1e-4 relative of transformers in fp32, and bits that do not depend on
batches or threads. TAP; needs PRUNED_BUILD, transformers and ../shared/data."""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
DATA = os.environ.get("PRUNED_TEST_DATA", os.path.join(ROOT, "../shared/data"))
sys.path.insert(0, os.path.join(ROOT, "tests/golden/perplexity"))
import make  # noqa: E402

TOLERANCE = 1e-4
results = []


def report(name, passed, note=""):
    results.append(passed)
    print(f"{'ok' if passed else 'not ok'} {len(results)} - {name}\n# {note}", flush=True)


def ours(model, text, half, window, **environment):
    done = subprocess.run([os.path.join(BUILD, "dump_perplexity"), model, text, half, str(window)], capture_output=True, text=True,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment})
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)["perplexity"]


def main():
    if not os.path.isdir(os.path.join(DATA, "models")):
        print(f"1..0 # SKIP no models under {DATA}")
        return 77
    for model, name, half, window in make.CASES:
        folder, path = os.path.join(DATA, "models", model), os.path.join(DATA, "text", name)
        found = ours(folder, path, half, window, PRUNED_DUMP_THREADS="2")
        with open(path, "rb") as f:
            theirs = make.perplexity(folder, make.half_of(f.read(), half), window)
        for protocol, wanted in theirs.items():
            got = found[protocol]
            away = {key: abs(got[key] / wanted[key] - 1) for key in ("perplexity", "bits_per_byte")}
            same = all(got[key] == wanted[key] for key in ("tokens_scored", "windows"))
            report(f"{model} on {name} ({half}, {window}), {protocol}", same and max(away.values()) < TOLERANCE,
                   f"{got['perplexity']:.9g} against {wanted['perplexity']:.9g}, {away['perplexity']:.2g} away")
    model, name, half, window = make.CASES[0]
    folder, path = os.path.join(DATA, "models", model), os.path.join(DATA, "text", name)
    runs = [ours(folder, path, half, window, PRUNED_DUMP_THREADS=t, PRUNED_DUMP_BATCH=b) for t, b in (("1", "1"), ("1", "0"), ("2", "500"))]
    report("the same digits with 1 and 2 threads, small and large batches", runs[0] == runs[1] == runs[2])
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
