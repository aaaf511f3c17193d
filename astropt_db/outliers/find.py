"""``outliers find``: from the vectors of an encoder to scores, flags and reasons in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import torch
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.filters import condition_ids
from astropt_db.database.provenance import Run, recorded_run
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import VectorBatch, load_vectors
from astropt_db.errors import ConfigurationError, DatabaseError
from astropt_db.outliers import methods as detectors
from astropt_db.outliers.graph import RECALL, Graph, Progress, neighbour_graph
from astropt_db.outliers.methods import METHODS, Combined, combine
from astropt_db.outliers.reasons import Reasons, find_reasons

LEAST = 20
"""Fewer sources than this have no outliers to speak of."""


@dataclass(frozen=True)
class Settings:
    """What to look for.

    Attributes
    ----------
    encoder
        Name; None is the current one.
    methods
        Of ``if``, ``lof``, ``knn``.
    contamination
        Fraction that is flagged, above 0, at most 0.5.
    where
        SQL condition on ``astropt.source`` that chooses sources; None takes all.
    approximate
        Approximate graph of measured recall.
    device
        For the graph; None takes a GPU if there is one.
    """

    encoder: str | None = None
    methods: tuple[str, ...] = ("if", "lof")
    contamination: float = 0.01
    where: str | None = None
    approximate: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise ConfigurationError(
                f"methods are {', '.join(self.methods) or 'none'}; expected some of "
                f"{', '.join(METHODS)}, each once"
            )
        if not 0 < self.contamination <= 0.5:
            raise ConfigurationError(
                f"contamination is {self.contamination}; expected a fraction above 0, at most 0.5"
            )


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    outlier_run
        Number in ``astropt.outlier_run``.
    encoder
        Name.
    objects, flagged
        Sources scored and flagged.
    graph
        ``exact``, ``approximate`` or None.
    recall
        Of the graph.
    """

    outlier_run: int
    encoder: str
    objects: int
    flagged: int
    graph: str | None
    recall: float | None


def find_outliers(
    database: Database, settings: Settings, progress: Progress | None = None
) -> Found:
    """Score all chosen sources of an encoder, and make that run the encoder's current one.

    Raises
    ------
    ConfigurationError
        If the encoder does not exist or has too few vectors.
    DatabaseError
        If the condition is wrong or matches nothing, or the approximate graph's recall is low.
    """
    with connect(database) as connection:
        encoder = find_encoder(connection, settings.encoder)
    chosen = None if settings.where is None else condition_ids(database, settings.where)
    if chosen is not None and not len(chosen):
        raise DatabaseError(f"no source matches the condition {settings.where!r}")
    arguments = {
        "encoder": encoder.name,
        "methods": list(settings.methods),
        "contamination": settings.contamination,
        "where": settings.where,
        "approximate": settings.approximate,
    }
    with recorded_run(database, "outliers find", arguments) as run:
        batch = read_chosen(database, encoder, chosen)
        if len(batch) < LEAST:
            raise ConfigurationError(
                f"encoder {encoder.name} has vectors of {len(batch)} of the chosen sources; "
                f"{LEAST} are needed. Make vectors: astropt-db embed --encoder {encoder.name}"
            )
        scores, graph = score(batch.vectors, settings, progress)
        combined = combine(scores, settings.contamination)
        found = _store(database, run, encoder, settings, batch, combined, graph)
        run.counts = {"objects": found.objects, "flagged": found.flagged}
    return found


def read_chosen(
    database: Database, encoder: EncoderRecord, chosen: NDArray[np.int64] | None
) -> VectorBatch:
    """Vectors of the chosen sources, sorted by id; of all if `chosen` is None."""
    with connect(database) as connection, connection.cursor() as cursor:
        if chosen is None:
            return load_vectors(cursor, encoder)
        cursor.execute("CREATE TEMPORARY TABLE chosen (object_id bigint) ON COMMIT DROP")
        copy_rows(cursor, sql.Identifier("chosen"), [Field("object_id", "bigint", chosen)])
        return load_vectors(cursor, encoder, sql.SQL("SELECT object_id FROM chosen"))


def score(
    vectors: NDArray[np.float16], settings: Settings, progress: Progress | None = None
) -> tuple[dict[str, NDArray[np.float64]], Graph | None]:
    """Scores by method, and the graph if a method needs it.

    Raises
    ------
    DatabaseError
        If an approximate graph found fewer neighbours than it must.
    """
    scores: dict[str, NDArray[np.float64]] = {}
    graph = None
    if {"lof", "knn"} & set(settings.methods):
        graph = neighbour_graph(
            vectors,
            max(detectors.NEIGHBOURS),
            approximate=settings.approximate,
            device=settings.device,
            progress=progress,
        )
        if graph.recall < RECALL:
            raise DatabaseError(
                f"the approximate graph holds {graph.recall:.3f} of the true neighbours, less "
                f"than {RECALL}; take the exact one"
            )
    for name in settings.methods:
        if name == "if":
            scores[name] = detectors.forest_scores(vectors.astype(np.float32))
        elif graph is not None:
            scorer = detectors.lof_scores if name == "lof" else detectors.knn_scores
            scores[name] = scorer(graph)
    return scores, graph


def density_percentile(graph: Graph) -> NDArray[np.float64]:
    """Percentage of sources whose tenth neighbour is farther: 0 to 100, low in sparse regions."""
    radius = graph.distances[:, min(10, graph.k) - 1]
    farther = len(radius) - np.searchsorted(np.sort(radius), radius, side="right")
    return np.asarray(100.0 * farther / len(radius))


def _store(
    database: Database,
    run: Run,
    encoder: EncoderRecord,
    settings: Settings,
    batch: VectorBatch,
    combined: Combined,
    graph: Graph | None,
) -> Found:
    flagged = np.flatnonzero(combined.flag)
    flagged = flagged[np.argsort(combined.rank[flagged])]
    with connect(database) as connection, connection.cursor() as cursor:
        reasons = find_reasons(cursor, batch, flagged, graph)
        cursor.execute(named_queries()["outlier_run_retire"], {"encoder_id": encoder.id})
        values = _run_row(run, encoder, settings, batch, combined, graph)
        row = cursor.execute(named_queries()["outlier_run_insert"], values).fetchone()
        assert row is not None
        number = int(row[0])
        copy_rows(
            cursor,
            sql.Identifier("astropt", "outlier_score"),
            _score_fields(number, batch.object_id, combined, graph),
        )
        _insert_reasons(cursor, number, reasons)
    return Found(
        number,
        encoder.name,
        len(batch),
        len(flagged),
        graph.method if graph else None,
        graph.recall if graph else None,
    )


def _run_row(
    run: Run,
    encoder: EncoderRecord,
    settings: Settings,
    batch: VectorBatch,
    combined: Combined,
    graph: Graph | None,
) -> dict[str, Any]:
    grid = {
        "if": {"n_estimators": detectors.TREES, "max_features": detectors.FEATURES},
        "lof": {"n_neighbors": detectors.NEIGHBOURS, "metric": "cosine"},
        "knn": {"n_neighbors": detectors.NEIGHBOURS, "metric": "cosine"},
    }
    return {
        "run_id": run.id,
        "encoder_id": encoder.id,
        "methods": list(settings.methods),
        "grid": Jsonb({name: grid[name] for name in settings.methods}),
        "contamination": settings.contamination,
        "selection": settings.where,
        "objects": len(batch),
        "threshold": combined.threshold,
        "graph": graph.method if graph else None,
        "graph_recall": graph.recall if graph else None,
        "recall_rows": graph.recall_rows if graph else None,
    }


def _score_fields(
    number: int, object_id: NDArray[np.int64], combined: Combined, graph: Graph | None
) -> Sequence[Field]:
    n = len(object_id)
    nothing = np.ones(n, np.bool_)

    def method(name: str) -> Field:
        values = combined.methods.get(name)
        if values is None:
            return Field(f"score_{name}", "real", np.zeros(n), nothing)
        return Field(f"score_{name}", "real", values)

    density = Field("density_percentile", "real", np.zeros(n), nothing)
    if graph is not None:
        density = Field("density_percentile", "real", density_percentile(graph))
    return [
        Field("outlier_run_id", "bigint", np.full(n, number)),
        Field("object_id", "bigint", object_id),
        Field("score", "double precision", combined.score),
        Field("outlier_rank", "integer", combined.rank),
        Field("is_outlier", "boolean", combined.flag),
        *map(method, METHODS),
        density,
    ]


def _insert_reasons(cursor: psycopg.Cursor[Any], number: int, reasons: Sequence[Reasons]) -> None:
    rows = [one.row(number) for one in reasons]
    if rows:
        cursor.executemany(named_queries()["outlier_reason_insert"], rows)


def use_threads(count: int | None) -> None:
    """Limit the processor's threads for the graph; None leaves the default."""
    if count is not None:
        torch.set_num_threads(count)
