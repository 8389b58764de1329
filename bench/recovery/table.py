"""The tables of the recovery experiment from its results: pilot, every cell with all seeds, and the comparisons with their statistics."""
import statistics

import numpy

import experiment as x
import pool

RESAMPLES, LEVEL = 10000, 0.05


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*cells):
    row(*cells)
    print("|" + "---|" * len(cells))


def key(stage, cell, budget, seed, method, rate):
    return "|".join((stage, *cell, budget, str(seed), method, "%g" % rate))


def print_forms(results):
    print("\n## Forms: exact match on validation, per cent; damaged in bold\n")
    names = [pool.unit_name(unit) for unit in pool.UNITS]
    head("unit", "original", *x.FORMS)
    for name in names:
        cells = []
        for form in x.FORMS:
            entry = results["forms"][form]
            text = "%.1f" % entry["validation"][name]
            cells.append("**%s**" % text if name in entry["damaged"] else text)
        row(name, "%.1f" % results["original"][name], *cells)


def print_pilot(results):
    print("\n## Pilot: validation, damaged / intact, per cent\n")
    runs = results["runs"]
    head("cell", "seed", "budget", "method", *("lr %g" % rate for rate in x.RATES))
    for cell in x.CELLS:
        for seed in x.PILOT_SEEDS:
            for budget in ("", *x.BUDGETS, "all"):
                for method in {"": ["none"], "all": ["full"]}.get(budget, ["random", "oracle", "distillation"]):
                    cells = []
                    for rate in x.RATES:
                        entry = runs.get(key("pilot", cell, budget, seed, method, 0 if method == "none" else rate))
                        cells.append("%.1f / %.1f" % x.endpoints(results, cell[0], entry["accuracy"]) if entry else "")
                    if any(cells):
                        row(" ".join(cell), seed, budget and budget + " %" if budget != "all" else budget, method, *cells)


def final_entries(results, cell, budget, method):
    """One entry a seed; None if the cell is not complete."""
    rate = 0 if method == "none" else x.chosen_rate(results, method, cell, budget)
    if rate is None:
        return None
    entries = [results["runs"].get(key("final", cell, budget, seed, method, rate)) for seed in x.SEEDS]
    return entries if all(entries) else None


def print_cells(results):
    for cell in x.CELLS:
        print("\n## %s, pool %s: test, per cent; mean and seeds %s\n" % (*cell, ", ".join(map(str, x.SEEDS))))
        head("budget", "method", "lr", "damaged", "seeds", "intact", "seeds", "records", "of damaged units, right", "wrong", "irrelevant", "doubles")
        for budget in ("", *x.BUDGETS, "all"):
            for method in x.METHODS:
                if budget not in x.budgets_of(method):
                    continue
                entries = final_entries(results, cell, budget, method)
                if entries is None:
                    continue
                pairs = [x.endpoints(results, cell[0], entry["accuracy"]) for entry in entries]
                columns = []
                for values in zip(*pairs):
                    columns += ["%.1f ± %.1f" % (statistics.mean(values), statistics.stdev(values)), " ".join("%.1f" % value for value in values)]
                counts = []
                if method != "none":
                    average = lambda pick: "%.0f" % statistics.mean(pick(entry) for entry in entries)
                    counts = [average(lambda e: e["records"]), average(lambda e: e["damaged_right"]), average(lambda e: e["what"]["noise"]),
                              average(lambda e: e["what"]["irrelevant"]), average(lambda e: e["what"]["copy"] + e["what"]["near"])]
                rate = "" if method == "none" else "%g" % x.chosen_rate(results, method, cell, budget)
                row(budget + " %" if budget in x.BUDGETS else budget, method, rate, *columns, *(counts or [""] * 5))


def rights(results, budget, method):
    """[cells, seeds, units, items], 0 or 1; None if it is not complete."""
    entries = [final_entries(results, cell, budget if method not in ("none", "full") else x.budgets_of(method)[0], method) for cell in x.CELLS]
    if any(entry is None for entry in entries):
        return None
    return numpy.array([[x.unpack(entry["right"]) for entry in cell] for cell in entries], dtype=float)


def unit_weights(results, damaged):
    """[cells, units]: what each unit weighs in the endpoint of its cell."""
    weights = numpy.zeros((len(x.CELLS), len(pool.UNITS)))
    for c, (form, _) in enumerate(x.CELLS):
        chosen = [(pool.unit_name(unit) in results["forms"][form]["damaged"]) == damaged for unit in pool.UNITS]
        weights[c] = numpy.array(chosen) / sum(chosen)
    return weights


class Draws:
    """Resampled weights of seeds [cells, seeds, resamples] and of items [units, items, resamples], the same for every comparison."""

    def __init__(self, seeds, items):
        rng = numpy.random.default_rng(20261124)
        share = lambda count, size: rng.multinomial(count, numpy.full(count, 1 / count), size=size) / count
        self.seeds = numpy.moveaxis(share(seeds, (len(x.CELLS), RESAMPLES)), 2, 1)
        self.items = numpy.moveaxis(share(items, (len(pool.UNITS), RESAMPLES)), 2, 1)


def compare(difference, weights, draws):
    """(mean, low, high, p), in points, of a paired difference [cells, seeds, units, items]."""
    total = numpy.zeros(RESAMPLES)
    for c in range(difference.shape[0]):
        by_seed = numpy.zeros((difference.shape[1], RESAMPLES))
        for u in numpy.nonzero(weights[c])[0]:
            by_seed += weights[c, u] * (difference[c, :, u, :] @ draws.items[u])
        total += (by_seed * draws.seeds[c]).sum(0)
    total *= 100 / difference.shape[0]
    point = 100 * numpy.einsum("csui,cu->", difference, weights) / (difference.shape[0] * difference.shape[1] * difference.shape[3])
    low, high = numpy.percentile(total, (2.5, 97.5))
    tail = min((total <= 0).sum(), (total >= 0).sum())
    return point, low, high, min(1.0, max(2 * tail, 2) / RESAMPLES)


def holm(values):
    """Adjusted p of each."""
    order, adjusted, highest = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, values[i] * (len(values) - rank)))
        adjusted[i] = highest
    return adjusted


def wins(difference, weights):
    """By cell: seeds in which the difference is above zero."""
    values = numpy.einsum("csui,cu->cs", difference, weights)
    return " ".join("%d" % (cell > 0).sum() for cell in values)


def print_comparisons(results):
    baseline = {budget: rights(results, budget, "paser") for budget in x.BUDGETS}
    if any(value is None for value in baseline.values()):
        print("\nNo comparisons: the final runs of paser are not complete.")
        return
    draws = Draws(len(x.SEEDS), x.TEST_ITEMS)
    others = [method for method in x.METHODS if method != "paser"]
    for damaged in (True, False):
        print("\n## paser minus the other, %s units, all cells, points\n" % ("damaged" if damaged else "intact"))
        head("budget", "other", "difference", "95 %", "p", "p, Holm", "seeds above, by cell (of %d)" % len(x.SEEDS))
        weights, found = unit_weights(results, damaged), []
        for budget in x.BUDGETS:
            for method in others:
                other = rights(results, budget, method)
                if other is not None:
                    difference = baseline[budget] - other
                    found.append((budget, method, compare(difference, weights, draws), wins(difference, weights)))
        tested = [i for i, entry in enumerate(found) if entry[1] in x.PEERS]
        adjusted = dict(zip(tested, holm([found[i][2][3] for i in tested])))
        complete = len(tested) == len(x.PEERS) * len(x.BUDGETS)
        for i, (budget, method, (point, low, high, p), signs) in enumerate(found):
            claim = ""
            if i in adjusted:
                claim = "%.4f%s" % (adjusted[i], " *" if adjusted[i] <= LEVEL else "") if complete else "family not complete"
            row(budget + " %", method, "%+.1f" % point, "%+.1f to %+.1f" % (low, high), "%.4f" % p, claim, signs)


def print_all(results):
    print("%d runs; %s" % (len(results["runs"]), results.get("setup")))
    print_forms(results)
    print_pilot(results)
    print_cells(results)
    print_comparisons(results)
    return 0
