#!/usr/bin/env python3
"""Log-likelihoods of task records by transformers, in fp32 on the CPU, with the rules of lm-evaluation-harness written anew from
their definition (`_encode_pair`, `loglikelihood`, `process_results`): for every choice its sum of log-likelihoods, and the
accuracies that follow. The softmax is taken in double.

    python3 make.py [DATA_FOLDER] > tasks.json

tests/long/35_tasks_test.py imports `measure` from here; the file it writes is what the default tests compare with.
"""
import json
import math
import os
import sys

SETS = ["arc_challenge", "arc_easy", "boolq", "copa", "lambada_openai", "openbook_qa", "piqa", "winogrande"]
CASES = [(model, name, limit, delimiter) for model, limit in (("stories260K", 30), ("stories15M", 10)) for name, delimiter in
         [(name, None) for name in SETS] + [("arc_easy", "\nAnswer: "), ("piqa", "Answer: ")]]


def kind_of(name):
    return "language_modeling" if name.startswith("lambada") else "choice"


def join(context, delimiter, continuation):
    """What the harness is given as context and continuation. Its delimiter is one space unless a task says otherwise; the space is
    left out where white space is there already."""
    if delimiter is None:
        delimiter = " " if context and not context[-1].isspace() and not continuation[0].isspace() else ""
    return context + delimiter, continuation


def encode(tokenizer, text, prefix):
    """Token ids with what the tokenizer itself puts in front; an empty text is the prefix token."""
    return tokenizer.encode(text).ids or [prefix]


def encode_pair(tokenizer, context, continuation, prefix):
    stripped = context.rstrip()
    continuation, context = context[len(stripped):] + continuation, stripped
    head = encode(tokenizer, context, prefix)
    whole = encode(tokenizer, context + continuation, prefix)
    if context == "" and tokenizer.encode("").ids == []:
        whole = [prefix] + whole
    return head, whole[len(head):]


def likelihood(model, head, tail, context_tokens):
    """(sum of log-likelihoods of tail after head, whether each of its tokens is the argmax)"""
    import torch
    fed = (head + tail)[-(context_tokens + 1):][:-1]
    with torch.no_grad():
        logits = model(torch.tensor([fed])).logits[0, -len(tail):].double()
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(tail).unsqueeze(1)).sum().item()
    return chosen, logits.argmax(-1).tolist() == tail


def pairs_of(record, delimiter):
    if "context_options" in record:
        return [join(context, delimiter, record["continuation"]) for context in record["context_options"]]
    if "choices" in record:
        return [join(record["query"], delimiter, choice) for choice in record["choices"]]
    return [join(record["context"], delimiter, record["continuation"])]


def load(folder):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model, Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def share(flags):
    p, n = sum(flags) / len(flags), len(flags)
    return p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else 0


def measure(model, tokenizer, records, delimiter):
    config = model.config
    prefix = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
    found = [[likelihood(model, *encode_pair(tokenizer, *pair, prefix), config.max_position_embeddings)
              for pair in pairs_of(record, delimiter)] for record in records]
    out = {"nll": [[-value for value, _ in row] for row in found], "is_greedy": [[bool(greedy) for _, greedy in row] for row in found]}
    if "gold" not in records[0]:
        out["accuracy"], out["accuracy_stderr"] = share([row[0][1] for row in found])
        out["perplexity"] = math.exp(sum(-row[0][0] for row in found) / len(found))
        return out

    def first_best(values):
        return max(range(len(values)), key=lambda i: (values[i], -i))

    out["accuracy"], out["accuracy_stderr"] = share(
        [first_best([value for value, _ in row]) == record["gold"] for row, record in zip(found, records)])
    for key, length in (("accuracy_norm", len), ("accuracy_bytes", lambda choice: len(choice.encode()))):
        if "choices" in records[0]:
            out[key], out[key + "_stderr"] = share(
                [first_best([value / length(choice) for (value, _), choice in zip(row, record["choices"])]) == record["gold"]
                 for row, record in zip(found, records)])
    return out


def read(data, name, limit):
    with open(os.path.join(data, "eval/llm-foundry", name + ".jsonl")) as file:
        return [json.loads(line) for line, _ in zip(file, range(limit))]


def main():
    import torch
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../../../shared/data")
    loaded, cases = {}, []
    for model, name, limit, delimiter in CASES:
        if model not in loaded:
            loaded[model] = load(os.path.join(data, "models", model))
        case = {"model": model, "set": name, "kind": kind_of(name), "limit": limit, "delimiter": delimiter}
        cases.append({**case, **measure(*loaded[model], read(data, name, limit), delimiter)})
        print(model, name, cases[-1]["accuracy"], cases[-1].get("accuracy_norm"), file=sys.stderr, flush=True)
    print("[\n " + ",\n ".join(json.dumps(case) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
