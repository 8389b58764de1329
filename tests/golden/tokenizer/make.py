#!/usr/bin/env python3
"""Token ids by the `tokenizers` library, as hashes.

    python3 make.py [DATA_FOLDER] > ids.json

Each line of the result is one tokenizer over one file: the number of documents and ids, and the SHA-256 of all ids as little-endian
int32, each document followed by -1. tests/unit/workers/data/tokenizer_golden_test.c computes the same.
"""
import hashlib
import json
import os
import struct
import sys

TOKENIZERS = ["tokenizers/gpt2", "tokenizers/llama2", "tokenizers/llama3", "tokenizers/qwen2_5", "models/stories260K",
              "models/all-MiniLM-L6-v2"]
TEXTS = ["wikitext-2-raw/wiki.test.raw", "tinystories_sample.txt", "tinystories_train_head.txt", "c4_demo.jsonl"]


def documents(path):
    with open(path, "rb") as f:
        text = f.read().decode()
    if path.endswith(".jsonl"):
        return [d for d in (json.loads(line)["text"] for line in text.split("\n") if line.strip()) if d]
    return [text]


def main():
    from tokenizers import Tokenizer
    here = os.path.dirname(os.path.abspath(__file__))
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../../../shared/data")
    lines = []
    for folder in TOKENIZERS:
        tokenizer = Tokenizer.from_file(os.path.join(data, folder, "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for text in TEXTS:
            hashed, count, docs = hashlib.sha256(), 0, documents(os.path.join(data, "text", text))
            for document in docs:
                ids = tokenizer.encode(document, add_special_tokens=False).ids
                count += len(ids)
                hashed.update(struct.pack("<%di" % (len(ids) + 1), *ids, -1))
            lines.append(json.dumps({"tokenizer": folder, "text": text, "documents": len(docs), "ids": count,
                                     "sha256": hashed.hexdigest()}))
    print("[" + ",\n ".join(lines) + "]")


if __name__ == "__main__":
    main()
