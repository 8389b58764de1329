#!/usr/bin/env python3
"""Train the skills model on a CPU and write the product.

Loss on answer tokens and EOS only; easy tier first; skills drawn by how badly
they still do; sublayers dropped at random (a whole batch at a time) so that
depth becomes redundant; at times several items packed into one sequence, so
that windows of running text are familiar.  The learning rate follows the share
of the time budget used, so a slower machine takes fewer steps, not longer.

    python3 train.py --minutes 60                      # a fresh run
    python3 train.py --minutes 60 --resume             # go on after a stop
    python3 train.py --minutes 15 --init model --lr 1e-3 --hard 0.6 --drop 0   # fine-tuning
"""
import argparse
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import generate
import llama

PAIRS = [(s, t) for s in generate.SKILLS for t in (0, 1)]


class Data:
    """Batches of training items, bucketed by length; -100 marks a position without loss."""

    def __init__(self, tok, seed, tokens):
        self.tok, self.rng, self.tokens = tok, random.Random(seed), tokens
        self.bos, self.eos = tok.token_to_id(llama.BOS), tok.token_to_id(llama.EOS)
        self.blank = tok.encode("\n\n", add_special_tokens=False).ids
        self.queue, self.loss = [], {p: 3.0 for p in PAIRS}

    def items(self, n, hard):
        weights = [(hard if t else 1 - hard) * (0.15 + min(self.loss[s, t], 1.5)) for s, t in PAIRS]
        kinds = self.rng.choices(range(len(PAIRS)), weights, k=n)
        rows = [generate.draw(self.rng, *PAIRS[k]) for k in kinds]
        p = self.tok.encode_batch([r[0] for r in rows], add_special_tokens=False)
        a = self.tok.encode_batch([" " + r[1] for r in rows], add_special_tokens=False)
        return [(k, x.ids, y.ids) for k, x, y in zip(kinds, p, a)]

    def batch(self, hard, pack=0.0):
        if not self.queue:
            n = max(2048, self.tokens // 2)
            rows = []
            items = self.items(n, hard)
            while items:
                k, p, a = items.pop()
                ids, goal = [self.bos] + p + a, [-100] * len(p) + a + [self.eos]
                if self.rng.random() < pack:        # several items, apart by a blank line
                    k, room = -1, self.rng.choice((64, 128, 250))
                    while items and len(ids) + len(self.blank) + len(items[-1][1] + items[-1][2]) <= room:
                        _, p, a = items.pop()
                        ids += self.blank + p + a
                        goal += [-100] * (len(self.blank) + len(p) - 1) + a + [self.eos]
                rows.append((k, ids, goal))
            rows.sort(key=lambda r: len(r[1]))
            while rows:
                take = max(1, self.tokens // len(rows[-1][1]))
                part, rows = rows[-take:], rows[:-take]
                self.queue.append(part)
            self.rng.shuffle(self.queue)
        part = self.queue.pop()
        width = max(len(r[1]) for r in part)
        ids = torch.tensor([r[1] + [self.eos] * (width - len(r[1])) for r in part])
        goal = torch.tensor([r[2] + [-100] * (width - len(r[2])) for r in part])
        return torch.tensor([r[0] for r in part]), ids, goal


def probe(tok, per=40):
    """Fixed held-out items per skill and tier, as padded batches (see `exact`)."""
    out = {}
    for s, t in PAIRS:
        rng = random.Random("probe %s %d" % (s, t))
        rows = [generate.draw(rng, s, t, held=True) for _ in range(per)]
        out[s, t] = encode(tok, rows)
    return out


def encode(tok, rows):
    eos = tok.token_to_id(llama.EOS)
    pairs = [(tok.encode(p).ids, tok.encode(" " + a, add_special_tokens=False).ids) for p, a in rows]
    width = max(len(p) + len(a) for p, a in pairs)
    ids = torch.full((len(pairs), width), eos)
    goal = torch.full((len(pairs), width), -100)
    for i, (p, a) in enumerate(pairs):
        ids[i, :len(p + a)] = torch.tensor(p + a)
        goal[i, len(p) - 1:len(p + a)] = torch.tensor(a + [eos])
    return ids, goal


@torch.no_grad()
def exact(model, ids, goal, removed=()):
    """Share of items whose every answer token and EOS is the arg max given the true
    answer so far; that is the same as greedy generation giving exactly the answer."""
    guess = model(ids, removed).argmax(-1)
    return ((guess == goal) | (goal == -100)).all(1).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--minutes", type=float, default=60, help="time budget of the whole run")
    ap.add_argument("--out", default=os.path.join(llama.HERE, "model"))
    ap.add_argument("--work", default="/tmp/skills-train", help="checkpoint folder")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--init", help="product folder to start from (fine-tuning)")
    ap.add_argument("--tokens", type=int, default=3072, help="tokens in a batch")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--warm", type=float, default=0.02, help="warm-up, share of the budget")
    ap.add_argument("--drop", type=float, default=0.05, help="sublayer drop rate")
    ap.add_argument("--drop-from", type=float, default=0.4, help="share of the budget before any drop")
    ap.add_argument("--gain", type=float, default=1.0,
                    help="with --init: first multiply the output matrices of the sublayers from block 2 on "
                         "(but the last FFN), so that each weighs more in the residual stream")
    ap.add_argument("--hard", type=float, help="fixed share of the hard tier (default: 0.1 rising to 0.65)")
    ap.add_argument("--pack", type=float, default=0.02, help="share of packed sequences")
    ap.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    os.makedirs(args.work, exist_ok=True)
    state_path = os.path.join(args.work, "state.pt")

    state = torch.load(state_path, weights_only=False) if args.resume and os.path.exists(state_path) else None
    if state or args.init:
        from tokenizers import Tokenizer
        tok = Tokenizer.from_str(state["tok"]) if state else \
            Tokenizer.from_file(os.path.join(args.init, "tokenizer.json"))
    else:
        tok = llama.make_tokenizer()
    model = llama.load(args.init) if args.init else llama.Llama(tok.get_vocab_size())
    if args.gain != 1.0 and not state:
        with torch.no_grad():
            for b in model.layers[2:]:
                b.o.weight.mul_(args.gain)
                b.down.weight.mul_(args.gain if b is not model.layers[-1] else 1.0)
    model.train()
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and not n.startswith("embed")]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or n.startswith("embed")]
    if args.optimizer == "muon":
        opts = [torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, momentum=0.95,
                                 ns_steps=4, adjust_lr_fn="match_rms_adamw"),
                torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    else:
        opts = [torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": rest, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.98), fused=True)]
    data, step, used = Data(tok, args.seed, args.tokens), 0, 0.0
    if state:
        model.load_state_dict(state["model"])
        for o, s in zip(opts, state["opts"]):
            o.load_state_dict(s)
        step, used, data.loss = state["step"], state["used"], state["loss"]
        data.rng.seed(args.seed + step)
    tests, coin = probe(tok), random.Random(args.seed + step)
    budget, start, reported, mean = args.minutes * 60, time.time() - used, used, 0.0
    print("vocab %d, parameters %d" % (tok.get_vocab_size(), sum(p.numel() for p in model.parameters())))

    while True:
        used = time.time() - start
        share = min(used / budget, 1.0)
        if used - reported > 120 or share >= 1:
            reported = used
            model.eval()
            res = {p: exact(model, *tests[p]) for p in PAIRS}
            model.train()
            print("%5.1f min step %d loss %.3f | %s" % (used / 60, step, mean, "  ".join(
                "%s %.0f/%.0f" % (s, 100 * res[s, 0], 100 * res[s, 1]) for s in generate.SKILLS)), flush=True)
            torch.save({"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step,
                        "used": used, "loss": data.loss, "tok": tok.to_str()}, state_path + ".new")
            os.replace(state_path + ".new", state_path)
            llama.save(model, tok, args.out if share >= 1 else os.path.join(args.work, "model"))
            if share >= 1:
                return
        hard = args.hard if args.hard is not None else 0.1 + 0.55 * min(share / 0.3, 1)
        lr = args.lr * min(1, share / args.warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        drop = args.drop if share >= args.drop_from else 0.0
        n = 2 * model.s["blocks"]
        removed = [i for i in range(2 * model.s["blocks"]) if coin.random() < drop]
        kinds, ids, goal = data.batch(hard, args.pack if share > 0.2 else 0.0)
        where = goal != -100
        owner = kinds[:, None].expand_as(goal)[where]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, removed, where)
        losses = F.cross_entropy(logits.float(), goal[where], reduction="none")
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            for g in o.param_groups:
                g["lr"] = lr
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        with torch.no_grad():
            mean += (losses.mean().item() - mean) * (0.02 if step > 100 else 0.1)
            if not removed:                 # feeds the choice of skills
                for k, p in enumerate(PAIRS):
                    m = owner == k
                    if m.any():
                        data.loss[p] += 0.05 * (losses[m].mean().item() - data.loss[p])


if __name__ == "__main__":
    main()
