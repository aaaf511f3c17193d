"""How long the paper's whole grid takes, beside scikit-learn's LOF run once for each setting.

    python benchmarks/outliers.py                     20,000 vectors with the rival
    python benchmarks/outliers.py --curve --no-rival  50,000 and 100,000, and the law above them
    python benchmarks/outliers.py --rows 400000 --approximate --no-rival

Vectors: 768 numbers from 12 hidden ones through a bent map, noise, and a large common mean, as
embeddings are. Seconds are those of the clock, and of the processor in all threads; the second
is what other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from astropt_db.outliers.graph import neighbour_graph
from astropt_db.outliers.methods import (
    FEATURES,
    NEIGHBOURS,
    SEED,
    TREES,
    forest_scores,
    local_outlier_factor,
    lof_scores,
)

TARGET = 400_000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--no-forest", action="store_true")
    parser.add_argument("--forest-rival", action="store_true", help="sixteen forests, slow")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    sizes = [50_000, 100_000] if options.curve else options.rows
    seconds = [ours(n, options) for n in sizes]
    if len(sizes) > 1:
        law(sizes, seconds)
    if not options.no_rival:
        rival(sizes[0])
    if options.forest_rival:
        forests(sizes[0])


def vectors(n: int, d: int = 768) -> np.ndarray:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(12, 128)) / 3.5, random.normal(size=(128, d)) / 11
    mean = 2 * random.normal(size=d)
    rows = np.empty((n, d), np.float16)
    for start in range(0, n, 20_000):
        part = rows[start : start + 20_000]
        sheet = np.tanh(random.normal(size=(len(part), 12)) @ first) @ second
        part[:] = sheet + 0.05 * random.normal(size=part.shape) + mean
    return rows


def timed(label: str, work: Callable[[], Any]) -> tuple[Any, float, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{label:58}{clock:9.1f} s{cpu:9.1f} s CPU   peak {peak:.1f} GB", flush=True)
    return result, clock, cpu


def ours(n: int, options: argparse.Namespace) -> float:
    rows = vectors(n)
    begin = time.perf_counter()
    kind = "approximate" if options.approximate else "exact"
    graph, _, cpu = timed(
        f"{n:,} x 768, {kind} graph",
        lambda: neighbour_graph(rows, max(NEIGHBOURS), approximate=options.approximate),
    )
    if options.approximate:
        print(f"    recall {graph.recall:.4f} on {graph.recall_rows} rows")
    _, _, more = timed(
        f"{n:,}, LOF of {len(NEIGHBOURS)} settings from it", lambda: lof_scores(graph)
    )
    if not options.no_forest:
        timed(
            f"{n:,}, isolation forests of {len(TREES) * len(FEATURES)} settings",
            lambda: forest_scores(rows.astype(np.float32)),
        )
        print(
            f"{n:,}, the whole grid: {(time.perf_counter() - begin) / 60:.1f} minutes", flush=True
        )
    return cpu + more


def law(sizes: list[int], seconds: list[float]) -> None:
    """Fit a n + b n² to the processor time of graph and LOF, and say what it means above.

    Products are n²; comparing candidates, sorting them and LOF are n.
    """
    n = np.array(sizes, float)
    linear, square = np.linalg.lstsq(np.stack([n, n**2], 1), np.array(seconds), rcond=None)[0]
    at = linear * TARGET + square * TARGET**2
    print(f"graph and LOF: {linear:.3g} n + {square:.3g} n² seconds of processor; "
          f"at {TARGET:,}: {at:.0f} s, {at / 60 / 2:.0f} minutes on two cores")  # fmt: skip


def rival(n: int) -> None:
    rows = vectors(n)

    def once_per_setting() -> list[np.ndarray]:
        single = rows.astype(np.float32)
        return [
            -LocalOutlierFactor(n_neighbors=k, metric="cosine", contamination=0.01, n_jobs=-1)
            .fit(single)
            .negative_outlier_factor_
            for k in NEIGHBOURS
        ]

    def shared() -> list[np.ndarray]:
        graph = neighbour_graph(rows, max(NEIGHBOURS))
        return [local_outlier_factor(graph, k) for k in NEIGHBOURS]

    theirs, clock, cpu = timed(
        f"{n:,}, scikit-learn's LOF, once for each setting", once_per_setting
    )
    mine, our_clock, our_cpu = timed(f"{n:,}, ours, graph and all settings", shared)
    worst = max(np.abs(a / b - 1).max() for a, b in zip(mine, theirs, strict=True))
    print(f"    {clock / our_clock:.1f} times faster by the clock, {cpu / our_cpu:.1f} by "
          f"processor time; largest relative difference {worst:.1e} (theirs: float32)")  # fmt: skip


def forests(n: int) -> None:
    rows = vectors(n).astype(np.float32)

    def all_settings() -> None:
        for features in FEATURES:
            for trees in TREES:
                model = IsolationForest(
                    n_estimators=trees, max_features=features, random_state=SEED, contamination=0.01
                )
                model.fit(rows).score_samples(rows)

    timed(f"{n:,}, scikit-learn's forests, once for each setting", all_settings)


if __name__ == "__main__":
    main()
