"""Distributions of a number: mixtures of logistic components, calibrated, as quantiles.

A head gives each source a mixture, whose probabilities :mod:`.recalibration` corrects. Logistic
components have heavier tails than Gaussian ones, as redshift errors do, and their distribution
costs one exponential.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astropt_db.predict.recalibration import Recalibration

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

PROBABILITIES = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5,
    0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.9, 0.95, 0.975, 0.99, 0.995,
)  # fmt: skip
"""Cumulative probabilities of the stored quantiles."""

GRID = 96
_MARGIN = 0.15
_BLOCK = 1024
ODDS_WIDTH = 0.06
"""Half width of the odds' window in units of 1 + z (Benitez 2000, ApJ 536, 571)."""


@dataclass(frozen=True)
class Mixture:
    """A mixture for each source, in scaled units of the target.

    Attributes
    ----------
    weight, centre, scale
        float32 ``(n, k)``; weights sum to 1, scales are positive.
    """

    weight: Float32
    centre: Float32
    scale: Float32

    def __len__(self) -> int:
        return len(self.weight)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Mixture:
        """Some of the sources."""
        return Mixture(self.weight[rows], self.centre[rows], self.scale[rows])

    def cdf(self, values: Float32) -> Float32:
        """Cumulative distribution at one value for each source, ``(n,)``."""
        parts = _sigmoid((values[:, None] - self.centre) / self.scale)
        return np.asarray((self.weight * parts).sum(axis=1), np.float32)

    def cdf_on(self, grid: Float32) -> Float32:
        """Cumulative distributions on a grid ``(t,)``, as ``(t, n)``, sources side by side."""
        out = np.zeros((len(grid), len(self)), np.float32)
        work = np.empty_like(out)
        line = np.stack([-grid, np.ones_like(grid)], axis=1)
        for k in range(self.weight.shape[1]):
            inverse = 1.0 / self.scale[:, k]
            np.matmul(line, np.stack([inverse, self.centre[:, k] * inverse]), out=work)
            with np.errstate(over="ignore"):  # 1 / (1 + inf) is the 0 that is meant
                np.exp(work, out=work)
            work += 1.0
            np.divide(self.weight[:, k], work, out=work)
            out += work
        return out


def _sigmoid(x: Float32) -> Float32:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -60, 60))), np.float32)


def target_grid(targets: Float64) -> Float32:
    """Values at which distributions are tabulated: the training range with a margin."""
    low, high = float(targets.min()), float(targets.max())
    margin = _MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, GRID, dtype=np.float32)


@dataclass(frozen=True)
class Summary:
    """Calibrated distributions in scaled units of the target.

    Attributes
    ----------
    quantiles
        float32 ``(n, len(PROBABILITIES))``, never falling.
    mode
        float32 ``(n,)``.
    """

    quantiles: Float32
    mode: Float32


def summarise(mixture: Mixture, grid: Float32, calibration: Recalibration) -> Summary:
    """Quantiles and mode of each source."""
    wanted = calibration.to_predicted(np.asarray(PROBABILITIES)).astype(np.float32)
    quantiles = np.empty((len(mixture), len(wanted)), np.float32)
    mode = np.empty(len(mixture), np.float32)
    for start in range(0, len(mixture), _BLOCK):
        part = slice(start, start + _BLOCK)
        cdf = mixture.take(part).cdf_on(grid)
        quantiles[part] = _invert(cdf, grid, wanted)
        middle = (grid[1:] + grid[:-1]) / np.float32(2)
        mode[part] = _peak(np.diff(cdf, axis=0), np.asarray(middle, np.float32))
    return Summary(quantiles, mode)


def _peak(density: Float32, middle: Float32) -> Float32:
    """Where each source's density is highest, by a parabola through the three highest points."""
    rows = np.arange(density.shape[1])
    at = np.clip(density.argmax(axis=0), 1, len(density) - 2)
    before, top, after = density[at - 1, rows], density[at, rows], density[at + 1, rows]
    bend = 2 * top - before - after
    shift = 0.5 * (after - before) / np.where(bend > 0, bend, 1.0)
    found = middle[at] + np.clip(shift, -1.0, 1.0) * (middle[1] - middle[0])
    return np.asarray(found, np.float32)


def _invert(cdf: Float32, grid: Float32, wanted: Float32) -> Float32:
    """Where each source's distribution reaches the wanted probabilities.

    Linear in the logit between points of the grid, which is exact for a single component.
    """
    below = np.empty((len(wanted), cdf.shape[1]), np.uint8)
    for k, probability in enumerate(wanted):
        np.add.reduce((cdf < probability).view(np.uint8), axis=0, out=below[k])
    right = np.minimum(np.maximum(below, 1), len(grid) - 1).astype(np.intp)
    rows = np.arange(cdf.shape[1])
    low, high = _logit(cdf[right - 1, rows]), _logit(cdf[right, rows])
    share = (_logit(wanted)[:, None] - low) / np.maximum(high - low, np.float32(1e-6))
    np.minimum(np.maximum(share, 0.0, out=share), 1.0, out=share)
    start = grid[right - 1]
    out = start + share * (grid[right] - start)
    return np.asarray(np.maximum.accumulate(out, axis=0).T, np.float32)


def _logit(p: Float32) -> Float32:
    p = np.minimum(np.maximum(p, np.float32(1e-7)), np.float32(1 - 1e-7))
    return np.asarray(np.log(p / (1 - p)), np.float32)


def probability_between(
    mixture: Mixture, low: Float32, high: Float32, calibration: Recalibration
) -> Float32:
    """Calibrated probability of each source's value between two bounds, ``(n,)``."""
    upper, lower = (calibration.to_true(mixture.cdf(one)) for one in (high, low))
    return np.asarray(upper - lower, np.float32)
