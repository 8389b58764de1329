#!/usr/bin/env python3
"""Our forward pass beside PyTorch's and llama.cpp's, from one run on one machine. One command a claim: see README.md.

Usage: compare.py FOLDER [--dtype fp32|bf16] [--threads N] [--batch B] [--length S] [--logits all|none] [--runs N] [--rounds N]
                  [--ours build/bench/forward] [--ours-args "..."] [--gguf FILE ...] [--json OUT]

Run it with the Python that has PyTorch and llama-cpp-python. Each round runs us, every form of PyTorch, and llama.cpp on each GGUF given,
one process after the other; the medians over the rounds are compared, so a machine that slows down slows all. Logits are materialised
on both sides (all) or on neither (none; llama.cpp then computes the last row, which it cannot leave out). A peer that is not installed
is named and left out; the exit status is 1 if we or any peer that ran failed.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORMS = ("transformers", "linear", "packed")


def commands(args):
    """(name, command) of everything that takes part, in the order of a round."""
    size = ["--threads", str(args.threads), "--runs", str(args.runs)]
    yield "pruned", [args.ours, args.folder, "--dtype", {"fp32": "f32"}.get(args.dtype, args.dtype), "--sequences", str(args.batch),
                     "--tokens", str(args.length), "--head", {"all": "logits"}.get(args.logits, args.logits), *size,
                     *shlex.split(args.ours_args)]
    size += ["--batch", str(args.batch), "--length", str(args.length)]
    for form in FORMS:
        yield "torch " + form, [sys.executable, os.path.join(PEERS, "torch_forward.py"), args.folder, "--dtype", args.dtype,
                                "--form", form, "--logits", args.logits, *size]
    for path in args.gguf:
        yield "llama.cpp " + os.path.basename(path), [sys.executable, os.path.join(PEERS, "llamacpp_prefill.py"), path,
                                                      "--logits", "all" if args.logits == "all" else "last", *size]


def has(module):
    return subprocess.run([sys.executable, "-c", "import " + module], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


def machine():
    with open("/proc/cpuinfo") as file:
        lines = [line.split(":", 1) for line in file if ":" in line]
    cpu = next((value.strip() for key, value in lines if key.startswith("model name")), "unknown")
    flags = next((value.split() for key, value in lines if key.startswith("flags")), [])
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()[0],
            "flags": sorted(set(flags) & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile"})}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--logits", choices=("all", "none"), default="none")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", default=os.path.join(ROOT, "build", "bench", "forward"))
    parser.add_argument("--ours-args", default="")
    parser.add_argument("--gguf", nargs="*", default=[])
    parser.add_argument("--json", help="file for everything that was measured")
    args = parser.parse_args()

    missing = {peer for peer, module in (("torch", "torch"), ("llama.cpp", "llama_cpp")) if not has(module)}
    if missing:
        print("not installed, left out: " + ", ".join(sorted(missing)))
    results, failed = {}, False
    for _ in range(args.rounds):
        for name, command in commands(args):
            if name.split()[0] in missing:
                continue
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            if done.returncode != 0:
                print("%s failed: %s" % (name, shlex.join(command)), file=sys.stderr)
                failed = True
                continue
            results.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))

    about = machine()
    print("%s, %s, %d threads, %d x %d tokens, logits: %s\n%s, %d cores, %s; load at the end %.1f\n"
          % (os.path.basename(os.path.abspath(args.folder)), args.dtype, args.threads, args.batch, args.length, args.logits,
             about["cpu"], about["cores"], " ".join(about["flags"]), about["load"]))
    print("%-36s %12s %12s %12s %10s" % ("", "tokens/s", "ours / it", "first run s", "peak MB"))
    rate = {name: statistics.median(line["tokens_per_second"] for line in lines) for name, lines in results.items()}
    for name, lines in results.items():
        peak = max(line.get("peak_bytes") or line.get("peak_rss_bytes") for line in lines)
        first = statistics.median(line["load_and_first_run_seconds"] for line in lines)
        ratio = "%.2f" % (rate["pruned"] / rate[name]) if "pruned" in rate and name != "pruned" else ""
        print("%-36s %12.1f %12s %12.2f %10.0f" % (name, rate[name], ratio, first, peak / 1e6))
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": about, "arguments": vars(args), "results": results}, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
