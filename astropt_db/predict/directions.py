"""Directions of the embedding that tell of a number: two features instead of hundreds.

A network that sees ten fluxes and hundreds of image features learns the labels by heart. Ridge
regressions of the target and of its square on the embedding condense what the images say. On the
sources that they are learned from they look better than they are, so each of those is given the
value of a regression that has not seen it (cross-fitting; Chernozhukov et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astropt_db.predict.features import Batch
from astropt_db.predict.scaling import Scaler, blocks

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
FOLDS = 5
PENALTIES = tuple(10.0**power for power in np.arange(-4.0, 1.6, 0.5))


@dataclass(frozen=True)
class Directions:
    """Found directions.

    Attributes
    ----------
    weight
        Scaled features to them, float32 ``(p, 2)``; without any embedding ``(p, 0)``.
    values
        Of the sources that they were learned from, by cross-fitting, float32 ``(n, 2)``.
    """

    weight: Float32
    values: Float32

    @property
    def number(self) -> int:
        """How many."""
        return int(self.weight.shape[1])


def find_directions(
    batch: Batch, scaler: Scaler, target: Float32, rng: np.random.Generator
) -> Directions:
    """Learn the directions.

    Parameters
    ----------
    target
        Scaled, ``(n,)``.
    """
    d, n = batch.embedding.shape[1], len(batch)
    wanted = np.stack([target, target**2], axis=1).astype(np.float32)
    wanted -= wanted.mean(axis=0)
    fold = rng.permutation(n) % FOLDS
    gram, moment = np.zeros((FOLDS, d, d)), np.zeros((FOLDS, d, 2))
    for part in blocks(n):
        x = scaler(batch.take(part))[:, :d]
        for k in range(FOLDS):
            some = fold[part] == k
            gram[k] += x[some].T @ x[some]
            moment[k] += x[some].T @ wanted[part][some]
    # Penalties are fractions of the mean variance of a feature, whatever the scaler made of it.
    unit = float(np.trace(gram.sum(axis=0))) / max(d, 1)
    tried = [_solve(gram, moment, unit * one) for one in PENALTIES]
    values = np.empty((len(PENALTIES), n, 2), np.float32)
    for part in blocks(n):
        x = scaler(batch.take(part))[:, :d]
        for index, weights in enumerate(tried):
            every = np.stack([x @ one.astype(np.float32) for one in weights[:FOLDS]])
            values[index, part] = every[fold[part], np.arange(len(x))]
    best = ((values - wanted) ** 2).mean(axis=1).argmin(axis=0)
    chosen = np.stack([values[best[j], :, j] for j in range(2)], axis=1)
    weight = np.zeros((scaler.width, 2))
    weight[:d] = np.stack([tried[best[j]][FOLDS][:, j] for j in range(2)], axis=1)
    size = np.maximum(chosen.std(axis=0), 1e-6)
    return Directions((weight / size).astype(np.float32), chosen / size)


def _solve(gram: Float64, moment: Float64, penalty: float) -> list[Float64]:
    """Weights without each fold, and of all."""
    all_gram, all_moment = gram.sum(axis=0), moment.sum(axis=0)
    ridge = penalty * np.eye(gram.shape[1])
    without = [
        np.linalg.solve(all_gram - one + ridge, all_moment - two)
        for one, two in zip(gram, moment, strict=True)
    ]
    return [*without, np.linalg.solve(all_gram + ridge, all_moment)]
