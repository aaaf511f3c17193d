"""How much each member of an ensemble counts, chosen by what it says of the calibration split.

A weighted mean of distributions is a distribution, and its mean CRPS on given sources is a
quadratic function of the weights, so the best weights are the one minimum of a convex problem:
nothing is tried out, and the same data give the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astropt_db.predict.mixture import Mixture

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
LEAST_LABELS = 100
"""Sources below which all members count the same."""

_RIDGE = 2e-3
_NEGLIGIBLE = 0.03
_STEPS, _RATE = 3000, 5.0


def choose_weights(
    members: Sequence[Mixture], truth: NDArray[np.floating[Any]], grid: Float32
) -> Float32:
    """Weights with the least mean CRPS, those below 3 % set to 0; their sum is 1.

    Parameters
    ----------
    members
        Each member's distributions of the same sources.
    truth
        True values of these sources in the same units, ``(n,)``.
    grid
        Where distributions are tabulated, evenly spaced, ``(t,)``.
    """
    number = len(members)
    cdf = np.stack([one.cdf_on(grid).ravel() for one in members]).astype(np.float64)
    step = (grid[:, None] >= truth).ravel().astype(np.float64)
    scale = float(grid[1] - grid[0]) / len(truth)
    square, linear = cdf @ cdf.T * scale, cdf @ step * scale
    # Members are alike; a little weight on equality keeps chance from choosing among them.
    square += _RIDGE * np.eye(number)
    weights = _least(square, linear)
    weights = np.where(weights < _NEGLIGIBLE, 0.0, weights)
    return np.asarray(weights / weights.sum(), np.float32)


def _least(square: Float64, linear: Float64) -> Float64:
    """Minimum of w'Aw - 2b'w over weights that are positive and sum to 1, by mirror descent."""
    weights = np.full(len(linear), 1.0 / len(linear))
    for _ in range(_STEPS):
        slope = 2 * (square @ weights - linear)
        weights = weights * np.exp(-_RATE * (slope - slope @ weights))
        weights /= weights.sum()
    return weights
