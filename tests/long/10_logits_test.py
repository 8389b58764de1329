#!/usr/bin/env python3
"""Logits of pruned against transformers in fp32: stories15M, stories260K and random tiny models of every kind we read.

Needs the venv of tests/long_venv.sh; PRUNED_BUILD names the build folder (default: build), PRUNED_DATA the data. The largest
difference may be 2e-5 of the largest logit. Greedy continuations must be the same wherever the two best logits are
further apart than that.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DUMP = os.path.join(os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build")), "pruned-dump")
DATA = os.environ.get("PRUNED_TEST_DATA", os.path.join(ROOT, "..", "shared", "data"))
TOLERANCE = 2e-5
LENGTHS = [1, 7, 64, 65, 190]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


def sequences(vocab, seed):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab, length).tolist() for length in LENGTHS]


def reference(folder, batch):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.tensor([tokens])).logits[0].numpy() for tokens in batch]


def dump(folder, batch, command, *more, environment=None):
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = os.path.join(scratch, "tokens.json"), os.path.join(scratch, "out.f32")
        with open(tokens, "w", encoding="ascii") as file:
            json.dump(batch, file)
        arguments = [DUMP, folder, command, tokens, *(more or ([out] if command == "logits" else []))]
        result = subprocess.run(arguments, check=True, capture_output=True, text=True,
                                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **(environment or {})})
        return np.fromfile(out, dtype=np.float32) if command == "logits" else json.loads(result.stdout)["tokens"]


def compare(number, name, folder, vocab):
    batch = sequences(vocab, len(name))
    wanted = reference(folder, batch)
    worst = 0.0
    for environment in ({"PRUNED_DUMP_BACKEND": "openblas", "PRUNED_DUMP_THREADS": "2"}, {"PRUNED_DUMP_BACKEND": "reference"}):
        if environment["PRUNED_DUMP_BACKEND"] == "reference" and name == "stories15M":
            continue  # plain loops: minutes
        flat = dump(folder, batch, "logits", environment=environment).reshape(-1, vocab)
        at = 0
        for rows in wanted:
            is_rows, at = flat[at:at + len(rows)], at + len(rows)
            worst = max(worst, float(np.abs(is_rows - rows).max() / np.abs(rows).max()))
    greedy_faults = 0
    for tokens, rows, continuation in zip(batch, wanted, dump(folder, batch, "generate", "1")):
        first, second = np.sort(rows[-1])[::-1][:2]
        expected = int(rows[-1].argmax())
        stopped = continuation == [] and expected == 2
        if first - second > 2 * TOLERANCE * np.abs(rows).max() and not stopped and continuation != [expected]:
            greedy_faults += 1
    verdict = worst <= TOLERANCE and greedy_faults == 0
    print("%s %d - %s: largest difference %.2e of the largest logit, %d greedy faults" %
          ("ok" if verdict else "not ok", number, name, worst, greedy_faults), flush=True)
    return verdict


def random_models():
    """name, model, dtype it is saved in, largest shard"""
    small = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 6,
             "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}
    wide = {**small, "head_dim": 32, "vocab_size": 9000}
    return [
        ("gqa_tied", LlamaForCausalLM(LlamaConfig(**small, tie_word_embeddings=True)), torch.float32, "1GB"),
        ("untied_wide_heads", LlamaForCausalLM(LlamaConfig(**wide, tie_word_embeddings=False)), torch.float32, "1GB"),
        ("bf16_sharded", LlamaForCausalLM(LlamaConfig(**wide, tie_word_embeddings=False)), torch.bfloat16, "400KB"),
        ("f16", LlamaForCausalLM(LlamaConfig(**small, tie_word_embeddings=False)), torch.float16, "1GB"),
        ("llama3_rope", LlamaForCausalLM(LlamaConfig(**small, rope_parameters={**LLAMA3, "rope_theta": 500000.0})), torch.float32, "1GB"),
        ("linear_rope", LlamaForCausalLM(LlamaConfig(**small, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})), torch.float32, "1GB"),
        ("biases", LlamaForCausalLM(LlamaConfig(**small, attention_bias=True, mlp_bias=True)), torch.float32, "1GB"),
        ("mistral", MistralForCausalLM(MistralConfig(**small, sliding_window=None)), torch.float32, "1GB"),
        ("qwen2", Qwen2ForCausalLM(Qwen2Config(**small)), torch.float32, "1GB"),
    ]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(5)
    models = random_models()
    real = [("stories260K", 512), ("stories15M", 32000)]
    print("1..%d" % (len(real) + len(models)))
    verdicts = []
    for name, vocab in real:
        folder = os.path.join(DATA, "models", name)
        if os.path.isdir(folder):
            verdicts.append(compare(len(verdicts) + 1, name, folder, vocab))
        else:
            print("ok %d - %s # SKIP no %s" % (len(verdicts) + 1, name, folder))
            verdicts.append(True)
    for name, model, dtype, shard in models:
        for parameter in model.parameters():  # biases and norms start constant: make them count
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, 0.5, 0.3)
            else:
                torch.nn.init.normal_(parameter, 0.0, parameter.shape[1] ** -0.5)
        with tempfile.TemporaryDirectory() as folder:
            model.to(dtype).save_pretrained(folder, max_shard_size=shard)
            verdicts.append(compare(len(verdicts) + 1, name, folder, model.config.vocab_size))
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
