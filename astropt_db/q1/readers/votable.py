"""VOTable in all its serialisations, read by astropy.

astropy holds a whole table in memory. A long one of TABLEDATA (what archives and TOPCAT write by
default) is therefore read in pieces, see ``votable_pieces``; a long binary one is refused.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

import numpy as np
import pyarrow as pa
from astropy.io import votable
from astropy.io.votable import exceptions as vo
from numpy.typing import NDArray

from astropt_db.errors import FileError
from astropt_db.q1.readers.arrow import TEXT, Converter, pick
from astropt_db.q1.readers.base import BLOCK_ROWS, Block, FileColumn, Table, Values
from astropt_db.q1.readers.dialect import open_bytes
from astropt_db.q1.readers.votable_pieces import Pieces, find_pieces

WHOLE_BYTES = 2**26
"""Largest file of TABLEDATA that is read as a whole, uncompressed."""

MAX_BYTES = 10**9
"""Largest binary file that is read: the table in memory is about as large again."""

_CHUNK = 2**20
_STEP = 256
_DAMAGED = "Copy or download the file again, or ask the archive for FITS or CSV."
_LOSSES = (
    vo.W18,  # fewer or more rows than announced
    vo.W19,  # fields do not match the embedded FITS table
    vo.W37,  # unknown serialisation, the data are skipped
    vo.W46,  # text longer than its field, cut
    vo.W51,  # integer out of range, clipped
    vo.W56,  # fields do not match the embedded Parquet table
    vo.E02,  # wrong number of elements in an array
)
"""astropy's warnings that mean a value was changed or dropped."""

_EMPTY = re.compile(r"float '\s*(null|none|n/?a|-+)\s*'", re.IGNORECASE)
"""Cells of floats that archives write for "no value"; other texts are values that would be lost."""

_MAX_WARNINGS = 100_000

_TYPES = {
    "boolean": "?",
    "bit": "?",
    "unsignedByte": "i2",
    "short": "i2",
    "int": "i4",
    "long": "i8",
    "float": "f4",
    "double": "f8",
}


@dataclass(kw_only=True)
class VOTable(Table):
    """One table of a VOTable file, in memory.

    Attributes
    ----------
    data
        Masked structured array, one field per column in column order.
    first_row
        Number in the file of the first of these rows; not 0 in a piece of a long table.
    """

    data: Any = field(repr=False)
    first_row: int = 0

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order; see ``Table.blocks``.

        A vector is null where all its elements are; single missing elements of float vectors
        are NaN.
        """
        fields = dict(zip((c.name for c in self.columns), self.data.dtype.names, strict=True))
        columns = pick(self.columns, names)
        for first in range(0, len(self.data), rows):
            part = self.data[first : first + rows]
            convert = Converter(self.path, self.first_row + first)
            yield Block(
                self.first_row + first,
                len(part),
                {c.name: _values(convert, part[fields[c.name]], c) for c in columns},
            )

    def close(self) -> None:
        """Let the rows go."""
        self.data = self.data[:0]


@dataclass(kw_only=True)
class LongVOTable(Table):
    """A VOTable of one table that is read in pieces.

    Attributes
    ----------
    pieces
        Where to cut it.
    """

    pieces: Pieces = field(repr=False)

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order; see ``Table.blocks``. Blocks end with their piece."""
        first = 0
        with _reported(self.path):
            for document in self.pieces.documents():
                piece = _piece(self.path, document, first)
                piece.columns = self.columns
                yield from piece.blocks(names, rows)
                first += len(piece.data)
        if self.n_rows is not None and self.n_rows != first:
            raise FileError(
                self.path, f"announces {self.n_rows:,} rows, found {first:,}.", _DAMAGED
            )


def open_votable(path: Path) -> list[Table]:
    """Open every table of a VOTable file (plain or gzipped) that has columns.

    What a long file holds beyond its first piece is checked when its rows are read.

    Raises
    ------
    FileError
        If the XML or the VOTable is malformed, cut short or too large; if it declares entities;
        if it reports that its query failed (QUERY_STATUS ERROR) or was cut (OVERFLOW); if
        reading it would change or drop values.
    """
    with _reported(path):
        _refuse_entities(path)
        pieces = find_pieces(path)
        if pieces and _exceeds(path, WHOLE_BYTES):
            return [_long_table(path, pieces)]
        if not pieces and _exceeds(path, MAX_BYTES):
            raise FileError(
                path,
                f"is larger than {MAX_BYTES / 1e9:g} GB uncompressed, and a VOTable whose rows are "
                "not TABLEDATA can only be read as a whole.",
                "Convert it to FITS or Parquet (for example with TOPCAT or stilts).",
            )
        with open_bytes(path) as file:
            return [*_tables(path, file)]


def _long_table(path: Path, pieces: Pieces) -> LongVOTable:
    first = _piece(path, next(pieces.documents()), 0)
    return LongVOTable(
        path=path, label=first.label, columns=first.columns, n_rows=pieces.n_rows, pieces=pieces
    )


def _piece(path: Path, document: bytes, first: int) -> VOTable:
    """The table of one piece, whose first row is row ``first`` of the file."""
    try:
        with _reported(path):
            (table,) = _tables(path, io.BytesIO(document))
    except FileError as error:
        if not first:
            raise
        message = re.sub(r"\bline \d+, ", "", error.problem)
        raise FileError(path, f"after row {first:,}: {message}", error.remedy) from error
    table.first_row = first
    return table


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Say what is wrong with the file instead of what the libraries say."""
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise FileError(
            path, f"cannot be read to its end: {_one_line(error)}.", _DAMAGED
        ) from error
    except (ValueError, TypeError, LookupError, MemoryError) as error:
        raise FileError(path, f"is not a valid VOTable: {_one_line(error)}.", _DAMAGED) from error


def _tables(path: Path, file: BinaryIO) -> list[VOTable]:
    # By default astropy stops warning after ten of a kind, and the eleventh may be another case.
    limited = vo.conf.set_temp("max_warnings", _MAX_WARNINGS)
    with limited, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = votable.parse(file, filename=str(path), verify="warn")
    _check_status(path, tree)
    tables = [table for table in tree.iter_tables() if table.fields]
    _check_losses(path, tables, caught)
    if not tables:
        raise FileError(path, "the VOTable holds no table.")
    return [_table(path, table) for table in tables]


def _exceeds(path: Path, limit: int) -> bool:
    """Whether the file is longer than ``limit`` bytes, uncompressed."""
    size = 0
    with open_bytes(path) as file:
        while size <= limit and (chunk := file.read(_CHUNK)):
            size += len(chunk)
    return size > limit


def _refuse_entities(path: Path) -> None:
    """Entities that name one another make gigabytes of a kilobyte; no VOTable needs one.

    expat limits them since 2.4, but which expat Python has depends on the machine.
    """

    def refuse(name: str, *_: object) -> None:
        raise FileError(path, f"declares the XML entity {name!r}, which no VOTable needs.")

    with open_bytes(path) as file:
        start = file.read(_CHUNK)
    elements: list[str] = []
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda name, _: elements.append(name)
    try:
        # In small steps, to stop at the root element: after it no entity can be declared.
        for offset in range(0, len(start), _STEP):
            parser.Parse(start[offset : offset + _STEP], False)
            if elements:
                break
    except expat.ExpatError as error:
        raise FileError(path, f"is not valid XML: {error}.", _DAMAGED) from error
    root = elements[0] if elements else "none"
    if root.rpartition(":")[2] != "VOTABLE":
        raise FileError(path, f"expected the root element VOTABLE, found {root}.", _DAMAGED)


def _check_status(path: Path, tree: Any) -> None:
    for info in _infos(tree):
        status = str(info.value).upper()
        if str(info.name).upper() != "QUERY_STATUS" or status == "OK":
            continue
        reason = " ".join(str(info.content or "").split()) or "no reason given"
        if status == "OVERFLOW":
            raise FileError(
                path,
                "the archive cut the result: QUERY_STATUS is OVERFLOW, so rows are missing.",
                "Ask for fewer rows per query, or for more with TOP or MAXREC.",
            )
        if status == "ERROR":
            raise FileError(path, f"the archive reports that its query failed: {reason}.")


def _infos(tree: Any) -> Iterator[Any]:
    yield from tree.infos
    for resource in tree.resources:
        yield from _infos(resource)
        for table in resource.tables:
            yield from table.infos


def _check_losses(
    path: Path, tables: Sequence[Any], caught: Sequence[warnings.WarningMessage]
) -> None:
    if len(caught) >= _MAX_WARNINGS:
        raise FileError(path, f"astropy has {len(caught):,} complaints about it.", _DAMAGED)
    for item in caught:
        no_number = issubclass(item.category, vo.W30) and not _EMPTY.search(str(item.message))
        if no_number or issubclass(item.category, _LOSSES):
            raise FileError(path, f"reading would lose values: {_one_line(item.message)}.")
        # Before VOTable 1.3 astropy makes 0 of an empty cell if the column declares no null.
        if issubclass(item.category, vo.W49) and not all(map(_has_null, tables)):
            raise FileError(
                path,
                "holds empty cells in a column of integers that declares no null value.",
                "Ask for VOTable 1.3 or later, or for FITS.",
            )


def _has_null(table: Any) -> bool:
    integers = {"unsignedByte", "short", "int", "long"}
    return all(f.values.null is not None for f in table.fields if f.datatype in integers)


def _table(path: Path, table: Any) -> VOTable:
    names = [_original_name(item) for item in table.fields]
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise FileError(path, f"columns of the same name: {', '.join(map(repr, repeated))}.")
    data = table.array
    columns = tuple(
        _column(path, item, name, data[field])
        for item, name, field in zip(table.fields, names, data.dtype.names, strict=True)
    )
    label = table.name or table.ID or ""
    return VOTable(path=path, label=label, columns=columns, n_rows=len(data), data=data)


def _original_name(item: Any) -> str:
    return str(item.name or item.ID)


def _column(path: Path, item: Any, name: str, data: Any) -> FileColumn:
    unit = "" if item.unit is None else str(item.unit)
    if item.datatype in {"char", "unicodeChar"} and data.ndim == 1:
        return FileColumn(name, TEXT, None, unit)
    if item.datatype not in _TYPES:
        raise _unsupported(path, name, item)
    dtype = np.dtype(_TYPES[item.datatype])
    length = None
    if data.dtype.kind == "O":
        lengths = _lengths(data)
        length = int(lengths[np.argmax(lengths > 0)]) if lengths.any() else 1
    elif data.ndim > 1:
        length = int(np.prod(data.shape[1:]))
    null = None if item.values.null is None or dtype.kind != "i" else int(item.values.null)
    return FileColumn(name, dtype, length, unit, null)


def _unsupported(path: Path, name: str, item: Any) -> FileError:
    return FileError(
        path,
        f"column {name!r} has datatype {item.datatype!r} and arraysize {item.arraysize!r}, which "
        "has no place in a table; expected numbers, texts or arrays of numbers.",
        "Leave the column out.",
    )


def _lengths(data: NDArray[Any]) -> NDArray[np.int64]:
    return np.fromiter(map(np.size, np.asarray(data)), np.int64, len(data))


def _values(convert: Converter, data: Any, column: FileColumn) -> Values:
    raw, mask = np.ma.getdata(data), np.ma.getmaskarray(data)
    if column.dtype == TEXT:
        texts = pa.array(raw, pa.large_string(), mask=mask)
        return convert.values(texts, column)
    if raw.dtype.kind == "O":
        return _ragged(convert, raw, column)
    shape = (len(raw),) if column.length is None else (len(raw), column.length)
    return _filled(convert, raw.reshape(shape), mask.reshape(shape), column)


def _filled(
    convert: Converter, raw: NDArray[Any], mask: NDArray[np.bool_], column: FileColumn
) -> Values:
    null = np.asarray(mask.reshape(len(mask), -1).all(axis=1))
    data = raw.astype(column.dtype)
    if column.dtype.kind == "f":
        data[mask] = np.nan
    elif (partly := mask.reshape(len(mask), -1).any(axis=1) & ~null).any():
        raise convert.fail(partly, column, "an array of integers holds a missing value.")
    return Values(data, null if null.any() else None)


def _ragged(convert: Converter, raw: NDArray[Any], column: FileColumn) -> Values:
    """Variable-length arrays, all of one length (or empty, which is no value)."""
    lengths = _lengths(raw)
    wrong = (lengths != 0) & (lengths != column.length)
    if wrong.any():
        found = lengths[np.argmax(wrong)]
        raise convert.fail(
            wrong, column, f"expected {column.length} values as in the first rows, found {found}."
        )
    shape = (len(raw), column.length or 1)
    data = np.zeros(shape, column.dtype)
    mask = np.ones(shape, np.bool_)
    if len(rows := np.flatnonzero(lengths)):
        cells = [np.ma.ravel(cell) for cell in raw[rows]]
        data[rows] = np.concatenate([cell.data for cell in cells]).reshape(-1, shape[1])
        mask[rows] = np.concatenate([np.ma.getmaskarray(cell) for cell in cells]).reshape(
            -1, shape[1]
        )
    return _filled(convert, data, mask, column)


def _one_line(error: object) -> str:
    """The message on one line; of astropy's position (``file:line:column``) only the line."""
    text = re.sub(r"\s+", " ", str(error)).strip().rstrip(".")
    text = re.sub(r"^[^:]*:\?:\?: ", "", text)
    return re.sub(r"^(?:.*?:)?(\d+):\d+: ", r"line \1, ", text)
