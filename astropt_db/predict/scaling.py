"""Features to zero mean and unit deviation; gaps to the mean, with a mark that they are gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astropt_db.predict.features import Batch

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
BLOCK = 8192
_EMBEDDING_GAIN = 0.3


@dataclass(frozen=True)
class Scaler:
    """What the training set taught about the scale of the features.

    Attributes
    ----------
    mean, deviation
        float32 ``(p,)``.
    gaps
        Features that had gaps in the training set, int64 ``(g,)``; each gets a mark.
    """

    mean: Float32
    deviation: Float32
    gaps: NDArray[np.int64]

    @property
    def width(self) -> int:
        """Number of scaled features, marks included."""
        return len(self.mean) + len(self.gaps)

    def __call__(self, batch: Batch) -> Float32:
        """Scaled features, float32 ``(n, width)``."""
        raw = batch.matrix()
        p = raw.shape[1]
        out = np.empty((len(raw), self.width), np.float32)
        out[:, p:] = np.isnan(raw[:, self.gaps])
        np.subtract(raw, self.mean, out=raw)
        np.divide(raw, self.deviation, out=out[:, :p])
        flux = out[:, batch.embedding.shape[1] : p]
        np.nan_to_num(flux, copy=False, nan=0.0)
        # A flux far outside of all training must not carry a linear head to absurd values.
        np.clip(flux, -10, 10, out=flux)
        return out


def blocks(n: int, size: int = BLOCK) -> Iterator[slice]:
    """Slices that cover n rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def fit_scaler(batch: Batch) -> Scaler:
    """Mean and deviation in one pass, block by block."""
    count: Float64 | float = 0.0
    total: Float64 | float = 0.0
    squares: Float64 | float = 0.0
    gaps: NDArray[np.bool_] | None = None
    for part in blocks(len(batch)):
        raw = batch.take(part).matrix().astype(np.float64)
        missing = np.isnan(raw)
        raw[missing] = 0.0
        count = count + (~missing).sum(axis=0)
        total = total + raw.sum(axis=0)
        squares = squares + np.einsum("ij,ij->j", raw, raw)
        some = np.asarray(missing.any(axis=0), np.bool_)
        gaps = some if gaps is None else gaps | some
    assert gaps is not None
    n = np.maximum(count, 1)
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    # A feature that never changes teaches nothing; it must not be blown up either.
    deviation[deviation < 1e-6 * np.maximum(np.abs(mean), 1.0)] = 1.0
    width, fluxes = batch.embedding.shape[1], batch.flux.shape[1]
    if width > fluxes > 0:
        # Hundreds of image features with the weight of one flux each doubled the scatter of
        # redshifts learned from 1,100 labels; with a tenth of the fluxes' variance in all they
        # add to them (measured on simulated skies).
        deviation[:width] *= np.sqrt(width / fluxes) / _EMBEDDING_GAIN
    return Scaler(
        mean.astype(np.float32), deviation.astype(np.float32), np.flatnonzero(gaps).astype(np.int64)
    )
