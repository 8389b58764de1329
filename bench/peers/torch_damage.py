"""The damage of records as PASER's published code measures it: two transformers models, one record at a time, and the Jensen-Shannon divergence over
the whole vocabulary. Here over the response's tokens, as we do, so that the figures can be compared as well as the times. A report of a selection
job gives ours: resources.stage_seconds.score.

    python bench/peers/torch_damage.py SELECTION_SPEC.json SCORES.jsonl [--records 200] [--threads 2] [--twice]

SCORES.jsonl: of our job on the same request; the records are its first that could be chosen. --twice: each record goes through both models
twice, as in the published code (once for its cluster, once for its rank). Template "plain", fields instruction/input/output or prompt/completion.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_records(path):
    with open(path) as file:
        text = file.read()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def exchange(record):
    if "instruction" in record and "output" in record:
        question, given, answer = record["instruction"], record.get("input", ""), record["output"]
    else:
        question, given, answer = record["prompt"], "", record.get("completion", record.get("answer"))
    return question + "\n" + (given + "\n" if given else ""), answer


def divergence(a, b):
    p, q = torch.log_softmax(a.double(), -1), torch.log_softmax(b.double(), -1)
    m = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    return 0.5 * (p.exp() * (p - m) + q.exp() * (q - m)).sum(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("spec")
    parser.add_argument("scores")
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--twice", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = json.load(open(options.spec))
    folders = [spec[name].removeprefix("file://") for name in ("model", "pruned_model")]
    models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32, trust_remote_code=True).eval() for f in folders]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    sets = {}
    for source in spec["dataset"]["sources"]:
        path = source["source"].removeprefix("file://")
        sets[source.get("name") or path.rsplit("/", 1)[-1]] = load_records(path)
    chosen = [line for line in map(json.loads, open(options.scores)) if "damage" in line][: options.records]
    worst, tokens, start = 0.0, 0, time.monotonic()
    with torch.inference_mode():
        for line in chosen:
            prompt, answer = exchange(sets[line["source"]][line["record"] - 1])
            head = tokenizer(prompt)["input_ids"][: line["prompt_tokens"]]
            tail = tokenizer(answer, add_special_tokens=False)["input_ids"][: line["response_tokens"]]
            ids = torch.tensor([head + tail])
            for _ in range(2 if options.twice else 1):
                logits = [m(ids).logits[0, len(head) - 1 : -1] for m in models]
                damage = divergence(*logits).mean().item()
            worst = max(worst, abs(damage - line["damage"]))
            tokens += ids.shape[1]
    seconds = time.monotonic() - start
    print(
        json.dumps(
            {
                "peer": "PyTorch, one record at a time",
                "passes": 2 if options.twice else 1,
                "records": len(chosen),
                "tokens": tokens,
                "threads": options.threads,
                "seconds": round(seconds, 3),
                "tokens_per_second": round(tokens / seconds, 1),
                "largest_difference_of_damage": worst,
                "versions": {"torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
