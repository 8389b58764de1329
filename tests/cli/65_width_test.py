#!/usr/bin/env python3
"""Methods that narrow layers, from spec to files: every method, allocation and compensation; the target in parameters is what the
written files hold; single layers; what cannot be."""
import json
import os
import random
import sys
import time

from command import SHARED, Skip, load, main, pruning, run, run_disturbed, sums, world

HELPERS = ("width", "stories", "read_shapes")
METHODS = ("cfsp", "adapt_pruner", "flap", "wanda_sp", "magnitude_sp", "minitron", "modegpt", "two_ssp")


def width(w, method="wanda_sp", parameters=None, sparsity=0.2, **more):
    return pruning(w, method, parameters, {"sparsity": sparsity}, **more)


def stories(folder, method, **more):
    model = os.path.join(SHARED, "models", "stories260K")
    text = os.path.join(SHARED, "text", "tinystories_sample.txt")
    if not os.path.exists(os.path.join(model, "config.json")) or not os.path.exists(text):
        raise Skip("shared data is absent")
    return width({"model": model, "text": text}, method, **more)


def read_shapes(out):
    with open(os.path.join(out, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: item["shape"] for name, item in header.items()}


def every_method_reaches_its_target_in_the_files_too(folder):
    w = world(folder)
    for method in METHODS:
        out = os.path.join(folder, method)
        result, _ = run(width(w, method), out)
        sums(out)
        assert result["method"] == method and result["target"]["achieved"] >= 0.2, result["target"]
        report = load(out, "report.json")
        assert report["check"]["logit_difference_max"] <= 1e-5, (method, report["check"])
        shapes = read_shapes(out)
        count = 0
        for shape in shapes.values():
            size = 1
            for side in shape:
                size *= side
            count += size
        assert count == result["size"]["after"]["parameters"], (method, count, result["size"])


def a_method_without_data_needs_no_calibration(folder):
    w = world(folder)
    spec = width(w, "magnitude_sp")
    del spec["calibration"]
    result, _ = run(spec, os.path.join(folder, "out"))
    assert result["target"]["achieved"] >= 0.2
    spec = width(w, "wanda_sp")
    del spec["calibration"]
    _, errors = run(spec, os.path.join(folder, "none"), expect=2)
    assert "/calibration" in errors


def every_allocation_and_compensation_runs(folder):
    w = world(folder)
    plans = {}
    for allocation in ("auto", "uniform", "per_layer", "global", "cfsp", "adapt", "knapsack", "evolutionary"):
        result, _ = run(width(w, allocation={"type": allocation}), os.path.join(folder, allocation))
        assert result["target"]["achieved"] >= 0.2, allocation
        plans[allocation] = load(os.path.join(folder, allocation), "plan.json")["widths"]
    assert plans["auto"] == plans["uniform"] == plans["per_layer"], plans
    uneven = ("uniform", "global", "cfsp", "adapt", "knapsack", "evolutionary")
    assert len({json.dumps(plans[name]) for name in uneven}) == len(uneven), plans  # each its own, and none is uniform
    for cost in ("parameters", "bytes", "flops", "milliseconds"):
        run(width(w, allocation={"type": "global", "cost": cost}), os.path.join(folder, cost))
        plans[cost] = load(os.path.join(folder, cost), "plan.json")["widths"]
    assert plans["parameters"] == plans["bytes"] != plans["global"], plans
    for name in ("uniform", "evolutionary"):  # which ask for no cost
        out = os.path.join(folder, name + "_cost")
        run(width(w, allocation={"type": name, "cost": "flops"}), out)
        assert load(out, "plan.json")["widths"] == plans[name], name
    for compensation in ("none", "bias", "ls", "ls_bias", "auto"):
        result, _ = run(width(w, compensation={"type": compensation}), os.path.join(folder, "c_" + compensation))
        assert result["target"]["achieved"] >= 0.2, compensation


def every_member_of_an_allocation_counts(folder):
    """Alone it changes the plan of the allocation that asks for it, and its default, given, changes nothing."""
    w = world(folder)
    plans = {}

    def plan(**allocation):
        name = "-".join("%s-%s" % item for item in allocation.items())
        if name not in plans:
            run(width(w, allocation=allocation), os.path.join(folder, name))
            plans[name] = load(os.path.join(folder, name), "plan.json")["widths"]
        return plans[name]

    for kind, member, value, default in (("evolutionary", "generations", 1, 16), ("evolutionary", "offspring", 1, 8), ("knapsack", "levels", 3, 8),
                                         ("cfsp", "sharpness", 50, 1.0), ("adapt", "amplitude", 0.5, 0.02), ("adapt", "increment", 0.3, 0.02)):
        usual = plan(type=kind)
        assert plan(type=kind, **{member: value}) != usual, (kind, member)
        assert plan(type=kind, **{member: default}) == usual, (kind, member)


def the_same_job_leaves_the_same_plan(folder):
    w = world(folder)
    for method, more in (("flap", {}), ("two_ssp", {}), ("wanda_sp", {"allocation": {"type": "evolutionary"}}),
                         ("adapt_pruner", {"parameters": {"merges": True}})):
        plans = []
        for attempt in ("a", "b"):
            out = os.path.join(folder, method + attempt)
            run(width(w, method, **more), out)
            files = sums(out)
            plans.append({name: files[name] for name in files if name in ("plan.json", "plan.weights", "model.safetensors")})
        assert plans[0] == plans[1] and "model.safetensors" in plans[0], method


def killed_and_resumed_gives_the_same_plan(folder):
    """SIGKILL at random moments of searches that have resume points of their own."""
    w = world(folder, layers=6)
    source = random.Random(5)
    for method, more in (("wanda_sp", {"allocation": {"type": "evolutionary"}, "compensation": {"type": "ls"}}),
                         ("two_ssp", {"parameters": {"attention_sublayers": 3}, "sparsity": 0.3})):
        spec = width(w, method, **more)
        whole = os.path.join(folder, method)
        started = time.monotonic()
        run(spec, whole)
        seconds = time.monotonic() - started
        out = os.path.join(folder, method + "_cut")
        run_disturbed(spec, out, source, seconds)
        assert sums(out) == sums(whole), method


def skipped_and_given_layers_are_as_said(folder):
    w = world(folder)
    out = os.path.join(folder, "out")
    run(width(w, parameters={"structures": "channels"}, sparsity=0.15, allocation={"type": "uniform", "align": 0},
              layers={"skip": ["0", "last"], "per_layer": {"1": {"sparsity": 0.4}}}, output={"layout": "heterogeneous"}), out)
    layers = load(out, "config.json")["pruning"]["layers"]
    shapes = read_shapes(out)
    kept = [shapes["model.layers.%d.mlp.down_proj.weight" % i][1] for i in range(4)]
    # A layer has 3 * 32 * 48 FFN weights and 2 * 32 * 32 + 2 * 32 * 16 of attention: 40 % of it are 32 channels of 48.
    assert kept[0] == kept[3] == 48 and kept[1] == 16 and kept[2] < 48, kept
    assert len(layers) == 4


def minitron_narrows_every_axis(folder):
    w = world(folder)
    out = os.path.join(folder, "out")
    result, _ = run(width(w, "minitron", {"hidden": True, "blocks": 1}, sparsity=0.5), out)
    config = load(out, "config.json")
    assert config["num_hidden_layers"] == 3 and config["hidden_size"] < 32 and config["intermediate_size"] < 48, config
    assert result["target"]["achieved"] >= 0.5


def least_squares_helps_where_the_model_has_learned_something(folder):
    after = {}
    for compensation in ("none", "ls"):
        spec = stories(folder, "modegpt", compensation={"type": compensation})
        spec["calibration"].update({"num_samples": 32, "window_tokens": 128})
        result, _ = run(spec, os.path.join(folder, compensation))
        after[compensation] = result["after"]["perplexity"]["gptq"]
    assert after["ls"] < after["none"], after


def what_cannot_be_is_said_with_its_place(folder):
    w = world(folder)
    for spec, place in (
            (width(w, sparsity=0.99), "/target/sparsity"),
            (width(w, "reap"), "/method"),
            (pruning(w, "wanda_sp", None, {"num_layers": 3}), "/target/num_layers"),
            (width(w, "minitron", {"blocks": 4}), "/method/minitron/blocks"),
            (width(w, "minitron", {"hidden": True}, allocation={"type": "knapsack"}), "/allocation/type")):
        _, errors = run(spec, os.path.join(folder, "out"), expect=None)
        assert place in errors, (place, errors)
        assert not os.path.exists(os.path.join(folder, "out", "config.json"))


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
