"""Writing FITS tables that follow the column lists: every column, its type, length and unit.

The bytes are put together here. Astropy checks and reformats each of a header's cards several
times, which for the thousand columns of a tile's catalogues takes longer than measuring its
sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astropt_db.q1.products import Column, load_columns

Array = NDArray[np.generic]
Values = Mapping[str, Array]

NO_VALUE = {"bigint": -(2**63), "integer": -(2**31), "smallint": -(2**15)}
"""TNULL by type: the lowest integer, as real flags use -32768."""

_DTYPES: dict[str, str] = {
    "bigint": "i8",
    "integer": "i4",
    "smallint": "i2",
    "boolean": "?",
    "double precision": "f8",
    "real": "f4",
    "text": "U",
}
_LETTERS = {"i8": "K", "i4": "J", "i2": "I", "b1": "L", "f8": "D", "f4": "E"}
_TEXT_WIDTH = 24
_BLOCK = 2880
"""FITS files are made of blocks of this many bytes."""
_PRIMARY: tuple[tuple[str, bool | int], ...] = (
    *(("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)),
)


@dataclass(frozen=True)
class Field:
    """One column of a FITS table.

    Attributes
    ----------
    name
        TTYPE.
    values
        Shape ``(rows,)`` or ``(rows, length)``; strings are written as ASCII.
    unit
        TUNIT; empty for none.
    null
        TNULL: the integer that means "no value".
    """

    name: str
    values: Array
    unit: str = ""
    null: int | None = None

    @property
    def format(self) -> str:
        """TFORM, such as ``D``, ``601E`` or ``24A``."""
        dtype = self.values.dtype
        if dtype.kind == "U":
            return f"{dtype.itemsize // 4}A"
        letter = _LETTERS[dtype.str[1:]]
        return letter if self.values.ndim == 1 else f"{self.values.shape[1]}{letter}"

    @property
    def stored(self) -> Array:
        """Values as FITS stores them: big-endian numbers, ASCII strings, T and F."""
        dtype = self.values.dtype
        if dtype.kind == "U":
            return self.values.astype(f"S{dtype.itemsize // 4}")
        if dtype.kind == "b":
            return np.where(self.values, b"T", b"F")
        return self.values.astype(dtype.newbyteorder(">"))


@dataclass(frozen=True)
class Table:
    """A binary table: its columns, EXTNAME (empty for none) and further keywords."""

    fields: Sequence[Field]
    extname: str
    keywords: Mapping[str, int]

    def tobytes(self) -> bytes:
        """Header and data, each a whole number of blocks."""
        stored = [field.stored for field in self.fields]
        names = [f"f{index}" for index in range(len(stored))]
        dtype = np.dtype([(n, a.dtype, a.shape[1:]) for n, a in zip(names, stored, strict=True)])
        data = np.empty(len(stored[0]), dtype)
        for name, column in zip(names, stored, strict=True):
            data[name] = column
        body = data.tobytes()
        cards: list[tuple[str, bool | int | str]] = [
            *(("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", dtype.itemsize)),
            *(("NAXIS2", len(data)), ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", len(stored))),
        ]
        for number, field in enumerate(self.fields, 1):
            cards += [(f"TTYPE{number}", field.name), (f"TFORM{number}", field.format)]
            cards += [(f"TUNIT{number}", field.unit)] if field.unit else []
            cards += [(f"TNULL{number}", field.null)] if field.null is not None else []
        cards += [("EXTNAME", self.extname)] if self.extname else []
        cards += self.keywords.items()
        return header_bytes(cards) + body + b"\0" * (-len(body) % _BLOCK)


def header_bytes(cards: Iterable[tuple[str, bool | int | str]]) -> bytes:
    """A FITS header of short keywords and values, padded to whole blocks."""
    lines = []
    for key, value in cards:
        name = f"{key:8}= " if len(key) <= 8 else f"HIERARCH {key} = "
        if isinstance(value, str):
            quoted = value.replace("'", "''")
            text = f"'{quoted:8}'"
        else:
            text = f"{'FT'[value] if isinstance(value, bool) else value:>20}"
        lines.append(f"{name}{text}"[:80].ljust(80))
    header = "".join([*lines, "END".ljust(80)])
    return header.ljust(-(-len(header) // _BLOCK) * _BLOCK).encode("ascii")


def product_table(
    table: str, rows: int, values: Values, extname: str, keywords: Mapping[str, int]
) -> Table:
    """One product as a FITS table with all columns of its list, in its order.

    Parameters
    ----------
    table
        Product table (``mer_catalogue``).
    rows
        Number of rows.
    values
        Arrays by column name, shape ``(rows,)`` or ``(rows, length)``. A float array for an
        integer column holds NaN where there is no value. Columns left out have no values.
    extname
        FITS extension name; empty for none.
    keywords
        Extra header keywords.

    Raises
    ------
    KeyError
        If ``values`` names a column that the product does not have.
    """
    listed = load_columns(table)
    unknown = set(values) - {column.name for column in listed}
    if unknown:
        raise KeyError(f"{table} has no column {sorted(unknown)[0]}")
    fields = [_field(column, rows, values.get(column.name)) for column in listed]
    return Table(fields, extname, keywords)


def write_tables(path: Path, tables: Sequence[Table], when: datetime) -> Path:
    """Write tables after an empty primary HDU that carries the creation time ``when``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = header_bytes([*_PRIMARY, ("DATE", f"{when:%Y-%m-%dT%H:%M:%S}")])
    path.write_bytes(b"".join([primary, *(table.tobytes() for table in tables)]))
    return path


def _field(column: Column, rows: int, given: Array | None) -> Field:
    element = column.type.removesuffix("[]")
    dtype = _DTYPES[element]
    length = column.length or 1
    shape = (rows, length) if length > 1 else (rows,)
    # Q1 writes the unit "NA" for what has no unit.
    unit = column.unit or "NA"
    if element == "text":
        text = np.full(rows, "") if given is None else np.asarray(given, dtype=str)
        width = max(_TEXT_WIDTH, text.dtype.itemsize // 4)
        return Field(column.name, text.astype(f"U{width}"), unit)
    null = NO_VALUE.get(element)
    if given is None:
        array = np.full(shape, np.nan if null is None else null, dtype)
    elif null is not None and given.dtype.kind == "f":
        array = np.where(np.isfinite(given), given, 0).astype(dtype)
        array[~np.isfinite(given)] = null
    else:
        array = given.astype(dtype)
    return Field(column.name, array.reshape(shape), unit, null)
