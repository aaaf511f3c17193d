"""Whole columns out of PostgreSQL: COPY's binary format, decoded with NumPy into Arrow.

The server sends one row per message (PostgreSQL documentation, "COPY Operations"), so row
boundaries are known; values are then cut out column by column for a whole batch. As long as
every row so far has the same layout, a column is a strided window; after the first NULL or text
it is a gather. There is no loop over values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import HEADER
from astropt_db.errors import DatabaseError

Int64 = NDArray[np.int64]

BATCH_ROWS = 65_536
BATCH_BYTES = 8 * 2**20
_TRAILER = b"\xff\xff"
_ARRAY_HEADER = 20
_EPOCH_DAYS = 10_957  # from 1970-01-01 to PostgreSQL's 2000-01-01
_EPOCH_US = _EPOCH_DAYS * 86_400 * 10**6

_SCALARS: dict[str, tuple[str, pa.DataType]] = {
    "boolean": ("u1", pa.bool_()),
    "smallint": (">i2", pa.int16()),
    "integer": (">i4", pa.int32()),
    "bigint": (">i8", pa.int64()),
    "real": (">f4", pa.float32()),
    "double precision": (">f8", pa.float64()),
    "date": (">i4", pa.date32()),
    "timestamp": (">i8", pa.timestamp("us")),
    "timestamptz": (">i8", pa.timestamp("us", tz="UTC")),
}


@dataclass(frozen=True)
class OutColumn:
    """A column that :func:`stream` gives.

    Attributes
    ----------
    name
        As in the result.
    type
        ``text``, one of ``boolean``, ``smallint``, ``integer``, ``bigint``, ``real``,
        ``double precision``, ``date``, ``timestamp``, ``timestamptz``, or one of the first six
        with ``[]`` after it.
    """

    name: str
    type: str

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow's type: utf8, a number, a list of numbers, date32, timestamp in microseconds."""
        if self.type == "text":
            return pa.string()
        if self.type.endswith("[]"):
            return pa.list_(_SCALARS[self.type[:-2]][1])
        return _SCALARS[self.type][1]


def stream(
    cursor: psycopg.Cursor[Any],
    query: sql.Composable,
    columns: Sequence[OutColumn],
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Run a query and give its rows in batches; memory does not grow with their number.

    Parameters
    ----------
    cursor
        Its connection is busy until the stream is read or closed.
    query
        Must give exactly ``columns``, in order.
    columns
        Names and types.
    batch_rows
        Most rows of a batch; wide rows make shorter batches.

    Raises
    ------
    DatabaseError
        If the rows do not have that layout.
    """
    schema = pa.schema([(column.name, column.arrow_type) for column in columns])
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
    for rows in _row_batches(cursor, statement, batch_rows):
        yield pa.RecordBatch.from_arrays(_Batch(rows, len(columns)).decode(columns), schema=schema)


def _row_batches(
    cursor: psycopg.Cursor[Any], statement: sql.Composed, batch_rows: int
) -> Iterator[list[bytes]]:
    """Rows as the server sends them, in lists."""
    waiting: list[bytes] = []
    size = 0
    get = cursor.connection.pgconn.get_copy_data
    with cursor.copy(statement) as copy:
        first = bytes(copy.read())
        if not first.startswith(HEADER[:11]):
            raise DatabaseError("the server's COPY does not begin with the binary signature")
        row = first[len(HEADER) :]
        while row != _TRAILER:
            waiting.append(row)
            size += len(row)
            if len(waiting) == batch_rows or size >= BATCH_BYTES:
                yield waiting
                waiting, size = [], 0
            # What libpq already holds is taken without psycopg's waiting: 4 times faster.
            length, data = get(1)
            row = bytes(data) if length > 0 else bytes(copy.read())
            if not row:
                raise DatabaseError("the server's COPY ended without its trailer")
        while copy.read():
            pass
    if waiting:
        yield waiting


class _Batch:
    """The rows of a batch, and how far their columns have been read.

    ``at`` is the offset of the next column from the start of its row where that is the same for
    all rows, else the absolute position for each row.
    """

    def __init__(self, rows: Sequence[bytes], fields: int) -> None:
        self.count = len(rows)
        lengths = np.fromiter(map(len, rows), np.int64, self.count)
        self.body = np.frombuffer(b"".join(rows), np.uint8)
        self.start = np.cumsum(lengths) - lengths
        self.pitch = int(lengths[0])
        self.at: int | Int64 = 0 if (lengths == self.pitch).all() else self.start
        if not (self._words(">i2", self.at) == fields).all():
            raise DatabaseError(f"the server's COPY has rows without {fields} columns")
        self.at = self.at + 2

    def decode(self, columns: Sequence[OutColumn]) -> list[pa.Array]:
        """All columns, in order."""
        return [self._column(column) for column in columns]

    def _words(self, dtype: str, at: int | Int64) -> NDArray[Any]:
        """One number of each row."""
        if isinstance(at, int):
            return np.ndarray((self.count,), dtype, self.body.data, at, (self.pitch,))
        return self._gather(dtype, at)

    def _gather(self, dtype: str, at: Int64) -> NDArray[Any]:
        """The numbers at absolute positions; those beyond the end belong to NULLs."""
        width = np.dtype(dtype).itemsize
        inside = np.minimum(at, len(self.body) - width)
        return self.body[inside[:, None] + np.arange(width)].view(dtype)[:, 0]

    def _absolute(self, at: int | Int64) -> Int64:
        return self.start + at if isinstance(at, int) else at

    def _column(self, column: OutColumn) -> pa.Array:
        lengths = self._words(">i4", self.at).astype(np.int64)
        null = lengths < 0
        sizes = np.where(null, 0, lengths)
        at = self.at + 4
        same = isinstance(at, int) and bool((lengths == lengths[0]).all())
        self.at = at + int(sizes[0]) if same else self._absolute(at) + sizes
        if null.all():
            return pa.nulls(self.count, column.arrow_type)
        if column.type == "text":
            return self._text(self._absolute(at), sizes, null)
        if column.type.endswith("[]"):
            return self._arrays(column, self._absolute(at), null)
        return self._scalars(column, at, sizes, null)

    def _scalars(
        self, column: OutColumn, at: int | Int64, sizes: Int64, null: NDArray[np.bool_]
    ) -> pa.Array:
        dtype, arrow = _SCALARS[column.type]
        if not (sizes[~null] == np.dtype(dtype).itemsize).all():
            raise DatabaseError(f"column {column.name} is not of type {column.type}")
        words = self._words(dtype, at)
        if column.type in ("date", "timestamp", "timestamptz"):
            return _moments(words, null, column.type, arrow)
        native = words.astype(words.dtype.newbyteorder("=")) if dtype != "u1" else words != 0
        return pa.array(native, arrow, mask=null if null.any() else None)

    def _text(self, at: Int64, sizes: Int64, null: NDArray[np.bool_]) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        data = self.body[_ragged(at, sizes, offsets)]
        buffers = [_validity(null), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.StringArray.from_buffers(self.count, buffers[1], buffers[2], buffers[0])

    def _arrays(self, column: OutColumn, at: Int64, null: NDArray[np.bool_]) -> pa.Array:
        dtype, arrow = _SCALARS[column.type[:-2]]
        dimensions = np.where(null, 0, self._gather(">i4", at))
        if (dimensions > 1).any():
            raise DatabaseError(
                f"column {column.name} holds arrays of several dimensions; export them as text: "
                f"to_json({column.name})::text"
            )
        counts = np.where(dimensions == 1, self._gather(">i4", at + 12), 0).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        with_null = ((dimensions == 1) & (self._gather(">i4", at + 4) != 0)).any()
        lay = self._positions_with_null if with_null else _positions
        places, missing = lay(at + _ARRAY_HEADER, counts, offsets, np.dtype(dtype).itemsize)
        words = self._gather(dtype, places) if len(places) else np.empty(0, dtype)
        native = words.astype(words.dtype.newbyteorder("=")) if dtype != "u1" else words != 0
        values = pa.array(native, arrow, mask=missing)
        ends = pa.array(offsets.astype(np.int32), mask=np.append(null, False))
        return pa.ListArray.from_arrays(ends, values)

    def _positions_with_null(
        self, first: Int64, counts: Int64, offsets: Int64, width: int
    ) -> tuple[Int64, NDArray[np.bool_] | None]:
        """Where elements lie in arrays with NULL elements, which take less room; one step for
        each place in the array, not for each array.
        """
        places = np.zeros(int(offsets[-1]), np.int64)
        missing = np.zeros(len(places), np.bool_)
        at = first.copy()
        for element in range(int(counts.max())):
            rows = np.flatnonzero(counts > element)
            length = self._gather(">i4", at[rows])
            target = offsets[rows] + element
            places[target] = at[rows] + 4
            missing[target] = length < 0
            at[rows] += 4 + np.where(length < 0, 0, width)
        return places, missing


def _positions(
    first: Int64, counts: Int64, offsets: Int64, width: int
) -> tuple[Int64, NDArray[np.bool_] | None]:
    """Where the elements of arrays without NULL lie."""
    element = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return np.repeat(first, counts) + element * (4 + width) + 4, None


def _ragged(at: Int64, sizes: Int64, offsets: Int64) -> Int64:
    """Indices of pieces that begin at ``at``, one after the other."""
    return np.repeat(at - offsets[:-1], sizes) + np.arange(offsets[-1])


def _validity(null: NDArray[np.bool_]) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~null, bitorder="little")) if null.any() else None


def _moments(
    words: NDArray[Any], null: NDArray[np.bool_], kind: str, arrow: pa.DataType
) -> pa.Array:
    """Days or microseconds since 2000; PostgreSQL's infinity becomes NULL."""
    limits = np.iinfo(words.dtype)
    null = null | (words == limits.max) | (words == limits.min)
    shift, storage = (_EPOCH_DAYS, pa.int32()) if kind == "date" else (_EPOCH_US, pa.int64())
    native = np.where(null, 0, words).astype(words.dtype.newbyteorder("=")) + shift
    return pa.array(native, storage, mask=null if null.any() else None).cast(arrow)
