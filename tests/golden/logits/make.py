#!/usr/bin/env python3
"""Makes the golden logits beside this script: see origin.md. Usage: make.py [DATA_FOLDER], in the venv of tests/long_venv.sh."""
import os
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = [1] + [(37 * t * t + 11 * t + 5) % 500 + 3 for t in range(1, 72)]
ROWS = [0, 1, 2, 3, 31, 62, 63, 64, 65, 70, 71]  # around the edge of a tile
COLUMN_STEPS = {"stories260K": 1, "stories15M": 64}


def main():
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "..", "..", "..", "shared", "data")
    torch.set_num_threads(1)
    for name, step in COLUMN_STEPS.items():
        folder = os.path.join(data, "models", name)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(torch.tensor([TOKENS])).logits[0].numpy()
        logits[ROWS, ::step].astype("<f4").tofile(os.path.join(HERE, name + ".f32"))


if __name__ == "__main__":
    main()
