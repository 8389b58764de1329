#!/usr/bin/env python3
"""Every method of the catalogue, from a spec to files: what it promises whatever it does, on the tiny GQA Llama of tests/http."""
import json
import os
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from command import BUILD, load, main, pruning, run, run_disturbed, sums, world  # noqa: E402

HELPERS = ("catalogue", "compact_world")


def catalogue():
    output = subprocess.run([os.path.join(BUILD, "pruned-worker"), "--describe"], stdout=subprocess.PIPE, check=True)
    return [method for method in json.loads(output.stdout)["methods"] if method["job_type"] == "pruning"]


# Those that ask for something that the tiny Llama has not, or for another job's plan.
ELSEWHERE = {"replay", "reap", "combined"}


def every_method_leaves_a_model_that_is_its_plan(folder):
    w = world(folder)
    for method in catalogue():
        name = method["name"]
        if name in ELSEWHERE:
            continue
        out = os.path.join(folder, name)
        target = {"sparsity": 0.25} if name != "slicegpt" else {"sparsity": 0.2}
        run(pruning(w, name, target=target), out)
        report = load(out, "report.json")
        achieved = report["target"]["achieved"]
        assert achieved >= target["sparsity"], (name, achieved)
        assert report["check"]["logit_difference_max"] <= 1e-4, (name, report["check"])
        perplexity = report["evaluation"]["after"]["perplexity"]["gptq"]["perplexity"]
        assert 1 < perplexity < 1e9, (name, perplexity)
        has_patch = "patch" in load(out, "plan.json")
        assert has_patch == os.path.exists(os.path.join(out, "plan.weights")), name
        sums(out)
        shutil.rmtree(out)


def nothing_to_remove_is_a_copy_of_the_input(folder):
    w = world(folder)
    with open(os.path.join(w["model"], "model.safetensors"), "rb") as file:
        weights = file.read()
    for method in catalogue():
        name = method["name"]
        if name in ELSEWHERE:
            continue
        out = os.path.join(folder, name)
        run(pruning(w, name, target={"sparsity": 0}), out)
        with open(os.path.join(out, "model.safetensors"), "rb") as file:
            assert file.read() == weights, name
        assert load(out, "report.json")["target"]["achieved"] == 0, name


def every_compensation_leaves_the_model_of_its_plan(folder):
    w = world(folder)
    for mode in ("none", "bias", "ls", "ls_bias", "auto"):
        out = os.path.join(folder, mode)
        spec = pruning(w, "flap", target={"sparsity": 0.25}, compensation={"type": mode})
        spec["calibration"].update(num_samples=12, window_tokens=64)
        run(spec, out)
        report = load(out, "report.json")
        assert report["check"]["logit_difference_max"] <= 1e-4, (mode, report["check"])
        assert report["target"]["achieved"] >= 0.25, (mode, report["target"])
        if mode == "none":
            assert "compensation" not in report
            continue
        entries = report["compensation"]["sublayers"]
        assert report["compensation"]["repaired_count"] > 0 or mode == "bias", (mode, report["compensation"])
        assert entries and all(e["error_after"] <= e["error_before"] for e in entries if e["mode"] != "none"), mode


def killed_and_resumed_with_compensation(folder):
    """SIGKILL at random moments, two targets: the bytes of a run that nobody disturbed, and those of one thread."""
    w = world(folder, layers=6)
    spec = pruning(w, "cfsp", target={"sparsity": 0.3}, sweep={"sparsity": [0.1]}, compensation={"type": "auto"})
    spec["calibration"].update(num_samples=24, window_tokens=64)
    whole = os.path.join(folder, "whole")
    started = time.monotonic()
    run(spec, whole)
    seconds = time.monotonic() - started
    expected = sums(whole)
    single = os.path.join(folder, "single")
    run(spec, single, "--threads", "1")
    assert sums(single) == expected
    source = random.Random(5)
    for index in range(4):
        out = os.path.join(folder, "cut%d" % index)
        run_disturbed(spec, out, source, seconds)
        assert sums(out) == expected, index


def a_stored_plan_is_exported_anew_without_a_search(folder):
    """plan.json and plan.weights are all that another layout needs: the logits are the plan's."""
    w = world(folder)
    first = os.path.join(folder, "first")
    spec = pruning(w, "cfsp", target={"sparsity": 0.25}, compensation={"type": "ls"})
    spec["calibration"].update(num_samples=12, window_tokens=64)
    run(spec, first)
    assert os.path.exists(os.path.join(first, "plan.weights"))
    before = load(first, "report.json")["evaluation"]["after"]["perplexity"]["gptq"]["perplexity"]
    for layout in ("padded", "identity", "heterogeneous"):
        out = os.path.join(folder, layout)
        again = pruning(w, "replay", {"source": os.path.join(first, "plan.json")}, target={"sparsity": 0.25},
                        output={"layout": layout})
        run(again, out)
        report = load(out, "report.json")
        assert report["output"]["layout"] == layout
        assert report["check"]["logit_difference_max"] <= 1e-4, (layout, report["check"])
        after = report["evaluation"]["after"]["perplexity"]["gptq"]["perplexity"]
        assert abs(after / before - 1) < 1e-5, (layout, before, after)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
