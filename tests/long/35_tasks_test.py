#!/usr/bin/env python3
"""Log-likelihood tasks on whole public sets (as many records as time allows: PRUNED_TASK_RECORDS, 300 of each) against transformers
with lm-evaluation-harness' rules: the same accuracies, and the same perplexity within 1e-4. Goes through `pruned run`. TAP; needs
PRUNED_BUILD, transformers and ../shared/data."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
DATA = os.environ.get("PRUNED_TEST_DATA", os.path.join(ROOT, "../shared/data"))
RECORDS = int(os.environ.get("PRUNED_TASK_RECORDS", "300"))
sys.path.insert(0, os.path.join(ROOT, "tests/golden/tasks"))
import make  # noqa: E402

MODEL = "stories15M"
NEAR_TIE = 2  # records whose two best choices lie closer than fp32 can tell may go either way
results = []


def report(name, passed, note=""):
    results.append(passed)
    print(f"{'ok' if passed else 'not ok'} {len(results)} - {name}\n# {note}", flush=True)


def ours(folder):
    tasks = [{"name": name, "kind": make.kind_of(name), "limit": RECORDS, "source": os.path.join(DATA, "eval/llm-foundry", name + ".jsonl")}
             for name in make.SETS]
    spec = os.path.join(folder, "spec.json")
    with open(spec, "w") as file:
        json.dump({"type": "evaluation", "model": os.path.join(DATA, "models", MODEL), "evaluation": {"tasks": tasks, "speed": False}}, file)
    out = os.path.join(folder, "out")
    done = subprocess.run([os.path.join(BUILD, "pruned"), "run", spec, "--out", out], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    with open(os.path.join(out, "report.json")) as file:
        return {task["name"]: task for task in json.load(file)["evaluation"]["model"]["tasks"]}


def main():
    if not os.path.isdir(os.path.join(DATA, "eval/llm-foundry")):
        print(f"1..0 # SKIP no sets under {DATA}")
        return 77
    with tempfile.TemporaryDirectory(prefix="pruned-tasks-") as folder:
        found = ours(folder)
    loaded = make.load(os.path.join(DATA, "models", MODEL))
    for name in make.SETS:
        wanted, got = make.measure(*loaded, make.read(DATA, name, RECORDS), None), found[name]
        keys = [key for key in ("accuracy", "accuracy_norm", "accuracy_bytes") if key in wanted]
        away = max(abs(wanted[key] - got[key]) * got["records"] for key in keys)
        same = away <= NEAR_TIE and all(abs(wanted[key + "_stderr"] - got[key + "_stderr"]) < 1e-3 for key in keys)
        if "perplexity" in wanted:
            same = same and abs(got["perplexity"] / wanted["perplexity"] - 1) < 1e-4
        report(f"{MODEL} on {name}, {got['records']} records", same,
               ", ".join(f"{key} {got[key]:.4f} against {wanted[key]:.4f}" for key in keys))
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
