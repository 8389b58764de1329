#!/usr/bin/env python3
"""Writes rows.f32 and expected.json: corrections of a pruned projection by NumPy in double, from the formulas' definitions.

Every form is solved as an augmented least-squares problem over the rows themselves (numpy.linalg.lstsq), not by the normal
equations that the code under test uses; held-out errors are sums over the held-out rows' residuals.
"""
import json
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
IN, OUT, ROWS, HELD_OUT = 10, 5, 240, 60
KEPT = [0, 1, 3, 4, 6, 8, 9]
LAMBDAS = [1e-4, 1e-3, 1e-2, 1e-1]


def ridge(x, e, penalty):
    """argmin |E - X D^T|^2 + penalty |D|^2, as rows [out, in]."""
    count = x.shape[1]
    stacked = np.vstack([x, np.sqrt(penalty) * np.eye(count)])
    target = np.vstack([e, np.zeros((count, e.shape[1]))])
    return np.linalg.lstsq(stacked, target, rcond=None)[0].T


def main():
    random = np.random.default_rng(20250)
    mixing = random.standard_normal((IN, IN)) * 0.6 + np.eye(IN)
    x = random.standard_normal((ROWS, IN)) @ mixing + random.standard_normal(IN)
    x = np.round(x * 1024) / 1024  # exact in fp32
    w = np.round(random.standard_normal((OUT, IN)) * 256) / 256
    z_bias = np.round(random.standard_normal(OUT) * 256) / 256
    y = x @ w.T + z_bias + np.round(random.standard_normal((ROWS, OUT)) * 64) / 1024  # the source's stream differs
    y = y.astype(np.float32).astype(np.float64)
    z = (x[:, KEPT] @ w[:, KEPT].T + z_bias).astype(np.float32).astype(np.float64)
    np.hstack([x, y, z]).astype("<f4").tofile(os.path.join(HERE, "rows.f32"))

    e = y - z
    fit, held = slice(0, ROWS - HELD_OUT), slice(ROWS - HELD_OUT, ROWS)
    xk = x[:, KEPT]
    total = np.sum(y[held] ** 2)

    def held_error(d, b):
        return float(np.sum((e[held] - xk[held] @ d.T - b) ** 2) / total)

    zero, nothing = np.zeros((OUT, len(KEPT))), np.zeros(OUT)
    mean_x, mean_e = xk[fit].mean(0), e[fit].mean(0)
    results = {"none": {"error": held_error(zero, nothing)},
               "bias": {"bias": mean_e.tolist(), "error": held_error(zero, mean_e)}}
    for name in ("ls", "ls_bias"):
        xc, ec = (xk[fit] - mean_x, e[fit] - mean_e) if name == "ls_bias" else (xk[fit], e[fit])
        best = None
        for scale in LAMBDAS:
            d = ridge(xc, ec, scale * np.mean(np.sum(xc ** 2, 0)))
            b = mean_e - d @ mean_x if name == "ls_bias" else nothing
            error = held_error(d, b)
            if best is None or error < best["error"]:
                best = {"lambda": scale, "weights": d.tolist(), "bias": b.tolist(), "error": error}
        results[name] = best
    # The same with weights of tokens: everything is of weighted errors, and the bias is a column of weights that has no penalty.
    scale = 0.5 + np.arange(ROWS) % 7 / 4.0
    xs, es, column = xk * scale[:, None], e * scale[:, None], scale[:, None]
    share = np.sum((y[held] * scale[held, None]) ** 2)
    squares = scale[fit] ** 2
    mean_x = squares @ xk[fit] / squares.sum()
    best = None
    for ratio in LAMBDAS:
        centred = (xk[fit] - mean_x) * column[fit]
        penalty = ratio * np.mean(np.sum(centred ** 2, 0))
        rows = np.hstack([xs[fit], column[fit]])
        stacked = np.vstack([rows, np.sqrt(penalty) * np.eye(len(KEPT) + 1)[: len(KEPT)]])
        target = np.vstack([es[fit], np.zeros((len(KEPT), OUT))])
        solution = np.linalg.lstsq(stacked, target, rcond=None)[0]
        d, b = solution[:-1].T, solution[-1]
        error = float(np.sum((es[held] - xs[held] @ d.T - column[held] * b) ** 2) / share)
        if best is None or error < best["error"]:
            best = {"lambda": ratio, "weights": d.tolist(), "bias": b.tolist(), "error": error}
    best["before"] = float(np.sum(es[held] ** 2) / share)
    results["weighted"] = best
    alpha = 3.5
    results["map"] = {"alpha": alpha, "weights": ridge(x[fit], y[fit], alpha).tolist()}
    expected = {"in": IN, "out": OUT, "rows": ROWS, "held_out": HELD_OUT, "kept": KEPT, "weights": w.tolist(),
                "results": results}
    with open(os.path.join(HERE, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")
    print({name: (result.get("lambda"), result.get("error")) for name, result in results.items()})


if __name__ == "__main__":
    main()
