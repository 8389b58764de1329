#!/usr/bin/env python3
"""Perplexity by transformers, in fp32 on the CPU, in both protocols of design section 7. The softmax is taken in double: in
fp32, PyTorch's over 32000 words alone is 4e-6 off.

    python3 make.py [DATA_FOLDER] > perplexity.json

tests/long/30_perplexity_test.py imports `perplexity` from here; the file it writes is what the default tests compare with.
"""
import json
import math
import os
import sys

CASES = [  # model, text, half, window
    ("stories260K", "tinystories_sample.txt", "whole", 64),
    ("stories15M", "tinystories_sample.txt", "whole", 128),
    ("stories260K", "tinystories_train_head.txt", "second", 256),
    ("stories15M", "tinystories_train_head.txt", "second", 256),
]


def half_of(text, half):
    """Cut behind the first blank line that starts at or after the byte midpoint."""
    middle = len(text) // 2
    at = text.find(b"\n\n", max(middle - 1, 0))
    cut = at + 2
    return {"whole": text, "first": text[:cut], "second": text[cut:]}[half]


def nll_of(model, ids, targets):
    import torch
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
        return torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none").sum().item()


def perplexity(model_folder, text, window):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(os.path.join(model_folder, "tokenizer.json"))
    ids = tokenizer.encode(text.decode()).ids  # BOS first
    scored = {
        "gptq": [(ids[s:s + window - 1], ids[s + 1:s + window]) for s in range(0, len(ids) - window + 1, window)],
        "rolling": [(ids[s:s + window][:len(ids) - 1 - s], ids[s + 1:s + window + 1]) for s in range(0, len(ids) - 1, window)],
    }
    out = {}
    for protocol, windows in scored.items():
        total = sum(nll_of(model, a, b) for a, b in windows)
        count = sum(len(b) for _, b in windows)
        out[protocol] = {"nll_mean": total / count, "perplexity": math.exp(total / count), "tokens_scored": count,
                         "windows": len(windows),
                         "bits_per_byte": total / math.log(2) / (len(text) * count / (len(ids) - 1))}
    return out


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../../../shared/data")
    cases = []
    for model, name, half, window in CASES:
        with open(os.path.join(data, "text", name), "rb") as f:
            text = half_of(f.read(), half)
        cases.append({"model": model, "text": name, "half": half, "window_tokens": window,
                      **perplexity(os.path.join(data, "models", model), text, window)})
    json.dump(cases, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
