"""``astropt-db predict``: a predictor over all sources, in bulk, only what is missing.

Sources are taken in the order of their ids, a chunk at a time, each chunk one transaction: a
killed job loses at most a chunk, and the next one goes on where it ended. Two jobs at once meet
at the primary key; the later one then finds its chunk done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.conditions import select_numbers
from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.fixed_rows import read_fixed
from astropt_db.predict import store
from astropt_db.predict.features import in_order, read_features, source_relation
from astropt_db.predict.predictor import Columns

CHUNK = 25_000
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class PredictReport:
    """What was done.

    Attributes
    ----------
    predictor_id
        Which predictor.
    wanted, known, written
        Sources asked for, those that had a prediction already, and those predicted now.
    extrapolated
        How many of the new ones are flagged.
    """

    predictor_id: int
    wanted: int
    known: int
    written: int
    extrapolated: int


def predict(
    database: Database,
    task: str,
    run_id: int,
    number: int | None = None,
    where: str = "",
    make_current: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    chunk: int = CHUNK,
) -> PredictReport:
    """Fill the prediction table of a task.

    Parameters
    ----------
    number
        Predictor; ``None`` for the current one.
    where
        SQL condition on ``astropt.source``; empty for all sources that have the features.
    make_current
        Whether the views shall show this predictor from now on.
    progress
        Called with the number of sources done and the total after each chunk.
    chunk
        Sources in a transaction.
    """
    with connect(database) as connection:
        found = store.find(connection, task, number)
        if make_current:
            with connection.cursor() as cursor:
                store.use(cursor, task, found.id)
            connection.commit()
        missing, wanted = _missing(connection, found, where)
        connection.commit()
    written = extrapolated = 0
    parts = [missing[start : start + chunk] for start in range(0, len(missing), chunk)]
    # Two connections: the next sources are read and predicted while the last ones are written.
    with (
        connect(database) as reading,
        connect(database) as writing,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = [pool.submit(_one_chunk, reading, found, part) for part in parts[:1]]
        for number in range(len(parts)):
            columns = waiting.pop().result()
            if number + 1 < len(parts):
                waiting.append(pool.submit(_one_chunk, reading, found, parts[number + 1]))
            _write(writing, columns, found, run_id)
            written += len(columns["object_id"])
            extrapolated += int(columns["is_extrapolated"].sum())
            progress(min((number + 1) * chunk, len(missing)), len(missing))
    return PredictReport(found.id, wanted, wanted - len(missing), written, extrapolated)


def _missing(
    connection: psycopg.Connection[Any], found: store.Stored, where: str
) -> tuple[Int64, int]:
    """Sources with features and without a prediction, sorted, and the number with features."""
    task = found.predictor.task
    with connection.cursor() as cursor:
        have = _ids(
            cursor, sql.SQL("SELECT s.object_id FROM {}").format(source_relation(found.view))
        )
        done = _ids(
            cursor,
            sql.SQL("SELECT object_id FROM {} WHERE predictor_id = {}").format(
                sql.Identifier("astropt", task.table), found.id
            ),
        )
    if where.strip():
        source = sql.Identifier("astropt", "source")
        have = np.intersect1d(have, select_numbers(connection, source, "object_id", where))
    return np.setdiff1d(have, done, assume_unique=True), len(have)


def _ids(cursor: psycopg.Cursor[Any], query: sql.Composable) -> Int64:
    parts = read_fixed(cursor, query, [("object_id", "bigint", 0)], 1 << 18)
    ids = [np.empty(0, np.int64), *(part["object_id"].astype(np.int64) for part in parts)]
    return np.sort(np.concatenate(ids))


def _one_chunk(connection: psycopg.Connection[Any], found: store.Stored, ids: Int64) -> Columns:
    """Read and predict some sources."""
    task = found.predictor.task
    condition = sql.SQL(
        "s.object_id BETWEEN {low} AND {high} AND NOT EXISTS (SELECT FROM {table} AS p "
        "WHERE p.predictor_id = {number} AND p.object_id = s.object_id)"
    ).format(
        low=int(ids[0]),
        high=int(ids[-1]),
        table=sql.Identifier("astropt", task.table),
        number=found.id,
    )
    with connection.cursor() as cursor:
        # With --where other sources lie between the wanted ones.
        parts = [
            batch.take(np.isin(batch.object_id, ids))
            for batch in read_features(cursor, found.view, condition, len(ids))
        ]
    connection.commit()
    if not any(map(len, parts)):
        return {"object_id": np.empty(0, np.int64), "is_extrapolated": np.empty(0, np.bool_)}
    some = in_order(parts)
    return {"object_id": some.object_id, **found.predictor.predict(some)}


def _write(
    connection: psycopg.Connection[Any], columns: Columns, found: store.Stored, run_id: int
) -> None:
    """Write predictions in a transaction of their own."""
    if len(columns["object_id"]):
        table = sql.Identifier("astropt", found.predictor.task.table)
        with connection.cursor() as cursor:
            copy_rows(cursor, table, _fields(columns, found, run_id))
    connection.commit()


def _fields(columns: Columns, found: store.Stored, run_id: int) -> list[Field]:
    n = len(columns["object_id"])
    fields = [
        Field("predictor_id", "integer", np.full(n, found.id, np.int32)),
        Field("run_id", "bigint", np.full(n, run_id, np.int64)),
    ]
    for name, values in columns.items():
        kind = "real" if values.ndim == 1 else "real[]"
        kind = {"object_id": "bigint", "is_extrapolated": "boolean"}.get(name, kind)
        fields.append(Field(name, kind, values))
    return fields
