"""Rows that could not be loaded: kept with their reason, listed, and tried again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.ingest.convert import parse_numbers
from astropt_db.ingest.identify import describe_ids
from astropt_db.ingest.json_rows import json_rows
from astropt_db.ingest.match import Target
from astropt_db.ingest.rows import Rejections, column_names
from astropt_db.q1.readers import Block, Table, Values

_TABLE = sql.Identifier("astropt", "quarantine")


def store(
    cursor: psycopg.Cursor, table: Table, target: Target, file_id: int, rejections: Rejections
) -> None:
    """Write rejected rows to ``astropt.quarantine``, inside the cursor's transaction.

    The table is read once more, so that no rejected row is held in memory before.
    """
    if len(rejections.rows) == 0:
        return
    wanted = set(column_names(target))
    names = [column.name for column in table.columns if column.name in wanted]
    for block, here in _blocks_with(table, names, rejections.rows):
        inside = rejections.rows[here] - block.first_row
        columns = {name: _take(block.columns[name], inside) for name in names}
        ids, unreadable = _object_ids(columns[target.id_column])
        # As text, because jsonb would spell a float's digits out like those of a whole number.
        columns[target.id_column] = _as_text(columns[target.id_column])
        reason = rejections.reason[here].astype("S")
        fields = [
            Field("ingest_file_id", "bigint", np.full(len(inside), file_id)),
            Field("product", "text", np.full(len(inside), target.product.table.encode())),
            Field("row_number", "bigint", rejections.rows[here] + 1),
            Field("object_id", "bigint", ids, unreadable),
            Field("reason", "text", reason),
            Field("detail", "text", _utf8(rejections.detail[here])),
            Field("row", "jsonb", _utf8(json_rows(columns))),
        ]
        copy_rows(cursor, _TABLE, fields)


def _blocks_with(
    table: Table, names: list[str], rows: NDArray[np.int64]
) -> Iterator[tuple[Block, slice]]:
    """Blocks that hold some of the (sorted) rows, with the slice of ``rows`` in each."""
    last = int(rows[-1])
    for block in table.blocks(names):
        first, end = np.searchsorted(rows, [block.first_row, block.first_row + block.n_rows])
        if end > first:
            yield block, slice(int(first), int(end))
        if block.first_row + block.n_rows > last:
            return


def _take(values: Values, rows: NDArray[np.int64]) -> Values:
    return Values(values.data[rows], None if values.null is None else values.null[rows])


def _as_text(ids: Values) -> Values:
    return Values(describe_ids(ids), ids.null)


def _object_ids(values: Values) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids as 64-bit integers where they are some; a float never becomes an id."""
    if values.data.dtype.kind == "S":
        numbers, _ = parse_numbers(values, "bigint")
        assert numbers.null is not None
        return numbers.data.astype(np.int64), numbers.null
    if values.data.dtype.kind not in "iu" or values.data.dtype == np.dtype("u8"):
        return np.zeros(len(values.data), np.int64), np.ones(len(values.data), np.bool_)
    null = values.null if values.null is not None else np.zeros(len(values.data), np.bool_)
    return values.data.astype(np.int64), null


def _utf8(text: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Text that PostgreSQL accepts; bytes that are no UTF-8 are shown as U+FFFD."""
    codes = np.ascontiguousarray(text).view(np.uint8).reshape(len(text), -1)
    odd = np.flatnonzero((codes > 127).any(axis=1))
    if len(odd) == 0:
        return text
    mended = np.array([bytes(one).decode("utf-8", "replace").encode() for one in text[odd]], "S")
    text = text.astype(f"S{max(text.itemsize, mended.itemsize)}")
    text[odd] = mended
    return text
