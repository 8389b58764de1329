#!/usr/bin/env python3
"""Makes the sentence embeddings beside this script: see origin.md. Usage: make.py [DATA_FOLDER], in the venv of tests/long_venv.sh."""
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

HERE = os.path.dirname(os.path.abspath(__file__))
SENTENCES = [
    "Hello",
    "The cat sat on the mat.",
    "A feline was resting upon a rug.",
    "Interest rates rose by half a percentage point in March.",
    "def add(a, b):\n    return a + b",
    "Ça va très bien, merci! Naïve café façade.",
    "What is the boiling point of water at 3,000 metres?",
    " ".join("Sentence number %d says that the river runs past mill %d." % (i, 7 * i) for i in range(14)),
]


def embed(model, ids):
    """The mean over all tokens, [CLS] and [SEP] included, at length 1; as sentence-transformers does."""
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0]
    mean = hidden.double().mean(dim=0)
    return (mean / mean.norm()).numpy()


def main():
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "..", "..", "..", "shared", "data")
    folder = os.path.join(data, "models", "all-MiniLM-L6-v2")
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = BertModel(BertConfig.from_pretrained(folder, attn_implementation="eager")).eval()
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor
               for name, tensor in load_file(os.path.join(folder, "model.fp16.safetensors")).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if any("pooler" not in name and "position_ids" not in name for name in missing + unexpected):
        raise SystemExit("missing %s, unexpected %s" % (missing, unexpected))
    ids = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    embeddings = np.stack([embed(model, row) for row in ids])
    double = np.stack([embed(model.double(), row) for row in ids])
    print("tokens", [len(row) for row in ids], "fp32 against fp64: least cosine 1 -", 1 - (embeddings * double).sum(axis=1).min(),
          "largest difference", np.abs(embeddings - double).max(), "cosine of the two cats", embeddings[1] @ embeddings[2])
    embeddings.astype("<f4").tofile(os.path.join(HERE, "embeddings.f32"))
    with open(os.path.join(HERE, "sentences.json"), "w") as file:
        json.dump([{"text": text, "ids": row} for text, row in zip(SENTENCES, ids)], file, ensure_ascii=True, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
