"""Exact neighbours by matrix products over a stream of vectors: the truth that recall needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astropt_db.database.vectors import VectorBatch

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

TIE = 1e-6
"""Cosines closer than this are equal: the server adds up in another order."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of m queries.

    Attributes
    ----------
    object_id
        int64 ``(m, k)``, best first; where fewer exist the rest is undefined.
    similarity
        Cosine, float32 ``(m, k)``; ``-inf`` where fewer exist.
    """

    object_id: Int64
    similarity: Float32


def unit(vectors: NDArray[Any]) -> Float32:
    """Rows divided by their lengths, float32."""
    rows = vectors.astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def exact_neighbours(
    batches: Iterable[VectorBatch], queries: VectorBatch, k: int
) -> tuple[Neighbours, int]:
    """Find the nearest vectors of each query by cosine, without the query itself.

    Parameters
    ----------
    batches
        All vectors, in any order; read once, never held together.
    queries
        m objects.
    k
        Neighbours of each.

    Returns
    -------
    tuple
        The neighbours, and how many vectors were read.
    """
    wanted = unit(queries.vectors)
    best_id = np.zeros((len(queries), k), np.int64)
    best = np.full((len(queries), k), -np.inf, np.float32)
    count = 0
    for batch in batches:
        count += len(batch)
        similarity = wanted @ unit(batch.vectors).T
        similarity[queries.object_id[:, None] == batch.object_id] = -np.inf
        ids = np.broadcast_to(batch.object_id, similarity.shape)
        similarity = np.concatenate([best, similarity], axis=1)
        ids = np.concatenate([best_id, ids], axis=1)
        top = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(similarity, top, axis=1)
        best_id = np.take_along_axis(ids, top, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return Neighbours(
        np.take_along_axis(best_id, order, axis=1), np.take_along_axis(best, order, axis=1)
    ), count


def recall_of(similarities: Float32, truth: Float32) -> float:
    """Fraction of the exact answer that was returned.

    A returned vector counts if it is as near as the last of the exact answer, so that of equal
    vectors any will do.

    Parameters
    ----------
    similarities
        Cosines that were returned, ``(j,)``.
    truth
        Cosines of the exact answer, best first, ``(k,)``; ``-inf`` beyond the last that exists.
    """
    exists = int(np.isfinite(truth).sum())
    if exists == 0:
        return 1.0
    return min(1.0, float((similarities >= truth[exists - 1] - TIE).sum()) / exists)
