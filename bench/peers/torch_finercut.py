#!/usr/bin/env python3
"""The published FinerCut procedure in plain PyTorch: one full forward in fp32 for every candidate, sequence by sequence (batch 1), all
logits kept, the divergence taken on them.

Usage: torch_finercut.py FOLDER TOKENS.json [--remove N] [--protect RATIO] [--metric js|norm|angular|kl] [--threads N] [--candidates N]

TOKENS.json: a list of lists of token ids. A sublayer is removed by masking its output projection's result to zero, as the reference does
(o_proj, down_proj); its form of JS is the reference's too, 1/2 [kl_div(log P, M) + kl_div(log Q, M)] with reduction "mean". One line of
JSON: removal order in residual order of sublayers (2 * layer, + 1 for the FFN), scores, seconds from before the original's forward to the
last round. --candidates N: stop after N candidates of the first round and print seconds a candidate (for a quick estimate).
"""
import argparse
import json
import time


def distance(torch, metric, original, log_p, candidate):
    """original, log_p, candidate: lists of [tokens, vocab] by sequence."""
    functional = torch.nn.functional
    if metric == "norm":
        return float(sum(torch.linalg.norm(a.double() - b.double()) for a, b in zip(original, candidate)) / len(original))
    z0, z = torch.cat(original), torch.cat(candidate)
    if metric == "angular":
        return float(torch.acos(functional.cosine_similarity(z0.double(), z.double(), dim=-1).clamp(0, 1)).mean())
    log_q = functional.log_softmax(z, dim=-1)
    if metric == "kl":
        return float(functional.kl_div(log_q, log_p, reduction="mean", log_target=True))
    mixture = (log_p.exp() + log_q.exp()) / 2
    return float((functional.kl_div(log_p, mixture, reduction="mean") + functional.kl_div(log_q, mixture, reduction="mean")) / 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("tokens")
    parser.add_argument("--remove", type=int, default=15)
    parser.add_argument("--protect", type=float, default=0.4)
    parser.add_argument("--metric", choices=("js", "norm", "angular", "kl"), default="js")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=0)
    args = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    with open(args.tokens) as file:
        windows = [torch.tensor([ids]) for ids in json.load(file)]
    model = AutoModelForCausalLM.from_pretrained(args.folder, torch_dtype=torch.float32).eval()
    layers = model.model.layers
    count = 2 * len(layers)
    masked = [False] * count

    def mask(index):
        def hook(_module, _inputs, output):
            return output * 0 if masked[index] else output
        return hook

    for i, layer in enumerate(layers):
        layer.self_attn.o_proj.register_forward_hook(mask(2 * i))
        layer.mlp.down_proj.register_forward_hook(mask(2 * i + 1))

    def forward():
        return [model(ids, use_cache=False).logits[0] for ids in windows]

    begin = time.monotonic()
    cpu = time.process_time()
    original = forward()
    log_p = torch.nn.functional.log_softmax(torch.cat(original), dim=-1) if args.metric in ("js", "kl") else None
    # Layers 0 .. int(N x / 2) are protected until int(N x) + 1 sublayers are gone.
    protected = int(count * args.protect / 2) + 1
    order, evaluations = [], 0
    while len(order) < args.remove:
        first = 0 if len(order) >= int(count * args.protect) + 1 else 2 * protected
        scores = {}
        for index in range(first, count):
            if masked[index]:
                continue
            masked[index] = True
            scores[index] = distance(torch, args.metric, original, log_p, forward())
            masked[index] = False
            evaluations += 1
            if evaluations == args.candidates:
                seconds = time.monotonic() - begin
                print(json.dumps({"what": "torch finercut", "seconds_per_candidate": seconds / (evaluations + 1),
                                  "cpu_seconds_per_candidate": (time.process_time() - cpu) / (evaluations + 1),
                                  "scores": scores}))
                return
        best = min(scores, key=lambda index: (scores[index], index))
        masked[best] = True
        ranked = sorted(scores.values())
        order.append({"sublayer": best, "score": scores[best], "next": ranked[1] if len(ranked) > 1 else None})
    print(json.dumps({"what": "torch finercut", "order": order, "evaluations": evaluations, "threads": args.threads,
                      "seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
