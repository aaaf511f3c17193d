"""How good similarity is: precision at k and enrichment over chance, by class.

Every labelled galaxy of a class asks for its k nearest among all labelled galaxies; precision is
the mean fraction of the answers that are of its class, and enrichment that over the fraction
which answers by chance would have. Cosine, exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.database.provenance import Run
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import VectorBatch, load_vectors
from astropt_db.errors import DatabaseError, FileError
from astropt_db.search.exact import Int64, unit

Bool = NDArray[np.bool_]

CLASSES = ("merger", "edge_on", "spiral", "lens", "ring")
"""Classes that are looked for."""
ZOOBOT = "zoobot"
"""The label set of Galaxy Zoo's answers in ``q1.mer_morphology``."""
_SPIRALS = ("spiral", "barred_spiral")
_BLOCK = 512


@dataclass(frozen=True)
class Labels:
    """Classes of some objects.

    Attributes
    ----------
    name
        Where they are from.
    object_id
        int64 ``(n,)``, ascending.
    members
        By class, which objects are in it, bool ``(n,)``.
    """

    name: str
    object_id: Int64
    members: Mapping[str, Bool]


@dataclass(frozen=True)
class Score:
    """Precision of the answers to the galaxies of a class.

    Attributes
    ----------
    name
        The class.
    k
        Rows of an answer.
    objects, members
        Labelled objects with a vector, and those of the class.
    precision, error
        Mean over the members and its standard error.
    chance
        Precision of random answers.
    """

    name: str
    k: int
    objects: int
    members: int
    precision: float
    error: float
    chance: float

    @property
    def enrichment(self) -> float:
        """Precision over that of chance."""
        return self.precision / self.chance


def evaluate(
    database: Database,
    encoder_name: str | None,
    source: str,
    ks: Sequence[int],
    run: Run,
) -> list[Score]:
    """Measure an encoder's answers against labels, and store the scores.

    Parameters
    ----------
    source
        ``zoobot``, or a Parquet file with ``object_id`` and ``morphology``, such as the
        ``truth.parquet`` of a simulated sky.
    ks
        Rows of an answer; each is scored.

    Raises
    ------
    DatabaseError
        If too few labelled objects have an embedding.
    FileError
        If the file cannot be read or lacks the columns.
    """
    with connect(database) as connection, connection.cursor() as cursor:
        encoder = find_encoder(connection, encoder_name)
        labels = zoobot_labels(connection) if source == ZOOBOT else file_labels(Path(source))
        vectors = load_vectors(cursor, encoder)
        scores = score(vectors, labels, ks)
        if not scores:
            raise DatabaseError(
                f"no class of {labels.name} has two objects with an embedding of encoder "
                f"{encoder.name}; {len(vectors):,} objects have one, {len(labels.object_id):,} "
                "are labelled"
            )
        for one in scores:
            connection.execute(
                named_queries()["search_evaluation_insert"],
                {
                    "encoder_id": encoder.id,
                    "label_set": labels.name,
                    "class": one.name,
                    "k": one.k,
                    "objects": one.objects,
                    "members": one.members,
                    "precision": one.precision,
                    "error": one.error,
                    "chance": one.chance,
                    "enrichment": one.enrichment,
                    "run_id": run.id,
                },
            )
    return scores


def score(vectors: VectorBatch, labels: Labels, ks: Sequence[int]) -> list[Score]:
    """Score every class that has two members with a vector, at every k that leaves a choice."""
    _, there, here = np.intersect1d(
        vectors.object_id, labels.object_id, assume_unique=True, return_indices=True
    )
    rows = unit(vectors.vectors[there])
    n = len(rows)
    scores = []
    for name, everywhere in labels.members.items():
        inside = everywhere[here]
        members = np.flatnonzero(inside)
        if len(members) < 2:
            continue
        for k in (k for k in ks if k < n):
            found = _precision(rows, members, inside, k)
            error = float(found.std(ddof=1) / np.sqrt(len(found)))
            chance = (len(members) - 1) / (n - 1)
            scores.append(Score(name, k, n, len(members), float(found.mean()), error, chance))
    return scores


def _precision(
    rows: NDArray[np.float32], members: Int64, inside: Bool, k: int
) -> NDArray[np.float64]:
    """Fraction of each member's k nearest that are members."""
    found = []
    for start in range(0, len(members), _BLOCK):
        block = members[start : start + _BLOCK]
        similarity = rows[block] @ rows.T
        similarity[np.arange(len(block)), block] = -np.inf
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        found.append(inside[nearest].mean(axis=1))
    return np.concatenate(found)


def zoobot_labels(connection: psycopg.Connection[Any]) -> Labels:
    """Galaxy Zoo's answers by majority; lenses and rings are not among its questions."""
    found = connection.execute(named_queries()["labels_zoobot"])
    names = [column.name for column in found.description or ()]
    rows = found.fetchall()
    table = np.array(
        [[np.nan if value is None else value for value in row[1:]] for row in rows], np.float64
    ).reshape(len(rows), len(names) - 1)
    ids = np.array([row[0] for row in rows], np.int64)
    order = np.argsort(ids)
    wanted = [name for name in CLASSES if name in names]
    members = {name: table[order, names.index(name) - 1] >= 0.5 for name in wanted}
    return Labels(ZOOBOT, ids[order], members)


def file_labels(path: Path) -> Labels:
    """Labels of a Parquet file with a column ``morphology``; barred spirals are spirals.

    Raises
    ------
    FileError
        If it cannot be read, or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=["object_id", "morphology"])
    except (OSError, pa.ArrowException) as error:
        raise FileError(
            path,
            f"expected Parquet with object_id and morphology: {error}.",
            f"Give such a file, or {ZOOBOT}.",
        ) from error
    table = table.filter(table["object_id"].is_valid())
    ids = table["object_id"].to_numpy().astype(np.int64)
    words = np.array(table["morphology"].to_pylist(), object)
    ids, first = np.unique(ids, return_index=True)
    words = words[first]
    members = {
        name: np.isin(words, _SPIRALS) if name == "spiral" else words == name for name in CLASSES
    }
    return Labels(path.name, ids, members)
