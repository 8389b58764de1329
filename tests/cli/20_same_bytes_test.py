#!/usr/bin/env python3
"""`pruned run` gives the same bytes with one thread and with two, with little memory, and after being killed anywhere."""
import os
import random
import signal
import sys
import time

from command import SHARED, Skip, load, main, pruning, run, run_disturbed, stop, sums, world

HELPERS = ("main", "stories", "search", "points")


def stories(folder):
    model = os.path.join(SHARED, "models", "stories260K")
    text = os.path.join(SHARED, "text", "tinystories_sample.txt")
    if not os.path.exists(text):
        raise Skip("../shared/data is not there")
    return {"folder": folder, "model": model, "text": text}


def threads_change_no_byte(folder):
    w = world(folder)
    first, second = os.path.join(folder, "one"), os.path.join(folder, "two")
    run(pruning(w), first, "--threads", "1")
    run(pruning(w), second, "--threads", "2")
    assert sums(first) == sums(second)
    one, two = load(first, "report.json"), load(second, "report.json")
    for report in (one, two):
        for side in ("before", "after"):
            report["evaluation"][side].pop("peak_rss_bytes", None)
    assert one["evaluation"] == two["evaluation"]


def threads_change_no_byte_on_stories260k(folder):
    w = stories(folder)
    first, second = os.path.join(folder, "one"), os.path.join(folder, "two")
    spec = pruning(w, parameters={"curve": "full"}, target={"sparsity": 0.25})
    run(spec, first, "--threads", "1")
    run(spec, second, "--threads", "2")
    assert sums(first) == sums(second)


def search(w, out, *given, **more):
    """Only the search matters."""
    spec = pruning(w, *given, **more)
    spec["evaluation"] = {"speed": False}
    run(spec, out)


def points(out):
    return [(p["sublayer"], p["score"]) for p in load(out, "plan.json")["points"]]


def a_search_finds_the_same_with_every_switch(folder):
    """What is switched off, or screened in bf16, changes neither the order nor a score; the report says what it saved."""
    w = stories(folder)
    for method, more in (("finercut", {"metric": "js"}), ("blockpruner", {}), ("sleb", {})):
        target = {"num_layers": 4} if method == "sleb" else {"sublayers_removed": 4}
        seen = []
        for name, switches in (("on", {}), ("off", {"prefix_cache": False, "batch_candidates": False, "early_abort": False}),
                               ("screened", {"screening": "bf16"})):
            out = os.path.join(folder, method + name + more.get("metric", ""))
            search(w, out, method, parameters={**more, **switches}, target=target)
            seen.append(points(out))
            work = load(out, "report.json")["resources"]["search"]
            assert work["candidates"] >= work["completed"] > 0
            assert ("screen" in work) == (name == "screened")
            if name == "off":
                assert work["aborted"] == 0 and work["completed"] == work["candidates"]
            if name == "on":
                assert work["token_sublayers"] < work["naive_token_sublayers"]
        assert seen[0] == seen[1] == seen[2], (method, seen)


def a_search_ranks_by_what_it_saves(folder):
    w = world(folder)
    for rank in ("score_per_parameter", "score_per_millisecond"):
        out = os.path.join(folder, rank)
        search(w, out, parameters={"rank_by": rank, "protect_ratio": 0, "curve": "full"})
        assert sorted(p["sublayer"] for p in load(out, "plan.json")["points"]) == list(range(8))


def a_seed_decides_what_random_removes(folder):
    w = world(folder)
    seen = set()
    for seed in (1, 2, 3, 4):
        out = os.path.join(folder, "s%d" % seed)
        run(pruning(w, "random", seed=seed, target={"sublayers_removed": 3}), out)
        seen.add(tuple(p["sublayer"] for p in load(out, "plan.json")["points"]))
    assert len(seen) > 1


def killed_and_resumed_gives_the_same_bytes(folder):
    """SIGKILL at random moments, --resume until it is done; once more with SIGINT, which stops at a resume point."""
    w = world(folder, layers=8)
    spec = pruning(w, parameters={"curve": "full", "protect_ratio": 0}, target={"sublayers_removed": 5})
    spec["calibration"]["num_samples"] = 12
    whole = os.path.join(folder, "whole")
    started = time.monotonic()
    run(spec, whole)
    seconds = time.monotonic() - started
    expected = sums(whole)
    source = random.Random(3)
    for index, number in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)):
        out = os.path.join(folder, "cut%d" % index)
        run_disturbed(spec, out, source, seconds, number)
        assert sums(out) == expected, index


def a_work_folder_of_another_request_is_refused(folder):
    w = world(folder, layers=8)
    spec = pruning(w, parameters={"curve": "full", "protect_ratio": 0})
    spec["calibration"]["num_samples"] = 12
    out = os.path.join(folder, "out")
    process = run(spec, out, wait=False)
    while not os.path.exists(os.path.join(out, ".work", "checkpoint")):
        assert process.poll() is None, "the job ended before its first checkpoint was seen"
        time.sleep(0.001)
    stop(process)
    process.communicate()
    _, errors = run({**spec, "seed": 7}, out, "--resume", expect=1)
    assert "another request" in errors, errors
    run(spec, out, "--resume")


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
