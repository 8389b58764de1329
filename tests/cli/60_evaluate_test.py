#!/usr/bin/env python3
"""What an evaluation measures besides perplexity: tasks of every kind and shape, with their options and faults."""
import json
import os
import re
import signal
import sys
import time
from html.parser import HTMLParser

from command import load, main, pruning, run, stop, sums, world, write_text

HELPERS = ("main", "evaluation", "place", "saved_at", "write", "write_text")


def write(folder, name, records):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
    return path


def evaluation(w, **members):
    return {"type": "evaluation", "model": w["model"], "evaluation": {"speed": False, **members}}


def every_shape_of_record_is_measured(folder):
    w = world(folder)
    words = write(folder, "words.jsonl", [{"context": "the cat and the", "continuation": word} for word in ("cat", "ran", "on", "and", "the")])
    who = write(folder, "who.jsonl", [{"context_options": ["the cat", "and the cat"], "continuation": "ran", "gold": i % 2} for i in range(4)])
    tasks = [{"name": "say", "source": w["generate"], "kind": "generate"}, {"name": "pick", "source": w["choice"], "kind": "choice", "limit": 4},
             {"name": "who", "source": who, "kind": "choice"}, {"name": "words", "source": words, "kind": "language_modeling"},
             {"name": "answer", "source": w["choice"], "kind": "choice", "delimiter": "\nAnswer: "}]
    run(evaluation(w, tasks=tasks), os.path.join(folder, "out"))
    found = {task["name"]: task for task in load(os.path.join(folder, "out"), "report.json")["evaluation"]["model"]["tasks"]}
    assert [found[task["name"]]["records"] for task in tasks] == [6, 4, 4, 5, 6]
    assert found["pick"]["records_total"] == 6 and found["answer"]["delimiter"] == "\nAnswer: "
    assert found["who"]["accuracy"] == 0.5 and "accuracy_norm" not in found["who"]  # the same verdict for all, half of it right
    assert abs(found["who"]["accuracy_stderr"] - (0.25 / 3) ** 0.5) < 1e-12
    assert 0 <= found["pick"]["accuracy_norm"] <= 1 and found["pick"]["accuracy_norm"] == found["pick"]["accuracy_bytes"]
    assert found["words"]["perplexity"] > 1 and found["words"]["nll_stderr"] > 0


def a_fault_names_file_and_line(folder):
    w = world(folder)
    for kind, records, word in (("choice", [{"query": "a", "choices": ["b", "c"], "gold": 0}, {"query": "a", "choices": ["b", "c"], "gold": 2}], "gold"),
                                ("language_modeling", [{"context": "a", "continuation": "b"}, {"context": "a", "continuation": ""}], "continuation"),
                                ("choice", [{"query": "a", "choices": ["b", "c"], "gold": 0}, {"context_options": ["b", "c"], "continuation": "d", "gold": 0}], "context_options")):
        path = write(folder, "bad.jsonl", records)
        _, errors = run(evaluation(w, tasks=[{"name": "t", "source": path, "kind": kind}]), os.path.join(folder, "out-" + word), expect=1)
        assert "bad.jsonl, line 2" in errors and word in errors, errors
    good = write(folder, "good.jsonl", [{"context": "a", "continuation": "b"}])
    for member, value in (("kind", "multiple"), ("limit", 0), ("delimiter", "x" * 65)):
        task = {"name": "t", "source": good, "kind": "language_modeling", member: value}
        _, errors = run(evaluation(w, tasks=[task]), os.path.join(folder, "out-" + member), expect=2)
        assert "/evaluation/tasks/0/" + member in errors, errors


def divergence_positions_and_continuations_are_reported(folder):
    w = world(folder)
    reports = {}
    for layout in ("identity", "heterogeneous"):
        spec = pruning(w, output={"layout": layout})
        spec["evaluation"].update(divergence_tokens=200, prompts=["the cat", "and the"])
        result, _ = run(spec, os.path.join(folder, layout))
        reports[layout] = load(os.path.join(folder, layout), "report.json")["evaluation"]
        assert result["after"]["divergence"]["kl_mean"] == reports[layout]["after"]["divergence"]["kl_mean"]
    before, after = reports["identity"]["before"], reports["identity"]["after"]
    assert after["divergence"] == reports["heterogeneous"]["after"]["divergence"] and "divergence" not in before
    divergence = after["divergence"]
    assert divergence["windows"] == 4 and divergence["tokens"] == 4 * 63 and divergence["kl_mean"] > 0
    agreement = divergence["agreement"]
    assert 0 <= agreement["top_1"] <= agreement["top_5"] <= agreement["top_10"] <= 1
    for side in (before, after):
        for protocol, most in (("gptq", 63), ("rolling", 64)):
            measured = side["perplexity"][protocol]
            buckets = measured["by_position"]
            assert [b["first"] for b in buckets] == [2 ** i for i in range(len(buckets))] and buckets[-1]["last"] == most
            assert sum(b["tokens"] for b in buckets) == measured["tokens_scored"]
            mean = sum(b["tokens"] * b["nll_mean"] for b in buckets) / measured["tokens_scored"]
            assert abs(mean / measured["nll_mean"] - 1) < 1e-12
        written = side["continuations"]
        assert [c["prompt"] for c in written] == ["the cat", "and the"]
        assert all(isinstance(c["text"], str) and isinstance(c["is_degenerate"], bool) and c["tokens"] <= 48 for c in written)


def an_empty_plan_diverges_from_nothing(folder):
    w = world(folder)
    out = os.path.join(folder, "out")
    result, _ = run(pruning(w, target={"sparsity": 0}), out)
    assert result["after"]["divergence"]["kl_mean"] == 0 and set(result["after"]["divergence"]["agreement"].values()) == {1}


def what_is_not_wanted_is_not_measured(folder):
    w = world(folder)
    spec = pruning(w)
    spec["evaluation"].update(divergence_tokens=0, prompts=[])
    run(spec, os.path.join(folder, "out"))
    after = load(os.path.join(folder, "out"), "report.json")["evaluation"]["after"]
    assert "divergence" not in after and "continuations" not in after and "memory" not in after


def speed_comes_with_memory_and_how_it_was_measured(folder):
    w = world(folder)
    spec = pruning(w, output={"layout": "identity"})
    spec["evaluation"]["speed"] = True
    run(spec, os.path.join(folder, "out"))
    evaluation = load(os.path.join(folder, "out"), "report.json")["evaluation"]
    for side, names in (("before", ("",)), ("after", ("", "_skipped"))):
        for name in names:
            speed, memory = evaluation[side]["speed" + name], evaluation[side]["memory" + name]
            assert speed["prefill_tokens_per_second"] > 0 and speed["decode_tokens_per_second"] > 0 and speed["runs"] == 5
            assert memory["peak_bytes"] == memory["process_peak_bytes"] - memory["process_before_bytes"] and "VmHWM" in memory["how"]
            assert evaluation[side]["peak_rss_bytes"] >= memory["process_peak_bytes"]


def the_page_shows_what_the_report_says(folder):
    """Every figure and table where there is something to show; no script, no link to anywhere, every text escaped."""
    w = world(folder)
    evil = "<b>&cat"
    spec = pruning(w, "wanda_sp", target={"sparsity": 0.2}, output={"dtype": "float16"}, sweep={"sparsity": [0.2, 0.4, 0.6]})
    spec["evaluation"].update(speed=True, prompts=[evil], tasks=[{"name": evil, "source": w["choice"], "kind": "choice"}])
    run(spec, os.path.join(folder, "wide"))
    run(pruning(w, "shortgpt", target={"num_layers": 3}), os.path.join(folder, "deep"))
    run(evaluation(w, text={"source": w["text"]}, window_tokens=64), os.path.join(folder, "one"))
    pages = {}
    for name in ("wide", "deep", "one"):
        with open(os.path.join(folder, name, "report.html")) as file:
            pages[name] = file.read()
        parser = Balance()
        parser.feed(pages[name])
        assert not parser.open and not parser.faults, (parser.open, parser.faults)
        for word in ("<script", "http://", "https://", "(null)"):
            assert word not in pages[name], word
        assert not re.search(r'["> ]-?(nan|inf)[<" %]', pages[name])
    titles = {name: [part.split("</h2>")[0] for part in page.split("<h2>")[1:]] for name, page in pages.items()}
    for title in ("All targets", "What is kept of each layer", "In short", "Distance from the original", "Perplexity by position (gptq)",
                  "Tasks", "Speed and memory", "What it writes"):
        assert title in titles["wide"], (title, titles["wide"])
    assert "What was removed" in titles["deep"] and "Scores by layer" in titles["deep"] and "All targets" not in titles["deep"]
    assert "Perplexity by position (gptq)" in titles["one"] and "Measured" in titles["one"]
    assert evil not in pages["wide"] and "&lt;b&gt;&amp;cat" in pages["wide"]
    report = load(os.path.join(folder, "wide"), "report.json")
    assert report["check"]["is_rounded"] and report["check"]["logit_magnitude_max"] > report["check"]["logit_difference_max"] > 0
    assert "float16 keeps 11 significant bits" in pages["wide"]
    assert all(item["kl"] > 0 for item in report["curve"]) and len(report["curve"]) == 3
    assert ("knee is at" in pages["wide"]) == any(item["knee"] for item in report["curve"])
    assert not load(os.path.join(folder, "deep"), "report.json")["check"]["is_rounded"] and "bit by bit" in pages["deep"]


class Balance(HTMLParser):
    """Whether every element that opens closes, in order."""
    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))


def place(out):
    """(parts that are finished, batches' worth inside the current one) of an interrupted job's checkpoint."""
    with open(os.path.join(out, ".work", "checkpoint"), "rb") as file:
        saved = json.loads(file.read().split(b"\n", 1)[1])
    finished = inside = 0
    for side in ("model", "before", "after"):
        measured = saved.get(side, {})
        finished += len(measured.get("parts", {}))
        if "place" in measured:
            inside = measured["place"].get("done", len(measured["place"].get("sums", [])))
    return finished, inside


def saved_at(path):
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:  # not yet, or between two renames
        return None


def an_interrupted_measurement_goes_on_where_it_stopped(folder):
    """SIGTERM and SIGKILL as soon as a save is seen, again and again; each attempt gets further, and the end is the same digits."""
    w = world(folder, layers=16)
    text = write_text(os.path.join(folder, "long.txt"), words=12000)
    picks = write(folder, "picks.jsonl", [{"query": "the cat %d" % i, "choices": ["and", "ran on"], "gold": i % 2} for i in range(300)])
    tasks = [{"name": "pick", "source": picks, "kind": "choice"}]
    evaluated = {"type": "evaluation", "model": w["model"],
                 "evaluation": {"text": {"source": text}, "window_tokens": 64, "tasks": tasks, "prompts": ["the"], "speed": False}}
    pruned = pruning(w, "last_blocks", target={"num_layers": 15})
    del pruned["calibration"]
    pruned["evaluation"] = {**evaluated["evaluation"], "divergence_tokens": 20000, "protocols": ["gptq"]}
    for name, spec, number in (("evaluated", evaluated, signal.SIGTERM), ("pruned", pruned, signal.SIGKILL), ("drained", pruned, signal.SIGTERM)):
        whole = os.path.join(folder, "whole-" + name)
        run(spec, whole)
        out, places = os.path.join(folder, name), []
        for attempt in range(200):
            path = os.path.join(out, ".work", "checkpoint")
            seen = saved_at(path)
            process = run(spec, out, *(["--resume"] if attempt else []), wait=False)
            while attempt < 6 and process.poll() is None:
                now = saved_at(path)
                if now != seen and now is not None:
                    break
                time.sleep(0.001)
            if attempt < 6:
                stop(process, number)
            process.communicate(timeout=300)
            if process.returncode == 0:
                break
            assert process.returncode in (3, -signal.SIGKILL), process.returncode
            places.append(place(out))
        assert places and places == sorted(places), places
        if number == signal.SIGTERM:  # a drain finishes its batch and saves
            assert len(set(places)) == len(places), places
        assert process.returncode == 0 and sums(out) == sums(whole)
        ours, theirs = load(out, "report.json")["evaluation"], load(whole, "report.json")["evaluation"]
        for report in (ours, theirs):
            for side in report.values():
                side.pop("peak_rss_bytes", None)
        assert ours == theirs and load(out, "report.json")["resources"]["is_resumed"]


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
