#!/usr/bin/env python3
"""Selection jobs by `pruned run`: budgets, files, what is kept of the original, kills, faults, encoders, limits of memory, and the damage
against PyTorch's."""
import atexit
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from command import PROGRAM, ROOT, load, main, run, run_disturbed, sums
from tiny_model import pack_safetensors, save, write_model

HELPERS = ("main", "pruned_by", "skills_records", "write_lines", "selection", "scores_of", "chosen_of", "faults_of", "state_of", "same_files",
           "write_encoder", "least_of", "pack_safetensors", "save")
SKILLS = os.path.join(ROOT, "tests", "skills")
MODEL = os.path.join(SKILLS, "model")
GOLDEN = os.path.join(ROOT, "tests", "golden", "selection")
FILES = {"selected.jsonl", "scores.jsonl", "request.json"}
_pruned = {}


def pruned_by(method="finercut", removed=4, **more):
    """The skills model without some sublayers, made once."""
    key = (method, removed, tuple(sorted(more.items())))
    if key not in _pruned:
        folder = tempfile.mkdtemp(prefix="pruned-cli-")
        atexit.register(shutil.rmtree, folder, True)
        spec = {"type": "pruning", "model": MODEL, "method": {"type": method}, "target": {"sublayers_removed": removed},
                "evaluation": {"speed": False}, **more}
        if method == "finercut":
            spec["calibration"] = {"source": os.path.join(SKILLS, "data", "calibration.txt"), "num_samples": 2, "window_tokens": 64}
        _pruned[key] = os.path.join(folder, "pruned")
        run(spec, _pruned[key])
    return _pruned[key]


def skills_records(count, skip=0):
    """{"instruction", "output"}, the skills by turns."""
    lists = []
    for name in sorted(os.listdir(os.path.join(SKILLS, "data"))):
        if name.endswith(".jsonl"):
            with open(os.path.join(SKILLS, "data", name)) as file:
                lists.append([json.loads(line) for line in file])
    items = [item for row in zip(*lists) for item in row][skip:skip + count]
    return [{"instruction": item["prompt"], "output": item["answer"]} for item in items]


def write_lines(path, records):
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write((record if isinstance(record, str) else json.dumps(record)) + "\n")
    return path


def selection(source, method="top_damage", parameters=None, budget=None, pruned="finercut", **more):
    sources = source if isinstance(source, list) else [source]
    dataset = {"sources": [item if isinstance(item, dict) else {"source": item} for item in sources], "template": "plain", "max_tokens": 128}
    spec = {"type": "selection", "model": MODEL, "dataset": {**dataset, **more.pop("dataset", {})},
            "method": {"type": method, method: parameters or {}}, "budget": budget or {"samples": 10}}
    if pruned == "finercut" and method == "top_damage":
        pruned = pruned_by()
    if pruned not in ("finercut", None):
        spec["pruned_model"] = pruned
    return {**spec, **more}


def write_encoder(folder, records, context=32, layers=8, hidden=128, inner=512):
    """A BERT of random weights, and a WordPiece tokenizer of lower case with the words of these records and all that they are spelt with."""
    source = random.Random(17)
    words = sorted({word for item in records for word in re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", item["instruction"].lower())})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters), *words])
    config = {"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden, "intermediate_size": inner,
              "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": context, "type_vocab_size": 2,
              "vocab_size": len(pieces), "layer_norm_eps": 1e-12, "pad_token_id": 0, "torch_dtype": "float32"}
    tensors = {}

    def add(name, rows, columns, scale):
        tensors[name + ".weight"] = ([rows, columns], [source.gauss(0.0, scale) for _ in range(rows * columns)])

    def add_layer(prefix):
        for name in ("query", "key", "value"):
            add(prefix + "attention.self." + name, hidden, hidden, 0.1)
        add(prefix + "attention.output.dense", hidden, hidden, 0.1)
        add(prefix + "intermediate.dense", inner, hidden, 0.1)
        add(prefix + "output.dense", hidden, inner, 0.05)
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"):
            rows = tensors[prefix + name + ".weight"][0][0]
            tensors[prefix + name + ".bias"] = ([rows], [source.gauss(0.0, 0.1) for _ in range(rows)])

    add("embeddings.word_embeddings", len(pieces), hidden, 1.0)
    add("embeddings.position_embeddings", context, hidden, 0.3)
    add("embeddings.token_type_embeddings", 2, hidden, 0.1)
    add_layer("encoder.layer.0.")
    first = dict(tensors)
    for layer in range(1, layers):  # the same weights again: noise as good as any, made once
        tensors.update({name.replace("layer.0.", "layer.%d." % layer): value for name, value in first.items() if ".layer.0." in name})
    norms = ["embeddings.LayerNorm"] + ["encoder.layer.%d.%sLayerNorm" % (layer, part) for layer in range(layers) for part in ("attention.output.", "output.")]
    for name in norms:
        tensors[name + ".weight"], tensors[name + ".bias"] = ([hidden], [1.0] * hidden), ([hidden], [0.0] * hidden)
    ends = [(name, list(pieces).index(name)) for name in ("[CLS]", "[SEP]")]
    os.makedirs(folder)
    save(folder, "config.json", config)
    save(folder, "model.safetensors", pack_safetensors(tensors))
    save(folder, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                         for index, name in enumerate(list(pieces)[:4])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in ends}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {piece: index for index, piece in enumerate(pieces)}}})
    return folder


def least_of(spec, out):
    """The least limits.max_memory_bytes that the refusal of a smaller one names."""
    _, errors = run({**spec, "limits": {"max_memory_bytes": 16 << 20}}, out, expect=2)
    return int(re.search(r"/limits/max_memory_bytes: the job needs at least (\d+) bytes", errors).group(1))


def scores_of(out):
    with open(os.path.join(out, "scores.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def chosen_of(out):
    """The lines of selected.jsonl, without their ends."""
    with open(os.path.join(out, "selected.jsonl"), encoding="utf-8", newline="") as file:
        text = file.read()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def same_files(first, second):
    one, two = sums(first), sums(second)
    assert set(one) == FILES and one == two, (one, two)


def state_of(out):
    return load(out, "report.json")["passes"]["original"]["cache"]


def faults_of(spec, out):
    """{pointer: code} of a spec that is refused."""
    _, errors = run(spec, out, expect=2)
    found = {}
    for line in errors.splitlines():
        if line.startswith("pruned run: /"):
            found[line.split(": ")[1]] = line.rsplit("(", 1)[1].rstrip(")")
    assert found, errors
    return found


# ---- budgets and files ---------------------------------------------------------------------------------------------------


def every_budget_is_kept_and_the_files_agree(folder):
    records = skills_records(50)
    source = write_lines(os.path.join(folder, "d.jsonl"), records)
    with open(source) as file:
        lines = file.read().split("\n")[:-1]
    for method in ("random", "longest", "top_damage"):
        for budget, wanted in (({"samples": 7}, 7), ({"tokens": 300}, None), ({"fraction": 0.29}, 14), ({"fraction": 1}, 50)):
            out = os.path.join(folder, "%s-%s" % (method, "-".join("%s%s" % item for item in budget.items())))
            result, _ = run(selection(source, method, budget=budget), out)
            assert set(sums(out)) == FILES
            scores, chosen, report = scores_of(out), chosen_of(out), load(out, "report.json")
            assert [line["record"] for line in scores] == list(range(1, 51)) and {line["source"] for line in scores} == {"d.jsonl"}
            taken = sorted((line for line in scores if line["status"] == "chosen"), key=lambda line: line["rank"])
            assert [line["rank"] for line in taken] == list(range(1, len(taken) + 1))
            assert chosen == [lines[line["record"] - 1] for line in taken]
            tokens = [line["prompt_tokens"] + line["response_tokens"] for line in taken]
            assert wanted is None or len(taken) == wanted, (method, budget)
            rest = [line for line in scores if line["status"] != "chosen"]
            assert all(line["status"] == "not_chosen" and "rank" not in line for line in rest)
            if "tokens" in budget:
                assert sum(tokens) <= 300
                assert all(line["prompt_tokens"] + line["response_tokens"] > 300 - sum(tokens) for line in rest)
            if method != "random":
                values = [line["response_tokens" if method == "longest" else "damage"] for line in taken]
                assert values == [line["score"] for line in taken] == sorted(values, reverse=True)
                best = max((line["score"] for line in rest), default=-1)
                assert "tokens" in budget or best <= values[-1]
                for before, after in zip(taken, taken[1:]):  # ties go to the earlier record
                    assert before["score"] > after["score"] or before["record"] < after["record"]
            assert ("damage" in scores[0]) == (method == "top_damage") == ("entropy" in scores[0])
            said = report["budget"]
            assert (said["records"], said["tokens"], said["requested"]) == (len(taken), sum(tokens), budget)
            assert said["unit"] == ("tokens" if "tokens" in budget else "samples")
            assert report["dataset"]["sources"][0]["chosen"] == len(taken) and result["budget"] == said
            assert (report["pruned_model"] is not None if method == "top_damage" else report.get("pruned_model") is None)


def chosen_records_stand_in_their_own_words(folder):
    """Members that nobody asked for, spacing, escapes and order stay; only line breaks between the parts of a record become spaces."""
    texts = ['{"output":"b","instruction" : "Copy b:",  "more": [1.50, 1e3, "\\u00e9\\n"]}',
             '{ "instruction": "Copy a c:",\n  "input": "",\r\n\t"output": "a c" , "id":7}',
             '{"instruction": "Sort \\"c\\" a:", "output": "a c", "nested": {"x": [{}, [], "}]"]}}']
    array = os.path.join(folder, "array.json")
    with open(array, "w", newline="") as file:
        file.write("[\n  " + ",\n\n  ".join(texts) + "\n]\n")
    lines = os.path.join(folder, "lines.jsonl")  # blank lines, and ends as Windows writes them
    with open(lines, "w", newline="") as file:
        file.write('\r\n{"question": "Copy x:", "answer": "x", "more": null}\r\n\n  {"question": "Copy y:", "answer": "y"}\t\r\n')
    out = os.path.join(folder, "out")
    run(selection([array, {"source": lines, "name": "second"}], "random", budget={"fraction": 1}), out)
    flat = [text.replace("\n", " ").replace("\r", " ") for text in texts]
    chosen = chosen_of(out)
    assert chosen[:3] == flat, chosen
    assert [json.loads(line) for line in chosen[:3]] == [json.loads(text) for text in texts]
    assert chosen[3:] == ['{"question": "Copy x:", "answer": "x", "more": null}', '  {"question": "Copy y:", "answer": "y"}\t'], chosen[3:]
    assert all("\r" not in line for line in chosen)
    assert [(line["source"], line["record"]) for line in scores_of(out)] == [("array.json", 1), ("array.json", 2), ("array.json", 3),
                                                                             ("second", 1), ("second", 2)]
    fields = load(out, "request.json")["_resolved"]["sources"]
    assert [item["response"] for item in fields] == ["output", "answer"], fields


def a_request_of_a_result_can_be_run_again(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(20))
    first, second = os.path.join(folder, "first"), os.path.join(folder, "second")
    run(selection(source, parameters={"damage": "kl"}), first)
    with open(os.path.join(first, "request.json")) as file:
        run(file.read(), second)
    same_files(first, second)


def a_seed_decides_what_random_takes(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(40))
    seen = []
    for seed in (1, 2, 1):
        out = os.path.join(folder, "s%d" % len(seen))
        run(selection(source, "random", seed=seed), out)
        seen.append(chosen_of(out))
    assert seen[0] == seen[2] != seen[1] and len(set(seen[0])) == 10


def threads_change_no_byte(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(40))
    outs = []
    for threads in ("1", "2", "7"):
        outs.append(os.path.join(folder, "t" + threads))
        run(selection(source), outs[-1], "--threads", threads)
    same_files(outs[0], outs[1])
    same_files(outs[0], outs[2])


def every_selector_gives_the_same_bytes_with_any_threads(folder):
    """All that the catalogue has, by their defaults; what has none is given. Each keeps the budget, and takes nothing twice."""
    records = [{**item, "complexity": i % 7, "quality": (i * i) % 11} for i, item in enumerate(skills_records(60))]
    source = write_lines(os.path.join(folder, "d.jsonl"), records)
    targets = write_lines(os.path.join(folder, "t.jsonl"), skills_records(9, skip=500))
    given = {"rds": {"targets": [{"source": targets}]}, "gotd": {"targets": [{"source": targets}]},
             "instruction_mining": {"columns": ["complexity", "quality"], "coefficients": [1, -0.5]}}
    described = json.loads(subprocess.run([PROGRAM + "-worker", "--describe"], stdout=subprocess.PIPE, check=True).stdout)
    methods = [item["name"] for item in described["methods"] if item["job_type"] == "selection"]
    assert {"random", "longest", "top_damage"} <= set(methods)
    for method in methods:
        outs = [os.path.join(folder, "%s-%s" % (method, threads)) for threads in ("1", "7")]
        for out, threads in zip(outs, ("1", "7")):
            run(selection(source, method, given.get(method), budget={"tokens": 400}, pruned=pruned_by()), out, "--threads", threads)
        same_files(*outs)
        taken = [line for line in scores_of(outs[0]) if "rank" in line]
        chosen = chosen_of(outs[0])
        assert len(chosen) == len(set(chosen)) == len(taken) > 0, method
        assert sum(line["prompt_tokens"] + line["response_tokens"] for line in taken) <= 400, method
        assert [json.loads(line) for line in chosen] == [records[line["record"] - 1] for line in sorted(taken, key=lambda line: line["rank"])], method


# ---- what is kept of the original ----------------------------------------------------------------------------------------


def the_original_is_measured_once_for_several_pruned_models(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(40))
    cache = os.path.join(folder, "cache")
    specs = [selection(source), selection(source, pruned=pruned_by("last_blocks", 6)),
             selection(source, parameters={"damage": "kl"}, budget={"tokens": 200}, seed=3), selection(source, pruned=pruned_by("random", 5, seed=11))]
    for index, spec in enumerate(specs):
        cached, fresh = os.path.join(folder, "c%d" % index), os.path.join(folder, "f%d" % index)
        run(spec, cached, "--cache", cache)
        run(spec, fresh)
        assert state_of(cached) == ("miss" if index == 0 else "hit") and state_of(fresh) == "off", (index, state_of(cached))
        same_files(cached, fresh)
        assert [name.endswith(".original") for name in os.listdir(cache)] == [True]
    # What changes what the original says is another entry.
    for index, more in enumerate(({"dataset": {"max_tokens": 18}}, {"dataset": {"template": "chatml"}}, {"compute": {"backend": "reference"}})):
        out = os.path.join(folder, "o%d" % index)
        run(selection(source, **more), out, "--cache", cache)
        assert state_of(out) == "miss" and len(os.listdir(cache)) == 2 + index, more
    out = os.path.join(folder, "copies")  # the same records after copies and empty ones, under another name, are the same
    records = skills_records(40)
    other = write_lines(os.path.join(folder, "other.jsonl"), records[:1] + records[:1] + [{"instruction": "x", "output": ""}] + records[1:])
    run(selection(other), out, "--cache", cache)
    assert state_of(out) == "hit" and chosen_of(out) == chosen_of(os.path.join(folder, "c0"))


def a_damaged_entry_is_passed_over_and_written_anew(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(25))
    cache, fresh = os.path.join(folder, "cache"), os.path.join(folder, "fresh")
    run(selection(source), fresh, "--cache", cache)
    entry = os.path.join(cache, os.listdir(cache)[0])
    with open(entry, "rb") as file:
        whole = file.read()
    spoilt = {"flipped": whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:], "cut": whole[:-1], "half": whole[:len(whole) // 2], "empty": b"",
              "foot": whole[:-60] + b"0" * 59 + b"\n", "longer": whole + b"\n", "zeros": bytes(len(whole))}
    for name, content in spoilt.items():
        with open(entry, "wb") as file:
            file.write(content)
        out = os.path.join(folder, name)
        run(selection(source), out, "--cache", cache)
        assert state_of(out) == "miss", name
        same_files(out, fresh)
        with open(entry, "rb") as file:
            assert file.read() == whole, name
    run(selection(source), os.path.join(folder, "hit"), "--cache", cache)
    assert state_of(os.path.join(folder, "hit")) == "hit"
    # A cache that cannot be written is a warning.
    blocked = write_lines(os.path.join(folder, "file"), ["no folder"])
    _, errors = run(selection(source), os.path.join(folder, "blocked"), "--cache", os.path.join(blocked, "cache"))
    assert "could not be kept" in errors, errors
    same_files(os.path.join(folder, "blocked"), fresh)


def killed_and_resumed_gives_the_same_bytes(folder):
    """SIGKILL goes on at what was saved last; SIGINT behind the batch at hand."""
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(220))
    where = random.Random(5)
    for damage, numbers in (("jsd", (signal.SIGKILL, signal.SIGINT)), ("delta_nll", (signal.SIGKILL,))):
        spec = selection(source, parameters={"damage": damage}, budget={"fraction": 0.2}, dataset={"template": "alpaca"})
        whole = os.path.join(folder, damage)
        started = time.monotonic()
        run(spec, whole)
        seconds = time.monotonic() - started
        for number in numbers:
            out = os.path.join(folder, "%s-%d" % (damage, number))
            run_disturbed(spec, out, where, seconds, number)
            same_files(out, whole)


# ---- what is measured ----------------------------------------------------------------------------------------------------


def damages_are_those_of_pytorch(folder):
    with open(os.path.join(GOLDEN, "expected.json")) as file:
        expected = json.load(file)
    pruned = pruned_by("random", len(expected["removed"]), seed=11)
    kept = load(pruned, "plan.json")["kept"]
    assert [2 * i + k for i, block in enumerate(kept) for k, name in enumerate(("attention", "ffn")) if not block[name]] == expected["removed"]
    worst = {}
    for damage in ("jsd", "kl", "delta_nll"):
        out = os.path.join(folder, damage)
        source = {"source": os.path.join(GOLDEN, "records.jsonl"), "instruction": "instruction", "input": "input", "response": "output"}
        run(selection(source, parameters={"damage": damage}, pruned=pruned, dataset={"template": "alpaca", "max_tokens": 256}), out)
        scores = scores_of(out)
        assert len(scores) == len(expected["records"]) == 20
        for got, wanted in zip(scores, expected["records"]):
            assert (got["prompt_tokens"], got["response_tokens"]) == (wanted["prompt_tokens"], wanted["response_tokens"])
            for name, value in ((damage, got["damage"]), ("entropy", got["entropy"])):
                worst[name] = max(worst.get(name, 0), abs(value - wanted[name]))
        order = sorted(range(20), key=lambda i: -expected["records"][i][damage])[:10]
        assert [line["record"] - 1 for line in sorted((s for s in scores if "rank" in s), key=lambda s: s["rank"])] == order
    print("# farthest from PyTorch: %s" % ", ".join("%s %.1e" % item for item in sorted(worst.items())))
    assert all(value < 2e-5 for value in worst.values()), worst


def identical_models_have_no_damage(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(30))
    copy = os.path.join(folder, "copy")
    shutil.copytree(MODEL, copy)
    for damage in ("jsd", "kl", "delta_nll"):
        for name, pruned in (("same", MODEL), ("copy", copy)):
            out = os.path.join(folder, damage + name)
            run(selection(source, parameters={"damage": damage}, pruned=pruned), out)
            scores = scores_of(out)
            assert [line["damage"] for line in scores] == [0] * 30, (damage, name)
            assert [line["record"] for line in scores if "rank" in line] == list(range(1, 11))  # all equal: the first ones


def records_that_cannot_be_chosen_say_why(folder):
    first = [{"instruction": "Copy a:", "output": "a"}, {"instruction": "Copy b:", "output": ""}, {"instruction": "Copy a:", "output": "a"},
             {"instruction": "Copy " + "a " * 200 + ":", "output": "a"}, {"instruction": "Copy c:", "output": "</s>"},
             {"instruction": "Copy d:", "output": "d " * 100}]
    second = [{"instruction": "Copy a:", "output": "a"}, {"instruction": "Copy e:", "output": "e</s>"}, {"instruction": "Copy e:", "output": "e"}]
    sources = [write_lines(os.path.join(folder, "one.jsonl"), first), write_lines(os.path.join(folder, "two.jsonl"), second)]
    out = os.path.join(folder, "out")
    run(selection(sources, dataset={"max_tokens": 40}), out)
    scores = scores_of(out)
    assert [line["status"] for line in scores] == ["chosen", "empty_response", "duplicate", "long_prompt", "empty_response", "chosen", "duplicate",
                                                   "chosen", "duplicate"], scores
    assert scores[2]["copy_of"] == scores[6]["copy_of"] == {"source": "one.jsonl", "record": 1}
    assert scores[5]["is_truncated"] and scores[5]["prompt_tokens"] + scores[5]["response_tokens"] == 40 and not scores[0]["is_truncated"]
    assert all(("score" in line) == (line["status"] == "chosen") == ("damage" in line) for line in scores)
    # With and without the end of text they are the same to the models.
    assert scores[8]["copy_of"] == {"source": "two.jsonl", "record": 2}
    dataset = load(out, "report.json")["dataset"]
    assert dataset["left_out"] == {"duplicate": 3, "empty_response": 2, "long_prompt": 1} and dataset["valid"] == 3 and dataset["truncated"] == 1
    limited = os.path.join(folder, "limited")
    run(selection([{"source": sources[0], "limit": 2}, {"source": sources[1], "limit": 1}]), limited)
    assert [line["status"] for line in scores_of(limited)] == ["chosen", "empty_response", "duplicate"]


def budgets_and_sets_at_their_edges(folder):
    some = write_lines(os.path.join(folder, "some.jsonl"), skills_records(12))
    one = write_lines(os.path.join(folder, "one.jsonl"), skills_records(1))
    none = write_lines(os.path.join(folder, "none.jsonl"), [{"instruction": "Copy a:", "output": ""}] * 3)
    for method in ("random", "longest", "top_damage"):
        cases = (("zero", some, {"samples": 0}, 0, None), ("zero_tokens", some, {"tokens": 0}, 0, None), ("zero_share", some, {"fraction": 0}, 0, None),
                 ("all", some, {"samples": 12}, 12, None), ("above", some, {"samples": 4000000000}, 12, "pays for all 12"),
                 ("tokens_above", some, {"tokens": 9007199254740991}, 12, "pays for all 12"), ("one", one, {"samples": 1}, 1, None),
                 ("little_of_one", one, {"fraction": 0.99}, 0, None), ("none", none, {"samples": 5}, 0, "no record can be chosen"))
        for name, source, budget, count, warning in cases:
            out = os.path.join(folder, "%s-%s" % (method, name))
            run(selection(source, method, budget=budget), out)
            assert len(chosen_of(out)) == count and set(sums(out)) == FILES, (method, name)
            warnings = load(out, "report.json")["warnings"]
            assert any(warning in item for item in warnings) if warning else warnings == [], (method, name, warnings)


# ---- an encoder, and little memory ---------------------------------------------------------------------------------------


def records_are_compared_by_an_encoder(folder):
    """It reads what is asked, in lower case and up to its own context; its answers are the same with any threads and after any stop."""
    # The last record and the last target differ only behind the encoder's 32 tokens.
    begin = "Copy " + "a b c d e f g h i j " * 3
    records = skills_records(1500) + [{"instruction": begin + "k l", "output": "a"}]
    asked = [{"instruction": item["instruction"].upper(), "output": "x"} for item in records[30:34]] + [{"instruction": begin + "m n", "output": "x"}]
    source, targets = write_lines(os.path.join(folder, "d.jsonl"), records), write_lines(os.path.join(folder, "t.jsonl"), asked)
    encoder = write_encoder(os.path.join(folder, "encoder"), records)
    where = random.Random(12)
    for method, parameters, number in (("k_center", {}, signal.SIGINT), ("rds", {"targets": [{"source": targets}]}, signal.SIGKILL)):
        spec = selection(source, method, parameters, embedding_model=encoder)
        outs = [os.path.join(folder, method + name) for name in ("1", "7", "stopped", "states")]
        run(spec, outs[0], "--threads", "1")
        started = time.monotonic()
        run(spec, outs[1], "--threads", "7")
        run_disturbed(spec, outs[2], where, time.monotonic() - started, number)
        same_files(outs[0], outs[1])
        same_files(outs[0], outs[2])
        report = load(outs[0], "report.json")
        assert report["embedding"] == {"kind": "encoder", "name": "encoder", "dimensions": 128}, report["embedding"]
        assert report["passes"] == {} and report["embedding_model"]["architecture"] == "bert", report["passes"]
        assert load(outs[0], "request.json")["_resolved"]["embedding_model_sha256"] == report["embedding_model"]["sha256"]
        run(selection(source, method, parameters), outs[3])
        assert load(outs[3], "report.json")["embedding"] == {"kind": "states", "name": "model", "dimensions": 128}
        assert chosen_of(outs[0]) != chosen_of(outs[3]) and len(chosen_of(outs[0])) == 10
    scores = [line["score"] for line in scores_of(os.path.join(folder, "rds1"))]
    alike = [*range(30, 34), len(records) - 1]
    assert all(abs(scores[i] - 1) < 1e-6 for i in alike), [scores[i] for i in alike]
    assert sum(score > 1 - 1e-6 for score in scores) < 10 and min(scores) < 0.9, sorted(scores)[-12:]
    states = [line["score"] for line in scores_of(os.path.join(folder, "rdsstates"))]
    assert all(states[i] < 1 - 1e-4 for i in alike), [states[i] for i in alike]  # to the original, capitals and ends are others


def little_memory_changes_no_byte(folder):
    """At the least that the refusal of a smaller limit names: weights are streamed, and the peak is kept. The large model's weigh more than a
    clustering."""
    large = importlib.import_module("25_memory_test").large_world(folder)["model"]
    # Before records are read a hundred bytes count as one: these have more.
    records = [{**item, "note": "what nobody asks for, " * 3} for item in skills_records(400)]
    many, few = write_lines(os.path.join(folder, "many.jsonl"), records), write_lines(os.path.join(folder, "few.jsonl"), records[:40])
    for spec in (selection(many), selection(few, "paser", pruned=pruned_by("last_blocks", 4, model=large), model=large)):
        name = spec["method"]["type"]
        whole, little = os.path.join(folder, name), os.path.join(folder, name + "-little")
        run(spec, whole)
        least = least_of(spec, os.path.join(folder, name + "-refused"))
        run({**spec, "limits": {"max_memory_bytes": least}}, little)
        one, two = sums(whole), sums(little)
        assert {path for path in FILES if one[path] != two[path]} == {"request.json"}, name  # which says the limit
        before, after = (load(out, "report.json")["resources"] for out in (whole, little))
        assert after["weights_streamed"] and not before["weights_streamed"], (name, after)
        assert after["peak_rss_bytes"] <= after["memory_limit_bytes"] == least < before["planned_memory_bytes"], (name, least, after, before)
        if spec["model"] == MODEL:  # several batches: the weights are read for each
            assert after["weight_bytes_read"] > before["weight_bytes_read"], (after, before)
        else:
            assert after["peak_rss_bytes"] < before["peak_rss_bytes"] * 0.7, (after, before)


def the_page_shows_what_the_methods_say(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(60))
    common = ("Map of the records", "<title>eigenvalue 2: ", "records chosen &middot; ", "with the chosen ones</td><td>", "tokens of the response</td><td>")
    for compat, texts in (("mended", ("Chosen by: ", "of the true ones</td><td>100.00 %", "</b>, as chosen")), ("published", ("Laplacian",))):
        out = os.path.join(folder, compat)
        run(selection(source, "paser", {"compat": compat}, pruned=pruned_by()), out)
        with open(os.path.join(out, "report.html"), encoding="utf-8") as file:
            page = file.read()
        assert all(text in page for text in common + texts), (compat, [text for text in common + texts if text not in page])


# ---- faults --------------------------------------------------------------------------------------------------------------


def every_fault_of_a_request_at_once(folder):
    spec = {"type": "selection", "model": MODEL, "dataset": {"sources": [{"source": 3}, {"sauce": "x"}], "template": "alpacca", "max_tokens": 1},
            "method": {"type": "top_damage", "top_damage": {"damage": "none"}}, "budget": {"samples": 3, "fraction": 2}, "target": {}}
    assert faults_of(spec, os.path.join(folder, "a")) == {
        "/dataset/sources/0/source": "wrong_type", "/dataset/sources/1/source": "missing_field", "/dataset/sources/1/sauce": "unknown_field",
        "/dataset/template": "unknown_value", "/dataset/max_tokens": "out_of_range", "/method/top_damage/damage": "unknown_value",
        "/budget": "invalid_argument", "/budget/fraction": "out_of_range", "/target": "unknown_field"}
    nowhere = os.path.join(folder, "nowhere")
    assert faults_of(selection([nowhere + "1", nowhere + "2"], pruned=nowhere, embedding_model=nowhere, model=nowhere), os.path.join(folder, "b")) == {
        "/model": "not_found", "/pruned_model": "not_found", "/embedding_model": "not_found", "/dataset/sources/0/source": "not_found",
        "/dataset/sources/1/source": "not_found"}


def every_fault_of_a_plan_at_once(folder):
    empty = write_lines(os.path.join(folder, "empty.jsonl"), [])
    some = write_lines(os.path.join(folder, "some.jsonl"), skills_records(3))
    encoder = os.path.join(ROOT, "tests", "golden", "families", "bert")
    sources = [empty, {"source": some, "messages": "m", "input": "i"}, {"source": some, "instruction": "i"}, some]
    spec = selection(sources, pruned=None, dataset={"template": "custom", "max_tokens": 5000}, limits={"max_memory_bytes": 16777216})
    assert faults_of(spec, os.path.join(folder, "a")) == {
        "/dataset/sources/0/source": "text_too_short", "/dataset/sources/1": "invalid_argument", "/dataset/sources/2": "invalid_argument",
        "/dataset/template_full": "missing_field", "/dataset/template_lone": "missing_field", "/dataset/max_tokens": "out_of_range",
        "/pruned_model": "missing_field", "/limits/max_memory_bytes": "out_of_memory"}
    spec = selection(some, pruned=encoder, embedding_model=folder, dataset={"template": "plain", "template_full": "{instruction}"})
    faults = faults_of(spec, os.path.join(folder, "b"))
    assert faults["/pruned_model"] == "unsupported" and faults["/dataset/template_full"] == "invalid_argument" and "/embedding_model" in faults
    spec = selection(some, dataset={"template": "custom", "template_full": "{instruction} {inputs}", "template_lone": "{instruction}"})
    assert faults_of(spec, os.path.join(folder, "c")) == {"/dataset/template": "invalid_argument"}
    assert faults_of({**selection(some), "model": encoder}, os.path.join(folder, "d")) == {"/model": "unsupported"}
    short = write_model(os.path.join(folder, "short"), config={"max_position_embeddings": 64})
    assert faults_of(selection(some, pruned=short), os.path.join(folder, "e")) == {"/dataset/max_tokens": "out_of_range"}


def what_a_data_set_cannot_be_names_file_and_place(folder):
    good = json.dumps({"instruction": "Copy a:", "output": "a"})
    cases = (("json", [good, '{"instruction": "x", "output": }'], "json.jsonl, line 2"), ("member", [good, '{"instruction": "x"}'], "member.jsonl, line 2"),
             ("unknown", ['{"a": "x"}'], "the first record has: a"), ("blank", ["", " "], "blank.jsonl"), ("list", [good, "[]"], "list.jsonl, line 2"))
    for name, lines, wanted in cases:
        path = write_lines(os.path.join(folder, name + ".jsonl"), lines)
        _, errors = run(selection([write_lines(os.path.join(folder, "good.jsonl"), [good]), path], "random"), os.path.join(folder, name), expect=1)
        assert wanted in errors, (name, errors)
        assert not os.path.exists(os.path.join(folder, name, "selected.jsonl"))
    path = os.path.join(folder, "latin.jsonl")
    with open(path, "wb") as file:
        file.write(good.encode() + b'\n{"instruction": "caf\xe9", "output": "a"}\n')
    _, errors = run(selection(path, "random"), os.path.join(folder, "latin"), expect=1)
    assert "latin.jsonl" in errors and "UTF-8" in errors, errors


def a_pruned_model_of_another_kind_is_refused(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(5))
    tiny = write_model(os.path.join(folder, "tiny"))
    _, errors = run(selection(source, pruned=tiny), os.path.join(folder, "a"), expect=1)
    assert "/pruned_model" in errors and "265 tokens" in errors and "675" in errors, errors
    # The same words in another order, of as many tokens: only a warning, and the original's are used.
    other = os.path.join(folder, "other")
    shutil.copytree(pruned_by(), other)
    with open(os.path.join(other, "tokenizer.json")) as file:
        tokenizer = json.load(file)
    with open(os.path.join(other, "tokenizer.json"), "w") as file:
        json.dump({**tokenizer, "truncation": None}, file, indent=3)
    run(selection(source, pruned=other), os.path.join(folder, "b"))
    run(selection(source), os.path.join(folder, "c"))
    assert "tokenizer file differs" in " ".join(load(os.path.join(folder, "b"), "report.json")["warnings"])
    assert chosen_of(os.path.join(folder, "b")) == chosen_of(os.path.join(folder, "c"))
    os.unlink(os.path.join(other, "tokenizer.json"))
    run(selection(source, pruned=other), os.path.join(folder, "d"))
    assert "no tokenizer of its own" in " ".join(load(os.path.join(folder, "d"), "report.json")["warnings"])
    assert chosen_of(os.path.join(folder, "d")) == chosen_of(os.path.join(folder, "c"))


def a_token_beyond_the_pruned_vocabulary_names_the_record(folder):
    """A model without a tokenizer of its own, whose vocabulary ends before the original's."""
    source = write_lines(os.path.join(folder, "d.jsonl"), [{"instruction": "\t", "output": "\t"}] + skills_records(2))
    tiny = write_model(os.path.join(folder, "tiny"))
    os.unlink(os.path.join(tiny, "tokenizer.json"))
    _, errors = run(selection(source, pruned=tiny), os.path.join(folder, "out"), expect=1)
    assert "/pruned_model" in errors and "d.jsonl, record 2 has token" in errors and "265" in errors, errors


# ---- golden scores -------------------------------------------------------------------------------------------------------


def golden_scores_say_what_was_asked(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(48))
    targets = write_lines(os.path.join(folder, "t.jsonl"), skills_records(30, skip=100))
    for name, parameters, asked, anchors in (("own", {"anchors": 20, "delta": 0}, 48 * 20 - 20, {"d.jsonl": 20}),
                                             ("all", {"delta": 0}, 48 * 47, {"d.jsonl": 48}),
                                             ("targets", {"delta": 0, "targets": [{"source": targets}]}, 48 * 30, {"t.jsonl": 30}),
                                             ("early", {"delta": 0.2, "threshold": 0.7, "targets": [{"source": targets}]}, None, {"t.jsonl": 30})):
        out = os.path.join(folder, name)
        run(selection(source, "nuggets", parameters), out)
        report, scores = load(out, "report.json"), scores_of(out)
        details, sources = report["details"], [item["source"] for item in report["anchors"]]
        assert {item: sources.count(item) for item in sources} == anchors, (name, sources)
        assert len({(item["source"], item["record"]) for item in report["anchors"]}) == len(sources) == details["anchors"]
        assert details["pairs"] == 48 * len(sources) and details["examples_cut"] == details["pairs_without_room"] == 0, details
        assert details["pairs_of_the_same"] == (len(sources) if "d.jsonl" in anchors else 0), details
        assert details["pairs_asked"] == asked if asked else 0 < details["pairs_asked"] < details["pairs"], details
        assert details["records_above_threshold"] == sum(line["score"] > parameters.get("threshold", 0.85) for line in scores)
        order = sorted(range(48), key=lambda i: -scores[i]["score"])[:10]  # ties go to the earlier record
        assert [line["record"] - 1 for line in sorted((s for s in scores if "rank" in s), key=lambda s: s["rank"])] == order
        for line in scores:
            most = len(sources) - any(item == {"source": line["source"], "record": line["record"]} for item in report["anchors"])
            wins = line["score"] * most
            assert 0 <= line["score"] <= 1 and (asked is None or abs(wins - round(wins)) < 1e-9), (name, line)
        assert len({line["score"] for line in scores}) > 3 and report["score_name"] == "golden_score"
    whole, early = ([line["score"] for line in scores_of(os.path.join(folder, name))] for name in ("targets", "early"))
    wrong = sum((a > 0.7) != (b > 0.7) for a, b in zip(whole, early))
    assert wrong <= 0.2 * 48, wrong


def golden_scores_are_the_same_bytes_after_a_stop(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(120))
    spec = selection(source, "nuggets", {"anchors": 40, "threshold": 0.5, "delta": 0.1})
    whole, other = os.path.join(folder, "whole"), os.path.join(folder, "threads")
    started = time.monotonic()
    run(spec, whole)
    seconds = time.monotonic() - started
    details = load(whole, "report.json")["details"]
    assert 120 * 16 < details["pairs_asked"] < 120 * 40 * 0.9, details
    run(spec, other, "--threads", "1")
    same_files(other, whole)
    where = random.Random(8)
    for number in (signal.SIGKILL, signal.SIGINT):
        out = os.path.join(folder, "stopped-%d" % number)
        run_disturbed(spec, out, where, seconds, number)
        same_files(out, whole)
        assert load(out, "report.json")["details"] == details


def efforts_are_of_the_pruned_model_and_the_hardest_are_put_aside(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(40))
    efforts = []
    for name, pruned in (("pruned", pruned_by()), ("same", MODEL)):
        spec = selection(source, "dealrec", {"bins": 5, "drop_ratio": 0.2}, pruned=pruned)
        out, again = os.path.join(folder, name), os.path.join(folder, name + "-again")
        run(spec, out)
        run(spec, again, "--threads", "1")
        same_files(out, again)
        scores = scores_of(out)
        hardest = sorted(range(40), key=lambda i: (-scores[i]["effort"], -i))[:8]
        assert sorted(hardest) == [i for i, line in enumerate(scores) if line["status"] == "filtered"]
        assert all(line["score"] == line["effort"] > 0 for line in scores) and len(chosen_of(out)) == 10
        efforts.append(sum(line["effort"] for line in scores))
    assert efforts[0] > efforts[1] + 5, efforts  # what is broken has more to learn
    assert faults_of(selection(source, "dealrec", pruned=None), os.path.join(folder, "fault")) == {"/pruned_model": "missing_field"}


def token_masks_keep_a_share_of_what_is_sure_and_wrong(folder):
    source = write_lines(os.path.join(folder, "d.jsonl"), skills_records(60))
    plain, masked, whole = (os.path.join(folder, name) for name in ("plain", "masked", "whole"))
    run(selection(source, "q_tuning", budget={"samples": 24}, pruned=pruned_by()), plain)
    for out, ratio in ((masked, 0.5), (whole, 1)):
        run(selection(source, "q_tuning", {"token_ratio": ratio}, budget={"samples": 24}, pruned=pruned_by()), out)
        assert chosen_of(out) == chosen_of(plain) and set(sums(out)) == FILES | {"token_masks.jsonl"}
        with open(os.path.join(out, "token_masks.jsonl")) as file:
            masks = [json.loads(line) for line in file]
        scores = {line["record"]: line for line in scores_of(out)}
        ranks = [scores[mask["record"]]["rank"] for mask in masks]
        assert ranks == sorted(ranks) and 0 < len(masks) < 24
        kept = 0
        for mask in masks:
            count = mask["response_tokens"]
            assert count == scores[mask["record"]]["response_tokens"]
            tokens = [token for start, length in mask["kept"] for token in range(start, start + length)]
            assert tokens == sorted(set(tokens)) and 0 <= tokens[0] and tokens[-1] < count, mask
            assert all(a[0] + a[1] < b[0] for a, b in zip(mask["kept"], mask["kept"][1:])), mask
            assert len(tokens) == max(1, int(ratio * count)), mask
            kept += len(tokens)
        said = load(out, "report.json")["details"]["token_masks"]
        assert said == {"records": len(masks), "tokens": sum(mask["response_tokens"] for mask in masks), "tokens_kept": kept}, said
    assert "token_masks.jsonl" not in os.listdir(plain)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
