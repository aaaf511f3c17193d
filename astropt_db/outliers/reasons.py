"""What the embedding says about flagged sources: their neighbours, and the nearest known ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import VectorBatch
from astropt_db.outliers.graph import Graph

NEIGHBOURS_SHOWN = 10
LABELLED_SHOWN = 5
_BLOCK = 1024


@dataclass(frozen=True)
class Reasons:
    """What is known of one flagged source.

    Attributes
    ----------
    object_id
        The source.
    neighbours
        Nearest sources, nearest first; None without a graph.
    labelled
        Nearest sources of known class: id, class, cosine distance, nearest first.
    known_lens
        Lens catalogue that holds it.
    """

    object_id: int
    neighbours: list[int] | None
    labelled: list[tuple[int, str, float]]
    known_lens: str | None

    def row(self, outlier_run: int) -> dict[str, Any]:
        """Values of its row in ``astropt.outlier_reason``."""
        return {
            "outlier_run_id": outlier_run,
            "object_id": self.object_id,
            "neighbours": self.neighbours,
            "labelled_neighbours": [one[0] for one in self.labelled],
            "labelled_classes": [one[1] for one in self.labelled],
            "labelled_distances": [one[2] for one in self.labelled],
            "known_lens": self.known_lens,
        }


def find_reasons(
    cursor: psycopg.Cursor[Any],
    batch: VectorBatch,
    flagged: NDArray[np.int64],
    graph: Graph | None,
) -> list[Reasons]:
    """Look up neighbours of the flagged rows of a batch.

    Parameters
    ----------
    flagged
        Rows of `batch`, the oddest first.
    """
    queries = named_queries()
    lens = dict(cursor.execute(queries["outlier_known_lens"]).fetchall())
    known = cursor.execute(queries["outlier_known_class"]).fetchall()
    labelled = _nearest_labelled(batch, flagged, dict(known))
    near: list[list[int]] | None = None
    if graph is not None:
        near = batch.object_id[graph.indices[flagged, :NEIGHBOURS_SHOWN]].tolist()
    ids = batch.object_id[flagged].tolist()
    return [
        Reasons(one, near[i] if near else None, labelled[i], lens.get(one))
        for i, one in enumerate(ids)
    ]


def _nearest_labelled(
    batch: VectorBatch, flagged: NDArray[np.int64], known: dict[int, str]
) -> list[list[tuple[int, str, float]]]:
    """For each flagged row the nearest rows of known class, itself left out."""
    ids = np.fromiter(known, np.int64, len(known))
    rows = np.flatnonzero(np.isin(batch.object_id, ids))
    count = min(LABELLED_SHOWN, len(rows) - 1)
    if count < 1:
        return [[] for _ in flagged]
    base = _units(batch.vectors[rows])
    found: list[list[tuple[int, str, float]]] = []
    for start in range(0, len(flagged), _BLOCK):
        part = flagged[start : start + _BLOCK]
        distances = 1 - _units(batch.vectors[part]) @ base.T
        distances[part[:, None] == rows[None, :]] = np.inf
        near = np.argpartition(distances, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(distances, near, 1).argsort(axis=1, kind="stable")
        near = np.take_along_axis(near, order, 1)
        values = np.take_along_axis(distances, near, 1).clip(min=0).tolist()
        for line, distance in zip(batch.object_id[rows[near]].tolist(), values, strict=True):
            found.append([(o, known[o], d) for o, d in zip(line, distance, strict=True)])
    return found


def _units(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    rows = vectors.astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
