"""Rows of fixed width out of PostgreSQL by binary COPY: a stream of them is one array.

Format: PostgreSQL documentation, COPY, "Binary Format". A NULL would change a row's width, so a
query must replace NULLs, e.g. by ``coalesce(x, 'NaN')``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import HEADER
from astropt_db.errors import DatabaseError

_TRAILER_BYTES = 2
_SCALARS = {
    "bigint": ">i8",
    "integer": ">i4",
    "smallint": ">i2",
    "double precision": ">f8",
    "real": ">f4",
}


def row_layout(columns: Sequence[tuple[str, str, int]]) -> np.dtype[Any]:
    """Layout of a row.

    Parameters
    ----------
    columns
        Name, PostgreSQL type and length of each column of the query, in order. The type is a
        scalar (the length is 0) or ``halfvec``.
    """
    fields: list[tuple[Any, ...]] = [("fields", ">i2")]
    for name, kind, length in columns:
        fields.append((f"{name} bytes", ">i4"))
        if kind == "halfvec":
            fields += [(f"{name} length", ">i2"), (f"{name} unused", ">i2")]
            fields.append((name, ">f2", (length,)))
        else:
            fields.append((name, _SCALARS[kind]))
    return np.dtype(fields)


def read_fixed(
    cursor: psycopg.Cursor[Any],
    query: sql.Composable,
    columns: Sequence[tuple[str, str, int]],
    batch: int = 16_384,
) -> Iterator[NDArray[Any]]:
    """Stream the rows of a query as structured arrays; memory does not grow with their number.

    Parameters
    ----------
    cursor
        Its connection is busy until the stream is read or closed.
    query
        A SELECT without parameters and NULLs.
    columns
        As for :func:`row_layout`.
    batch
        Rows of a batch; the last one may be shorter.

    Yields
    ------
    ndarray
        Structured, big-endian, with a field for each column.

    Raises
    ------
    DatabaseError
        If a row is not of the expected width.
    """
    layout = row_layout(columns)
    command = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
    size, waiting, buffer = batch * layout.itemsize, len(HEADER), bytearray()
    with cursor.copy(command) as copy:
        for block in copy:
            buffer += block
            if waiting:
                if len(buffer) < waiting:
                    continue
                del buffer[:waiting]
                waiting = 0
            # The last two bytes may be the trailer, so one row more than the batch is awaited.
            while len(buffer) >= size + layout.itemsize:
                yield _decode(bytes(buffer[:size]), layout)
                del buffer[:size]
    body = bytes(buffer[:-_TRAILER_BYTES])
    for start in range(0, len(body), size):
        yield _decode(body[start : start + size], layout)


def _decode(body: bytes, layout: np.dtype[Any]) -> NDArray[Any]:
    if len(body) % layout.itemsize:
        raise DatabaseError("rows came from the database in an unexpected width")
    rows = np.frombuffer(body, layout)
    names = layout.names or ()
    if len(rows):
        for name in names:
            if name.endswith(" bytes") and not (rows[name] == rows[name][0]).all():
                raise DatabaseError(f"the column {name[:-6]} has values of different width")
            if name.endswith(" length"):
                expected = layout[name[:-7]].shape[0]
                if not (rows[name] == expected).all():
                    raise DatabaseError(
                        f"the column {name[:-7]} has vectors that are not of dimension {expected}"
                    )
    return rows
