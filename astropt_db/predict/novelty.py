"""Which sources are unlike everything that a head learned from.

The training set is described by a few centres in the leading principal components of its
features; a source farther from the nearest centre than 99 % of the calibration set is flagged.
Exact nearest neighbours would cost a thousand times as much for each source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

Float32 = NDArray[np.float32]
COMPONENTS = 16
CENTRES = 64
QUANTILE = 0.99


@dataclass(frozen=True)
class Novelty:
    """Centres of a training set.

    Attributes
    ----------
    projection
        Scaled features to whitened components, float32 ``(p, q)``.
    centres
        float32 ``(c, q)``.
    limit
        Squared distance from which on a source is new.
    """

    projection: Float32
    centres: Float32
    limit: float

    def distance(self, place: Float32) -> Float32:
        """Squared distance of components ``(n, q)`` to the nearest centre, ``(n,)``."""
        norm = np.einsum("ij,ij->i", place, place)
        own = np.einsum("ij,ij->i", self.centres, self.centres)
        nearest = (own - 2.0 * (place @ self.centres.T)).min(axis=1)
        return np.asarray(norm + nearest, np.float32)

    def is_new(self, place: Float32) -> NDArray[np.bool_]:
        """Whether each source, by its components, is unlike the training set, ``(n,)``."""
        return np.asarray(self.distance(place) > self.limit)


def fit_novelty(x: Float32, calibration: Float32, embedding_width: int, seed: int) -> Novelty:
    """Describe a training set.

    Parameters
    ----------
    x
        Scaled features of (a sample of) the training set, ``(n, p)``.
    calibration
        Scaled features of the calibration set; the training set stands in if it is empty.
    embedding_width
        How many of the features are an embedding; the rest are fluxes, with components of their
        own, lest a hundred image features drown out the brightness.
    seed
        Of the clustering.
    """
    projection = np.zeros((x.shape[1], 0), np.float32)
    for part, number in (
        (slice(0, embedding_width), COMPONENTS),
        (slice(embedding_width, None), 4),
    ):
        block = x[:, part]
        if block.shape[1]:
            own = np.zeros((x.shape[1], min(number, block.shape[1])), np.float32)
            own[part] = _components(block, own.shape[1])
            projection = np.concatenate([projection, own], axis=1)
    place = x @ projection
    number = int(np.clip(len(x) // 10, 1, CENTRES))
    clusters = MiniBatchKMeans(number, random_state=seed, n_init=1, batch_size=2048).fit(place)
    centres = np.asarray(clusters.cluster_centers_, np.float32)
    unlimited = Novelty(projection, centres, np.inf)
    reference = calibration if len(calibration) else x
    limit = float(np.quantile(unlimited.distance(reference @ projection), QUANTILE))
    return Novelty(projection, centres, limit)


def _components(block: Float32, number: int) -> Float32:
    """Leading principal components, scaled to unit variance, ``(p, number)``."""
    centred = block.astype(np.float64) - block.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(block), 1))
    leading = vectors[:, ::-1][:, :number]
    return np.asarray(leading / np.sqrt(np.maximum(values[::-1][:number], 1e-6)), np.float32)
