#!/usr/bin/env python3
"""`pruned run` on bad input: one clear answer that names the field, every fault at once, and nothing left behind."""
import json
import os
import sys

from command import ROOT, main, pruning, run, world

HELPERS = ("main", "refused")


def refused(folder, spec, code, pointer, expect=2, text=""):
    out = os.path.join(folder, "out")
    _, errors = run(spec, out, expect=None)
    assert "(%s)" % code in errors and pointer in errors and text in errors, (code, pointer, errors)
    left = [name for name in os.listdir(out) if name != ".work"] if os.path.isdir(out) else []
    assert left == [], left
    return errors


def faults_of_the_request_are_listed_together(folder):
    w = world(folder)
    spec = pruning(w, parameters={"metric": "jz", "protect_ratio": 2}, target={"sparsity": 1.5})
    spec["calibration"]["num_samples"] = "ten"
    errors = refused(folder, spec, "out_of_range", "/target/sparsity")
    for pointer in ("/method/finercut/metric", "/method/finercut/protect_ratio", "/calibration/num_samples"):
        assert pointer in errors, errors


def a_request_must_be_sound(folder):
    w = world(folder)
    refused(folder, {**pruning(w), "type": "merging"}, "unknown_value", "/type")
    refused(folder, {**pruning(w), "methd": {}}, "unknown_field", "/methd")
    refused(folder, pruning(w, target={"sparsity": 0.1, "params": 5}), "invalid_argument", "/target")
    refused(folder, '{"type": "pruning", "type": "pruning"}', "duplicate_key", "")
    refused(folder, '{"type": ', "malformed_json", "")
    refused(folder, pruning(w, "magic"), "unknown_value", "/method/type")
    refused(folder, {**pruning(w), "evaluation": {"tasks": [{"name": "x", "kind": "generate"}]}}, "missing_field", "/evaluation/tasks/0/source")


def what_is_impossible_is_said_before_anything_runs(folder):
    w = world(folder)
    refused(folder, pruning(w, target={"params": 100}), "unreachable", "/target/params", text="nearest")
    refused(folder, pruning(w, target={"sublayers_removed": 8}), "unreachable", "/target/sublayers_removed")
    refused(folder, pruning(w, limits={"max_memory_bytes": 16777216}), "out_of_memory", "/limits/max_memory_bytes")
    spec = pruning(w)
    spec["calibration"]["window_tokens"] = 1024
    refused(folder, spec, "out_of_range", "/calibration/window_tokens")
    spec = pruning(w)
    del spec["calibration"]
    refused(folder, spec, "missing_field", "/calibration/source")
    spec = pruning(w)
    spec["evaluation"]["text"]["half"] = "first"
    refused(folder, spec, "text_overlap", "/evaluation/text/source")
    refused(folder, {"type": "evaluation", "model": w["model"], "evaluation": {"speed": False}}, "invalid_argument", "/evaluation")
    refused(folder, pruning(w, "random", target={"sublayers_removed": 3}, seed=1, output={"layout": "uniform"}), "unsupported", "/output/layout")


def texts_must_be_there_and_long_enough(folder):
    w = world(folder)
    spec = pruning(w)
    spec["calibration"]["source"] = os.path.join(folder, "absent.txt")
    refused(folder, spec, "not_found", "/calibration/source")
    empty = os.path.join(folder, "empty.txt")
    open(empty, "w").close()
    spec["calibration"]["source"] = empty
    refused(folder, spec, "text_too_short", "/calibration/source")
    short = os.path.join(folder, "short.txt")
    with open(short, "w") as file:
        file.write("Too short.\n\nReally.\n")
    spec["calibration"]["source"] = short
    refused(folder, spec, "text_too_short", "short.txt")
    copy = os.path.join(folder, "copy.txt")
    with open(copy, "w") as to, open(w["text"]) as source:
        to.write(source.read())
    spec = pruning(w)
    spec["calibration"] = {"source": copy, "num_samples": 3, "window_tokens": 64}
    spec["evaluation"]["text"] = {"source": w["text"]}
    refused(folder, spec, "text_overlap", "")
    spec = pruning(w)
    broken = os.path.join(folder, "broken.jsonl")
    with open(broken, "w") as file:
        file.write('{"text": "good"}\n{"text": 3}\n')
    spec["evaluation"]["text"] = {"source": broken}
    refused(folder, spec, "corrupt_file", "broken.jsonl")


def models_must_be_whole(folder):
    w = world(folder)
    refused(folder, {**pruning(w), "model": os.path.join(folder, "absent")}, "not_found", "/model")
    path = os.path.join(w["model"], "model.safetensors")
    with open(path, "rb") as file:
        weights = file.read()
    with open(path, "wb") as file:
        file.write(weights[:-100])
    refused(folder, pruning(w), "corrupt_file", "model.safetensors")
    with open(path, "wb") as file:
        file.write(weights)
    config = json.load(open(os.path.join(w["model"], "config.json")))
    with open(os.path.join(w["model"], "config.json"), "w") as file:
        json.dump({**config, "intermediate_size": 40}, file)
    refused(folder, pruning(w), "config_mismatch", "")
    with open(os.path.join(w["model"], "config.json"), "w") as file:
        json.dump(config, file)
    out = os.path.join(folder, "fine")
    run(pruning(w), out)


def what_a_model_cannot_be_used_for_is_said_before_anything_runs(folder):
    w = world(folder)
    families = os.path.join(ROOT, "tests", "golden", "families")
    encoder = os.path.join(families, "bert")
    refused(folder, {**pruning(w), "model": encoder}, "unsupported", "/model", text="encoder")
    refused(folder, {**pruning(w, "last_blocks", target={"num_layers": 1}), "model": encoder}, "unsupported", "/model")
    refused(folder, {"type": "evaluation", "model": encoder, "evaluation": {}}, "unsupported", "/model", text="encoder")
    wordless = {**pruning(w), "model": os.path.join(families, "gpt2")}
    refused(folder, wordless, "not_found", "tokenizer.json")
    refused(folder, pruning(w, output={"formats": ["gguf:f16", "hf", "gguf:f16"]}), "invalid_argument", "/output/formats/2",
            text="twice")


def a_plan_of_another_model_is_refused(folder):
    w = world(folder)
    out = os.path.join(folder, "full")
    run(pruning(w), out)
    other = world(os.path.join(folder, "other"), layers=3) if os.makedirs(os.path.join(folder, "other")) is None else None
    refused(folder, pruning(other, "replay", {"source": os.path.join(out, "plan.json")}), "invalid_argument", "/method/replay/source")
    refused(folder, pruning(w, "replay", {"source": w["text"]}), "malformed_json", "/method/replay/source")


def a_time_limit_ends_the_job(folder):
    w = world(folder, layers=40)
    spec = pruning(w, parameters={"curve": "full", "protect_ratio": 0}, limits={"max_seconds": 1})
    spec["calibration"]["num_samples"] = 64
    refused(folder, spec, "time_limit", "/limits/max_seconds", expect=1)


def an_occupied_folder_is_left_alone(folder):
    w = world(folder)
    out = os.path.join(folder, "taken")
    os.makedirs(out)
    with open(os.path.join(out, "mine.txt"), "w") as file:
        file.write("mine")
    _, errors = run(pruning(w), out, expect=1)
    assert "not empty" in errors
    assert os.listdir(out) == ["mine.txt"]


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
