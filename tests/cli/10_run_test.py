#!/usr/bin/env python3
"""`pruned run`: what a pruning job and an evaluation job leave behind, for every method and layout."""
import json
import os
import struct
import sys

from command import digest, load, main, pruning, run, sums, world, write_text

HELPERS = ("main", "read_header")


def read_header(path):
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        assert length % 8 == 0
        header = json.loads(file.read(length))
    assert header.pop("__metadata__") == {"format": "pt"}
    return header


def a_job_leaves_a_folder_that_checks_out(folder):
    w = world(folder)
    out = os.path.join(folder, "out")
    result, _ = run(pruning(w), out)
    listed = sums(out)
    assert {"README.md", "config.json", "model.safetensors", "plan.json", "request.json", "tokenizer.json"} <= set(listed)
    for name in ("tokenizer.json", "tokenizer_config.json", "LICENSE.txt"):
        assert digest(os.path.join(out, name)) == digest(os.path.join(w["model"], name)), name
    report = load(out, "report.json")
    assert report["check"]["logit_difference_max"] == 0, report["check"]
    assert result["target"] == report["target"] and result["target"]["achieved"] == 2
    assert len(result["removed"]) == 2
    assert result["after"]["perplexity"]["gptq"] > 1 and result["before"]["perplexity"]["rolling"] > 1
    points = load(out, "plan.json")["points"]
    assert len(points) == 2 and points[0]["score"] <= points[1]["score"] * 1.5
    with open(os.path.join(out, "report.html")) as file:
        page = file.read()
    assert "<svg" in page and "http://" not in page and "https://" not in page and "<script" not in page
    assert not os.path.exists(os.path.join(out, ".work"))


def every_method_runs(folder):
    w = world(folder)
    for method in ("finercut", "shortgpt", "llm_drop", "angular_span", "replaceme", "random", "last_blocks"):
        out = os.path.join(folder, method)
        result, _ = run(pruning(w, method), out)
        assert result["method"] == method and result["target"]["sublayers_removed"] == 2
        sums(out)


def rotation_leaves_a_plain_narrower_model(folder):
    w = world(folder)
    for layout in ("auto", "uniform", "padded", "identity", "heterogeneous"):
        out = os.path.join(folder, layout)
        result, _ = run(pruning(w, "slicegpt", target={"sparsity": 0.25}, output={"layout": layout}), out)
        config = load(out, "config.json")
        assert config["hidden_size"] == 24 and config["head_dim"] == 8 and not config["tie_word_embeddings"], config
        assert abs(config["rms_norm_eps"] / 1e-5 - 32 / 24) < 1e-9, config
        assert result["target"]["achieved"] == 0.25 and load(out, "report.json")["check"]["logit_difference_max"] == 0
        header = read_header(os.path.join(out, "model.safetensors"))
        assert header["lm_head.weight"]["shape"][1] == 24 and header["model.layers.3.mlp.down_proj.weight"]["shape"][0] == 24
        again, _ = run({"type": "evaluation", "model": out, "evaluation": pruning(w)["evaluation"]}, out + "-e")
        assert again["model"]["perplexity"] == result["after"]["perplexity"]
    copy = os.path.join(folder, "copy")
    run(pruning(w, "slicegpt", target={"sparsity": 0}), copy)
    assert digest(os.path.join(copy, "model.safetensors")) == digest(os.path.join(w["model"], "model.safetensors"))
    _, errors = run(pruning(w, "slicegpt", target={"num_layers": 3}), os.path.join(folder, "refused"), expect=2)
    assert "/target/num_layers" in errors and "hidden size" in errors, errors
    few = os.path.join(folder, "few")
    result, _ = run(pruning(w, "slicegpt", target={"params": 12000}), few)
    assert result["target"]["parameters"] <= 12000 and load(few, "config.json")["hidden_size"] == 8, result["target"]


def a_span_is_replaced_by_a_map(folder):
    w = world(folder)
    after = {}
    for method, parameters in (("angular_span", {"tokens": "all"}), ("replaceme", {"fit": "ridge"}), ("replaceme", {})):
        out = os.path.join(folder, method + str(len(parameters)))
        spec = pruning(w, method, parameters, target={"num_layers": 3})
        spec["calibration"]["num_samples"] = 8
        result, _ = run(spec, out)
        assert load(out, "config.json")["num_hidden_layers"] == 3
        assert load(out, "report.json")["check"]["logit_difference_max"] == 0
        plan = load(out, "plan.json")
        assert method == "angular_span" or [p["name"].split(".", 3)[3] for p in plan["patch"]] == ["mlp.down_proj.weight"], plan["patch"]
        after[out] = result["after"]["perplexity"]["gptq"]
        sums(out)
    assert len(set(after.values())) == 3, after


def spans_step_back_to_smaller_ones(folder):
    w = world(folder, layers=6)
    calibration = write_text(os.path.join(folder, "calibration.txt"), words=900, seed=3)
    spec = pruning(w, "angular_span", target={"num_layers": 3})
    spec["calibration"] = {"source": calibration, "num_samples": 8, "window_tokens": 64}
    spec["quality_gate"] = {"max_ratio": 1, "on_fail": "back_off", "text": {"source": w["text"], "half": "first"}}
    _, errors = run(spec, os.path.join(folder, "refused"), expect=None)
    assert "at sparsity 0.1667" in errors and "no smaller step passes" in errors, errors
    spec["quality_gate"]["max_ratio"] = 1000
    result, _ = run(spec, os.path.join(folder, "passed"))
    assert result["target"]["achieved"] == 3


def every_metric_and_granularity_runs(folder):
    w = world(folder)
    for metric in ("norm", "angular", "kl", "js"):
        out = os.path.join(folder, metric)
        run(pruning(w, parameters={"metric": metric, "granularity": "block", "protect_ratio": 0}), out)
        points = load(out, "plan.json")["points"]
        assert [p["is_cut"] for p in points] == [False, True] and points[0]["layer"] == points[1]["layer"]
    first = load(os.path.join(folder, "js"), "plan.json")["points"][1]["score"]
    run(pruning(w, parameters={"js_form": "textbook", "granularity": "block", "protect_ratio": 0}), os.path.join(folder, "textbook"))
    second = load(os.path.join(folder, "textbook"), "plan.json")["points"][1]["score"]
    assert first != second and 0.5 < first / second < 2


def layouts_compute_the_same(folder):
    w = world(folder)
    seen = {}
    for layout in ("identity", "heterogeneous", "auto"):
        out = os.path.join(folder, layout)
        result, _ = run(pruning(w, parameters={"protect_ratio": 0}, target={"sublayers_removed": 3}, output={"layout": layout}), out)
        seen[layout] = (result["after"]["perplexity"], load(out, "config.json"), result["size"]["after"])
    assert seen["identity"][0] == seen["heterogeneous"][0] == seen["auto"][0]
    assert seen["identity"][1]["model_type"] == "llama" and seen["identity"][1]["num_hidden_layers"] == 4
    assert seen["identity"][2]["weight_bytes"] > seen["heterogeneous"][2]["weight_bytes"]
    config = seen["heterogeneous"][1]
    assert config["model_type"] == "pruned_llama" and len(config["pruning"]["layers"]) == config["num_hidden_layers"]
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_pruned.PrunedLlamaForCausalLM"
    assert os.path.exists(os.path.join(folder, "heterogeneous", "modeling_pruned.py"))


def whole_blocks_pack_into_a_stock_config(folder):
    w = world(folder)
    out = os.path.join(folder, "out")
    run(pruning(w, "last_blocks", target={"num_layers": 3}, output={"layout": "uniform"}), out)
    config = load(out, "config.json")
    before = json.load(open(os.path.join(w["model"], "config.json")))
    pruning_key = config.pop("pruning")
    assert pruning_key["layout"] == "uniform"
    assert config == {**before, "num_hidden_layers": 3}
    header = read_header(os.path.join(out, "model.safetensors"))
    layers = {name.split(".")[2] for name in header if name.startswith("model.layers.")}
    assert layers == {"0", "1", "2"}


def an_empty_plan_copies_the_weights_byte_for_byte(folder):
    w = world(folder)
    for layout in ("auto", "identity", "heterogeneous"):
        out = os.path.join(folder, layout)
        result, _ = run(pruning(w, target={"sparsity": 0}, output={"layout": layout}), out)
        assert digest(os.path.join(out, "model.safetensors")) == digest(os.path.join(w["model"], "model.safetensors"))
        assert result["before"]["perplexity"] == result["after"]["perplexity"]


def shards_and_dtype_are_as_asked(folder):
    w = world(folder, layers=12)
    out = os.path.join(folder, "out")
    result, _ = run(pruning(w, output={"dtype": "bfloat16", "max_shard_bytes": 65536}), out)
    index = load(out, "model.safetensors.index.json")
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 1 and shards[0] == "model-00001-of-%05d.safetensors" % len(shards)
    total = 0
    for shard in shards:
        header = read_header(os.path.join(out, shard))
        assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
        assert {name for name, at in index["weight_map"].items() if at == shard} == set(header)
        total += max(tensor["data_offsets"][1] for tensor in header.values())
    assert total == index["metadata"]["total_size"] == result["size"]["after"]["weight_bytes"]
    assert load(out, "config.json")["torch_dtype"] == "bfloat16"
    sums(out)


def an_evaluation_of_the_folder_repeats_the_report_to_the_last_digit(folder):
    w = world(folder)
    tasks = [{"name": "say", "source": w["generate"], "kind": "generate"}, {"name": "pick", "source": w["choice"], "kind": "choice"}]
    for layout in ("identity", "heterogeneous"):
        out = os.path.join(folder, layout)
        spec = pruning(w, output={"layout": layout})
        spec["evaluation"]["tasks"] = tasks
        result, _ = run(spec, out)
        again, _ = run({"type": "evaluation", "model": out, "evaluation": spec["evaluation"]}, os.path.join(folder, layout + "-e"))
        assert again["model"]["perplexity"] == result["after"]["perplexity"]
        assert again["model"]["tasks"] == result["after"]["tasks"]
        sums(os.path.join(folder, layout + "-e"))


def a_result_can_be_pruned_again(folder):
    w = world(folder)
    first = os.path.join(folder, "first")
    second = os.path.join(folder, "second")
    run(pruning(w, target={"sublayers_removed": 3}, output={"layout": "heterogeneous"}), first)
    result, _ = run(pruning({**w, "model": first}, target={"sublayers_removed": 1}), second)
    assert result["size"]["before"]["sublayers"] == 5 and result["size"]["after"]["sublayers"] == 4
    assert load(second, "report.json")["check"]["logit_difference_max"] == 0


def another_point_of_a_full_curve_needs_no_search(folder):
    w = world(folder)
    full = os.path.join(folder, "full")
    run(pruning(w, parameters={"curve": "full", "protect_ratio": 0}, target={"sublayers_removed": 1}), full)
    points = load(full, "plan.json")["points"]
    assert len(points) == 8
    searched = os.path.join(folder, "searched")
    run(pruning(w, parameters={"protect_ratio": 0}, target={"sublayers_removed": 4}), searched)
    replayed = os.path.join(folder, "replayed")
    run(pruning(w, "replay", {"source": os.path.join(full, "plan.json")}, target={"sublayers_removed": 4}), replayed)
    assert digest(os.path.join(searched, "model.safetensors")) == digest(os.path.join(replayed, "model.safetensors"))
    assert load(searched, "plan.json")["points"] == points[:4]


def a_request_json_can_be_run_again(folder):
    w = world(folder)
    first = os.path.join(folder, "first")
    second = os.path.join(folder, "second")
    run(pruning(w), first)
    with open(os.path.join(first, "request.json")) as file:
        run(file.read(), second)
    assert sums(first) == sums(second)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
