#!/usr/bin/env python3
"""Exact match per skill and tier, and perplexity: before, after FinerCut, after random removal.

A sublayer (attention or FFN of a block) is removed by leaving its output out,
the same as zeroing o_proj or down_proj.  FinerCut is greedy: at every step the
candidate goes whose removal leaves the final logits nearest to the original
model's, by Jensen-Shannon divergence averaged over the calibration tokens.
With protect ratio x, blocks 0 .. int(N x / 2) of N sublayers are no candidates
until int(N x) + 1 sublayers are gone.

    python3 evaluate.py [--model model] [--remove 4 5 6] [--protect 0.4 0] [--json out.json]
"""
import argparse
import json
import math
import os
import random

import torch

import generate
import llama
from train import encode


def tasks(data, tok):
    """{(skill, tier): batches}; odd lines of a task file are easy, even ones hard."""
    out = {}
    for s in generate.SKILLS:
        with open(os.path.join(data, s + ".jsonl")) as f:
            rows = [(r["prompt"], r["answer"]) for r in map(json.loads, f)]
        for t in (0, 1):
            out[s, t] = encode(tok, rows[t::2])
    return out


@torch.no_grad()
def scores(model, sets, removed=()):
    """Per cent; the arg max at every answer position and EOS given the true answer
    so far must be right, which holds exactly when greedy generation gives the answer."""
    out = {}
    for key, (ids, goal) in sets.items():
        where = goal != -100
        bad = torch.zeros(goal.shape, dtype=torch.bool)
        bad[where] = model(ids, removed, where).argmax(-1) != goal[where]
        out[key] = 100 * (~bad.any(1)).float().mean().item()
    return out


def calibration(path, tok, docs, window):
    """Batches of (ids, mask of real tokens): one document each, or windows of running text."""
    eos = tok.token_to_id(llama.EOS)
    text = open(path).read()
    if window:
        ids = tok.encode(text).ids
        rows = [ids[i:i + window] for i in range(0, len(ids) - window + 1, window)][:docs]
    else:
        rows = sorted((tok.encode(d).ids for d in text.strip().split("\n\n")[:docs]), key=len)
    out = []
    for i in range(0, len(rows), 64):
        part = rows[i:i + 64]
        width = max(map(len, part))
        ids = torch.tensor([r + [eos] * (width - len(r)) for r in part])
        mask = torch.tensor([[j < len(r) for j in range(width)] for r in part])
        out.append((ids, mask))
    return out


@torch.no_grad()
def finercut(model, batches, remove, protect):
    n, removed, trace = 2 * model.s["blocks"], [], []
    true = [model(ids, (), mask).log_softmax(-1) for ids, mask in batches]
    while len(removed) < remove:
        first = 0 if len(removed) >= int(n * protect) + 1 else 2 * (int(n * protect / 2) + 1)
        best = None
        for c in range(first if protect else 0, n):
            if c in removed:
                continue
            total = tokens = 0
            for (ids, mask), p in zip(batches, true):
                q = model(ids, removed + [c], mask).log_softmax(-1)
                m = torch.logaddexp(p, q) - 0.6931471805599453
                total += 0.5 * ((p.exp() * (p - m)).sum() + (q.exp() * (q - m)).sum()).item()
                tokens += len(q)
            if best is None or total / tokens < best[0]:
                best = total / tokens, c
        removed.append(best[1])
        trace.append(best[0])
    return removed, trace


@torch.no_grad()
def perplexity(model, batches, removed=()):
    """Of running text in windows; the first token of a window is not predicted."""
    total = tokens = 0
    for ids, _ in batches:
        logp = model(ids, removed)[:, :-1].log_softmax(-1)
        total -= logp.gather(2, ids[:, 1:, None]).sum().item()
        tokens += ids[:, 1:].numel()
    return math.exp(total / tokens)


def by_skill(res):
    return {s: (res[s, 0] + res[s, 1]) / 2 for s in generate.SKILLS}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default=os.path.join(llama.HERE, "model"))
    ap.add_argument("--data", default=os.path.join(llama.HERE, "data"))
    ap.add_argument("--remove", type=int, nargs="+", default=[4, 5, 6])
    ap.add_argument("--protect", type=float, nargs="+", default=[0.4, 0.0])
    ap.add_argument("--seeds", type=int, default=10)
    ap.add_argument("--random-items", type=int, default=260, help="items per skill and tier in the random runs")
    ap.add_argument("--docs", type=int, default=256, help="calibration documents (or windows)")
    ap.add_argument("--window", type=int, default=0, help="calibrate on windows of this many tokens")
    ap.add_argument("--json", help="also write all numbers here")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    model, sets = llama.load(args.model), tasks(args.data, tok)
    n = 2 * model.s["blocks"]
    columns, text = [("before", scores(model, sets))], {}
    names = lambda r: " ".join("%d.%s" % (i // 2, "FFN" if i % 2 else "attn") for i in r)
    cal = calibration(os.path.join(args.data, "calibration.txt"), tok, args.docs, args.window)
    windows = calibration(os.path.join(args.data, "evaluation.txt"), tok, 10 ** 6, 128)
    text["before"] = perplexity(model, windows)
    for x in args.protect:
        removed, trace = finercut(model, cal, max(args.remove), x)
        print("FinerCut, protect %g: %s" % (x, names(removed)))
        print("    JS divergence: " + " ".join("%.4f" % t for t in trace))
        for k in args.remove:
            columns.append(("FC%g -%d" % (x, k), scores(model, sets, removed[:k])))
            text[columns[-1][0]] = perplexity(model, windows, removed[:k])
    few = {key: (ids[:args.random_items], goal[:args.random_items]) for key, (ids, goal) in sets.items()}
    for k in args.remove:
        runs = [scores(model, few, random.Random(seed).sample(range(n), k)) for seed in range(args.seeds)]
        columns.append(("random -%d" % k, {key: sum(r[key] for r in runs) / len(runs) for key in sets}))
        macros = [sum(r.values()) / len(r) for r in runs]
        print("random -%d macro per seed: %s" % (k, " ".join("%.0f" % m for m in macros)))
    print("\n| skill | " + " | ".join(c for c, _ in columns) + " |\n|---|" + "---:|" * len(columns))
    for s in generate.SKILLS:
        for t, label in ((0, "easy"), (1, "hard")):
            print("| %s, %s | " % (s, label) + " | ".join("%.1f" % r[s, t] for _, r in columns) + " |")
    print("| **macro average** | " + " | ".join("%.1f" % (sum(r.values()) / len(r)) for _, r in columns) + " |")
    base = by_skill(columns[0][1])
    spread = []
    for _, r in columns:
        loss = [base[s] - v for s, v in by_skill(r).items()]
        spread.append("%.1f" % (max(loss) - min(loss)))
    print("| spread of the loss over skills | " + " | ".join(spread) + " |")
    print("| perplexity of evaluation.txt | " +
          " | ".join("%.2f" % text[c] if c in text else "" for c, _ in columns) + " |")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({c: {"%s %d" % k: v for k, v in r.items()} for c, r in columns}, f, indent=1)


if __name__ == "__main__":
    main()
