#!/usr/bin/env python3
"""FinerCut: our search beside the published procedure in plain PyTorch, on the same token windows, in one run.

Usage: finercut.py FOLDER TEXT [--samples 10] [--window 256] [--remove 15] [--protect 0.4] [--metric js] [--threads 2]
                   [--ours build/bench/finercut] [--skip-torch] [--json OUT]

Runs us in fp32, us in fp32 with bf16 screening, and peers/torch_finercut.py (once: it takes long), each in a process of its own; prints
the removal orders, seconds, ratios, and what we evaluated beside the naive count. Orders are the same when every round removes the same
sublayer, or one whose score is within 1e-5 (relative) of the other's, in PyTorch's numbers. Exit status 1 where they are not.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TIE = 1e-5


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit("failed: " + " ".join(command))
    return json.loads(done.stdout.splitlines()[-1])


def same_order(ours, theirs):
    """(whether, where not): a tie in one round may also change places with the next."""
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a["sublayer"] == b["sublayer"]:
            continue
        tie = b["next"] is not None and abs(b["next"] - b["score"]) <= TIE * abs(b["score"])
        if not tie:
            return False, i
    return len(ours) == len(theirs), len(ours)


def name(point):
    return "%s%d" % ("f" if point["sublayer"] % 2 else "a", point["sublayer"] // 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("text")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--remove", type=int, default=15)
    parser.add_argument("--protect", type=float, default=0.4)
    parser.add_argument("--metric", default="js")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", default=os.path.join(ROOT, "build", "bench", "finercut"))
    parser.add_argument("--skip-torch", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    common = ["--remove", str(args.remove), "--protect", str(args.protect), "--metric", args.metric,
              "--threads", str(args.threads)]
    ours = [args.ours, args.folder, os.path.abspath(args.text), "--samples", str(args.samples),
            "--window", str(args.window), *common]
    results = {"pruned fp32": run(ours), "pruned bf16 screening": run(ours + ["--screen", "bf16"])}
    if not args.skip_torch:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(results["pruned fp32"]["tokens"], file)
            file.flush()
            results["torch"] = run([sys.executable, os.path.join(ROOT, "bench", "peers", "torch_finercut.py"), args.folder,
                                    file.name, *common])
    failed = False
    for label, result in results.items():
        print("%-24s %8.1f s   %s" % (label, result["seconds"], " ".join(name(point) for point in result["order"])))
    for label, result in results.items():
        if label == "torch":
            continue
        search = result["search"]
        print("%s: %d of %d candidates completed, token-sublayers %.2f times fewer than naive, token-heads %.2f times"
              % (label, search["completed"], search["candidates"], search["naive_token_sublayers"] / search["token_sublayers"],
                 search["naive_token_heads"] / search["token_heads"]))
        if "torch" in results:
            same, where = same_order(result["order"], results["torch"]["order"])
            failed = failed or not same
            print("%s: %.1f times as fast as PyTorch, %s" % (label, results["torch"]["seconds"] / result["seconds"],
                                                             "same order" if same else "another order from round %d" % (where + 1)))
    scores = [point["score"] for point in results["pruned fp32"]["order"]]
    screened = [point["score"] for point in results["pruned bf16 screening"]["order"]]
    print("scores with screening are %s" % ("the same bits" if scores == screened else "NOT the same"))
    if args.json:
        for result in results.values():
            result.pop("tokens", None)
        with open(args.json, "w") as file:
            json.dump({"arguments": vars(args), "results": results}, file, indent=1)
    return 1 if failed or scores != screened else 0


if __name__ == "__main__":
    sys.exit(main())
