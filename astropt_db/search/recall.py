"""Measured recall: what answers from an index are worth, on the table as it is.

After a build every setting of a ladder is tried until one reaches the goal; the planner
(``astropt.search_plan``) takes its choice from these measurements.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.filters import condition_ids
from astropt_db.database.provenance import Run
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import VectorBatch, load_vectors, read_vectors
from astropt_db.errors import ConfigurationError, DatabaseError
from astropt_db.search.exact import Neighbours, exact_neighbours, recall_of
from astropt_db.search.indexes import find_indexes

GOAL = 0.992
"""Recall at which the ladder ends: 0.99 and the error of the measurement, as in search_plan."""
LADDERS = {10: (14, 20, 40, 60, 100, 150, 250, 400, 700, 1000), 100: (120, 200, 350, 600, 1000)}
_DEEP = 800
_LOOKUPS = 2000


@dataclass(frozen=True)
class Measurement:
    """Recall of one way of searching.

    Attributes
    ----------
    k, ef_search
        Rows asked for; candidates taken from the index, ``None`` for the planner's choice.
    filter, fraction
        What was allowed, ``None`` for all, and the fraction of the vectors that this is.
    recall, fewest_rows, median_ms
        Mean recall, rows of the shortest answer, median time as the client sees it.
    rows
        Vectors of the encoder.
    """

    k: int
    ef_search: int | None
    filter: str | None
    fraction: float
    recall: float
    fewest_rows: int
    median_ms: float
    rows: int


@dataclass(frozen=True)
class _Sample:
    """Queries with their exact answers."""

    queries: VectorBatch
    truth: Neighbours
    rows: int


def calibrate(
    database: Database, encoder_name: str | None, kind: str | None, queries: int, run: Run
) -> list[Measurement]:
    """Try the ladder of settings of an encoder's indexes, and store what each reaches.

    Raises
    ------
    ConfigurationError
        If there is no such index.
    """
    found = []
    with _measuring(database, encoder_name) as (connection, encoder):
        indexes = find_indexes(connection, encoder, kind)
        sample = _sample(connection, encoder, queries, max(LADDERS))
        for number, its_kind, _ in indexes:
            connection.execute(named_queries()["search_recall_forget"], {"search_index_id": number})
            for k in LADDERS:
                for one in _climb(connection, encoder, number, its_kind, k, sample):
                    _store(connection, number, one, sample, run)
                    found.append(one)
            _measure_costs(connection, encoder, number, its_kind, sample)
    return found


def measure(
    database: Database,
    encoder_name: str | None,
    k: int,
    queries: int,
    run: Run,
    conditions: Sequence[str] = (),
    shares: Sequence[int] = (10, 100),
) -> list[Measurement]:
    """Measure what users get: answers of the planner's choice, with filters and without.

    Parameters
    ----------
    conditions
        Filters as in ``--where``.
    shares
        Random filters that allow one object in so many.

    Raises
    ------
    ConfigurationError
        If the encoder has no index, or a condition allows nothing.
    """
    chosen = {where: condition_ids(database, where) for where in conditions}
    with _measuring(database, encoder_name) as (connection, encoder):
        number = find_indexes(connection, encoder)[0][0]
        plan = connection.execute(
            "SELECT search_index_id FROM astropt.search_plan(%s, %s)", [encoder.id, k]
        ).fetchone()
        number = plan[0] if plan is not None and plan[0] is not None else number
        tables: dict[str | None, sql.Identifier | None] = {None: None}
        for share in shares:
            tables[f"random, one in {share}"] = _random_filter(connection, encoder, share)
        for where, ids in chosen.items():
            tables[where] = _filter_of(connection, ids, len(tables))
        found: list[Measurement] = []
        for shown, table in tables.items():
            sample = _sample(connection, encoder, queries, k, table)
            if not sample.rows:
                raise ConfigurationError(f"{shown!r} allows no object with an embedding")
            rows = found[0].rows if found else sample.rows
            one = _ask(connection, encoder, k, table, shown, sample, rows)
            _store(connection, number, one, sample, run)
            found.append(one)
    return found


@contextmanager
def _measuring(
    database: Database, encoder_name: str | None
) -> Iterator[tuple[psycopg.Connection[Any], EncoderRecord]]:
    with connect(database) as connection:
        encoder = find_encoder(connection, encoder_name)
        yield connection, encoder


def _sample(
    connection: psycopg.Connection[Any],
    encoder: EncoderRecord,
    queries: int,
    k: int,
    allowed: sql.Identifier | None = None,
) -> _Sample:
    """Random objects, the same at each call, and their exact neighbours."""
    with connection.cursor() as cursor:
        # By a hash of the id: repeatable, and independent of where on the sky it lies.
        chosen = sql.SQL(
            "SELECT object_id FROM {} ORDER BY hashint8(object_id), object_id LIMIT {}"
        ).format(encoder.partition, sql.Literal(queries))
        batch = load_vectors(cursor, encoder, chosen)
        if not len(batch):
            raise DatabaseError(f"encoder {encoder.name} has no embeddings to measure with")
        objects = None if allowed is None else _query_of(allowed)
        truth, rows = exact_neighbours(read_vectors(cursor, encoder, objects), batch, k)
    return _Sample(batch, truth, rows)


def _climb(
    connection: psycopg.Connection[Any],
    encoder: EncoderRecord,
    number: int,
    kind: str,
    k: int,
    sample: _Sample,
) -> Iterator[Measurement]:
    for ef in LADDERS[k]:
        values = {
            "encoder_id": encoder.id,
            "k": k,
            "search_index_id": number,
            "ef_search": ef,
            "depth": k + 1 if kind == "halfvec" else ef,
        }
        answers = _answers(connection, named_queries()["search_nearest_indexed"], values, sample)
        one = _summary(answers, sample, k, ef, None, sample.rows)
        yield one
        if one.recall >= GOAL or ef >= sample.rows:
            return


def _ask(
    connection: psycopg.Connection[Any],
    encoder: EncoderRecord,
    k: int,
    table: sql.Identifier | None,
    shown: str | None,
    sample: _Sample,
    rows: int,
) -> Measurement:
    text = None if table is None else _query_of(table).as_string(connection)
    values = {"encoder_id": encoder.id, "k": k, "filter": text}
    answers = _answers(connection, named_queries()["search_nearest_vectors"], values, sample)
    return _summary(answers, sample, k, None, shown, rows)


Answers = list[tuple[float, NDArray[np.float32]]]


def _answers(
    connection: psycopg.Connection[Any], query: str, values: dict[str, Any], sample: _Sample
) -> Answers:
    """Seconds and cosines of each query's answer; the first round only warms the caches."""
    found: Answers = []
    for warm in (False, True):
        for one, vector in zip(
            sample.queries.object_id.tolist(), sample.queries.vectors, strict=True
        ):
            arguments = values | {"object_id": one, "vector": _text(vector)}
            started = time.perf_counter()
            rows = connection.execute(query, arguments, prepare=True).fetchall()
            seconds = time.perf_counter() - started
            if warm:
                found.append((seconds, np.array([row[1] for row in rows], np.float32)))
    return found


def _summary(
    answers: Answers,
    sample: _Sample,
    k: int,
    ef: int | None,
    shown: str | None,
    rows: int,
) -> Measurement:
    recalls = [
        recall_of(similarities, truth[:k])
        for (_, similarities), truth in zip(answers, sample.truth.similarity, strict=True)
    ]
    return Measurement(
        k=k,
        ef_search=ef,
        filter=shown,
        fraction=sample.rows / rows,
        recall=float(np.mean(recalls)),
        fewest_rows=min(len(similarities) for _, similarities in answers),
        median_ms=1000 * float(np.median([seconds for seconds, _ in answers])),
        rows=rows,
    )


def _measure_costs(
    connection: psycopg.Connection[Any],
    encoder: EncoderRecord,
    number: int,
    kind: str,
    sample: _Sample,
) -> None:
    """Time of a comparison by object id, and of a candidate from the index, for the planner."""
    depth = min(_DEEP, sample.rows)
    some = _Sample(
        VectorBatch(sample.queries.object_id[:20], sample.queries.vectors[:20]),
        sample.truth,
        sample.rows,
    )
    values = {
        "encoder_id": encoder.id,
        "k": 1,
        "search_index_id": number,
        "ef_search": depth,
        "depth": depth,
    }
    answers = _answers(connection, named_queries()["search_nearest_indexed"], values, some)
    visit = 1e6 * float(np.median([seconds for seconds, _ in answers])) / depth
    # On the server: sending thousands of ids would take as long as comparing their vectors.
    table = sql.Identifier("looked_up")
    create = sql.SQL(
        "CREATE TEMP TABLE {} ON COMMIT DROP AS "
        "SELECT object_id FROM {} ORDER BY hashint8(object_id) DESC LIMIT {}"
    ).format(table, encoder.partition, sql.Literal(_LOOKUPS))
    count = connection.execute(create).rowcount
    answers = _answers(
        connection, named_queries()["search_nearest_named"], {"encoder_id": encoder.id}, some
    )
    connection.execute(sql.SQL("DROP TABLE {}").format(table))
    lookup = 1e6 * float(np.median([seconds for seconds, _ in answers])) / count
    connection.execute(
        named_queries()["search_index_costs"],
        {"id": number, "visit_us": visit, "lookup_us": lookup},
    )


def _random_filter(
    connection: psycopg.Connection[Any], encoder: EncoderRecord, share: int
) -> sql.Identifier:
    """A temporary table of one object in so many."""
    table = sql.Identifier(f"one_in_{share}")
    connection.execute(
        sql.SQL(
            "CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT object_id FROM {} "
            "WHERE hashint8(object_id) % {} = 0"
        ).format(table, encoder.partition, sql.Literal(share))
    )
    return _ready(connection, table)


def _filter_of(
    connection: psycopg.Connection[Any], ids: NDArray[np.int64], number: int
) -> sql.Identifier:
    """A temporary table of some objects."""
    table = sql.Identifier(f"allowed_{number}")
    connection.execute(
        sql.SQL("CREATE TEMP TABLE {} (object_id bigint) ON COMMIT DROP").format(table)
    )
    with connection.cursor() as cursor:
        copy_rows(cursor, table, [Field("object_id", "bigint", ids)])
    return _ready(connection, table)


def _ready(connection: psycopg.Connection[Any], table: sql.Identifier) -> sql.Identifier:
    connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (object_id)").format(table))
    connection.execute(sql.SQL("ANALYZE {}").format(table))
    return table


def _query_of(table: sql.Identifier) -> sql.Composed:
    return sql.SQL("SELECT object_id FROM {}").format(table)


def _store(
    connection: psycopg.Connection[Any],
    number: int,
    one: Measurement,
    sample: _Sample,
    run: Run,
) -> None:
    connection.execute(
        named_queries()["search_recall_insert"],
        {
            **vars(one),
            "search_index_id": number,
            "queries": len(sample.queries),
            "row_count": one.rows,
            "run_id": run.id,
        },
    )


def _text(vector: NDArray[np.floating[Any]]) -> str:
    return "[" + ",".join(map(str, vector.tolist())) + "]"
