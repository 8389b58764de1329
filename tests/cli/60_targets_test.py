#!/usr/bin/env python3
"""Several targets in one job, the quality gate, and what is said of single layers."""
import json
import os
import sys
import random
import time

from command import SHARED, Skip, digest, load, main, pruning, run, run_disturbed, sums, world
from tiny_model import write_text

HELPERS = ("main", "stories", "gate_text", "write_text", "gated", "faults_of")


def stories(folder):
    model = os.path.join(SHARED, "models", "stories260K")
    text = os.path.join(SHARED, "text", "tinystories_sample.txt")
    if not os.path.exists(text):
        raise Skip("../shared/data is not there")
    return {"folder": folder, "model": model, "text": text}


def gate_text(folder, words=1500):
    return write_text(os.path.join(folder, "gate.txt"), words=words, seed=99)


def gated(text, **more):
    return {"text": {"source": text}, "window_tokens": 64, "num_windows": 8, "max_ratio": 1.2, **more}


def faults_of(spec, out):
    _, errors = run(spec, out, expect=2)
    return {line.split(": ")[1] for line in errors.splitlines() if line.startswith("pruned run: /")}, errors


def a_sweep_is_as_many_jobs_in_one(folder):
    w = world(folder, layers=5)
    search = {"protect_ratio": 0}
    out = os.path.join(folder, "sweep")
    result, _ = run(pruning(w, parameters=search, target={"sparsity": 0.3}, sweep={"sparsity": [0.5, 0.1, 0.3]}), out)
    sums(out)
    curve = load(out, "report.json")["curve"]
    assert result["curve"] == curve
    assert [(p["name"], p["path"]) for p in curve] == [("sparsity-0.1", "sparsity-0.1"), ("sparsity-0.3", ""),
                                                       ("sparsity-0.5", "sparsity-0.5")]
    assert sum(p["knee"] for p in curve) <= 1
    for point, share in zip(curve, (0.1, 0.3, 0.5)):
        alone = os.path.join(folder, "alone%g" % share)
        single, _ = run(pruning(w, parameters=search, target={"sparsity": share}), alone)
        at = os.path.join(out, point["path"])
        assert digest(os.path.join(at, "model.safetensors")) == digest(os.path.join(alone, "model.safetensors"))
        assert digest(os.path.join(at, "config.json")) == digest(os.path.join(alone, "config.json"))
        assert point["perplexity"] == single["after"]["perplexity"]
        assert point["achieved"]["parameter_count"] == single["size"]["after"]["parameters"]
        assert point["achieved"]["sparsity_ratio"] == single["target"]["sparsity"] >= share
        plan, alone_plan = load(at, "plan.json"), load(alone, "plan.json")
        assert plan["points"][:len(alone_plan["points"])] == alone_plan["points"]
    # The request of a point makes the point.
    again = os.path.join(folder, "again")
    with open(os.path.join(out, "sparsity-0.1", "request.json")) as file:
        run(file.read(), again)
    assert digest(os.path.join(again, "model.safetensors")) == digest(os.path.join(out, "sparsity-0.1", "model.safetensors"))
    # Each folder is a model.
    run({"type": "evaluation", "model": os.path.join(out, "sparsity-0.5"),
         "evaluation": {"text": {"source": w["text"], "half": "second"}, "window_tokens": 64, "speed": False}},
        os.path.join(folder, "measured"))


def a_sweep_alone_puts_its_first_target_on_top(folder):
    w = world(folder)
    for method in ("random", "shortgpt", "last_blocks"):
        out = os.path.join(folder, method)
        spec = pruning(w, method, sweep={"num_layers": [3, 2]})
        del spec["target"]
        result, _ = run(spec, out)
        assert result["target"]["achieved"] <= 3 and os.path.exists(os.path.join(out, "num_layers-2", "config.json"))
        assert [p["path"] for p in result["curve"]] == ["", "num_layers-2"]
        sums(out)


def the_gate_finds_what_an_exhaustive_scan_finds(folder):
    """stories260K: ten sublayers; every number of them removed is measured on the gate's own windows."""
    w = stories(folder)
    with open(w["text"]) as file:
        whole = file.read()
    third = len(whole) // 3
    texts = []
    for i in range(3):
        path = os.path.join(folder, "part%d.txt" % i)
        with open(path, "w") as file:
            file.write(whole[i * third:(i + 1) * third][:12000])
        texts.append(path)
    calibration = {"source": texts[0], "num_samples": 4, "window_tokens": 128}
    scan = pruning(w, parameters={"protect_ratio": 0}, sweep={"sublayers_removed": list(range(1, 10))}, calibration=calibration)
    del scan["target"]
    scan["evaluation"] = {"text": {"source": texts[1]}, "window_tokens": 128, "protocols": ["gptq"], "speed": False}
    scanned, _ = run(scan, os.path.join(folder, "scan"))
    before = scanned["before"]["perplexity"]["gptq"]
    ratios = {p["achieved"]["sublayers_removed"]: p["perplexity"]["gptq"] / before for p in scanned["curve"]}
    assert len(ratios) == 9
    for limit in (1.2, 2, 20):
        passing = [n for n, ratio in ratios.items() if ratio <= limit]
        spec = pruning(w, parameters={"protect_ratio": 0}, target={"sublayers_removed": 9}, calibration=calibration)
        spec["evaluation"] = {"text": {"source": texts[2]}, "window_tokens": 128, "speed": False}
        spec["quality_gate"] = {"text": {"source": texts[1]}, "window_tokens": 128, "num_windows": 65536, "max_ratio": limit,
                                "on_fail": "back_off"}
        out = os.path.join(folder, "gate%g" % limit)
        if not passing:
            _, errors = run(spec, out, expect=1)
            assert "(quality_gate_failed)" in errors and "no smaller step passes" in errors, errors
            continue
        result, _ = run(spec, out)
        gate = result["quality_gate"]
        assert abs(result["target"]["sublayers_removed"] - max(passing)) <= 1, (ratios, gate)
        assert ratios[result["target"]["sublayers_removed"]] <= limit
        assert gate["outcome"] == "backed_off" and 2 <= len(gate["tries"]) <= 5, gate
        for item in gate["tries"]: # the gate reads what perplexity of protocol gptq reads
            assert abs(item["ratio"] / ratios[item["sublayers_removed"]] - 1) < 1e-9, (item, ratios)
            assert item["passed"] == (item["ratio"] <= limit)
        report = load(out, "report.json")
        assert report["quality_gate"] == gate and report["target"]["requested"] == 9
        sums(out)


def the_gate_finds_the_width_an_exhaustive_scan_finds(folder):
    """Channels and heads of stories260K, repaired by least squares; every fiftieth of the weights is measured on the gate's windows."""
    w = stories(folder)
    with open(w["text"]) as file:
        whole = file.read()
    third = len(whole) // 3
    texts = []
    for i in range(3):
        path = os.path.join(folder, "part%d.txt" % i)
        with open(path, "w") as file:
            file.write(whole[i * third:(i + 1) * third][:12000])
        texts.append(path)
    more = {"calibration": {"source": texts[0], "num_samples": 16, "window_tokens": 128}, "compensation": {"type": "ls"}}
    scan = pruning(w, "wanda_sp", sweep={"sparsity": [i / 50 for i in range(1, 17)]}, **more)
    del scan["target"]
    scan["evaluation"] = {"text": {"source": texts[1]}, "window_tokens": 128, "protocols": ["gptq"], "speed": False}
    scanned, _ = run(scan, os.path.join(folder, "scan"))
    before = scanned["before"]["perplexity"]["gptq"]
    ratios = [(p["achieved"]["sparsity_ratio"], p["perplexity"]["gptq"] / before) for p in scanned["curve"]]
    assert len(ratios) == 16 and ratios[0][1] < 1.2 < ratios[-1][1], ratios
    largest = max(share for share, ratio in ratios if ratio <= 1.2)
    failing = [share for share, ratio in ratios if share > largest]
    spec = pruning(w, "wanda_sp", target={"sparsity": 0.32}, **more)
    spec["evaluation"] = {"text": {"source": texts[2]}, "window_tokens": 128, "speed": False}
    spec["quality_gate"] = {"text": {"source": texts[1]}, "window_tokens": 128, "num_windows": 65536, "max_ratio": 1.2,
                            "on_fail": "back_off"}
    out = os.path.join(folder, "gate")
    result, _ = run(spec, out)
    gate = result["quality_gate"]
    achieved = result["target"]["sparsity"]
    assert gate["outcome"] == "backed_off" and result["target"]["requested"] == 0.32
    assert largest - 0.02 <= achieved < min(failing) + 0.02, (achieved, largest, ratios)
    chosen = [item for item in gate["tries"] if item["sparsity_ratio"] == achieved][-1]
    assert chosen["passed"] and chosen["ratio"] <= 1.2 and len(gate["tries"]) <= 14, gate["tries"]
    # What the gate measured is what is exported.
    measured, _ = run({"type": "evaluation", "model": out, "evaluation": {**scan["evaluation"]}}, os.path.join(folder, "measured"))
    assert abs(measured["model"]["perplexity"]["gptq"] / chosen["perplexity"] - 1) < 1e-6, (measured, chosen)
    sums(out)
    # The divergence is judged as well, and gives the same bytes when the job is killed in between.
    spec["quality_gate"] = {"text": {"source": texts[1]}, "window_tokens": 128, "num_windows": 8, "metric": "kl", "max": 0.15, "on_fail": "back_off"}
    whole_out = os.path.join(folder, "kl")
    started = time.monotonic()
    result, _ = run(spec, whole_out)
    seconds = time.monotonic() - started
    assert result["quality_gate"]["outcome"] == "backed_off", result["quality_gate"]
    kept = [item for item in result["quality_gate"]["tries"] if item["passed"]]
    assert max(item["kl"] for item in kept) <= 0.15
    cut = os.path.join(folder, "cut")
    run_disturbed(spec, cut, random.Random(5), seconds)
    assert sums(cut) == sums(whole_out)


def a_gate_that_fails_ends_the_job_and_says_what_was_measured(folder):
    w = world(folder, layers=6)
    text = gate_text(folder)
    spec = pruning(w, parameters={"protect_ratio": 0}, target={"sublayers_removed": 8})
    spec["quality_gate"] = gated(text, metric="kl", max=1e-9)
    del spec["quality_gate"]["max_ratio"]
    _, errors = run(spec, os.path.join(folder, "kl"), expect=1)
    assert "/quality_gate/max: " in errors and "nats per token" in errors and "(quality_gate_failed)" in errors, errors
    spec["quality_gate"]["max"] = 1e5
    result, _ = run(spec, os.path.join(folder, "passes"))
    assert result["quality_gate"]["outcome"] == "passed" and result["quality_gate"]["tries"][0]["kl"] > 1e-9
    spec["quality_gate"] = gated(text, max_ratio=1.0000001)
    out = os.path.join(folder, "ratio")
    _, errors = run(spec, out, expect=1)
    assert "times the original's" in errors and "(quality_gate_failed)" in errors, errors
    assert not os.path.exists(os.path.join(out, "config.json"))


def a_gate_chooses_among_the_targets_of_a_sweep(folder):
    w = stories(folder)
    with open(w["text"]) as file:
        whole = file.read()
    with open(os.path.join(folder, "gate.txt"), "w") as file:
        file.write(whole[len(whole) * 2 // 3:][:8000])
    with open(os.path.join(folder, "rest.txt"), "w") as file:
        file.write(whole[:len(whole) * 2 // 3][:20000])
    w["text"] = os.path.join(folder, "rest.txt")
    spec = pruning(w, parameters={"protect_ratio": 0}, sweep={"sublayers_removed": [6, 1, 3]})
    del spec["target"]
    spec["quality_gate"] = gated(os.path.join(folder, "gate.txt"), max_ratio=1000)
    result, _ = run(spec, os.path.join(folder, "all"))
    assert result["target"]["achieved"] == 6 and result["quality_gate"]["outcome"] == "passed"
    ratios = {}
    for n in (1, 3):
        one = pruning(w, parameters={"protect_ratio": 0}, target={"sublayers_removed": n})
        one["quality_gate"] = gated(os.path.join(folder, "gate.txt"), max_ratio=1e6)
        ratios[n] = run(one, os.path.join(folder, "n%d" % n))[0]["quality_gate"]["tries"][0]["ratio"]
    assert 1 < ratios[1] < ratios[3]
    spec["quality_gate"]["max_ratio"] = (ratios[1] + ratios[3]) / 2
    out = os.path.join(folder, "some")
    result, _ = run(spec, out)
    assert result["target"]["achieved"] == 1 and result["quality_gate"]["outcome"] == "backed_off"
    assert sorted(p["path"] for p in result["curve"]) == ["", "sublayers_removed-3", "sublayers_removed-6"]
    sums(out)


def a_stored_plan_with_widths_is_exported_anew(folder):
    w = stories(folder)
    first = os.path.join(folder, "first")
    spec = pruning(w, "wanda_sp", {"structures": "channels"}, target={"sparsity": 0.2}, compensation={"type": "ls_bias"})
    spec["calibration"].update(num_samples=16, window_tokens=128)
    result, _ = run(spec, first)
    assert "plan.weights" in sums(first)
    for layout, formats in (("auto", ["hf"]), ("padded", ["hf", "gguf:f32"])):
        out = os.path.join(folder, layout)
        replay = pruning(w, "replay", {"source": os.path.join(first, "plan.json")}, target={"sparsity": 0.15},
                         output={"layout": layout, "formats": formats})
        del replay["calibration"]
        again, _ = run(replay, out)
        assert again["after"]["perplexity"] == result["after"]["perplexity"] and again["output"]["layout"] != "auto"
        for name in ("model.safetensors", "plan.weights") if layout == "auto" else ("plan.weights",):
            assert digest(os.path.join(out, name)) == digest(os.path.join(first, name)), name
        assert load(out, "plan.json") == load(first, "plan.json")
        sums(out)
    found, errors = faults_of(pruning(w, "replay", {"source": os.path.join(first, "plan.json")}, target={"sparsity": 0.5}), os.path.join(folder, "far"))
    assert found == {"/target/sparsity"} and "as it is" in errors, errors
    with open(os.path.join(first, "plan.weights"), "r+b") as file:
        file.truncate(100)
    _, errors = run(pruning(w, "replay", {"source": os.path.join(first, "plan.json")}, target={"sparsity": 0.1}), os.path.join(folder, "cut"), expect=2)
    assert "plan.weights" in errors or "plan.json" in errors, errors


def depth_and_width_in_one_job(folder):
    """Half of the target goes as sublayers, by the very order that the depth method finds alone; the rest is narrowed."""
    w = stories(folder)
    calibration = {"source": w["text"], "half": "first", "num_samples": 16, "window_tokens": 128}
    depth = {"type": "finercut", "finercut": {"protect_ratio": 0}}
    method = {"type": "combined", "combined": {"depth": depth, "width": {"type": "wanda_sp"}, "depth_ratio": 0.5}}
    spec = pruning(w, target={"sparsity": 0.4}, sweep={"sparsity": [0.2]}, calibration=calibration, compensation={"type": "ls"})
    spec["method"] = method
    out = os.path.join(folder, "out")
    started = time.monotonic()
    result, _ = run(spec, out)
    seconds = time.monotonic() - started
    expected = sums(out)
    alone = pruning(w, "finercut", {"protect_ratio": 0}, target={"sparsity": 0.2}, calibration=calibration)
    searched, _ = run(alone, os.path.join(folder, "alone"))
    assert result["removed"] == searched["removed"] and result["removed"]
    assert searched["target"]["sparsity"] < 0.4 <= result["target"]["sparsity"] < 0.45, result["target"]
    assert result["method"] == "combined" and len(result["curve"]) == 2
    assert load(out, "report.json")["method"]["parameters"]["depth"]["finercut"]["protect_ratio"] == 0
    assert result["check"]["logit_difference_max"] < 1e-3
    for name in ("shortgpt", "random", "llm_drop"):
        spec["method"] = {"type": "combined", "combined": {"depth": {"type": name}, "width": {"type": "magnitude_sp"}, "depth_ratio": 0.3}}
        other, _ = run(spec, os.path.join(folder, name))
        assert other["target"]["sparsity"] >= 0.4 and other["removed"], name
    found, errors = faults_of(pruning(w, "combined", {"depth": {"type": "wanda_sp"}, "width": {"type": "finercut"}}), os.path.join(folder, "wrong"))
    assert found == {"/method/combined/depth/type", "/method/combined/width/type"}, errors
    spec["method"] = method
    cut = os.path.join(folder, "cut")
    run_disturbed(spec, cut, random.Random(9), seconds)
    assert sums(cut) == expected


def skipped_layers_stay(folder):
    w = world(folder, layers=6)
    for method in ("finercut", "random", "shortgpt", "last_blocks"):
        out = os.path.join(folder, method)
        run(pruning(w, method, target={"num_layers": 3}, layers={"skip": ["0-1", "last"]}), out)
        points = load(out, "plan.json")["points"]
        assert points and {p["layer"] for p in points} <= {2, 3, 4}, points
    out = os.path.join(folder, "out_of_reach")
    _, errors = run(pruning(w, target={"num_layers": 2}, layers={"skip": ["first", "2-5"]}), out, expect=2)
    assert "/target/num_layers" in errors and "(unreachable)" in errors, errors


def faults_come_at_once_and_name_their_place(folder):
    w = world(folder, layers=4)
    spec = pruning(w, target={"sparsity": 0.3}, sweep={"sparsity": [0.1, 0.2, 0.1]},
                   layers={"skip": ["4", "2-1", "x"], "per_layer": {"9": {"sparsity": 0.1}, "b": {"sparsity": 0.2}}},
                   allocation={"type": "global"}, compensation={"type": "ls"},
                   quality_gate={"text": {"source": w["text"], "half": "second"}, "metric": "kl", "max_ratio": 2, "window_tokens": 4096})
    found, errors = faults_of(spec, os.path.join(folder, "out"))
    expected = {"/sweep/sparsity/2", "/layers/skip/0", "/layers/skip/1", "/layers/skip/2", "/layers/per_layer/9",
                "/layers/per_layer/b", "/layers/per_layer", "/allocation", "/compensation", "/quality_gate/max",
                "/quality_gate/max_ratio", "/quality_gate/window_tokens", "/quality_gate/text/source"}
    assert found == expected, (expected - found, found - expected, errors)
    nothing = pruning(w)
    del nothing["target"]
    found, errors = faults_of(nothing, os.path.join(folder, "out"))
    assert found == {"/target"} and "target, sweep" in errors, errors
    found, _ = faults_of(pruning(w, sweep={"sparsity": [], "params": [1]}), os.path.join(folder, "out"))
    assert found == {"/sweep", "/sweep/sparsity"}, found
    found, _ = faults_of(pruning(w, sweep={"num_layers": [3, 2], "require_packable": "no"}), os.path.join(folder, "out"))
    assert found == {"/sweep/require_packable"}, found
    # A target of the sweep that cannot be reached is named by its own place.
    found, _ = faults_of(pruning(w, sweep={"params": [30000, 100]}), os.path.join(folder, "out"))
    assert found == {"/sweep/params/1"}, found


def the_gates_text_is_its_own(folder):
    w = world(folder, layers=4)
    with open(w["text"]) as file:
        text = file.read()
    for name, part in (("first", text[:len(text) // 3]), ("last", text[-len(text) // 3:])):
        copy = os.path.join(folder, name + ".txt")
        with open(copy, "w") as file:
            file.write(part)
        spec = pruning(w, quality_gate=gated(copy))
        _, errors = run(spec, os.path.join(folder, name), expect=1)
        assert "/quality_gate/text/source" in errors and "(text_overlap)" in errors, errors


def killed_and_resumed_with_a_sweep_and_a_gate(folder):
    """SIGKILL at random moments of a job with several targets and a gate that backs off."""
    w = stories(folder)
    with open(w["text"]) as file:
        text = file.read()
    w["text"] = os.path.join(folder, "text.txt")
    for path, part in ((w["text"], text[:len(text) // 2]), (os.path.join(folder, "gate.txt"), text[len(text) // 2:])):
        with open(path, "w") as file:
            file.write(part[:12000])
    spec = pruning(w, parameters={"protect_ratio": 0}, target={"sparsity": 0.6}, sweep={"sparsity": [0.1, 0.3]})
    spec["calibration"]["num_samples"] = 8
    spec["quality_gate"] = gated(os.path.join(folder, "gate.txt"), num_windows=40, max_ratio=3, on_fail="back_off")
    whole = os.path.join(folder, "whole")
    started = time.monotonic()
    result, _ = run(spec, whole)
    seconds = time.monotonic() - started
    assert result["quality_gate"]["outcome"] == "backed_off", result["quality_gate"]
    expected = sums(whole)
    source = random.Random(11)
    for index in range(4):
        out = os.path.join(folder, "cut%d" % index)
        run_disturbed(spec, out, source, seconds)
        assert sums(out) == expected, index
        gate = load(out, "report.json")["quality_gate"]
        assert gate == load(whole, "report.json")["quality_gate"]


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
