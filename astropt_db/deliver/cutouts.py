"""``astropt-db cutout``: one picture or one FITS file for each source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from astropy.io import fits
from numpy.typing import NDArray

from astropt_db import __version__
from astropt_db.database.connect import Database
from astropt_db.database.reading import reading
from astropt_db.deliver.files import new_file
from astropt_db.deliver.pictures import encode_png, paint, window_of, zero_points
from astropt_db.errors import ConfigurationError
from astropt_db.images.registered import Places, find_places, read_cutouts, tile_mosaics
from astropt_db.images.source import BANDS, CutoutFlag
from astropt_db.images.wcs import TanWcs
from astropt_db.images.windows import origins

_AT_ONCE = 64


def write_cutouts(
    database: Database,
    ids: Sequence[int],
    folder: Path,
    size_arcsec: float = 22.4,
    file_format: str = "png",
    colour: bool = True,
    overwrite: bool = False,
) -> Iterator[tuple[int, Path | None]]:
    """Write ``cutout_{id}.png`` or ``.fits`` files; yields each id with its file.

    Parameters
    ----------
    ids
        Sources; ``None`` stands in place of the file of a source without pixels.
    size_arcsec
        Side of the window.
    file_format
        ``png`` (north up, east left) or ``fits`` (an image HDU with WCS for each band).
    colour
        Whether a PNG shows VIS, Y and H or VIS alone.

    Raises
    ------
    ConfigurationError
        If a file exists and may not be overwritten, or the folder does not exist.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}; make it first")
    unique = list(dict.fromkeys(ids))
    with reading(database) as cursor:
        connection = cursor.connection
        zero = zero_points(connection)
        for first in range(0, len(unique), _AT_ONCE):
            places = find_places(connection, np.array(unique[first : first + _AT_ONCE], np.int64))
            found = read_cutouts(
                connection, places.object_id, BANDS, np.nan, window_of(size_arcsec)
            )
            for i, one in enumerate(places.object_id.tolist()):
                if found.flags[i] & CutoutFlag.ALL_MISSING:
                    yield one, None
                    continue
                target = folder / f"cutout_{_name(one)}.{file_format}"
                with new_file(target, overwrite) as stream:
                    if file_format == "png":
                        bands = dict(zip(BANDS, found.pixels[i], strict=True))
                        stream.write(encode_png(paint(bands, zero, colour)))
                    else:
                        units = _hdus(connection, places, i, found.pixels[i])
                        units.writeto(stream)
                yield one, target


def _name(object_id: int) -> str:
    """The id as the archive's file names spell it."""
    return f"NEG{-object_id}" if object_id < 0 else str(object_id)


def _hdus(
    connection: psycopg.Connection[Any], places: Places, i: int, pixels: NDArray[np.float32]
) -> fits.HDUList:
    primary = fits.PrimaryHDU()
    # As text: some readers make a float of a long number in a header.
    primary.header["OBJECTID"] = (str(places.object_id[i]), "Euclid source identifier")
    primary.header["RA"] = (_number(places.ra[i]), "[deg] ICRS")
    primary.header["DEC"] = (_number(places.dec[i]), "[deg] ICRS")
    primary.header["CREATOR"] = f"astropt-db {__version__}"
    units = [primary]
    tile = int(places.tile[i])
    mosaics = {m.band: m for m in tile_mosaics(connection, tile)} if tile >= 0 else {}
    for band, plane in zip(BANDS, pixels, strict=True):
        if not np.isfinite(plane).any():
            continue
        unit = fits.ImageHDU(plane, name=band)
        if band in mosaics:
            mosaic = mosaics[band]
            unit.header.update(_wcs_cards(mosaic.wcs, places.ra[i], places.dec[i], len(plane)))
            unit.header["MAGZERO"] = (mosaic.magzero, "AB magnitude of one unit")
            unit.header["TILE"] = tile
        units.append(unit)
    return fits.HDUList(units)


def _wcs_cards(wcs: TanWcs, ra: float, dec: float, size: int) -> dict[str, object]:
    """The mosaic's projection, its reference pixel moved to the window."""
    x, y = wcs.to_pixel(np.array([ra]), np.array([dec]))
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "RADESYS": "ICRS",
        "CRVAL1": wcs.crval1,
        "CRVAL2": wcs.crval2,
        "CRPIX1": wcs.crpix1 - int(origins(x, size)[0]),
        "CRPIX2": wcs.crpix2 - int(origins(y, size)[0]),
        "CD1_1": wcs.cd1_1,
        "CD1_2": wcs.cd1_2,
        "CD2_1": wcs.cd2_1,
        "CD2_2": wcs.cd2_2,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
