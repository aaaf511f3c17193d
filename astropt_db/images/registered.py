"""Pixels of sources that the database knows: registered mosaics and ready-made cut-outs.

>>> with connect(database) as connection:                      # doctest: +SKIP
...     source = open_tile(connection, 102018665, bands=("VIS",))
...     places = find_places(connection, ids)
...     cutouts = read_cutouts(connection, ids)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row

from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError, FileError
from astropt_db.images.cutout_files import FitsCutouts
from astropt_db.images.cutout_parquet import ParquetCutouts
from astropt_db.images.cutout_source import CutoutSource
from astropt_db.images.mosaic import Mosaic
from astropt_db.images.source import (
    BANDS,
    WINDOW,
    CutoutFlag,
    Cutouts,
    Float64,
    ImageSource,
    Int64,
)
from astropt_db.images.tiles import TileSource

_Connection = psycopg.Connection[Any]
NO_TILE = -1
"""Tile of a source that lies on no registered mosaic."""


@dataclass(frozen=True)
class Places:
    """Where the pixels of n sources lie.

    Attributes
    ----------
    object_id
        int64 ``(n,)``.
    ra, dec
        ICRS degrees, float64 ``(n,)``; NaN where not known.
    tile
        Registered tile, int64 ``(n,)``; :data:`NO_TILE` if there is none.
    has_cutout
        Whether there is a ready-made cut-out, bool ``(n,)``.
    """

    object_id: Int64
    ra: Float64
    dec: Float64
    tile: Int64
    has_cutout: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.object_id)


def registered_tiles(connection: _Connection) -> list[int]:
    """Tiles of which there are mosaics, ascending."""
    rows = connection.execute(named_queries()["mosaic_tiles"]).fetchall()
    return [tile for (tile,) in rows]


def tile_mosaics(
    connection: _Connection, tile: int, bands: Sequence[str] = BANDS, rms: bool = False
) -> list[Mosaic]:
    """Registered mosaics of a tile in some bands; none is an empty list."""
    with connection.cursor(row_factory=dict_row) as cursor:
        values = {"tile": tile, "bands": list(bands), "rms": rms}
        rows = cursor.execute(named_queries()["mosaics_of_tile"], values).fetchall()
    return [Mosaic.from_row(row) for row in rows]


def open_tile(
    connection: _Connection,
    tile: int,
    bands: Sequence[str] = BANDS,
    fill: float = 0.0,
    *,
    rms: bool = False,
    window: int = WINDOW,
) -> TileSource:
    """Open a registered tile.

    Parameters
    ----------
    bands, fill, window
        As in :class:`~astropt_db.images.source.ImageSource`.
    rms
        Whether RMS maps mark unobserved pixels, too. What they mark is 0 in the image already,
        and reading them doubles the work.

    Raises
    ------
    ConfigurationError
        If no mosaic of the tile is registered in any of the bands.
    """
    mosaics = tile_mosaics(connection, tile, bands, rms)
    if not any(one.kind == "BGSUB" for one in mosaics):
        raise ConfigurationError(
            f"no mosaic of tile {tile} in {', '.join(bands)} is registered; register it: "
            "astropt-db ingest mosaics PATH"
        )
    return TileSource(mosaics, bands, fill, window)


def find_places(connection: _Connection, object_id: Int64) -> Places:
    """Find where the pixels of sources lie, in the order asked for.

    A source that the database does not know has no tile and no cut-out.
    """
    query = named_queries()["image_places"]
    rows = connection.execute(query, {"ids": np.unique(object_id).tolist()}).fetchall()
    by_id = {row[0]: row[1:] for row in rows}
    found = [by_id.get(one, (None, None, None, False)) for one in object_id.tolist()]
    ra, dec, tile, has_cutout = zip(*found, strict=True) if found else ((), (), (), ())
    return Places(
        np.asarray(object_id, np.int64),
        np.array(ra, np.float64),
        np.array(dec, np.float64),
        np.array([NO_TILE if one is None else one for one in tile], np.int64),
        np.array(has_cutout, np.bool_),
    )


def tile_sources(connection: _Connection, tile: int) -> tuple[Int64, Float64, Float64]:
    """Sources whose pixels lie on a tile, by declination: ids, RA and Dec in degrees."""
    rows = connection.execute(named_queries()["tile_sources"], {"tile": tile}).fetchall()
    columns = np.array(rows, dtype="i8,f8,f8") if rows else np.empty(0, "i8,f8,f8")
    return columns["f0"], columns["f1"], columns["f2"]


def open_cutouts_of(
    connection: _Connection,
    object_id: Int64,
    bands: Sequence[str] = BANDS,
    fill: float = 0.0,
    window: int = WINDOW,
) -> CutoutSource:
    """Open the registered ready-made cut-outs of some sources.

    FITS files are taken before Parquet files where both are registered.

    Raises
    ------
    FileError
        If a file is gone, or is not the one that was registered.
    ConfigurationError
        If there is no cut-out of any of them.
    """
    values = {"ids": object_id.tolist()}
    rows = connection.execute(named_queries()["cutout_files_of"], values).fetchall()
    for path, _, _, size, tag in rows:
        _refuse_changed(path, size, tag)
    fits = [row for row in rows if row[1] == "fits"]
    if fits:
        cubes = next((row[2] for row in fits if row[2]), None)
        return FitsCutouts([Path(row[0]) for row in fits], bands, fill, cubes, window)
    if not rows:
        raise ConfigurationError(
            f"no cut-outs of object {int(object_id[0])} are registered; register them: "
            "astropt-db ingest cutouts PATH"
        )
    return ParquetCutouts([Path(row[0]) for row in rows], bands, fill, window)


def file_version(path: Path) -> tuple[int, str]:
    """Size in bytes and time of change, which tell a changed file."""
    try:
        found = path.stat()
    except OSError as error:
        raise FileError(path, f"cannot be opened: {error.strerror}.") from error
    return found.st_size, str(found.st_mtime_ns)


def _refuse_changed(path: str, size: int, tag: str) -> None:
    found = file_version(Path(path))
    if found != (size, tag):
        raise FileError(
            path,
            f"changed since it was registered: expected {size} bytes, tag {tag}; found "
            f"{found[0]} bytes, tag {found[1]}.",
            "Register it again (astropt-db ingest cutouts).",
        )


def read_cutouts(
    connection: _Connection,
    object_id: Int64,
    bands: Sequence[str] = BANDS,
    fill: float = 0.0,
    window: int = WINDOW,
) -> Cutouts:
    """Windows around sources, from wherever their pixels are registered, in the order asked for.

    All of them are in memory at once: 0.8 MB a source in four bands. A source without pixels
    comes back flagged.

    Raises
    ------
    FileError
        If a file cannot be read, or is not the one that was registered.
    """
    places = find_places(connection, object_id)
    shape = (len(places), len(bands))
    pixels = np.full((*shape, window, window), fill, np.float32)
    missing = np.ones(shape, np.float32)
    flags = np.full(len(places), CutoutFlag.ALL_MISSING | CutoutFlag.MISSING_BAND, np.uint8)
    for tile in np.unique(places.tile):
        here = np.flatnonzero(places.tile == tile)
        source: ImageSource
        if tile == NO_TILE:
            here = here[places.has_cutout[here]]
            if len(here) == 0:
                continue
            source = open_cutouts_of(connection, places.object_id[here], bands, fill, window)
        else:
            source = open_tile(connection, int(tile), bands, fill, window=window)
        part = source.cutouts(places.object_id[here], places.ra[here], places.dec[here])
        pixels[here], missing[here], flags[here] = part.pixels, part.missing, part.flags
    return Cutouts(np.asarray(object_id, np.int64), pixels, missing, flags)
