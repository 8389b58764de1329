#!/usr/bin/env python3
"""Makes expected.json beside this script: see origin.md. In the venv of tests/long_venv.sh."""
import json
import os

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "..", "skills", "model")
REMOVED = [2, 4, 15, 18, 21]  # sublayers: attention of block b is 2 b, its FFN 2 b + 1
FULL = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\n%s\n\n### Input:\n%s\n\n### Response:\n")
LONE = ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n%s\n\n### Response:\n")


def open_model(removed):
    """In double; a sublayer is taken away by a projection of zeros."""
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(MODEL, attn_implementation="eager")).eval()
    model.load_state_dict(load_file(os.path.join(MODEL, "model.safetensors")), strict=False)
    model.tie_weights()
    model = model.double()
    for sublayer in removed:
        block = model.model.layers[sublayer // 2]
        torch.nn.init.zeros_((block.mlp.down_proj if sublayer % 2 else block.self_attn.o_proj).weight)
    return model


def log_probabilities(model, prompt, response):
    """Of every token of the response, [tokens, vocabulary]."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1:-1].double(), dim=-1)


def divergence(p_log, q_log):
    return (p_log.exp() * (p_log - q_log)).sum(dim=-1)


def main():
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    original, pruned = open_model([]), open_model(REMOVED)
    rows = []
    with open(os.path.join(HERE, "records.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    for record in records:
        has_input = record.get("input", "") != ""
        prompt = FULL % (record["instruction"], record["input"]) if has_input else LONE % record["instruction"]
        prompt = tokenizer.encode(prompt).ids
        response = tokenizer.encode(record["output"], add_special_tokens=False).ids
        before, after = (log_probabilities(model, prompt, response) for model in (original, pruned))
        middle = torch.logaddexp(before, after) - torch.log(torch.tensor(2.0, dtype=torch.float64))
        targets = torch.tensor(response).unsqueeze(1)
        losses = [-p.gather(1, targets).mean().item() for p in (before, after)]
        rows.append({
            "prompt_tokens": len(prompt), "response_tokens": len(response),
            "jsd": (0.5 * divergence(before, middle) + 0.5 * divergence(after, middle)).mean().item(),
            "kl": divergence(before, after).mean().item(),
            "delta_nll": losses[1] - losses[0],
            "entropy": -(before.exp() * before).sum(dim=-1).mean().item(),
        })
    with open(os.path.join(HERE, "expected.json"), "w") as file:
        json.dump({"removed": REMOVED, "records": rows}, file, indent=1)
        file.write("\n")
    print("tokens at most", max(row["prompt_tokens"] + row["response_tokens"] for row in rows))


if __name__ == "__main__":
    main()
