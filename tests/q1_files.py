"""Small Q1 product files with every column of the product, like the archive's, and repeatable.

Objects of a tile have the same ids in every product. Float columns hold NaN here and there, and
everywhere in the bands that Q1 leaves empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astropt_db.q1 import identity
from astropt_db.q1.products import BY_TABLE, Column, load_columns

TILE = 102158889
"""A tile of the Euclid Deep Field North."""

_DTYPES = {
    "bigint": ">i8",
    "integer": ">i4",
    "smallint": ">i2",
    "real": ">f4",
    "real[]": ">f4",
    "double precision": ">f8",
    "boolean": "?",
    "text": "S12",
}
_EMPTY_BANDS = ("LSST", "JPCAM", "DECAM")
_STAMP = "20241018T214045.289017Z_00.00"
_NAMES = {
    "mer_catalogue": "EUC_MER_FINAL-CAT_TILE{tile}-3B9ACA_{stamp}.fits",
    "mer_morphology": "EUC_MER_FINAL-MORPH-CAT_TILE{tile}-3B9ACA_{stamp}.fits",
    # The archive's PHZ files are told apart by their folder only.
    "phz_photo_z": "{tile}/EUC_PHZ_PHZCAT_{stamp}.fits",
    "phz_classification": "{tile}/EUC_PHZ_CLASSCAT_{stamp}.fits",
    "spe": "EUC_SPE_WIDE-CAT-Z_{tile}_N_{stamp}.fits",
}

_FITS_BLOCK = 2880
_FITS_CODES: dict[str, Mapping[int, str]] = {
    "b": {1: "L"},
    "i": {2: "I", 4: "J", 8: "K"},
    "f": {4: "E", 8: "D"},
    "S": defaultdict(lambda: "A"),
}

Rows = NDArray[Any]


def make_rows(product: str, n_rows: int, tile: int = TILE, seed: int = 0) -> Rows:
    """Rows of a product as a big-endian structured array, one field per listed column.

    ``seed`` changes the values; the objects depend on ``tile`` alone.
    """
    columns = load_columns(product)
    rng = np.random.default_rng([tile, seed])
    rows = np.zeros(n_rows, [_field(column) for column in columns])
    for column in columns:
        rows[column.name] = _values(column, n_rows, rng)
    ra, dec = positions(n_rows, tile)
    by_name = {column.sql: column.name for column in columns}
    rows[by_name["object_id"]] = identity.encode(ra, dec)
    for name, values in {
        "right_ascension": ra,
        "declination": dec,
        "segmentation_map_id": tile * 1_000_000 + np.arange(n_rows),
        "vis_det": rng.random(n_rows) > 0.08,
        "spe_rank": np.zeros(n_rows),
    }.items():
        if name in by_name:
            rows[by_name[name]] = values
    return rows


def positions(n_rows: int, tile: int = TILE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension and declination of a tile's objects, degrees; tiles lie apart."""
    rng = np.random.default_rng(tile)
    ra = 260.0 + 0.5 * (tile % 40) + 0.5 * rng.random(n_rows)
    return ra, 65.0 + 0.5 * rng.random(n_rows)


def _field(column: Column) -> tuple[Any, ...]:
    dtype = _DTYPES[column.type]
    return (column.name, dtype) if column.length is None else (column.name, dtype, column.length)


def _values(column: Column, n_rows: int, rng: np.random.Generator) -> Any:
    if column.type == "text":
        return rng.choice([b"", b"GALAXY", b"STAR"], n_rows)
    shape = n_rows if column.length is None else (n_rows, column.length)
    if column.type not in ("real", "real[]", "double precision"):
        return rng.integers(0, 2, shape)
    if any(band in column.name for band in _EMPTY_BANDS):
        return np.full(shape, np.nan)
    values = rng.lognormal(size=shape)
    values[rng.random(n_rows) < 0.1] = np.nan
    return values


def file_name(product: str, tile: int = TILE) -> str:
    """The archive's name for a product's file, folder included where it has a meaning."""
    return _NAMES[product].format(tile=tile, stamp=_STAMP)


def write_product(
    folder: Path, product: str, rows: Rows | int = 50, tile: int = TILE, seed: int = 0
) -> Path:
    """Write one product of one tile under the archive's name; ``rows`` or their number."""
    if isinstance(rows, int):
        rows = make_rows(product, rows, tile, seed)
    return write_fits(folder / file_name(product, tile), {BY_TABLE[product].extname: rows})


def write_fits(path: Path, tables: Mapping[str, Rows]) -> Path:
    """Write tables by extension name into one FITS file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fits_bytes(tables))
    return path


def fits_bytes(tables: Mapping[str, Rows]) -> bytes:
    """Content of a FITS file with tables by extension name.

    By hand: astropy takes two seconds for the header of the 469 columns of MER, and neither
    writes the same name twice nor a wrong size.
    """
    content = _unit([_card("SIMPLE", True), _card("BITPIX", 8), _card("NAXIS", 0)])
    for label, rows in tables.items():
        records = np.zeros(len(rows), [_fits_field(rows, name) for name in rows.dtype.names])
        for i, name in enumerate(rows.dtype.names):
            is_logical = rows[name].dtype.kind == "b"
            values = np.where(rows[name], b"T", b"F") if is_logical else rows[name]
            records[f"{i}"] = values
        cards = _table_cards(rows, records.dtype.itemsize, label)
        data = records.tobytes()
        content += _unit(cards) + data + bytes(-len(data) % _FITS_BLOCK)
    return content


def _fits_field(rows: Rows, name: str) -> tuple[Any, ...]:
    dtype = rows.dtype.fields[name][0]
    base = np.dtype("S1") if dtype.base.kind == "b" else dtype.base.newbyteorder(">")
    return (str(rows.dtype.names.index(name)), base, dtype.shape)


def _table_cards(rows: Rows, row_bytes: int, label: str) -> list[bytes]:
    sizes = {"BITPIX": 8, "NAXIS": 2, "NAXIS1": row_bytes, "NAXIS2": len(rows)}
    sizes |= {"PCOUNT": 0, "GCOUNT": 1, "TFIELDS": len(rows.dtype.names)}
    cards = [_card("XTENSION", "BINTABLE"), *(_card(*item) for item in sizes.items())]
    cards += [_card("EXTNAME", label)] if label else []
    for i, name in enumerate(rows.dtype.names, 1):
        dtype = rows.dtype.fields[name][0]
        repeat = dtype.base.itemsize if dtype.base.kind == "S" else int(np.prod(dtype.shape))
        # Real files write NA where a quantity has no unit.
        cards += [
            _card(f"TTYPE{i}", name),
            _card(f"TFORM{i}", f"{repeat}{_FITS_CODES[dtype.base.kind][dtype.base.itemsize]}"),
            _card(f"TUNIT{i}", _units().get(name) or "NA"),
        ]
    return cards


@cache
def _units() -> dict[str, str]:
    return {column.name: column.unit for product in BY_TABLE for column in load_columns(product)}


def _card(key: str, value: Any) -> bytes:
    if isinstance(value, bool):
        text = f"{'FT'[value]:>20}"
    elif isinstance(value, str):
        text = "'{:<8}'".format(value.replace("'", "''"))
    else:
        text = f"{value:>20}"
    card = f"{key:<8}= {text}".ljust(80).encode("latin-1")
    assert len(card) == 80, f"{value!r} does not fit into a FITS card"
    return card


def _unit(cards: list[bytes]) -> bytes:
    content = b"".join([*cards, b"END".ljust(80)])
    return content + b" " * (-len(content) % _FITS_BLOCK)


def with_columns(rows: Rows, new: Mapping[str, NDArray[Any]]) -> Rows:
    """The rows with columns added, or replaced by ones of another type."""
    parts = {name: rows[name] for name in rows.dtype.names} | new
    fields = [(name, part.dtype, part.shape[1:]) for name, part in parts.items()]
    out = np.zeros(len(rows), fields)
    for name, part in parts.items():
        out[name] = part
    return out
