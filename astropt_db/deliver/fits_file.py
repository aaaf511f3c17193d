"""A FITS binary table, written in one pass; its header is set right at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from astropy.io import fits

from astropt_db.deliver.fixed import FixedColumn, Size, fill, fixed_columns, row_dtype
from astropt_db.deliver.selection import Selection

_BLOCK = 2880
_CARD = 80
_CODES = {
    "boolean": "L",
    "smallint": "I",
    "integer": "J",
    "bigint": "K",
    "real": "E",
    "double precision": "D",
    "text": "A",
}
KEYWORDS = {
    "creator": ("CREATOR", "software that wrote this file"),
    "created": ("DATE", "when it was written, UTC"),
    "source": ("SOURCE", "view or table; query: see QUERY"),
    "query": ("QUERY", "SQL of the rows"),
    "releases": ("RELEASE", "data releases in the database"),
    "encoder": ("ENCODER", "current encoder"),
    "predictors": ("PREDICT", "current predictors"),
    "runs": ("RUNS", "last finished run of each command"),
}
_INTEGERS = ("smallint", "integer", "bigint")


def write_fits(
    stream: BinaryIO,
    selection: Selection,
    batches: Iterable[pa.RecordBatch],
    sizes: Mapping[str, Size],
) -> int:
    """Write batches to a seekable file; returns the number of rows.

    Units stand in TUNITn, UCDs in TUCDn, descriptions in TCOMMn (TOPCAT and STILTS read these
    two); an integer column that has NULLs declares its lowest value in TNULLn. Arrays are filled
    up to the longest with NaN or TNULL.
    """
    columns = fixed_columns(selection.columns, sizes, wide_text=False)
    dtype = row_dtype(columns)
    stream.write(_primary(selection))
    place = stream.tell()
    # The largest header that can become true, so that the right one fits into its room.
    every = {i for i, one in enumerate(columns) if one.element in _INTEGERS}
    room = _padded(_table_header(selection, columns, dtype.itemsize, 2**62, every))
    stream.write(room)
    count = 0
    with_null: set[int] = set()
    for batch in batches:
        rows = np.empty(batch.num_rows, dtype)
        fill(rows, columns, batch)
        stream.write(rows.data.cast("B") if rows.itemsize else b"")
        count += batch.num_rows
        with_null |= {i for i in every - with_null if _has_null(columns[i], batch.column(i))}
    stream.write(bytes(-(count * dtype.itemsize) % _BLOCK))
    stream.seek(place)
    header = _table_header(selection, columns, dtype.itemsize, count, with_null)
    stream.write(_padded(header, len(room)))
    return count


def _has_null(one: FixedColumn, values: pa.Array) -> bool:
    if not one.is_array:
        return bool(values.null_count)
    flat = values.flatten()
    return bool(flat.null_count) or len(flat) < len(values) * one.length


def _primary(selection: Selection) -> bytes:
    header = fits.PrimaryHDU().header
    header["ORIGIN"] = "astropt-db"
    for key, value in selection.provenance.items():
        keyword, comment = KEYWORDS[key]
        header[keyword] = _ascii(value)
        if len(value) < _CARD - 20 - len(comment):
            header.comments[keyword] = comment
    return _padded(header)


def _table_header(
    selection: Selection,
    columns: Sequence[FixedColumn],
    row_bytes: int,
    n_rows: int,
    with_null: set[int],
) -> fits.Header:
    cards: list[tuple[str, object, str]] = [
        ("XTENSION", "BINTABLE", "binary table"),
        ("BITPIX", 8, ""),
        ("NAXIS", 2, ""),
        ("NAXIS1", row_bytes, "bytes of a row"),
        ("NAXIS2", n_rows, "number of rows"),
        ("PCOUNT", 0, ""),
        ("GCOUNT", 1, ""),
        ("TFIELDS", len(columns), "number of columns"),
        ("EXTNAME", _ascii(selection.name), ""),
    ]
    for i, one in enumerate(columns):
        n, column = i + 1, one.column
        repeat = str(one.length) if one.is_text or one.is_array else ""
        cards.append((f"TTYPE{n}", _ascii(column.name), ""))
        cards.append((f"TFORM{n}", repeat + _CODES[one.element], ""))
        if i in with_null:
            cards.append((f"TNULL{n}", one.null, ""))
        for keyword, value in (
            ("TUNIT", column.unit),
            ("TUCD", column.ucd),
            ("TCOMM", column.description),
        ):
            if value:
                cards.append((f"{keyword}{n}", _ascii(value), ""))
    header = fits.Header()
    header.extend([fits.Card(*card) for card in cards], strip=False, end=True)
    if selection.title:
        header["COMMENT"] = _ascii(selection.title)
    return header


def _padded(header: fits.Header, length: int | None = None) -> bytes:
    """The header's bytes, with blank cards before END up to ``length``."""
    text: str = header.tostring(sep="", endcard=False, padding=False)
    total = length or -(-(len(text) + _CARD) // _BLOCK) * _BLOCK
    blank = " " * (total - len(text) - _CARD) if length else ""
    return (text + blank + "END".ljust(_CARD)).ljust(total).encode("ascii")


def _ascii(text: str) -> str:
    """Printable ASCII, which is all that FITS headers hold."""
    flat = " ".join(text.split())
    return "".join(c if " " <= c <= "~" else "?" for c in flat)
