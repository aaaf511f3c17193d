"""Features to zero mean and unit deviation; gaps to the mean, with a mark that they are gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astropt_db.predict.features import Batch

Float32 = NDArray[np.float32]
BLOCK = 8192
_CACHED = 1024
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
        vectors = batch.vectors()
        vectors -= self.mean[: vectors.shape[1]]
        vectors /= self.deviation[: vectors.shape[1]]
        return np.concatenate([vectors, self.light(batch)], axis=1)

    def light(self, batch: Batch) -> Float32:
        """The scaled features after the embedding: fluxes and marks of gaps."""
        d, p = batch.embedding.shape[1], len(self.mean)
        raw = batch.light()
        out = np.empty((len(raw), self.width - d), np.float32)
        out[:, p - d :] = np.isnan(raw[:, self.gaps - d])
        flux = out[:, : p - d]
        np.divide(raw - self.mean[d:], self.deviation[d:], out=flux)
        np.nan_to_num(flux, copy=False, nan=0.0)
        # A flux far outside of all training must not carry a linear head to absurd values.
        np.clip(flux, -10, 10, out=flux)
        return out

    def folded(self, weight: Float32, embedding_width: int) -> tuple[Float32, Float32]:
        """Weights on scaled features as weights on embeddings as they are.

        Parameters
        ----------
        weight
            On scaled features, ``(width, q)``.

        Returns
        -------
        tuple
            Weights on the embedding ``(d, q)``, and what is to be added to their product ``(q,)``.
        """
        d = embedding_width
        own = weight[:d].astype(np.float64) / self.deviation[:d, None]
        return own.astype(np.float32), (-self.mean[:d] @ own).astype(np.float32)


def blocks(n: int, size: int = BLOCK) -> Iterator[slice]:
    """Slices that cover n rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def fit_scaler(batch: Batch) -> Scaler:
    """Mean and deviation in one pass, block by block."""
    d, k = batch.embedding.shape[1], batch.flux.shape[1]
    shift = np.zeros(d + k, np.float32)
    count, total, squares = (np.zeros(d + k) for _ in range(3))
    gaps = np.zeros(d + k, np.bool_)
    for part in blocks(len(batch), _CACHED):
        some = batch.take(part)
        raw = np.concatenate([some.vectors(), some.light()], axis=1)
        missing = np.isnan(raw[:, d:])
        if part.start == 0:  # sums of squares about a point near the mean lose no digits
            shift[:d] = raw[:, :d].mean(axis=0)
        raw -= shift
        raw[:, d:][missing] = 0.0
        count += len(raw)
        count[d:] -= missing.sum(axis=0)
        total += raw.sum(axis=0)
        squares += np.einsum("ij,ij->j", raw, raw)
        gaps[d:] |= missing.any(axis=0)
    n = np.maximum(count, 1)
    offset = total / n
    mean = shift + offset
    deviation = np.sqrt(np.maximum(squares / n - offset**2, 0.0))
    # A feature that never changes teaches nothing; it must not be blown up either.
    deviation[deviation < 1e-6 * np.maximum(np.abs(mean), 1.0)] = 1.0
    if d > k > 0:
        # Hundreds of image features with the weight of one flux each doubled the scatter of
        # redshifts learned from 1,100 labels; with a tenth of the fluxes' variance in all they
        # add to them (measured on simulated skies).
        deviation[:d] *= np.sqrt(d / k) / _EMBEDDING_GAIN
    return Scaler(
        mean.astype(np.float32), deviation.astype(np.float32), np.flatnonzero(gaps).astype(np.int64)
    )
