"""Figures of photometric redshifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
OUTLIER = 0.15


@dataclass(frozen=True)
class RedshiftMetrics:
    """Agreement of photometric with spectroscopic redshifts.

    Attributes
    ----------
    n
        Number of sources.
    nmad
        1.48 times the median of |dz|/(1+z).
    outlier_fraction
        Share with |dz|/(1+z) of 0.15 and more.
    bias
        Median of dz/(1+z).
    coverage_68
        Share of spectroscopic redshifts within the 68 % interval.
    """

    n: int
    nmad: float
    outlier_fraction: float
    bias: float
    coverage_68: float


def redshift_metrics(spec: Float64, phot: Float64, low: Float64, high: Float64) -> RedshiftMetrics:
    """Metrics of ``(n,)`` redshifts and the bounds of their 68 % intervals (arXiv:2503.15312)."""
    dz = (phot - spec) / (1 + spec)
    return RedshiftMetrics(
        len(spec),
        float(1.48 * np.median(np.abs(dz))),
        float(np.mean(np.abs(dz) >= OUTLIER)),
        float(np.median(dz)),
        float(np.mean((spec >= low) & (spec <= high))),
    )
