"""The clustering of PASER's published code as its formulas say (data_selection 1.3), on the rows that bench/clustering --write leaves:
dense distances, Gaussian affinities of the median bandwidth, L = I - D^-1 A by an explicit inverse, eigsh of the K smallest by which='SM',
|Psi Psi^T|, NMF of rank K from random numbers, argmax. Written from the formulas, with numpy, SciPy and scikit-learn.

    pip install numpy scipy scikit-learn
    python bench/peers/published_clustering.py rows.f32 --size 384 [--clusters 10] [--limit SECONDS]

A solver that does not converge within --limit (or by its own rule) counts as its last iterate's time, and the line says so.
"""

import argparse
import json
import resource
import signal
import time

import numpy as np
import scipy
import sklearn
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh
from sklearn.decomposition import NMF
from sklearn.metrics import pairwise_distances


class Stopped(Exception):
    pass


def stop(*_):
    raise Stopped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--limit", type=int, default=3600, help="seconds for the eigenvectors")
    options = parser.parse_args()
    rows = np.fromfile(options.rows, dtype=np.float32).reshape(-1, options.size)
    count, seconds, note = len(rows), {}, None

    def timed(name, call):
        start = time.monotonic()
        result = call()
        seconds[name] = round(time.monotonic() - start, 3)
        return result

    distances = timed("distances", lambda: pairwise_distances(rows.astype(np.float64)))
    sigma = timed("bandwidth", lambda: np.median(distances))
    affinity = timed("affinity", lambda: np.exp(-(distances**2) / (2 * sigma**2)))
    laplacian = timed(
        "laplacian", lambda: np.eye(count) - np.linalg.inv(np.diag(affinity.sum(axis=1))) @ affinity
    )
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(options.limit)
    start = time.monotonic()
    try:
        _, vectors = eigsh(laplacian, k=options.clusters, which="SM")
    except ArpackNoConvergence as error:
        vectors, note = error.eigenvectors, f"eigsh did not converge: {error}"
    except ArpackError as error:
        vectors, note = np.zeros((count, 0)), f"eigsh failed: {error}"
    except Stopped:
        vectors, note = np.zeros((count, 0)), f"eigsh was stopped after {options.limit} s"
    signal.alarm(0)
    seconds["eigenvectors"] = round(time.monotonic() - start, 3)
    if vectors.shape[1] == 0:  # the rest is timed on vectors of the same shape
        vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(count, options.clusters)))[0]
    similarity = timed("similarity", lambda: np.abs(vectors @ vectors.T))
    factor = timed(
        "factorisation",
        lambda: NMF(n_components=options.clusters, init="random", random_state=0).fit_transform(similarity),
    )
    labels = factor.argmax(axis=1)
    print(
        json.dumps(
            {
                "peer": "published procedure",
                "rows": count,
                "size": options.size,
                "clusters": options.clusters,
                "seconds": round(sum(seconds.values()), 3),
                "parts": seconds,
                "note": note,
                "labels_used": int(len(np.unique(labels))),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "versions": {"numpy": np.__version__, "scipy": scipy.__version__, "sklearn": sklearn.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
