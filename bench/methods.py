#!/usr/bin/env python3
"""Quality of methods side by side: every method at the same shares of prunable parameters, on one model, one calibration text and one test
text, through `pruned run`. One job per method and compensation: a sweep scores once and evaluates each target.

    bench/methods.py --pruned build/pruned --model FOLDER --calibration c4_demo.jsonl --text wiki.test.raw \
        --out results.json [--methods cfsp,flap] [--compensations default,none,ls] [--sparsity 0.1,0.2,0.3]
    bench/methods.py --table results.json

Results are added to the file as they come, so a run that was cut goes on where it stopped. Numbers carry what they hang on: windows,
tokens, dtype, seeds (design section 7). `random` is ten seeds, shown with mean and deviation."""
import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def parse_list(text):
    return [item for item in text.split(",") if item]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="print the table of a results file and stop")
    parser.add_argument("--pruned", default="build/pruned")
    parser.add_argument("--model")
    parser.add_argument("--calibration")
    parser.add_argument("--text")
    parser.add_argument("--text-bytes", type=int, default=0, help="take only so much of the test text; 0: all")
    parser.add_argument("--tasks", default="", help="choice sets (JSONL), comma-separated")
    parser.add_argument("--task-limit", type=int, default=100)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--evaluation-window", type=int, default=2048)
    parser.add_argument("--speed", action="store_true", help="measure tokens per second as well")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sparsity", default="0.1,0.2,0.3")
    parser.add_argument("--methods", default="random,last_blocks")
    parser.add_argument("--compensations", default="default")
    parser.add_argument("--seeds", type=int, default=10, help="of random")
    parser.add_argument("--cache", help="folder of the score cache")
    parser.add_argument("--out", default="methods.json")
    return parser.parse_args()


def cut_text(path, count, folder):
    """The first bytes of a text, up to a line's end: a file."""
    if count == 0:
        return path
    with open(path, "rb") as file:
        head = file.read(count)
    head = head[: head.rfind(b"\n") + 1]
    cut = os.path.join(folder, "text.txt")
    with open(cut, "wb") as file:
        file.write(head)
    return cut


def make_spec(arguments, text, method, compensation, seed):
    name, _, rest = method.partition(":")
    parameters = json.loads(rest) if rest else {}
    tasks = [
        {"name": os.path.basename(path).split(".")[0], "source": os.path.abspath(path),
         "kind": "language_modeling" if "lambada" in path else "choice", "limit": arguments.task_limit}
        for path in parse_list(arguments.tasks)
    ]
    spec = {
        "type": "pruning",
        "model": os.path.abspath(arguments.model),
        "method": {"type": name, name: parameters},
        "sweep": {"sparsity": [float(item) for item in parse_list(arguments.sparsity)]},
        "calibration": {"source": os.path.abspath(arguments.calibration), "num_samples": arguments.samples,
                        "window_tokens": arguments.window},
        "evaluation": {"text": {"source": text}, "protocols": ["gptq"],
                       "window_tokens": arguments.evaluation_window, "tasks": tasks, "speed": arguments.speed, "prompts": []},
        "compute": {"dtype": arguments.dtype},
        "seed": seed,
    }
    if compensation != "default":
        spec["compensation"] = {"type": compensation}
    return spec


def run_job(arguments, spec, folder):
    path = os.path.join(folder, "spec.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    out = os.path.join(folder, "out")
    command = [arguments.pruned, "run", path, "--out", out]
    if arguments.cache:
        command += ["--cache", arguments.cache]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        return {"error": done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output",
                "seconds": seconds}
    with open(os.path.join(out, "report.json"), encoding="utf-8") as file:
        report = json.load(file)
    shutil.rmtree(out)
    return {"curve": report["curve"], "seconds": seconds, "stage_seconds": report["resources"]["stage_seconds"],
            "before": report.get("evaluation", {}).get("before")}


def load(path):
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    return {"runs": {}}


def save(path, results):
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, sort_keys=True)
    os.replace(path + ".tmp", path)


def run_all(arguments):
    results = load(arguments.out)
    chosen = ("table", "out", "pruned", "methods", "compensations", "seeds", "cache")
    setup = {key: value for key, value in vars(arguments).items() if key not in chosen}
    if results.setdefault("setup", setup) != setup:
        sys.exit(f"{arguments.out} holds results of another setup: {results['setup']}")
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.abspath(cut_text(arguments.text, arguments.text_bytes, folder))
        for method in parse_list_of_methods(arguments.methods):
            is_random = method.startswith("random")
            for compensation in ["default"] if is_random else parse_list(arguments.compensations):
                for seed in range(arguments.seeds if is_random else 1):
                    key = f"{method}|{compensation}|{seed}"
                    if key in results["runs"] and "error" not in results["runs"][key]:
                        continue
                    job = os.path.join(folder, "job")
                    shutil.rmtree(job, ignore_errors=True)
                    os.makedirs(job)
                    result = run_job(arguments, make_spec(arguments, text, method, compensation, 42 + seed), job)
                    results["runs"][key] = result
                    save(arguments.out, results)
                    print(f"{key}: {result.get('error', 'done')} in {result['seconds']:.0f} s", flush=True)


def parse_list_of_methods(text):
    """Names, or name:{parameters}; commas inside braces do not separate."""
    items, depth, item = [], 0, ""
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            items.append(item)
            item = ""
        else:
            item += letter
    return [item for item in items + [item] if item]


def cell(values):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def find_perplexity(point):
    value = (point.get("perplexity") or {}).get("gptq")
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def mean_accuracy(point):
    value = point.get("task_accuracy_mean")
    return 100 * value if isinstance(value, (int, float)) else None


def print_table(path):
    results = load(path)
    targets = parse_list(results["setup"]["sparsity"])
    columns = ["method", "compensation"] + [f"ppl at {target}" for target in targets]
    columns += [f"acc at {target}" for target in targets] + ["achieved", "seconds"]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    groups = {}
    for key, run in results["runs"].items():
        method, compensation, _ = key.split("|")
        groups.setdefault((method, compensation), []).append(run)
    for (method, compensation), runs in groups.items():
        points = {target: [] for target in targets}
        for run in runs:
            for point in run.get("curve", []):
                asked = point["requested"].get("sparsity")
                for target in targets:
                    if asked is not None and abs(asked - float(target)) < 1e-9:
                        points[target].append(point)
        errors = [run["error"] for run in runs if "error" in run]
        row = [method, compensation] + [cell([find_perplexity(p) for p in points[t]]) for t in targets]
        row += [cell([mean_accuracy(p) for p in points[t]]) for t in targets]
        achieved = ["/".join(f"{p['achieved']['sparsity_ratio']:.3f}" for p in points[t][:1]) for t in targets]
        row += [" ".join(achieved), f"{statistics.mean(run['seconds'] for run in runs):.0f}"]
        print("| " + " | ".join(row) + " |" + (f"  {errors[0]}" if errors else ""))


def main():
    arguments = parse_arguments()
    if arguments.table:
        print_table(arguments.table)
        return 0
    if not arguments.model or not arguments.calibration or not arguments.text:
        print("needed: --model, --calibration, --text", file=sys.stderr)
        return 2
    run_all(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
