#!/usr/bin/env python3
"""A model larger than its memory, calibrated and scored: a shortgpt job with max_memory_bytes, its measured peak beside the limit, and
the time of its score stage beside two floors from the same run: reading the weights once (from the disk past the page cache, or from the
page cache, as the job finds them), and the stage's products at the rate that the backend reaches at these shapes.

Usage: stream.py MODEL --text FILE --out FOLDER [--limit BYTES] [--dtype float32|bfloat16] [--samples N] [--tokens S] [--threads N]
                 [--cache cold|warm] [--build build]

--cache cold empties the page cache of the model's files before the stage that counts (posix_fadvise, needs no privilege); warm reads them
once. The job removes all blocks but one, so that little is exported. Exit 1 where the peak passes the limit or the time 1.3 times the
larger floor.
"""
import argparse
import json
import mmap
import os
import shutil
import subprocess
import sys
import time


def weight_files(model):
    return sorted(os.path.join(model, name) for name in os.listdir(model) if name.endswith((".safetensors", ".gguf")))


def drop(files):
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_all(files, flags):
    """Seconds and bytes of reading whole files in pieces of 8 MiB."""
    buffer = mmap.mmap(-1, 8 << 20)  # aligned, as O_DIRECT asks
    start, total = time.monotonic(), 0
    for path in files:
        fd = os.open(path, os.O_RDONLY | flags)
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            count = os.preadv(fd, [buffer], at)
            if count <= 0:
                break
            at += count
        os.close(fd)
        total += at
    return time.monotonic() - start, total


def products(args, config, rows):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    inner, kv = config["intermediate_size"], config.get("num_key_value_heads", heads)
    shapes = [((heads + 2 * kv) * size, hidden), (hidden, heads * size), (2 * inner, hidden), (hidden, inner)]
    command = [os.path.join(args.build, "bench", "products"), "--dtype", "bf16" if args.dtype == "bfloat16" else "f32",
               "--threads", str(args.threads), "--rows", str(rows), "--runs", "3", *("%dx%d" % shape for shape in shapes)]
    rate = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return rate, sum(n * k for n, k in shapes), heads * size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--limit", type=int, default=4 << 30)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cache", choices=("cold", "warm"), default="warm")
    parser.add_argument("--build", default="build")
    args = parser.parse_args()
    files = weight_files(args.model)
    with open(os.path.join(args.model, "config.json")) as file:
        config = json.load(file)

    drop(files)
    disk_seconds, weight_bytes = read_all(files, os.O_DIRECT)
    print("disk: %.1f s for %.2f GB past the page cache, %.2f GB/s" % (disk_seconds, weight_bytes / 1e9, weight_bytes / disk_seconds / 1e9))
    read_all(files, 0)
    cached_seconds, _ = read_all(files, 0)
    print("cache: %.1f s for the same again (what the page cache holds of it), %.2f GB/s" % (
        cached_seconds, weight_bytes / cached_seconds / 1e9))
    tokens = args.samples * args.tokens
    rate, parameters, width = products(args, config, min(tokens, 768))
    layers = config["num_hidden_layers"]
    attention = 2.0 * width * args.tokens * tokens * layers  # scores and mixing, half of the square each
    flops = 2.0 * parameters * tokens * layers + attention
    product_seconds = flops / rate["flops_per_second"]
    print("products: %.2f TFLOP/s (%s, %s); %.1f TFLOP, %.1f s" % (
        rate["flops_per_second"] / 1e12, rate["backend"], rate["identity"], flops / 1e12, product_seconds))

    shutil.rmtree(args.out, ignore_errors=True)
    os.makedirs(args.out)
    spec = {"type": "pruning", "model": os.path.abspath(args.model), "method": {"type": "shortgpt", "shortgpt": {}},
            "target": {"num_layers": 1}, "compute": {"dtype": args.dtype},
            "limits": {"max_memory_bytes": args.limit, "threads": args.threads},
            "calibration": {"source": os.path.abspath(args.text), "half": "first", "num_samples": args.samples,
                            "window_tokens": args.tokens},
            "evaluation": {"speed": False}}
    path = os.path.join(args.out, "spec.json")
    with open(path, "w") as file:
        json.dump(spec, file)
    out = os.path.join(args.out, "job")
    process = subprocess.Popen([os.path.join(args.build, "pruned"), "run", path, "--out", out], stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if line.startswith("stage calibrate"):  # the files were hashed just now: here the cache is set
            drop(files) if args.cache == "cold" else None
        if not line.startswith("stage") and "%" not in line:
            sys.stderr.write(line)
    if process.wait() != 0:
        return 1
    with open(os.path.join(out, "report.json")) as file:
        resources = json.load(file)["resources"]
    seconds = resources["stage_seconds"]["score"]
    floor = max(disk_seconds if args.cache == "cold" else cached_seconds, product_seconds)
    peak = resources["peak_rss_bytes"]
    print("score: %.1f s over %d tokens, %s weights, %.2f GB read, cache %s" % (
        seconds, tokens, "streamed" if resources["weights_streamed"] else "held", resources["weight_bytes_read"] / 1e9, args.cache))
    print("peak: %d bytes measured, %d planned, %d allowed: %s" % (
        peak, resources["planned_memory_bytes"], args.limit, "kept" if peak <= args.limit else "PASSED"))
    print("ratio: %.2f of the larger floor (%.1f s); 1.3 is the bound" % (seconds / floor, floor))
    return 0 if peak <= args.limit and seconds <= 1.3 * floor else 1


if __name__ == "__main__":
    sys.exit(main())
