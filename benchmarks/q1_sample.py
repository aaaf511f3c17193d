"""A MER final catalogue of any length with realistic content, for benchmarks.

469 columns; the bands that Q1's northern field lacks are empty (4 columns in 10), NISP-only
sources have no VIS values, a tenth of the rows lack a third of the measurements.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from astropt_db.q1 import identity
from astropt_db.q1.products import Column, load_columns

_FORMAT = {"bigint": "K", "integer": "J", "smallint": "I", "real": "E", "double precision": "D"}
_DTYPE = {"K": ">i8", "J": ">i4", "I": ">i2", "E": ">f4", "D": ">f8"}
_ABSENT = ("LSST", "JPCAM", "DECAM", "EXT_PANSTARRS_Z", "Z_EXT_PANSTARRS")
_CHUNK = 50_000
TILE = 102158889


def write_mer_catalogue(folder: Path, rows: int, seed: int = 1) -> Path:
    """Write the file under its real name and return its path."""
    columns = load_columns("mer_catalogue")
    dtype = np.dtype([(c.name, _DTYPE[_FORMAT[c.type]]) for c in columns])
    name = f"EUC_MER_FINAL-CAT_TILE{TILE + seed}-0A1B2C_20241018T214045.289017Z_00.00.fits"
    path = folder / name
    rng = np.random.default_rng(seed)
    with path.open("wb") as handle:
        handle.write(fits.PrimaryHDU().header.tostring().encode())
        handle.write(_header(columns, dtype.itemsize, rows).tostring().encode())
        for first in range(0, rows, _CHUNK):
            block = _rows(columns, dtype, first, min(_CHUNK, rows - first), seed, rng)
            handle.write(block.tobytes())
        handle.write(bytes(-handle.tell() % 2880))
    return path


def _header(columns: tuple[Column, ...], row_bytes: int, rows: int) -> fits.Header:
    cards = [("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", row_bytes)]
    cards += [("NAXIS2", rows), ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", len(columns))]
    header = fits.Header(cards)
    for i, column in enumerate(columns, 1):
        header[f"TTYPE{i}"] = column.name
        header[f"TFORM{i}"] = _FORMAT[column.type]
        header[f"TUNIT{i}"] = column.unit or "NA"
    return header


def _rows(
    columns: tuple[Column, ...],
    dtype: np.dtype,
    first: int,
    count: int,
    seed: int,
    rng: np.random.Generator,
) -> np.ndarray:
    rows = np.zeros(count, dtype)
    nisp_only = rng.random(count) < 0.08
    sparse = rng.random(count) < 0.1
    for i, column in enumerate(columns):
        if column.type != "real":
            continue
        if any(word in column.name for word in _ABSENT):
            rows[column.name] = np.nan
            continue
        values = rng.lognormal(size=count).astype(np.float32)
        if "VIS" in column.name:
            values[nisp_only] = np.nan
        if i % 3 == 0:
            values[sparse] = np.nan
        rows[column.name] = values
    ra = 269.0 + seed * 0.6 + rng.random(count) * 0.5
    dec = 65.5 + rng.random(count) * 0.5
    rows["RIGHT_ASCENSION"], rows["DECLINATION"] = ra, dec
    rows["RIGHT_ASCENSION_PSF_FITTING"] = rows["DECLINATION_PSF_FITTING"] = np.nan
    rows["OBJECT_ID"] = identity.encode(ra, dec)
    rows["SEGMENTATION_MAP_ID"] = (TILE + seed) * 1_000_000 + first + np.arange(count)
    rows["VIS_DET"] = ~nisp_only
    return rows
