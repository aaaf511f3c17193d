"""Rows into a product table: new ones by COPY straight into it, known ones by comparison.

Rows whose key is new go directly into the table, so they are written once; only rows whose key
is already there (or stands twice in the file) pass through a temporary table, where PostgreSQL
compares them with what is stored. Another process may insert the same key at the same time; the
primary key then refuses, and the whole file is tried again.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import Batch, Field, encode_batches, write
from astropt_db.ingest.identify import Identities, is_member
from astropt_db.ingest.match import Target
from astropt_db.ingest.rows import Rejections, Rows, converted_rows
from astropt_db.q1.products import Product
from astropt_db.q1.readers import Table

_LOOKUP = 50_000
_SWITCH_S = 0.0005
_STAGE = sql.Identifier("pg_temp", "ingest_stage")
T = TypeVar("T")


@dataclass
class Counts:
    """What became of the rows of a table; adds up: read = all others but removed, repaired."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    removed: int = 0
    repaired: int = 0

    def add(self, other: Counts) -> None:
        """Add another table's counts."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True)
class _Piece:
    """One block, encoded in the background."""

    direct: list[Batch]
    staged: list[Batch]
    n_direct: int
    n_staged: int
    n_read: int
    rejections: Rejections


def merge(
    cursor: psycopg.Cursor,
    table: Table,
    target: Target,
    identities: Identities,
    file_id: int,
    *,
    replaced_files: list[int] | None,
    overwrite: bool = False,
    progress: Callable[[int], None],
) -> tuple[Counts, Rejections]:
    """Bring one table's rows into its product table, inside the cursor's transaction.

    Parameters
    ----------
    replaced_files
        Files that this one takes the place of (perhaps none): their rows are updated, or removed
        where this file lacks them. ``None`` if rows are only added.
    overwrite
        With ``--replace``: rows of any other file are updated, too; else rows that differ from
        stored ones are rejected.
    progress
        Called with the number of rows after each block.
    """
    name = sql.Identifier("q1", target.product.table)
    known = _known_ids(cursor, name, identities.object_id[identities.ok])
    counts, rejections, staged = Counts(repaired=identities.repaired), [], 0
    for piece in _ahead(_pieces(table, target, identities, file_id, known)):
        for batch in piece.direct:
            write(cursor, name, batch)
        if piece.staged and not staged:
            _create_stage(cursor, name)
        for batch in piece.staged:
            write(cursor, _STAGE, batch)
        counts.read += piece.n_read
        counts.inserted += piece.n_direct
        staged += piece.n_staged
        rejections.append(piece.rejections)
        progress(piece.n_read)
    if staged:
        rejections.append(
            _merge_stage(cursor, name, target.product, file_id, replaced_files, overwrite, counts)
        )
    if replaced_files:
        counts.removed = cursor.execute(
            sql.SQL("DELETE FROM {} WHERE ingest_file_id = ANY(%s)").format(name),
            [replaced_files],
        ).rowcount
    joined = Rejections.join(rejections)
    counts.rejected = len(joined.rows)
    return counts, joined


def _known_ids(
    cursor: psycopg.Cursor, table: sql.Identifier, ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the ids that the table already holds, sorted."""
    row = cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table)).fetchone()
    if row is None or not row[0] or len(ids) == 0:
        return np.empty(0, np.int64)
    query = sql.SQL("SELECT DISTINCT object_id FROM {} WHERE object_id = ANY(%s)").format(table)
    found = []
    for first in range(0, len(ids), _LOOKUP):
        rows = cursor.execute(query, [ids[first : first + _LOOKUP].tolist()], binary=True)
        found.append(np.fromiter((one[0] for one in rows), np.int64))
    return np.unique(np.concatenate(found))


def _pieces(
    table: Table, target: Target, identities: Identities, file_id: int, known: NDArray[np.int64]
) -> Iterator[_Piece]:
    for rows in converted_rows(table, target, identities, file_id):
        ids = next(one.data for one in rows.fields if one.name == "object_id")
        staged = rows.good & rows.duplicate
        if len(known):
            staged |= rows.good & is_member(ids, known)
        direct = rows.good & ~staged
        yield _Piece(
            direct=_encode(rows.fields, direct),
            staged=_encode([*rows.fields, *_stage_fields(rows)], staged),
            n_direct=int(direct.sum()),
            n_staged=int(staged.sum()),
            n_read=rows.n_read,
            rejections=rows.rejections,
        )


def _stage_fields(rows: Rows) -> list[Field]:
    return [
        Field("stage_row", "bigint", rows.row_number),
        Field("stage_duplicate", "boolean", rows.duplicate),
    ]


def _encode(columns: list[Field], rows: NDArray[np.bool_]) -> list[Batch]:
    if not rows.any():
        return []
    if not rows.all():
        columns = [column.take(rows) for column in columns]
    return encode_batches(columns)


def _ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Run an iterator in a thread, ``depth`` items ahead of its consumer.

    NumPy and libpq both release the interpreter lock, so encoding and sending overlap.
    """
    waiting: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    abandoned = threading.Event()

    def put(done: bool, item: T | BaseException | None) -> bool:
        while not abandoned.is_set():
            try:
                waiting.put((done, item), timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

    # Sending takes many short steps; by default each may wait 5 ms for the encoding thread.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    worker = threading.Thread(target=run, name="encode", daemon=True)
    worker.start()
    try:
        while True:
            done, item = waiting.get()
            if done:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]  # a value whenever it is not the last
    finally:
        abandoned.set()
        worker.join()
        sys.setswitchinterval(interval)


def _create_stage(cursor: psycopg.Cursor, table: sql.Identifier) -> None:
    cursor.execute("DROP TABLE IF EXISTS pg_temp.ingest_stage")
    cursor.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE ingest_stage (LIKE {}, stage_row bigint, "
            "stage_duplicate boolean) ON COMMIT DROP"
        ).format(table)
    )


_INSERT_NEW = sql.SQL(
    "INSERT INTO {table} ({columns}) "
    "SELECT DISTINCT ON ({stage_key}) {stage_columns} FROM pg_temp.ingest_stage AS s "
    "WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE {same_key}) "
    "ORDER BY {stage_key}, s.stage_row"
)
_UPDATE = sql.SQL(
    "UPDATE {table} AS t SET ({columns}) = ROW({stage_columns}) "
    "FROM pg_temp.ingest_stage AS s "
    "WHERE {same_key} AND NOT s.stage_duplicate AND {different} "
    "AND (%s OR t.ingest_file_id = ANY(%s))"
)
_TAKE_OVER = sql.SQL(
    "UPDATE {table} AS t SET ingest_file_id = s.ingest_file_id FROM pg_temp.ingest_stage AS s "
    "WHERE {same_key} AND t.ingest_file_id = ANY(%s)"
)
_CONFLICTS = sql.SQL(
    "SELECT s.stage_row, t.ingest_file_id, f.path FROM pg_temp.ingest_stage AS s "
    "JOIN {table} AS t ON {same_key} "
    "LEFT JOIN astropt.ingest_file AS f ON f.id = t.ingest_file_id "
    "WHERE {different} ORDER BY s.stage_row"
)


def _statement_parts(table: sql.Identifier, product: Product) -> dict[str, sql.Composable]:
    """Pieces of the statements that compare stage ``s`` with table ``t``."""
    values = [c.sql for c in product.columns if c.sql not in product.key] + ["extra"]
    own = ["healpix29"] if product.has_position else []
    names = [*product.key, *values, *own, "ingest_file_id"]

    def listed(alias: str, columns: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns)

    same = (
        sql.SQL("{} = {}").format(sql.Identifier("s", key), sql.Identifier("t", key))
        for key in product.key
    )
    return {
        "table": table,
        "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
        "stage_columns": listed("s", names),
        "stage_key": listed("s", product.key),
        "same_key": sql.SQL(" AND ").join(same),
        "different": sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(
            listed("s", values), listed("t", values)
        ),
    }


def _merge_stage(
    cursor: psycopg.Cursor,
    table: sql.Identifier,
    product: Product,
    file_id: int,
    replaced_files: list[int] | None,
    overwrite: bool,
    counts: Counts,
) -> Rejections:
    """Compare the staged rows with the stored ones; insert, update, or reject what differs."""
    parts = _statement_parts(table, product)
    cursor.execute("ANALYZE pg_temp.ingest_stage (object_id)")
    total = cursor.execute("SELECT count(*) FROM pg_temp.ingest_stage").fetchone()
    assert total is not None
    # An earlier row of the same key may have been rejected; then this one is simply new.
    new = cursor.execute(_INSERT_NEW.format(**parts)).rowcount
    updated = 0
    if replaced_files is not None:
        updated = cursor.execute(_UPDATE.format(**parts), [overwrite, replaced_files]).rowcount
        cursor.execute(_TAKE_OVER.format(**parts), [replaced_files])
    conflicts = cursor.execute(_CONFLICTS.format(**parts)).fetchall()
    counts.inserted += new
    counts.updated += updated
    counts.unchanged += total[0] - new - updated - len(conflicts)
    if not conflicts:
        return Rejections.join([])
    inside = [owner == file_id for _, owner, _ in conflicts]
    return Rejections(
        np.array([row for row, _, _ in conflicts], np.int64) - 1,
        np.array(["duplicate_in_file" if one else "conflict" for one in inside], object),
        np.array([_conflict_text(*one) for one in zip(inside, conflicts, strict=True)], "S"),
    )


def _conflict_text(inside: bool, conflict: tuple[int, int, str]) -> bytes:
    if inside:
        return b"an earlier row of the file has the same key and other values; that one was kept"
    text = f"the object was loaded from {conflict[2]} with other values; kept that, "
    return (text + "use --replace to take the new ones").encode()
