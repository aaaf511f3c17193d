"""From Arrow arrays to the blocks that every reader gives (used for Parquet and text files)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from astropt_db.errors import FileError
from astropt_db.q1.readers.base import Block, FileColumn, Values

MAX_TEXT_BYTES = 256 * 2**20
"""Largest text column of one block. Text is padded to its longest value, so one cell of a
megabyte would otherwise make eight gigabytes of a block of 8192 rows."""

_LARGEST = pa.scalar(2**63 - 1, pa.uint64())
TEXT = np.dtype("S")

_NARROWED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.null(): pa.float64(),
}
"""Types that PostgreSQL lacks, and the ones that hold every value of theirs (but see uint64)."""


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are given as text: strings, exact decimals, dates and times."""
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_decimal,
        pa.types.is_date,
        pa.types.is_time,
        pa.types.is_timestamp,
    )
    return any(test(kind) for test in tests)


def numpy_type(kind: pa.DataType) -> np.dtype | None:
    """NumPy type in which values of a scalar Arrow type are given, ``None`` if there is none."""
    if is_text(kind):
        return TEXT
    kind = _NARROWED.get(kind, kind)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype: np.dtype = np.dtype(kind.to_pandas_dtype())
        return dtype
    return None


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is a list, of fixed or of variable length."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def plain(array: pa.Array) -> pa.Array:
    """The array without extension type and dictionary."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    return array


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of what ``plain`` makes of an array of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@dataclass(frozen=True)
class Converter:
    """Turns the Arrow arrays of one block into ``Values``.

    Attributes
    ----------
    path
        The file, for messages.
    first_row
        Number of the block's first row, counted from 0.
    """

    path: Path
    first_row: int

    def fail(self, bad: NDArray[np.bool_], column: FileColumn, problem: str) -> FileError:
        """Error that names the first of the bad rows, counted from 1 as people do."""
        row = self.first_row + int(np.argmax(bad)) + 1
        return FileError(self.path, f"row {row}, column {column.name!r}: {problem}")

    def values(self, array: pa.Array, column: FileColumn) -> Values:
        """Values of one column.

        Raises
        ------
        FileError
            If a vector has another length than the column, an unsigned integer exceeds int64,
            or a text is no UTF-8, holds a NUL byte or is far too long.
        """
        array = plain(array)
        null = _null(array)
        if column.length is not None:
            return Values(self._vectors(array, column), null | _empty(array))
        if column.dtype == TEXT:
            return Values(self._text(array, column), null if null.any() else None)
        return Values(self._numbers(array, null, column), null if null.any() else None)

    def _numbers(
        self, array: pa.Array, null: NDArray[np.bool_], column: FileColumn
    ) -> NDArray[np.generic]:
        if pa.types.is_uint64(array.type):
            large = pc.fill_null(pc.greater(array, _LARGEST), False).to_numpy(zero_copy_only=False)
            if large.any():
                raise self.fail(
                    large, column, f"an unsigned integer exceeds the largest bigint ({_LARGEST})."
                )
        array = array.cast(_NARROWED.get(array.type, array.type))
        if not null.any():
            return _to_numpy(array)
        # Filled before NumPy sees it: Arrow would turn integers with nulls into floats.
        missing = np.nan if column.dtype.kind == "f" else False
        return _to_numpy(pc.fill_null(array, pa.scalar(missing).cast(array.type)))

    def _vectors(self, array: pa.Array, column: FileColumn) -> NDArray[np.generic]:
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        wrong = (lengths != 0) & (lengths != column.length)
        if wrong.any():
            found = lengths[np.argmax(wrong)]
            raise self.fail(
                wrong,
                column,
                f"expected {column.length} values as in the first rows, found {found}.",
            )
        flat = plain(pc.list_flatten(array))
        null = _null(flat)
        if column.dtype.kind != "f" and null.any():
            rows = np.repeat(np.arange(len(lengths)), lengths)
            bad = np.isin(np.arange(len(lengths)), rows[null])
            raise self.fail(bad, column, "a list of integers holds a missing value.")
        missing = np.nan if column.dtype.kind == "f" else 0
        out = np.full((len(lengths), column.length or 0), missing, dtype=column.dtype)
        out[lengths != 0] = self._numbers(flat, null, column).reshape(-1, column.length or 0)
        return out

    def _text(self, array: pa.Array, column: FileColumn) -> NDArray[np.generic]:
        try:
            array = pc.fill_null(array.cast(pa.large_string()), "")
        except pa.ArrowInvalid as error:
            raise FileError(self.path, f"column {column.name!r} is not UTF-8 text.") from error
        _, offset_buffer, data_buffer = array.buffers()
        first, n = array.offset, len(array)
        offsets = np.frombuffer(offset_buffer, np.int64, n + 1 + first)[first:]
        lengths = np.diff(offsets)
        width = max(1, int(lengths.max(initial=0)))
        if width * n > MAX_TEXT_BYTES:
            longest = lengths == width
            raise self.fail(longest, column, f"a text of {width} bytes is too long to be read.")
        if lengths.any():
            data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
        else:
            data = np.empty(0, np.uint8)
        out = np.zeros((n, width), np.uint8)
        within = np.arange(width) < lengths[:, None]
        out[within] = data
        if not data.all():
            nul = ((out == 0) & within).any(axis=1)
            raise self.fail(nul, column, "the text holds a NUL byte, which no database text can.")
        return out.view(f"S{width}")[:, 0]


def _to_numpy(array: pa.Array) -> NDArray[np.generic]:
    result: NDArray[np.generic] = array.to_numpy(zero_copy_only=False)
    return result


def _null(array: pa.Array) -> NDArray[np.bool_]:
    if not array.null_count:
        return np.zeros(len(array), dtype=np.bool_)
    mask: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _empty(array: pa.Array) -> NDArray[np.bool_]:
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    empty: NDArray[np.bool_] = pc.equal(lengths, 0).to_numpy(zero_copy_only=False)
    return empty


def pick(columns: Sequence[FileColumn], names: Sequence[str] | None) -> list[FileColumn]:
    """The named columns in file order, all of them for ``None``."""
    return [column for column in columns if names is None or column.name in names]


def blocks(
    path: Path, columns: Sequence[FileColumn], batches: Iterable[pa.RecordBatch], rows: int
) -> Iterator[Block]:
    """Turn record batches of any size into blocks of ``rows`` rows with the given columns."""
    first_row = 0
    for batch in _rebatch(batches, rows):
        convert = Converter(path, first_row)
        yield Block(
            first_row,
            batch.num_rows,
            {column.name: convert.values(batch.column(column.name), column) for column in columns},
        )
        first_row += batch.num_rows


def _rebatch(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    parts: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, rows - held)
            parts.append(part)
            held += part.num_rows
            start += part.num_rows
            if held == rows:
                yield pa.concat_batches(parts) if len(parts) > 1 else parts[0]
                parts, held = [], 0
    if parts:
        yield pa.concat_batches(parts) if len(parts) > 1 else parts[0]
