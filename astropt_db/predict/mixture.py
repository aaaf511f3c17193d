"""Distributions of a number: mixtures of logistic components, calibrated, as quantiles.

A head gives each source a mixture. Its cumulative distribution at the true values of the
calibration set (the probability integral transform, PIT) would be uniform if the head knew how
uncertain it is; the measured distribution of the PIT corrects every predicted probability
(Bordoloi, Lilly & Amara 2010, MNRAS 406, 881; Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263).
Logistic components have heavier tails than Gaussian ones, as redshift errors do, and their
distribution costs one exponential.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

PROBABILITIES = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5,
    0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.9, 0.95, 0.975, 0.99, 0.995,
)  # fmt: skip
"""Cumulative probabilities of the stored quantiles."""

GRID = 192
_MARGIN = 0.15
_BLOCK = 2048
_PER_KNOT = 12
_MOST_KNOTS = 24
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
        for k in range(self.weight.shape[1]):
            inverse = 1.0 / self.scale[:, k]
            np.multiply(grid[:, None], -inverse, out=work)
            work += self.centre[:, k] * inverse
            np.clip(work, -60, 60, out=work)
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
class Recalibration:
    """Map between predicted and true cumulative probabilities.

    Attributes
    ----------
    predicted, true
        Knots from 0 to 1, float64 ``(k,)``, both rising.
    """

    predicted: Float64
    true: Float64

    def to_predicted(self, true: Float64) -> Float64:
        """Which predicted probability stands for a true one."""
        return np.interp(true, self.true, self.predicted)

    def to_true(self, predicted: Float64 | Float32) -> Float64:
        """Which true probability a predicted one stands for."""
        return np.interp(predicted, self.predicted, self.true)


def fit_recalibration(pit: Float64) -> Recalibration:
    """Knots from the PIT of the calibration set; the identity where it is too small."""
    pit = np.sort(np.clip(pit[np.isfinite(pit)], 1e-6, 1 - 1e-6))
    number = min(len(pit) // _PER_KNOT, _MOST_KNOTS)
    if number < 2:
        return Recalibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    # Closer knots in the tails, where the ends of the 95 % interval are.
    true = (1 - np.cos(np.pi * (np.arange(number) + 0.5) / number)) / 2
    tail = 1.0 / (len(pit) + 1)
    true = np.clip(true, tail, 1 - tail)
    predicted = np.quantile(pit, true, method="weibull")
    keep = np.concatenate([[True], np.diff(predicted) > 1e-9])
    return Recalibration(
        np.concatenate([[0.0], predicted[keep], [1.0]]), np.concatenate([[0.0], true[keep], [1.0]])
    )


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
        density = np.diff(cdf, axis=0)
        highest = density.argmax(axis=0)
        mode[part] = (grid[highest] + grid[highest + 1]) / 2
    return Summary(quantiles, mode)


def _invert(cdf: Float32, grid: Float32, wanted: Float32) -> Float32:
    """Where each source's distribution reaches the wanted probabilities, linear between points."""
    rows = np.arange(cdf.shape[1])
    out = np.empty((cdf.shape[1], len(wanted)), np.float32)
    for k, probability in enumerate(wanted):
        below = (cdf < probability).view(np.uint8).sum(axis=0, dtype=np.uint8)
        right = np.clip(below, 1, len(grid) - 1).astype(np.int64)
        low, high = cdf[right - 1, rows], cdf[right, rows]
        share = np.clip((probability - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
        out[:, k] = grid[right - 1] + share * (grid[right] - grid[right - 1])
    return np.asarray(np.maximum.accumulate(out, axis=1), np.float32)


def probability_between(
    mixture: Mixture, low: Float32, high: Float32, calibration: Recalibration
) -> Float32:
    """Calibrated probability of each source's value between two bounds, ``(n,)``."""
    upper, lower = (calibration.to_true(mixture.cdf(one)) for one in (high, low))
    return np.asarray(upper - lower, np.float32)
