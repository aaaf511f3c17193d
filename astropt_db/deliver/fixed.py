"""Arrow batches as rows of fixed width, big-endian: what FITS and VOTable's BINARY2 hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.deliver.selection import ExportColumn, Selection
from astropt_db.errors import DatabaseError

_DTYPES = {
    "boolean": "u1",
    "smallint": ">i2",
    "integer": ">i4",
    "bigint": ">i8",
    "real": ">f4",
    "double precision": ">f8",
}
TRUE, FALSE = ord("T"), ord("F")


@dataclass(frozen=True)
class Size:
    """Length of the longest value of a text or array column, and whether all text is ASCII."""

    length: int = 1
    ascii: bool = True


@dataclass(frozen=True)
class FixedColumn:
    """A column with a fixed number of bytes.

    Attributes
    ----------
    column
        What it shows.
    dtype
        Of one row; 16-bit units of UTF-16 where text is ``wide``.
    length
        Characters or array elements.
    wide
        Whether its text needs more than ASCII.
    """

    column: ExportColumn
    dtype: np.dtype[Any]
    length: int
    wide: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it holds text."""
        return self.column.type == "text"

    @property
    def is_array(self) -> bool:
        """Whether it holds arrays."""
        return self.column.type.endswith("[]")

    @property
    def element(self) -> str:
        """PostgreSQL type of a value or array element."""
        return self.column.type.removesuffix("[]")

    @property
    def null(self) -> int:
        """Integer that stands for NULL."""
        return int(np.iinfo(_DTYPES[self.element]).min)


def measure(cursor: psycopg.Cursor[Any], selection: Selection) -> dict[str, Size]:
    """Find the longest value of every text and array column, in the same snapshot."""
    wanted = [c for c in selection.columns if c.type == "text" or c.type.endswith("[]")]
    if not wanted:
        return {}
    text = sql.SQL("max(char_length({0})), bool_and(octet_length({0}) = char_length({0}))")
    array = sql.SQL("max(cardinality({0})), true")
    parts = [(text if c.type == "text" else array).format(sql.Identifier(c.name)) for c in wanted]
    query = sql.SQL("SELECT {} FROM ({}) AS q").format(sql.SQL(", ").join(parts), selection.query)
    row = cursor.execute(query).fetchone()
    assert row is not None
    pairs = zip(wanted, row[::2], row[1::2], strict=True)
    return {c.name: Size(max(1, length or 1), ascii is not False) for c, length, ascii in pairs}


def fixed_columns(
    columns: Sequence[ExportColumn], sizes: Mapping[str, Size], wide_text: bool
) -> list[FixedColumn]:
    """Lay out columns; ``wide_text`` allows UTF-16 where text is not ASCII."""
    laid = []
    for column in columns:
        size = sizes.get(column.name, Size())
        if column.type == "text":
            wide = wide_text and not size.ascii
            dtype = np.dtype((">u2", (size.length,))) if wide else np.dtype(f"S{size.length}")
            laid.append(FixedColumn(column, dtype, size.length, wide))
        elif column.type.endswith("[]"):
            dtype = np.dtype((_DTYPES[column.type[:-2]], (size.length,)))
            laid.append(FixedColumn(column, dtype, size.length))
        else:
            laid.append(FixedColumn(column, np.dtype(_DTYPES[column.type]), 1))
    return laid


def row_dtype(columns: Sequence[FixedColumn]) -> np.dtype[Any]:
    """Packed dtype of a row; fields are named f0, f1…, since SQL names may be anything."""
    return np.dtype([(f"f{i}", one.dtype) for i, one in enumerate(columns)])


def fill(rows: NDArray[Any], columns: Sequence[FixedColumn], batch: pa.RecordBatch) -> None:
    """Write a batch into rows of :func:`row_dtype`; NULL becomes NaN, the integer
    ``FixedColumn.null``, an empty text or a zero byte of a boolean.
    """
    for i, one in enumerate(columns):
        rows[f"f{i}"] = _values(one, batch.column(i))


def _values(one: FixedColumn, values: pa.Array) -> NDArray[Any]:
    if one.is_text:
        return _wide_text(one, values) if one.wide else _ascii_text(one, values)
    if one.is_array:
        return _matrix(one, values)
    return _numbers(one, values)


def _numbers(one: FixedColumn, values: pa.Array) -> NDArray[Any]:
    """Never through float: an id would lose its last digits."""
    if one.element == "boolean":
        letters = pc.if_else(values, TRUE, FALSE).fill_null(0)
        return np.asarray(letters.to_numpy(zero_copy_only=False), np.uint8)
    fill = float("nan") if pa.types.is_floating(values.type) else one.null
    if values.null_count:
        values = values.fill_null(pa.scalar(fill, values.type))
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _matrix(one: FixedColumn, values: pa.Array) -> NDArray[Any]:
    """Arrays, shorter ones filled up with NULL."""
    counts = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    _check(one, int(counts.max(initial=0)))
    flat = _numbers(one, values.flatten())
    floating = np.dtype(_DTYPES[one.element]).kind == "f"
    missing = np.nan if floating else (0 if one.element == "boolean" else one.null)
    matrix = np.full((len(values), one.length), missing, flat.dtype)
    matrix[np.arange(one.length) < counts[:, None]] = flat
    return matrix


def _ascii_text(one: FixedColumn, values: pa.Array) -> NDArray[Any]:
    """UTF-8 bytes in a matrix; where a format knows ASCII only, others become "?"."""
    if not pc.all(pc.string_is_ascii(values)).as_py() and values.null_count < len(values):
        values = pc.replace_substring_regex(values, "[^\\x00-\\x7F]", "?")
    values = pc.fill_null(values, "")
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False)
    _check(one, int(lengths.max(initial=0)))
    data = values.buffers()[2]
    first = values.offset
    offsets = np.frombuffer(values.buffers()[1], np.int32)[first : first + len(values) + 1]
    matrix = np.zeros((len(values), one.length), np.uint8)
    if data is not None:
        flat = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
        matrix[np.arange(one.length) < lengths[:, None]] = flat
    return matrix.view(f"S{one.length}")[:, 0]


def _wide_text(one: FixedColumn, values: pa.Array) -> NDArray[Any]:
    texts = pc.fill_null(values, "").to_numpy(zero_copy_only=False).astype(np.str_)
    _check(one, texts.dtype.itemsize // 4)
    points = texts.astype(f"U{one.length}").view(np.uint32).reshape(len(texts), one.length)
    # VOTable's unicodeChar is UCS-2; what lies beyond becomes the replacement character.
    return np.where(points > 0xFFFF, 0xFFFD, points)


def _check(one: FixedColumn, longest: int) -> None:
    if longest > one.length:
        raise DatabaseError(
            f"column {one.column.name} has longer values at the second reading; the query gives "
            "other rows each time. Store its result in a table and export that"
        )
