#!/usr/bin/env python3
"""The recovery experiment of PROTOCOL.md, cell by cell. Every run is added to the results file as it ends, so a stopped one goes on.

    experiment.py forms     prune the forms, find what is damaged in each
    experiment.py pilot     none, random, oracle, distillation, full on the pilot's seeds, on validation: is recovery saturated?
    experiment.py tune      all methods on the tuning seed, every learning rate, on validation
    experiment.py final     all methods on seeds 1 to 5 at the chosen rates, on test
    experiment.py table     the tables of docs/recovery.md (needs NumPy only)

Needs PyTorch, safetensors, tokenizers and NumPy (tests/long_venv.sh makes a venv) and a built `pruned`. About 5 to 15 s a run, one thread.
"""
import argparse
import base64
import json
import os
import random
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import pool  # noqa: E402

MODEL = os.path.join(pool.SKILLS_FOLDER, "model")
FORMS = {"finercut6": ("finercut", {"sublayers_removed": 6}), "llm_drop4": ("llm_drop", {"sublayers_removed": 4}),
         "cfsp45": ("cfsp", {"sparsity": 0.45})}
CELLS = [("finercut6", "rare"), ("llm_drop4", "rare"), ("cfsp45", "rare"), ("finercut6", "common")]
BUDGETS = {"10": 0.1, "20": 0.2}
SEEDS, TUNING_SEED, PILOT_SEEDS = (1, 2, 3, 4, 5), 100, (901, 902)
RECORDS, PASSES, RATES = 1200, 8, (3e-4, 1e-3, 3e-3)
VALIDATION_ITEMS, TEST_ITEMS = 40, 130
DAMAGED_POINTS = 10

# What a selection job is asked for. The first is under test, the next seven are its peers.
JOBS = {name: (name, {}) for name in ("paser", "random", "top_damage", "uniform_per_cluster", "longest", "ifd", "k_center", "perplexity")}
JOBS["paser, no conflicts"] = ("paser", {"conflict": "none"})
PEERS = ("random", "top_damage", "uniform_per_cluster", "longest", "ifd", "k_center", "perplexity")
DISTILLED = {"distillation": "random", "paser, distilled": "paser"}    # whose records
METHODS = ["none", "full", "oracle", *JOBS, *DISTILLED]


def load(path):
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    return {"forms": {}, "runs": {}}


def save(path, results):
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, sort_keys=True)
        file.write("\n")
    os.replace(path + ".tmp", path)


def run_job(args, spec, out):
    """`pruned run`; a result that is there already is kept."""
    if os.path.exists(os.path.join(out, "SHA256SUMS")):
        return
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    path = out + ".spec.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file, indent=1)
    done = subprocess.run([args.pruned, "run", path, "--out", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit("%s: %s" % (path, done.stderr.strip()))


class Bench:
    """What the stages share: the results, models that are loaded once, the pools of a cell and seed."""

    def __init__(self, args):
        import recover
        import torch
        torch.set_num_threads(1)
        self.args, self.recover = args, recover
        self.results = load(args.results)
        setup = {"records": RECORDS, "passes": PASSES, "rates": list(RATES), "batch": recover.BATCH, "rank": recover.RANK,
                 "scale": recover.SCALE, "validation_items": VALIDATION_ITEMS, "test_items": TEST_ITEMS, "shares": pool.SHARES}
        if self.results.setdefault("setup", setup) != setup:
            sys.exit("%s holds results of another setup: %s" % (args.results, self.results["setup"]))
        self.texts, self.teacher = recover.Texts(MODEL), recover.Form(MODEL)
        self.loaded, self.sets = {}, {}

    def form_folder(self, form):
        return os.path.join(self.args.work, "forms", form)

    def form(self, name):
        if name not in self.loaded:
            self.loaded[name] = self.recover.Form(self.form_folder(name))
        return self.loaded[name]

    def items(self, which):
        if which not in self.sets:
            self.sets[which] = pool.validation(VALIDATION_ITEMS) if which == "validation" else {
                unit: items[:TEST_ITEMS] for unit, items in pool.tests().items()}
        return self.sets[which]

    def damaged(self, form):
        return [unit for unit in pool.UNITS if pool.unit_name(unit) in self.results["forms"][form]["damaged"]]

    def pool(self, form, kind, seed):
        """[(record, what, unit, tokens)]"""
        return [(*row, self.texts.count(row[0]["instruction"], row[0]["response"]))
                for row in pool.make_pool(kind, self.damaged(form), seed, RECORDS)]

    def selection(self, method, form, kind, budget, seed):
        """(rows of the pool, tokens of the budget)"""
        rows = self.pool(form, kind, seed)
        total = sum(row[3] for row in rows)
        limit = int(BUDGETS[budget] * total) if budget in BUDGETS else total
        shuffled = random.Random("draw %d" % seed).sample(rows, len(rows))
        if method == "full":
            return rows, total
        if method == "oracle":
            damaged = self.damaged(form)
            return fill([row for row in shuffled if row[1] == "right" and row[2] in damaged], limit), limit
        if seed in PILOT_SEEDS:
            return fill(shuffled, limit), limit     # random and distillation; the pilot runs before any selection job
        return self.select(DISTILLED.get(method, method), form, kind, budget, seed, rows, limit), limit

    def select(self, method, form, kind, budget, seed, rows, limit):
        folder = os.path.join(self.args.work, "jobs", "%s-%s-%d" % (form, kind, seed))
        source = os.path.join(folder, "pool.jsonl")
        if not os.path.exists(source):
            os.makedirs(folder, exist_ok=True)
            with open(source, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row[0]) + "\n" for row in rows)
        name, parameters = JOBS[method]
        out = os.path.join(folder, "%s-%s" % (method.replace(", ", "-").replace(" ", "_"), budget))
        run_job(self.args, {
            "type": "selection", "model": os.path.abspath(MODEL), "pruned_model": os.path.abspath(self.form_folder(form)),
            "dataset": {"sources": [{"source": source}], "template": "custom", "template_full": "{instruction}{input}",
                        "template_lone": "{instruction}", "max_tokens": 256},
            "method": {"type": name, name: parameters}, "budget": {"tokens": limit},
            "compute": {"dtype": "float32"}, "limits": {"threads": 1}, "seed": seed}, out)
        waiting = {}
        for row in reversed(rows):
            waiting.setdefault(json.dumps(row[0]), []).append(row)
        for same in waiting.values():
            same.sort(key=lambda row: row[1] == "right")    # of equal texts one is chosen: it counts as the right one
        with open(os.path.join(out, "selected.jsonl"), encoding="utf-8") as file:
            chosen = [waiting[json.dumps(json.loads(line))].pop() for line in file]
        if sum(row[3] for row in chosen) > limit:
            sys.exit("%s: more tokens than the budget's %d" % (out, limit))
        return chosen

    def run(self, stage, method, form, kind, budget, seed, rate):
        """One run of one method; where: what it is measured on. Nothing to do if it is there."""
        key = "|".join((stage, form, kind, budget, str(seed), method, "%g" % rate))
        if key in self.results["runs"]:
            return self.results["runs"][key]
        started = time.monotonic()
        model, entry = self.form(form), {}
        if method == "none":
            model.start_adapters(seed)
        else:
            rows, limit = self.selection(method, form, kind, budget, seed)
            damaged = self.damaged(form)
            whats = {what: sum(row[1] == what for row in rows) for what in pool.SHARES}
            entry = {"records": len(rows), "tokens": sum(row[3] for row in rows), "budget_tokens": limit, "what": whats,
                     "damaged_right": sum(row[2] in damaged and row[1] in ("right", "copy", "near") for row in rows)}
            teacher = self.teacher if method in DISTILLED else None
            entry["loss"] = self.recover.train(model, self.texts, [row[0] for row in rows], PASSES * limit, rate, seed, teacher)
        right = self.recover.evaluate(model, self.texts, self.items("test" if stage == "final" else "validation"))
        entry["accuracy"] = {pool.unit_name(unit): value for unit, value in self.recover.accuracies(right).items()}
        if stage == "final":
            entry["right"] = pack(right)
        entry["seconds"] = round(time.monotonic() - started, 2)
        self.results["runs"][key] = entry
        save(self.args.results, self.results)
        d, i = endpoints(self.results, form, entry["accuracy"])
        print("%s: damaged %.1f intact %.1f, %.1f s" % (key, d, i, entry["seconds"]), flush=True)
        return entry


def fill(rows, limit):
    """In order; a row that no longer fits is passed over, as the budgets of selection jobs are filled."""
    taken, used = [], 0
    for row in rows:
        if used + row[3] <= limit:
            taken.append(row)
            used += row[3]
    return taken


def pack(right):
    bits = "".join(str(int(flag)) for unit in pool.UNITS for flag in right[unit])
    return base64.b64encode(int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")).decode()


def unpack(text):
    """Rows of units, columns of items: 0 or 1."""
    bits = bin(int.from_bytes(base64.b64decode(text), "big"))[3:]
    count = len(bits) // len(pool.UNITS)
    return [[int(bit) for bit in bits[i * count:(i + 1) * count]] for i in range(len(pool.UNITS))]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def endpoints(results, form, accuracy):
    """Macro accuracy over the damaged and over the intact units."""
    damaged = results["forms"][form]["damaged"]
    return (mean(accuracy[name] for name in damaged), mean(value for name, value in accuracy.items() if name not in damaged))


def make_forms(bench):
    original = bench.recover.accuracies(bench.recover.evaluate(bench.teacher, bench.texts, bench.items("validation")))
    for form, (method, target) in FORMS.items():
        run_job(bench.args, {
            "type": "pruning", "model": os.path.abspath(MODEL), "method": {"type": method, method: {}}, "target": target,
            "calibration": {"source": os.path.join(os.path.abspath(pool.SKILLS_FOLDER), "data", "calibration.txt"),
                            "num_samples": 32, "window_tokens": 128},
            "evaluation": {"text": {"source": os.path.join(os.path.abspath(pool.SKILLS_FOLDER), "data", "evaluation.txt")},
                           "window_tokens": 128, "speed": False, "prompts": []},
            "compute": {"dtype": "float32"}, "limits": {"threads": 1}, "seed": 42}, bench.form_folder(form))
        accuracy = bench.recover.accuracies(bench.recover.evaluate(bench.form(form), bench.texts, bench.items("validation")))
        bench.results["forms"][form] = {
            "validation": {pool.unit_name(unit): value for unit, value in accuracy.items()},
            "damaged": [pool.unit_name(unit) for unit in pool.UNITS if original[unit] - accuracy[unit] >= DAMAGED_POINTS]}
        print(form, "damaged:", ", ".join(bench.results["forms"][form]["damaged"]))
    bench.results["original"] = {pool.unit_name(unit): value for unit, value in original.items()}
    save(bench.args.results, bench.results)


def run_pilot(bench):
    """The middle rate first, in all cells: it says whether recovery is saturated."""
    for rate in sorted(RATES, key=lambda rate: rate != RATES[len(RATES) // 2]):
        for seed in PILOT_SEEDS:
            for method in ("none", "random", "oracle", "distillation", "full"):
                for budget in budgets_of(method):
                    for form, kind in CELLS:
                        if method not in ("none", "full") or rate == RATES[len(RATES) // 2]:
                            bench.run("pilot", method, form, kind, budget, seed, rate if method != "none" else 0)


def budgets_of(method):
    return {"none": [""], "full": ["all"]}.get(method, list(BUDGETS))


def run_tuning(bench):
    for method in METHODS[1:]:
        for budget in budgets_of(method):
            for rate in RATES:
                for form, kind in CELLS:
                    bench.run("tune", method, form, kind, budget, TUNING_SEED, rate)


def chosen_rate(results, method, cell, budget):
    """The rate of the highest macro accuracy over all units on validation; the lower of equals. None: not tuned yet."""
    keys = ["|".join(("tune", *cell, budget, str(TUNING_SEED), method, "%g" % rate)) for rate in RATES]
    if any(key not in results["runs"] for key in keys):
        return None
    scores = [mean(results["runs"][key]["accuracy"].values()) for key in keys]
    return RATES[scores.index(max(scores))]


def run_final(bench):
    rates = {(method, cell, budget): 0 if method == "none" else chosen_rate(bench.results, method, cell, budget)
             for method in METHODS for cell in CELLS for budget in budgets_of(method)}
    missing = [key for key, rate in rates.items() if rate is None]
    if missing:
        sys.exit("not tuned yet: %s" % missing)
    for seed in SEEDS:
        for (method, cell, budget), rate in rates.items():
            bench.run("final", method, *cell, budget, seed, rate)


def main():
    parser = argparse.ArgumentParser(description="The recovery experiment.")
    parser.add_argument("stage", choices=("forms", "pilot", "tune", "final", "table"))
    parser.add_argument("--pruned", default=os.path.join(ROOT, "build", "pruned"))
    parser.add_argument("--results", default=os.path.join(HERE, "results.json"))
    parser.add_argument("--work", default=os.path.join(ROOT, "build", "recovery"), help="folder of forms, pools and jobs")
    args = parser.parse_args()
    args.work = os.path.abspath(args.work)
    if args.stage == "table":
        import table
        return table.print_all(load(args.results))
    {"forms": make_forms, "pilot": run_pilot, "tune": run_tuning, "final": run_final}[args.stage](Bench(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
