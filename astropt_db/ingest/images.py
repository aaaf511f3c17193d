"""Mosaics and ready-made cut-outs into the database: where they lie, never their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import cdshealpix.nested
import numpy as np
import psycopg
from astropy import units
from astropy.coordinates import Latitude, Longitude
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import analyse_table
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.resources import named_queries
from astropt_db.errors import AstroptDbError, FileError
from astropt_db.images.cutout_files import open_cutouts
from astropt_db.images.mosaic import Mosaic, parse_name, read_header
from astropt_db.images.registered import file_version
from astropt_db.images.source import BANDS
from astropt_db.images.storage import absolute, is_local

CELL_ORDER = 8
"""HEALPix order of the cells by which a tile is found: 0.23 degrees, half a tile."""
_EDGE_POINTS = 64
_THREADS = 8
"""Headers read at the same time: over a network each one is a few round trips."""
_FITS = (".fits", ".fit")
_Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class ImageReport:
    """What became of one file, or of one set of files.

    Attributes
    ----------
    path
        File, folder or address.
    state
        ``new``, ``updated``, ``unchanged`` or ``failed``.
    message
        What it is, or why it failed.
    n_objects
        Objects in a file of cut-outs or SEDs.
    """

    path: str
    state: str
    message: str
    n_objects: int = 0


def find_mosaics(path: str) -> list[str]:
    """Mosaics that an argument stands for: a file or address, a folder, or a pattern.

    In a folder, and under an address that ends in a slash, only the archive's names of images and
    RMS maps in a Euclid band count; other products lie beside them.

    Raises
    ------
    FileError
        If there is none.
    """
    if not is_local(path):
        if not path.endswith("/"):
            return [path]
        found = _remote_files(path)
    elif has_magic(path) and not Path(path).exists():
        # The pattern is the user's and may be absolute or hold **; pathlib's glob takes neither.
        found = sorted(glob(path, recursive=True))  # noqa: PTH207
    elif Path(absolute(path)).is_dir():
        found = sorted(str(one) for one in Path(absolute(path)).rglob("*") if one.is_file())
    else:
        return [path]
    mosaics = [one for one in found if one.lower().endswith(_FITS) and _is_mosaic(one)]
    if not mosaics:
        raise FileError(
            path,
            f"expected mosaics named EUC_MER_BGSUB-MOSAIC-… in {', '.join(BANDS)}, found none "
            f"among {len(found)} files.",
            "Give files of other names one by one, with --tile.",
        )
    return mosaics


def _is_mosaic(path: str) -> bool:
    name = parse_name(path)
    return name is not None and name.kind in ("BGSUB", "RMS") and name.band in BANDS


def _remote_files(path: str) -> list[str]:
    import fsspec

    try:
        filesystem, inside = fsspec.core.url_to_fs(path)
        return [str(filesystem.unstrip_protocol(one)) for one in sorted(filesystem.find(inside))]
    except Exception as error:
        # Whatever the store's client raises: the user needs the address and the reason.
        raise FileError(path, f"cannot be listed: {type(error).__name__}: {error}.") from error


def register_mosaics(
    connection: _Connection,
    uris: Sequence[str],
    run_id: int,
    *,
    release: str = "Q1",
    tile: int | None = None,
    replace: bool = False,
) -> Iterator[ImageReport]:
    """Register mosaics, one transaction each; yield what became of them.

    Headers are read in several threads. A file that is known costs a look at its header.

    Parameters
    ----------
    tile
        Tile index of files whose names do not tell.
    replace
        Let a file take the place of another one of the same tile, band and kind.
    """

    def read(uri: str) -> Mosaic | AstroptDbError:
        try:
            return read_header(uri, tile)
        except AstroptDbError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        for uri, found in zip(uris, pool.map(read, uris), strict=True):
            if isinstance(found, AstroptDbError):
                yield ImageReport(uri, "failed", str(found))
                continue
            try:
                state = save_mosaic(connection, found, run_id, release, replace)
            except FileError as error:
                yield ImageReport(uri, "failed", str(error))
            else:
                yield ImageReport(uri, state, f"tile {found.tile} {found.band} {found.kind}")


def save_mosaic(
    connection: _Connection, mosaic: Mosaic, run_id: int, release: str, replace: bool
) -> str:
    """Store a mosaic's row in a transaction of its own; ``new``, ``updated`` or ``unchanged``.

    Raises
    ------
    FileError
        If another file is registered for its tile, band and kind, and ``replace`` is not set.
    """
    queries, row = named_queries(), mosaic.as_row()
    with connection.transaction():
        known = connection.execute(queries["mosaic_known"], row).fetchone()
        if known == (mosaic.uri, mosaic.size, mosaic.tag, mosaic.header_sha256):
            return "unchanged"
        # The same header and size is the same product, copied, touched or moved.
        if known and known[1::2] != (mosaic.size, mosaic.header_sha256) and not replace:
            raise FileError(
                mosaic.uri,
                f"is another {mosaic.kind} mosaic of tile {mosaic.tile} in {mosaic.band} than the "
                f"registered {known[0]}.",
                "Take it instead with --replace.",
            )
        values = {"cells": mosaic_cells(mosaic).tolist(), "run_id": run_id, "release": release}
        connection.execute(queries["mosaic_save"], row | values)
    return "updated" if known else "new"


def mosaic_cells(mosaic: Mosaic) -> NDArray[np.int64]:
    """HEALPix cells of order 8, nested, that a mosaic touches."""
    x = np.linspace(-0.5, mosaic.width - 0.5, _EDGE_POINTS)
    y = np.linspace(-0.5, mosaic.height - 0.5, _EDGE_POINTS)
    # A tile is 0.53 degrees wide: with 64 points a side no cell of 0.23 degrees slips through.
    ra, dec = mosaic.wcs.to_sky(*(one.ravel() for one in np.meshgrid(x, y)))
    cells = cdshealpix.nested.lonlat_to_healpix(
        Longitude(ra, units.deg), Latitude(dec, units.deg), CELL_ORDER, num_threads=1
    )
    return np.unique(np.asarray(cells).astype(np.int64))


def register_cutouts(
    connection: _Connection,
    path: str,
    run_id: int,
    cube_bands: Sequence[str] | None = None,
) -> Iterator[ImageReport]:
    """Register a file or folder of ready-made cut-outs in one transaction.

    The ids come from the names of FITS files and from the column of Parquet files; pixels are not
    read. A file that changed is registered anew.

    Yields
    ------
    ImageReport
        One for the path, and one for each file in it that could not be registered.
    """
    try:
        source = open_cutouts([path], cube_bands=cube_bands)
        files, object_id, owner = source.files_by_object()
        versions = [file_version(one) for one in files]
    except FileError as error:
        yield ImageReport(path, "failed", str(error))
        return
    for problem in source.problems:
        yield ImageReport(problem.path, "failed", str(problem))
    names = [str(one.absolute()) for one in files]
    with connection.transaction(), connection.cursor() as cursor:
        rows = cursor.execute(named_queries()["cutout_files_known"], {"paths": names}).fetchall()
        known = {name: (number, (size, tag)) for name, number, size, tag in rows}
        fresh = [i for i, name in enumerate(names) if known.get(name, (0, None))[1] != versions[i]]
        changed = [known[names[i]][0] for i in fresh if names[i] in known]
        cursor.execute(named_queries()["cutout_files_forget"], {"ids": changed})
        pairs = np.unique(np.stack([owner, object_id], axis=1), axis=0)
        pairs = pairs[np.isin(pairs[:, 0], fresh)]
        _copy_cutouts(cursor, names, versions, fresh, pairs, run_id, cube_bands)
    state = "unchanged" if not fresh else "updated" if changed else "new"
    message = f"{len(source.object_ids):,} objects in {len(files):,} files"
    if len(source.duplicates):
        message += f", {len(source.duplicates):,} of them twice (the first one is taken)"
    yield ImageReport(path, state, message, len(np.unique(pairs[:, 1])))


def _copy_cutouts(
    cursor: psycopg.Cursor[Any],
    names: Sequence[str],
    versions: Sequence[tuple[int, str]],
    fresh: Sequence[int],
    pairs: NDArray[np.int64],
    run_id: int,
    cube_bands: Sequence[str] | None,
) -> None:
    """Write the rows of new files and of their objects, pairs of file index and object id."""
    if not fresh:
        return
    rows = cursor.execute(named_queries()["cutout_files_new"], {"n": len(fresh)}).fetchall()
    number = dict(zip(fresh, (row[0] for row in rows), strict=True))
    counts = dict(zip(*np.unique(pairs[:, 0], return_counts=True), strict=True))
    statement = sql.SQL(
        "COPY q1.cutout_file (id, path, kind, cube_bands, n_objects, size, tag, run_id) FROM STDIN"
    )
    with cursor.copy(statement) as copy:
        for i in fresh:
            kind = "parquet" if names[i].lower().endswith((".parquet", ".pq")) else "fits"
            planes = None if cube_bands is None else list(cube_bands)
            row = (number[i], names[i], kind, planes, int(counts.get(i, 0)), *versions[i], run_id)
            copy.write_row(row)
    file_id = np.array([number[i] for i in pairs[:, 0].tolist()], np.int64)
    fields = [Field("object_id", "bigint", pairs[:, 1]), Field("file_id", "bigint", file_id)]
    copy_rows(cursor, sql.Identifier("q1", "cutout"), fields)


def analyse(connection: _Connection, tables: Iterable[str]) -> None:
    """Tell the planner about tables of schema ``q1``."""
    for table in tables:
        analyse_table(connection, sql.Identifier("q1", table))
