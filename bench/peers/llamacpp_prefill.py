#!/usr/bin/env python3
"""llama.cpp's prompt processing of a GGUF through llama-cpp-python: tokens per second, peak memory, load time.

Usage: llamacpp_prefill.py FILE.gguf [--threads N] [--batch B] [--length S] [--logits all|last] [--runs N] [--ubatch N,N,...]
                           [--flash 0,1] [--no-mmap]

Every combination of n_ubatch and flash attention is tried with one run; the fastest is measured. One JSON object; `tried` has the others.
n_batch is the length: one llama_decode a sequence, the sequences of a batch one after the other (llama.cpp splits them in the same
pieces either way). The cache keeps llama.cpp's default type F16. No logits at all cannot be asked for: `last` is one row. Load time
is llama_model_load_from_file, mapped and therefore lazy unless --no-mmap; peak memory counts mapped pages. Build llama-cpp-python from
its source distribution on the machine that measures (see ../README.md): `system` says which instructions it was built for.
"""
import argparse
import ctypes
import json
import os
import statistics
import time

import llama_cpp as l
import numpy as np

from torch_forward import peak_bytes

QUIET = l.llama_log_callback(lambda level, text, data: None)


class Run:
    """A context of one sequence and the batch that fills it."""

    def __init__(self, model, args, ubatch, flash):
        params = l.llama_context_default_params()
        params.n_ctx = params.n_batch = args.length
        params.n_ubatch = ubatch
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = 1 if flash else 0
        self.context = l.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit("no context with n_ubatch %d" % ubatch)
        self.batch = l.llama_batch_init(args.length, 0, 1)
        self.length, self.all = args.length, args.logits == "all"
        self.cpu_seconds = 0.0  # of all runs

    def __call__(self, ids):
        l.llama_memory_clear(l.llama_get_memory(self.context), False)
        batch = self.batch
        batch.n_tokens = self.length
        for i in range(self.length):
            batch.token[i] = int(ids[i])
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = self.all or i == self.length - 1
        start, cpu = time.perf_counter(), time.process_time()
        if l.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        l.llama_synchronize(self.context)
        self.cpu_seconds += time.process_time() - cpu
        return time.perf_counter() - start

    def last_logits(self, vocabulary):
        return np.ctypeslib.as_array(l.llama_get_logits_ith(self.context, -1), (vocabulary,)).copy()

    def close(self):
        l.llama_batch_free(self.batch)
        l.llama_free(self.context)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--logits", choices=("all", "last"), default="all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ubatch", default="256,512,1024,2048")
    parser.add_argument("--flash", default="0,1")
    parser.add_argument("--no-mmap", action="store_true")
    args = parser.parse_args()

    l.llama_log_set(QUIET, ctypes.c_void_p(0))
    l.llama_backend_init()
    params = l.llama_model_default_params()
    params.use_mmap = not args.no_mmap
    start = time.perf_counter()
    model = l.llama_model_load_from_file(args.file.encode(), params)
    load_seconds = time.perf_counter() - start
    if not model:
        raise SystemExit("%s does not load" % args.file)
    vocabulary = l.llama_vocab_n_tokens(l.llama_model_get_vocab(model))
    ids = np.random.default_rng(1).integers(vocabulary, size=(args.batch, args.length))

    warm = Run(model, args, min(512, args.length), False)
    for row in ids:
        warm(row)  # reads the mapped file
    first_seconds = time.perf_counter() - start
    warm.close()
    tried = []
    wanted = sorted({min(int(x), args.length) for x in args.ubatch.split(",")})
    combinations = [(ubatch, int(flash)) for ubatch in wanted for flash in args.flash.split(",")]
    for ubatch, flash in combinations if len(combinations) > 1 else []:
        run = Run(model, args, ubatch, flash)
        tried.append({"n_ubatch": ubatch, "flash": flash, "seconds": round(run(ids[0]), 4)})
        run.close()
    best = min(tried, key=lambda t: t["seconds"]) if tried else {"n_ubatch": combinations[0][0], "flash": combinations[0][1]}
    run = Run(model, args, best["n_ubatch"], best["flash"])
    times = [sum(run(row) for row in ids) for _ in range(args.runs + 1)][1:]
    if not np.isfinite(run.last_logits(vocabulary)).all():
        raise SystemExit("logits are not finite")
    print(json.dumps({
        "peer": "llama.cpp", "llama_cpp_python": l.__version__, "system": l.llama_print_system_info().decode(),
        "model": os.path.basename(args.file), "threads": args.threads, "batch": args.batch, "length": args.length, "logits": args.logits,
        "n_ubatch": best["n_ubatch"], "flash": best["flash"], "seconds": round(statistics.median(times), 4),
        "cpu_seconds": round(run.cpu_seconds / (args.runs + 1), 4), "runs": [round(t, 4) for t in times],
        "tokens_per_second": round(args.batch * args.length / statistics.median(times), 2),
        "load_seconds": round(load_seconds, 3), "load_and_first_run_seconds": round(first_seconds, 3), "peak_bytes": peak_bytes(),
        "tried": tried}))


if __name__ == "__main__":
    main()
