#!/usr/bin/env python3
"""`pruned run --cache DIR`: scores are kept; another target on the same scores needs no scoring and no search, and gives the same bytes."""
import os
import shutil
import sys
import time

from command import SHARED, Skip, digest, load, main, pruning, run, sums, world

HELPERS = ("main", "entries", "state_of", "stories")


def stories(folder):
    model = os.path.join(SHARED, "models", "stories260K")
    text = os.path.join(SHARED, "text", "tinystories_train_head.txt")
    if not os.path.exists(text):
        raise Skip("../shared/data is not there")
    return {"folder": folder, "model": model, "text": text}


def entries(cache):
    return sorted(os.listdir(cache))


def state_of(out):
    return load(out, "report.json")["resources"]["scores"]["cache"]


def another_target_takes_under_a_twentieth_of_the_time(folder):
    """The first job is made longer until it takes long enough to say something; nothing is evaluated."""
    w = stories(folder)
    for samples in (64, 160, 400, 640):
        cache = os.path.join(folder, "cache%d" % samples)
        spec = pruning(w, parameters={"protect_ratio": 0}, target={"sublayers_removed": 8})
        spec["calibration"] = {"source": w["text"], "num_samples": samples, "window_tokens": 256}
        spec["evaluation"] = {"speed": False}
        spec["limits"] = {"max_memory_bytes": 400 << 20}
        started = time.monotonic()
        run(spec, os.path.join(folder, "first%d" % samples), "--cache", cache)
        first = time.monotonic() - started
        if first > 10:
            break
    seconds = []
    for removed in (4, 6, 3, 5, 2):
        out = os.path.join(folder, "second%d" % removed)
        started = time.monotonic()
        run({**spec, "target": {"sublayers_removed": removed}}, out, "--cache", cache)
        seconds.append(time.monotonic() - started)
        assert state_of(out) == "hit"
    print("# first job %.2f s, another target %.3f s (%.1f %%)" % (first, min(seconds), 100 * min(seconds) / first))
    assert min(seconds) < 0.05 * first, (first, seconds)


def a_hit_gives_the_bytes_of_a_search(folder):
    w = world(folder, layers=5)
    cache = os.path.join(folder, "cache")
    search = {"protect_ratio": 0}
    spec = pruning(w, parameters=search, target={"sublayers_removed": 4})
    run(spec, os.path.join(folder, "first"), "--cache", cache)
    assert state_of(os.path.join(folder, "first")) == "miss" and len(entries(cache)) == 1
    for removed, state in ((2, "hit"), (4, "hit"), (6, "extended"), (5, "hit")):
        cached, fresh = os.path.join(folder, "c%d" % removed), os.path.join(folder, "f%d" % removed)
        target = {"sublayers_removed": removed}
        run({**spec, "target": target}, cached, "--cache", cache)
        run({**spec, "target": target}, fresh)
        assert state_of(cached) == state and state_of(fresh) == "off", (removed, state_of(cached))
        assert sums(cached) == sums(fresh), removed
    # The whole curve, asked for or found, is the same.
    full = pruning(w, parameters={"protect_ratio": 0, "curve": "full"}, target={"sublayers_removed": 4})
    run(full, os.path.join(folder, "full"), "--cache", cache)
    run(full, os.path.join(folder, "full_fresh"))
    assert state_of(os.path.join(folder, "full")) == "extended" and len(entries(cache)) == 1
    assert sums(os.path.join(folder, "full")) == sums(os.path.join(folder, "full_fresh"))
    run({**spec, "target": {"sublayers_removed": 8}}, os.path.join(folder, "c8"), "--cache", cache)
    assert state_of(os.path.join(folder, "c8")) == "hit"


def scores_of_one_pass_are_kept_too(folder):
    w = world(folder, layers=5)
    cache = os.path.join(folder, "cache")
    for method in ("shortgpt", "llm_drop", "angular_span"):
        run(pruning(w, method), os.path.join(folder, method), "--cache", cache)
        out, fresh = os.path.join(folder, method + "2"), os.path.join(folder, method + "3")
        run(pruning(w, method, target={"sparsity": 0.3}), out, "--cache", cache)
        run(pruning(w, method, target={"sparsity": 0.3}), fresh)
        assert state_of(out) == "hit" and sums(out) == sums(fresh), method
        assert load(out, "report.json")["resources"]["search_token_sublayers"] == 0
    assert len(entries(cache)) == 3


def statistics_of_width_methods_are_kept(folder):
    """One pass serves every method, allocation and compensation that wants the same of it."""
    w = world(folder, layers=4)
    cache = os.path.join(folder, "cache")
    free = {"type": "auto", "align": 1}
    run(pruning(w, "wanda_sp", target={"sparsity": 0.2}, allocation=free, compensation={"type": "none"}), os.path.join(folder, "first"),
        "--cache", cache)
    assert state_of(os.path.join(folder, "first")) == "miss" and len(entries(cache)) == 1
    for index, (target, kind, more) in enumerate([(0.3, "none", {}), (0.2, "ls_bias", {}), (0.25, "none", {"sweep": {"sparsity": [0.1]}})]):
        spec = pruning(w, "wanda_sp", target={"sparsity": target}, allocation=free, compensation={"type": kind}, **more)
        cached, fresh = os.path.join(folder, "c%d" % index), os.path.join(folder, "f%d" % index)
        run(spec, cached, "--cache", cache)
        run(spec, fresh)
        assert state_of(cached) == "hit" and sums(cached) == sums(fresh), index
    with open(os.path.join(cache, entries(cache)[0]), "r+b") as file:
        file.seek(200)
        file.write(b"damage")
    run(spec, os.path.join(folder, "damaged"), "--cache", cache)
    assert state_of(os.path.join(folder, "damaged")) == "miss" and sums(os.path.join(folder, "damaged")) == sums(cached)


def what_changes_scores_is_another_entry(folder):
    w = world(folder, layers=4)
    cache = os.path.join(folder, "cache")
    spec = pruning(w)
    variants = [
        spec,
        pruning(w, parameters={"metric": "kl"}),
        pruning(w, layers={"skip": ["1"]}),
        {**spec, "calibration": {**spec["calibration"], "num_samples": 2}},
        {**spec, "compute": {"backend": "reference"}},
        pruning({**w, "model": world(os.path.join(folder, "other"), layers=5)["model"]}),
    ]
    for index, variant in enumerate(variants):
        out = os.path.join(folder, "v%d" % index)
        run(variant, out, "--cache", cache)
        assert state_of(out) == "miss" and len(entries(cache)) == index + 1, (index, entries(cache))
    for ratio, entry in ((0.01, 1), (0.5, 2)):
        leverage = os.path.join(folder, "leverage%g" % ratio)
        run(pruning(w, "modegpt", {"leverage_ratio": ratio}, {"sparsity": 0.2}, compensation={"type": "none"}), leverage,
            "--cache", cache)
        assert state_of(leverage) == "miss" and len(entries(cache)) == len(variants) + entry, (ratio, entries(cache))
    # The seed counts where windows or the method are drawn by it, and nowhere else.
    run({**spec, "seed": 7, "name": "again"}, os.path.join(folder, "seed"), "--cache", cache)
    assert state_of(os.path.join(folder, "seed")) == "hit"
    run(pruning(w, "random"), os.path.join(folder, "random"), "--cache", cache)
    assert state_of(os.path.join(folder, "random")) == "off"


def damaged_entries_are_written_anew(folder):
    w = world(folder, layers=4)
    cache = os.path.join(folder, "cache")
    spec = pruning(w)
    run(spec, os.path.join(folder, "first"), "--cache", cache)
    name = os.path.join(cache, entries(cache)[0])
    with open(name, "rb") as file:
        whole = file.read()
    assert b'"sublayer"' in whole
    damages = [b"", whole[:len(whole) // 2], whole.replace(b'"sublayer":', b'"sublayer": ', 1), whole[:-1] + b"!", b"\0" * len(whole),
               whole + b"\n"]
    for index, damaged in enumerate(damages):
        with open(name, "wb") as file:
            file.write(damaged)
        out = os.path.join(folder, "d%d" % index)
        run(spec, out, "--cache", cache)
        assert state_of(out) == "miss", index
        assert sums(out) == sums(os.path.join(folder, "first"))
        with open(name, "rb") as file:
            assert file.read() == whole, index
    # Under another's name it is another's.
    other = pruning(w, parameters={"metric": "kl"})
    run(other, os.path.join(folder, "kl"), "--cache", cache)
    second = [entry for entry in entries(cache) if os.path.join(cache, entry) != name][0]
    shutil.copy(name, os.path.join(cache, second))
    run(other, os.path.join(folder, "kl2"), "--cache", cache)
    assert state_of(os.path.join(folder, "kl2")) == "miss"
    assert sums(os.path.join(folder, "kl")) == sums(os.path.join(folder, "kl2"))


def the_cache_keeps_what_was_used_last(folder):
    w = world(folder, layers=4)
    cache = os.path.join(folder, "cache")
    specs = [pruning(w, parameters={"metric": metric}) for metric in ("js", "kl", "norm")]
    names = []
    for index, spec in enumerate(specs):
        run(spec, os.path.join(folder, "a%d" % index), "--cache", cache)
        names.append([entry for entry in entries(cache) if entry not in names][0])
    sizes = {entry: os.path.getsize(os.path.join(cache, entry)) for entry in names}
    run(specs[0], os.path.join(folder, "used"), "--cache", cache, "--cache-bytes", str(sum(sizes.values())))
    assert len(entries(cache)) == 3
    run(specs[2], os.path.join(folder, "less"), "--cache", cache, "--cache-bytes", str(sizes[names[0]] + sizes[names[2]]))
    assert entries(cache) == sorted([names[0], names[2]]), "the one that was used longest ago went"
    run(specs[1], os.path.join(folder, "none"), "--cache", cache, "--cache-bytes", "0")
    assert entries(cache) == []


def a_cache_that_cannot_be_made_is_said_before_the_work(folder):
    out = os.path.join(folder, "out")
    _, errors = run(pruning(world(folder)), out, "--cache", os.path.join(folder, "text.txt", "cache"), expect=1)
    assert "text.txt" in errors and "score" in errors, errors
    assert not os.path.exists(os.path.join(out, "config.json"))


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
