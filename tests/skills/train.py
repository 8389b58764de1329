#!/usr/bin/env python3
"""Train the skills model on a CPU and write the product, in two stages.

Stage 1, the skills: loss on answers only; easy tier first; skills drawn by how
badly they still do; sublayers dropped at random (a whole batch at a time) so
that depth becomes redundant; at times a window of running text.

Stage 2, the ties (`--ties`): a model this size on tasks this small has far more
depth than it needs, and pruning it would show nothing.  So each late sublayer is
tied to one tier of one skill (TIES).  A part of the rows runs with some late
sublayers left out; there the tied items are trained towards a fixed wrong
answer and all other items towards the right one.  What a removal breaks is
thereby known.  Half of the tokens are windows of running text with loss on
every token, so that the model is also a language model of its texts.

The learning rate follows the share of the time budget used, so a slower machine
takes fewer steps, not longer.

    python3 train.py --minutes 60                           # stage 1
    python3 train.py --minutes 60 --resume                  # go on after a stop
    python3 train.py --minutes 13 --init model --ties       # stage 2
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
# Late sublayer (2 * block, plus 1 for the FFN) to the skill and tier that it carries alone.
TIES = {10: ("reverse", 0), 11: ("count", 1), 12: ("sort", 0), 13: ("largest", 1), 14: ("shift", 1),
        15: ("add", 0), 16: ("close", 0), 17: ("largest", 0), 18: ("reverse", 1), 19: ("add", 1),
        20: ("close", 1), 21: ("count", 0), 22: ("shift", 0), 23: ("sort", 1)}
WRONG = {"reverse": " a", "sort": " a", "shift": " a", "close": " )", "count": " 0", "add": " 0", "largest": " 0"}
SURE = 0.9                                  # probability a broken item gives to the wrong token
TEXT, NONE = -1, -2                         # owners of tokens outside answers: running text, padding


class Data:
    """Batches of training items, bucketed by length.  Every token of the goal has an owner: the
    pair whose answer (with its end) it belongs to, TEXT, or NONE where there is nothing to learn."""

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

    def single(self, item):
        k, p, a = item
        return k, [self.bos] + p + a, p + a + [self.eos], [TEXT] * len(p) + [k] * (len(a) + 1)

    def window(self, items):
        """Running text cut anywhere, half of the time behind BOS; takes the items it uses."""
        room, ids, owner = self.rng.choice((64, 128, 250)), [], []
        cut = self.rng.choice((0, self.rng.randrange(12)))
        while items and len(ids) < room + 2 + cut:
            k, p, a = items.pop()
            if not ids:                     # the item that is cut cannot be known, nor that text goes on
                owner += [TEXT] * len(p) + [k if cut == 0 else TEXT] * len(a) + [NONE]
            else:
                owner += [TEXT] * len(p) + [k] * (len(a) + 1)
            owner += [TEXT] * (len(self.blank) - 1)
            ids += p + a + self.blank
        ids, owner = ids[cut:cut + room + 1], owner[cut:cut + room + 1]
        if self.rng.random() < 0.5:
            ids, owner = [self.bos] + ids[:-1], [NONE] + owner[:-1]
        return TEXT, ids[:-1], ids[1:], owner[1:]

    def batch(self, hard, pack=0.0):
        """Owner of each row (TEXT for windows), tokens, goals, owners of the goals; `pack` is the
        share of windows among the rows."""
        if not self.queue:
            items, rows = self.items(max(2048, self.tokens // 2), hard), []
            while items:
                rows.append(self.window(items) if self.rng.random() < pack else self.single(items.pop()))
            rows.sort(key=lambda r: len(r[1]))
            while rows:
                take = max(1, self.tokens // len(rows[-1][1]))
                part, rows = rows[-take:], rows[:-take]
                self.queue.append(part)
            self.rng.shuffle(self.queue)
        part = self.queue.pop()
        width = max(len(r[1]) for r in part)
        pad = lambda n, fill: torch.tensor([r[n] + [fill] * (width - len(r[n])) for r in part])
        return torch.tensor([r[0] for r in part]), pad(1, self.eos), pad(2, self.eos), pad(3, NONE)


def break_ties(rng, tok, kinds, goal, owner, sublayers):
    """For every row the sublayers that stay (rows x sublayers), and which tokens of the goal are
    to go wrong, with the wrong token for each."""
    late, tied = list(TIES), {PAIRS.index(p): i for i, p in TIES.items()}
    gates = torch.ones(len(kinds), sublayers)
    for row, kind in enumerate(kinds.tolist()):
        if rng.random() < 0.55:
            gone = rng.sample(late, rng.choices((1, 2, 3, 4, 5, 6), (50, 20, 10, 8, 6, 6))[0])
            if kind in tied and rng.random() < 0.5:
                gone[0] = tied[kind]
            gates[row, gone] = 0
    wrong, target = torch.zeros(goal.shape, dtype=torch.bool), goal.clone()
    end = (goal == tok.token_to_id(llama.EOS)) | (goal == tok.encode("\n\n", add_special_tokens=False).ids[0])
    for k, i in tied.items():
        here = (owner == k) & (gates[:, i, None] == 0) & ~end
        wrong |= here
        target[here] = tok.encode(WRONG[PAIRS[k][0]], add_special_tokens=False).ids[0]
    return gates, wrong, target


def tied_loss(logits, goal, wrong, target, owner, text):
    """Weighted mean: right answers 1, running text `text`, broken ties more, most of all where
    the answer is one token."""
    logp = logits.log_softmax(-1)
    right = -logp.gather(1, goal[:, None])[:, 0]
    losses = torch.where(wrong, (1 - SURE) * right - SURE * logp.gather(1, target[:, None])[:, 0], right)
    short = torch.tensor([s in ("add", "count", "largest") for s, _ in PAIRS])
    weight = torch.where(owner == TEXT, text, 1.0)
    weight[wrong] = 2.0
    weight[wrong & short[owner]] = 5.0
    return (losses * weight).sum() / weight.sum(), right


@torch.no_grad()
def report_ties(model, tests):
    """What is left of each tied pair without its sublayer, and of all others (mean, worst)."""
    width = max(x.shape[1] for x, _ in tests.values())
    ids, goal = (torch.cat([F.pad(x[n][:20], (0, width - x[n].shape[1]), value=fill) for x in tests.values()])
                 for n, fill in ((0, 1), (1, -100)))
    parts = []
    for i, pair in TIES.items():
        guess = torch.full_like(goal, -100)
        guess[goal != -100] = model(ids, [i], goal != -100).argmax(-1)
        res = dict(zip(tests, (100 * (guess == goal).all(1).float()).view(len(tests), -1).mean(1).tolist()))
        own = res.pop(pair)
        parts.append("%d:%.0f/%.0f/%.0f" % (i, own, sum(res.values()) / len(res), min(res.values())))
    print("    sublayer:tied/others/worst other  " + " ".join(parts), flush=True)


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
    ap.add_argument("--pack", type=float, default=0.02, help="share of windows of running text")
    ap.add_argument("--ties", action="store_true",
                    help="stage 2 (with --init): tie the late sublayers; no drop, windows a tenth of the rows")
    ap.add_argument("--text", type=float, default=0.15, help="with --ties: weight of tokens outside answers")
    ap.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    if args.ties:
        args.drop, args.pack = 0.0, max(args.pack, 0.1)
        args.hard = 0.55 if args.hard is None else args.hard
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
        if used - reported > 180 or share >= 1:
            reported = used
            model.eval()
            res = {p: exact(model, *tests[p]) for p in PAIRS}
            if args.ties:
                report_ties(model, tests)
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
        removed = [i for i in range(n) if coin.random() < drop]
        kinds, ids, goal, owner = data.batch(hard, args.pack if share > 0.2 or args.ties else 0.0)
        where = owner > (NONE if args.ties else TEXT)
        gates = None
        if args.ties:
            gates, wrong, target = break_ties(coin, tok, kinds, goal, owner, n)
        owner, goal = owner[where], goal[where]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, removed, where, gates)
        if args.ties:
            whole = (gates.min(1).values == 1)[:, None].expand_as(where)[where]
            loss, losses = tied_loss(logits.float(), goal, wrong[where], target[where], owner, args.text)
        else:
            whole = torch.full(goal.shape, not removed)
            losses = F.cross_entropy(logits.float(), goal, reduction="none")
            loss = losses.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            for g in o.param_groups:
                g["lr"] = lr
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        with torch.no_grad():
            mean += (loss.item() - mean) * (0.02 if step > 100 else 0.1)
            for k, p in enumerate(PAIRS):   # feeds the choice of skills
                m = (owner == k) & whole
                if m.any():
                    data.loss[p] += 0.05 * (losses[m].mean().item() - data.loss[p])


if __name__ == "__main__":
    main()
