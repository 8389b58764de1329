#!/usr/bin/env python3
"""Recovery of a pruned form of the skills model by LoRA, in plain PyTorch on one CPU thread; seconds a run.

The form is read as `pruned run` exported it: what a block has and how wide it is, the tensors say. A sublayer that is not there is
skipped; it has no adapter and cannot come back. Adapters (rank 8, scale 2) sit on the projections of every sublayer that is left, q, k, v
and gate, up as one each. The loss is over response tokens and the end: cross-entropy, or the divergence of the original's distributions
from the form's (forward KL) where the original is the teacher.

    recover.py FORM SELECTION.jsonl --tokens 40000 [--lr 3e-3] [--seed 1] [--teacher ORIGINAL] [--test]
"""
import argparse
import json
import math
import os
import random
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pool  # noqa: E402

RANK, SCALE, BATCH = 8, 2.0, 16
PROJECTIONS = {"qkv": ("self_attn", "qkv"), "o": ("self_attn", "o"), "gate_up": ("mlp", ("gate", "up")), "down": ("mlp", ("down",))}


class Projection(nn.Module):
    """x W^T + b, W = frozen + SCALE * B A; B starts at zero."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.down = nn.Parameter(torch.zeros(RANK, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def forward(self, x):
        return F.linear(x, self.weight + SCALE * (self.up @ self.down), self.bias)


class Form(nn.Module):
    """A Llama whose sublayers may be absent or of any width."""

    def __init__(self, folder):
        super().__init__()
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        tensors = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith(".safetensors"):
                tensors.update({key: value.float() for key, value in load_file(os.path.join(folder, name)).items()})
        self.head_size, self.eps = config["head_dim"], config["rms_norm_eps"]
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        self.tensors = tensors
        self.blocks = []        # what each block has: "qkv", "gate_up" or both
        self.projections = nn.ModuleDict()
        for i in range(config["num_hidden_layers"]):
            self.blocks.append([first for first, second in (("qkv", "o"), ("gate_up", "down"))
                                if self.add(i, first) and self.add(i, second)])
        frequency = theta ** (-torch.arange(0, self.head_size, 2).float() / self.head_size)
        angle = torch.arange(config["max_position_embeddings"]).float()[:, None] * frequency
        self.cos, self.sin = angle.cos(), angle.sin()
        self.embedding = tensors["model.embed_tokens.weight"]
        self.head = tensors.get("lm_head.weight", self.embedding)

    def add(self, block, name):
        group, parts = PROJECTIONS[name]
        keys = ["model.layers.%d.%s.%s_proj." % (block, group, part) for part in parts]
        if keys[0] + "weight" not in self.tensors:
            return False
        weight = torch.cat([self.tensors[key + "weight"] for key in keys])
        if not weight.any():
            return False        # a removed sublayer in the identity layout
        bias = None
        if any(key + "bias" in self.tensors for key in keys):
            bias = torch.cat([self.tensors.get(key + "bias", torch.zeros(len(self.tensors[key + "weight"]))) for key in keys])
        self.projections["%d %s" % (block, name)] = Projection(weight, bias)
        return True

    def start_adapters(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for projection in self.projections.values():
            width = projection.down.shape[1]
            with torch.no_grad():
                projection.down.copy_(torch.randn(RANK, width, generator=generator) / math.sqrt(width))
                projection.up.zero_()

    def norm(self, x, name):
        weight = self.tensors[name]
        return F.rms_norm(x, (len(weight),), weight, self.eps)

    def attention(self, x, i):
        batch, length, _ = x.shape
        size = self.head_size
        query_heads = self.projections["%d o" % i].weight.shape[1] // size
        y = self.projections["%d qkv" % i](self.norm(x, "model.layers.%d.input_layernorm.weight" % i))
        y = y.view(batch, length, -1, size).transpose(1, 2)
        kv_heads = (y.shape[1] - query_heads) // 2
        a, c = y[:, : query_heads + kv_heads].chunk(2, -1)
        cos, sin = self.cos[:length], self.sin[:length]
        rotated = torch.cat((a * cos - c * sin, c * cos + a * sin), -1)
        q, k, v = rotated[:, :query_heads], rotated[:, query_heads:], y[:, query_heads + kv_heads:]
        k, v = (z.repeat_interleave(query_heads // kv_heads, 1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.projections["%d o" % i](y.transpose(1, 2).reshape(batch, length, -1))

    def ffn(self, x, i):
        y = self.norm(x, "model.layers.%d.post_attention_layernorm.weight" % i)
        gate, up = self.projections["%d gate_up" % i](y).chunk(2, -1)
        return self.projections["%d down" % i](F.silu(gate) * up)

    def forward(self, ids, where):
        """Logits at the positions of the mask: [positions, vocabulary]."""
        x = F.embedding(ids, self.embedding)
        for i, parts in enumerate(self.blocks):
            if "qkv" in parts:
                x = x + self.attention(x, i)
            if "gate_up" in parts:
                x = x + self.ffn(x, i)
        return self.norm(x[where], "model.norm.weight") @ self.head.T


class Texts:
    """Items as rows of (ids, goals, tokens): the response and the end are goals, the rest is -100."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.bos, self.end = self.tokenizer.token_to_id("<s>"), self.tokenizer.token_to_id("</s>")

    def count(self, instruction, response):
        """BOS, prompt and response, as selection jobs count."""
        return self.row(instruction, response)[2]

    def row(self, instruction, response):
        p, r = (self.tokenizer.encode(text, add_special_tokens=False).ids for text in (instruction, response))
        return [self.bos] + p + r, [-100] * len(p) + r + [self.end], 1 + len(p) + len(r)

    def batch(self, rows):
        width = max(len(row[0]) for row in rows)
        ids = torch.tensor([row[0] + [self.end] * (width - len(row[0])) for row in rows])
        goals = torch.tensor([row[1] + [-100] * (width - len(row[1])) for row in rows])
        return ids, goals


def train(form, texts, records, tokens, rate, seed, teacher=None):
    """Passes over the records, each in an order of its own, until `tokens` of them were seen. Returns the mean loss of the last pass."""
    torch.manual_seed(seed)
    form.start_adapters(seed)
    rng = random.Random("order %d" % seed)
    rows = [texts.row(record["instruction"], record["response"]) for record in records]
    parameters = [p for p in form.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    seen, order, losses = 0, [], []
    while seen < tokens:
        if len(order) < BATCH:
            order += rng.sample(rows, len(rows))    # the rest of a pass goes first
        part, order = order[:BATCH], order[BATCH:]
        share = seen / tokens
        for group in optimizer.param_groups:
            group["lr"] = rate * min((share + 1e-3) / 0.1, (1 - share) / 0.9)
        ids, goals = texts.batch(part)
        where = goals != -100
        logits = form(ids, where)
        if teacher is None:
            loss = F.cross_entropy(logits, goals[where])
        else:
            with torch.no_grad():
                truth = teacher(ids, where).log_softmax(-1)
            loss = F.kl_div(logits.log_softmax(-1), truth, log_target=True, reduction="batchmean")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        seen += sum(row[2] for row in part)
    tail = losses[-max(1, len(losses) // 10):]
    return sum(tail) / len(tail)


@torch.no_grad()
def evaluate(form, texts, sets, rows_a_batch=128):
    """{unit: [whether each item is right]}: the arg max at every answer position and the end, given the true answer so far."""
    rows = [(unit, i, texts.row(prompt, " " + answer)) for unit, items in sets.items() for i, (prompt, answer) in enumerate(items)]
    rows.sort(key=lambda row: len(row[2][0]))
    result = {unit: [False] * len(items) for unit, items in sets.items()}
    for start in range(0, len(rows), rows_a_batch):
        part = rows[start:start + rows_a_batch]
        ids, goals = texts.batch([row[2] for row in part])
        where = goals != -100
        wrong = torch.zeros(goals.shape, dtype=torch.bool)
        wrong[where] = form(ids, where).argmax(-1) != goals[where]
        for (unit, i, _), bad in zip(part, wrong.any(1).tolist()):
            result[unit][i] = not bad
    return result


def accuracies(right):
    """{unit: per cent}"""
    return {unit: 100 * sum(flags) / len(flags) for unit, flags in right.items()}


def main():
    parser = argparse.ArgumentParser(description="Recover a pruned form on selected records and print accuracy by unit.")
    parser.add_argument("form")
    parser.add_argument("selection", help="JSONL of {instruction, response}")
    parser.add_argument("--tokens", type=int, required=True, help="tokens to train on, passes included")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--teacher", help="folder of the original: distil instead of the answers")
    parser.add_argument("--validation", type=int, default=40, help="items a unit")
    parser.add_argument("--test", action="store_true", help="the task files instead of validation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    form, texts = Form(args.form), Texts(args.form)
    with open(args.selection, encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    sets = pool.tests() if args.test else pool.validation(args.validation)
    started = time.monotonic()
    before = accuracies(evaluate(form, texts, sets))
    middle = time.monotonic()
    loss = train(form, texts, records, args.tokens, args.lr, args.seed, Form(args.teacher) if args.teacher else None)
    end = time.monotonic()
    after = accuracies(evaluate(form, texts, sets))
    for unit in sets:
        print("%-14s %6.1f %6.1f" % (pool.unit_name(unit), before[unit], after[unit]))
    print("loss %.4f; trained in %.1f s, evaluated in %.1f s" % (loss, end - middle, middle - started))


if __name__ == "__main__":
    main()
