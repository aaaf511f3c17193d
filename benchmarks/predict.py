"""How fast heads learn and predict: a linear head on 300,000 x 768, and sources per second.

    python benchmarks/predict.py [--rows 300000] [--dimension 768]

Rival: scikit-learn's Ridge on the same matrix in memory, as a notebook would have it.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from astropt_db.predict.features import Batch
from astropt_db.predict.fitting import Labelled, fit
from astropt_db.predict.mlp import Settings
from astropt_db.predict.predictor import Predictor
from astropt_db.predict.tasks import TASKS


def make(rows: int, dimension: int) -> Labelled:
    """Vectors as the database gives them, with a redshift hidden in them."""
    rng = np.random.default_rng(1)
    vectors = np.empty((rows, dimension), np.float16)
    for start in range(0, rows, 10_000):
        part = vectors[start : start + 10_000]
        part[:] = rng.standard_normal(part.shape, np.float32)
    z = 0.6 + 0.1 * vectors[:, :8].astype(np.float32).sum(axis=1)
    batch = Batch(np.arange(rows), vectors, np.empty((rows, 0), np.float32))
    return Labelled(batch, np.clip(z, 0.01, None)[:, None].astype(np.float32))


def peak_gb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def rate(predictor: Predictor, data: Labelled) -> float:
    """Sources per second, without reading and writing."""
    some = data.batch.take(slice(0, 50_000))
    predictor.predict(some.take(slice(0, 1000)))
    started = time.perf_counter()
    for start in range(0, len(some), 16_384):
        predictor.predict(some.take(slice(start, start + 16_384)))
    return len(some) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--rival", action="store_true", help="Ridge in memory, too: 1 GB more.")
    options = parser.parse_args()
    data = make(options.rows, options.dimension)
    before = peak_gb()
    started = time.perf_counter()
    few = data.take(slice(0, 5000))
    linear = fit(TASKS["photoz"], "linear", data, few, 0).predictor
    seconds = time.perf_counter() - started
    print(f"linear head on {options.rows:,} x {options.dimension}: {seconds:.1f} s")
    print(f"peak memory {peak_gb():.2f} GB, of which {before:.2f} GB before training")
    print(f"linear head predicts {rate(linear, data):,.0f} sources/s")
    quick = Settings(epochs=1, steps=10)
    network = fit(TASKS["photoz"], "mlp", few, few, 0, quick).predictor
    print(f"mlp head predicts {rate(network, data):,.0f} sources/s")
    if options.rival:
        from sklearn.linear_model import Ridge

        started = time.perf_counter()
        Ridge(1.0).fit(data.batch.embedding.astype(np.float32), data.targets[:, 0])
        print(f"scikit-learn Ridge, one penalty: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
