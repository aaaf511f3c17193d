"""Writing FITS tables that follow the column lists: every column, its type, length and unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astropt_db.q1.products import Column, load_columns

Values = Mapping[str, NDArray[np.generic]]

NO_VALUE = {"bigint": -(2**63), "integer": -(2**31), "smallint": -(2**15)}
"""TNULL by type: the lowest integer, as real flags use -32768."""

_FORMATS: dict[str, tuple[str, str]] = {
    "bigint": ("K", "i8"),
    "integer": ("J", "i4"),
    "smallint": ("I", "i2"),
    "boolean": ("L", "?"),
    "double precision": ("D", "f8"),
    "real": ("E", "f4"),
    "text": ("A", "U"),
}
_TEXT_WIDTH = 24


def product_hdu(
    table: str, rows: int, values: Values, extname: str, keywords: Mapping[str, int]
) -> fits.BinTableHDU:
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
    columns = [_fits_column(column, rows, values.get(column.name)) for column in listed]
    hdu = fits.BinTableHDU.from_columns(columns, nrows=rows)
    if extname:
        hdu.header["EXTNAME"] = extname
    for name, value in keywords.items():
        hdu.header[f"HIERARCH {name}" if len(name) > 8 else name] = value
    return hdu


def write_tables(path: Path, hdus: Sequence[fits.BinTableHDU], when: datetime) -> Path:
    """Write tables after an empty primary HDU that carries the creation time ``when``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = fits.PrimaryHDU()
    primary.header["DATE"] = f"{when:%Y-%m-%dT%H:%M:%S}"
    fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)
    return path


def _fits_column(column: Column, rows: int, given: NDArray[np.generic] | None) -> fits.Column:
    element = column.type.removesuffix("[]")
    letter, dtype = _FORMATS[element]
    length = column.length or 1
    shape = (rows, length) if length > 1 else (rows,)
    # Q1 writes the unit "NA" for what has no unit.
    unit = column.unit or "NA"
    if element == "text":
        text = np.full(rows, "") if given is None else np.asarray(given, dtype=str)
        width = max(_TEXT_WIDTH, text.dtype.itemsize // 4)
        return fits.Column(column.name, f"{width}A", unit=unit, array=text)
    null = NO_VALUE.get(element)
    code = letter if length == 1 else f"{length}{letter}"
    if null is None:
        array = np.full(shape, np.nan, dtype) if given is None else given.astype(dtype)
        return fits.Column(column.name, code, unit=unit, array=array.reshape(shape))
    if given is None:
        array = np.full(shape, null, dtype)
    elif given.dtype.kind == "f":
        array = np.where(np.isfinite(given), given, 0).astype(dtype)
        array[~np.isfinite(given)] = null
    else:
        array = given.astype(dtype)
    return fits.Column(column.name, code, unit=unit, null=null, array=array.reshape(shape))
