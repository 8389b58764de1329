#!/usr/bin/env python3
"""The clustering of records against numpy and scikit-learn: the graph built plainly from all distances (data_selection 1.6), its spectrum by
numpy.linalg.eigh, labels by scikit-learn's cluster_qr. Made-up embeddings with topics; the dense solver and the iteration."""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from sklearn.cluster._spectral import cluster_qr
from sklearn.metrics import adjusted_rand_score

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
SIZE, NEIGHBOURS, SCALE_RANK, LEAST_WEIGHT = 64, 32, 7, 1e-8
# Distances are kept in fp32; residuals of the iteration are 1e-6, and an eigenvalue errs by their square. Seen: 5e-10.
EIGENVALUES, AGREEMENT = 1e-8, 0.99


def ours(folder, rows):
    files = [os.path.join(folder, name) for name in ("rows", "labels")]
    answer = subprocess.run([os.path.join(BUILD, "bench", "clustering"), "clusters", "--rows", str(rows), "--size", str(SIZE), "--count", str(NEIGHBOURS),
                             "--write", files[0], "--labels", files[1]], check=True, capture_output=True, text=True)
    return (json.loads(answer.stdout)["report"], np.fromfile(files[0], np.float32).reshape(rows, SIZE), np.fromfile(files[1], np.uint32))


def plainly(rows, clusters):
    """Eigenvalues, falling, and labels."""
    x = rows.astype(np.float64)
    squares = np.maximum(0, (x * x).sum(1)[:, None] + (x * x).sum(1)[None, :] - 2 * x @ x.T)
    np.fill_diagonal(squares, np.inf)
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBOURS]
    listed = np.zeros(squares.shape, bool)
    np.put_along_axis(listed, nearest, True, axis=1)
    scales = np.sqrt(np.take_along_axis(squares, nearest, axis=1)[:, SCALE_RANK - 1])
    np.fill_diagonal(squares, 0)
    weights = np.where(listed | listed.T, np.exp(-squares / (scales[:, None] * scales[None, :])), 0)
    weights[weights < LEAST_WEIGHT] = 0
    sums = weights.sum(1)
    weights /= sums[:, None] * sums[None, :]  # alpha 1
    degrees = weights.sum(1)
    values, vectors = np.linalg.eigh(weights / np.sqrt(degrees[:, None] * degrees[None, :]))
    values, vectors = values[::-1], vectors[:, ::-1]
    return values, cluster_qr(vectors[:, :clusters])


def main():
    failures = 0
    sizes = (1200, 3000)  # by the dense solver; by the iteration
    print("1..%d" % (2 * len(sizes)))
    with tempfile.TemporaryDirectory() as folder:
        for i, rows in enumerate(sizes):
            report, embeddings, labels = ours(folder, rows)
            assert report["graph"]["components_linked"] == 0 and report["neighbours"]["search"] == "exact", report
            found = np.array(report["spectrum"]["eigenvalues"])
            values, plain_labels = plainly(embeddings, report["clusters"]["wanted"])
            difference = np.abs(values[: len(found)] - found).max()
            agreement = adjusted_rand_score(plain_labels, labels)
            for number, (is_good, what) in enumerate((
                    (difference <= EIGENVALUES, "%d rows, %s: eigenvalues within %.1e of numpy's" % (rows, report["spectrum"]["solver"], difference)),
                    (agreement >= AGREEMENT, "%d rows: ARI %.4f with scikit-learn's labels of %d clusters" % (rows, agreement, report["clusters"]["wanted"])))):
                failures += not is_good
                print("%s %d - %s" % ("ok" if is_good else "not ok", 2 * i + number + 1, what), flush=True)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
