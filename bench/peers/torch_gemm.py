#!/usr/bin/env python3
"""PyTorch's rate for C[M, N] = A[M, K] W[N, K]^T, in each of the forms that PyTorch offers.

Usage: torch_gemm.py [--threads N] [--runs N] [MxNxK ...]

Prints one JSON object a line: dtype, form, median seconds, GFLOP/s. Forms: `linear` is F.linear (MKL in fp32, oneDNN in bf16); `packed`
is oneDNN with the weights laid out once beforehand, which torch.compile uses when it freezes a model. Benchmarks take the faster one.
"""
import argparse
import json
import statistics
import time

import torch

from torch_packed import PackedLinear


def measure(run, runs):
    run()
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*",
                        default=["2048x4096x4096", "2048x2048x2048", "2048x8192x2048", "2048x2048x8192", "2048x1536x576"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    for shape in args.shapes:
        m, n, k = (int(x) for x in shape.split("x"))
        for dtype in (torch.float32, torch.bfloat16):
            a, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
            packed = PackedLinear(w)
            with torch.inference_mode():
                golden = a[:8].double() @ w.double().T  # eight rows tell whether it is the same product
                for form, run in (("linear", lambda: torch.nn.functional.linear(a, w)), ("packed", lambda: packed(a))):
                    error = float((run()[:8] - golden).abs().max() / golden.abs().max())
                    seconds = measure(run, args.runs)
                    print(json.dumps({"peer": "torch", "torch": torch.__version__, "m": m, "n": n, "k": k, "threads": args.threads,
                                      "dtype": str(dtype)[6:], "form": form, "seconds": round(seconds, 6),
                                      "gflops": round(2e-9 * m * n * k / seconds, 1), "error": float("%.2g" % error)}), flush=True)


if __name__ == "__main__":
    main()
