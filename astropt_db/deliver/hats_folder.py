"""A HATS catalogue: Parquet files by HEALPix cell, as LSDB and ``hats`` read them.

The layout is that of the IVOA note "HATS: A Standard for the Hierarchical Adaptive Tiling Scheme
in the Virtual Observatory" (2025). The server sorts the rows by their cell, so they are written in
one pass with one file open at a time, and memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from astropy.io import fits
from numpy.typing import NDArray
from psycopg import sql
from pyarrow import parquet

from astropt_db.deliver.parquet_file import parquet_schema
from astropt_db.deliver.selection import ExportColumn, Selection
from astropt_db.errors import ConfigurationError
from astropt_db.sky.healpix import ORDER

PROPERTIES = "hats.properties"
HEALPIX = "_healpix_29"
MAX_ROWS = 1_000_000
"""Most rows of a file, unless more lie in one cell of the finest order."""

_FINEST = 12
_MAP_ORDER = 8
_RA = ("right_ascension", "ra")
_DEC = ("declination", "dec")
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where the rows of a selection go.

    Attributes
    ----------
    selection
        The rows with a position, sorted by the cell in the first column, ``_healpix_29``.
    ra, dec
        Names of the columns with the position.
    order, pixel
        The files' cells in the order of the sky, int64 ``(n,)``.
    cells, counts
        Cells of the finest order that hold rows, and how many, int64 ``(m,)``.
    left_out
        Rows without a position.
    """

    selection: Selection
    ra: str
    dec: str
    order: Int64
    pixel: Int64
    cells: Int64
    counts: Int64
    left_out: int


def lay_out(cursor: psycopg.Cursor[Any], selection: Selection, max_rows: int = MAX_ROWS) -> Layout:
    """Count the rows by cell, and choose the largest cells that hold at most ``max_rows``.

    Raises
    ------
    ConfigurationError
        If the selection has no columns with a position, or one that is called ``_healpix_29``.
    """
    if any(column.name == HEALPIX for column in selection.columns):
        raise ConfigurationError(f"HATS has a column {HEALPIX} of its own; rename yours")
    ra = _position_column(selection, "pos.eq.ra;meta.main", _RA)
    dec = _position_column(selection, "pos.eq.dec;meta.main", _DEC)
    placed = sql.SQL(
        "SELECT CASE WHEN abs({ra}) <= 360 AND abs({dec}) <= 90 THEN {cell} END AS {healpix}, "
        "q.* FROM ({query}) AS q"
    ).format(
        ra=sql.Identifier("q", ra),
        dec=sql.Identifier("q", dec),
        cell=_cell(selection, ra, dec),
        healpix=sql.Identifier(HEALPIX),
        query=selection.query,
    )
    counted = sql.SQL("SELECT p.{h} >> {shift}, count(*) FROM ({placed}) AS p GROUP BY 1").format(
        h=sql.Identifier(HEALPIX), shift=sql.Literal(2 * (ORDER - _FINEST)), placed=placed
    )
    found = dict(cursor.execute(counted).fetchall())
    left_out = found.pop(None, 0)
    cells = np.array(sorted(found), np.int64)
    counts = np.array([found[cell] for cell in cells.tolist()], np.int64)
    order, pixel = _partitions(cells, counts, max_rows)
    # A view of ours may hold the cells already; the first column replaces none of its own.
    query = sql.SQL("SELECT * FROM ({}) AS p WHERE {h} IS NOT NULL ORDER BY {h}").format(
        placed, h=sql.Identifier(HEALPIX)
    )
    column = ExportColumn(
        HEALPIX, "bigint", ucd="pos.healpix", description="HEALPix cell, order 29, nested"
    )
    arranged = replace(selection, columns=(column, *selection.columns), query=query)
    return Layout(arranged, ra, dec, order, pixel, cells, counts, left_out)


def write_hats(folder: Path, layout: Layout, batches: Iterable[pa.RecordBatch]) -> int:
    """Write sorted batches and what describes them into an empty folder; returns the rows."""
    dataset = folder / "dataset"
    dataset.mkdir()
    schema = parquet_schema(layout.selection)
    footers: list[parquet.FileMetaData] = []
    for cell, pieces in _by_file(layout, batches):
        place = _place(int(layout.order[cell]), int(layout.pixel[cell]))
        (dataset / place).parent.mkdir(parents=True, exist_ok=True)
        # A stream of ours is closed on a full disk too, where the writer fails to close its own.
        with (
            (dataset / place).open("wb") as stream,
            parquet.ParquetWriter(stream, schema, compression="zstd") as writer,
        ):
            for piece in pieces:
                writer.write_batch(piece.cast(schema))
        footers.append(parquet.read_metadata(dataset / place))
        footers[-1].set_file_path(place)
    parquet.write_metadata(schema, dataset / "_common_metadata")
    parquet.write_metadata(schema, dataset / "_metadata", metadata_collector=footers)
    _write_partitions(folder, layout)
    _write_map(folder, layout)
    text = "".join(f"{key}={_escaped(value)}\n" for key, value in _properties(layout, folder))
    # Older readers look for the second name.
    for name in (PROPERTIES, "properties"):
        (folder / name).write_text(f"#HATS catalog\n{text}")
    return int(layout.counts.sum())


def _position_column(selection: Selection, ucd: str, names: Sequence[str]) -> str:
    numbers = [c for c in selection.columns if c.type in ("double precision", "real")]
    found = [c.name for c in numbers if c.ucd == ucd]
    found += [name for name in names if name in [c.name for c in numbers]]
    if not found:
        raise ConfigurationError(
            f"{selection.name} has no position, which a HATS catalogue needs: expected a column "
            f"{' or '.join(names)}, found {', '.join(c.name for c in selection.columns)}"
        )
    return found[0]


def _cell(selection: Selection, ra: str, dec: str) -> sql.Composed:
    """The cell of a row: a column of ours, else computed from the position."""
    for column in selection.columns:
        if column.type == "bigint" and (column.name, column.ucd) == ("healpix29", "pos.healpix"):
            return sql.SQL("{}").format(sql.Identifier("q", column.name))
    return sql.SQL("astropt.healpix29({}, {})").format(
        sql.Identifier("q", ra), sql.Identifier("q", dec)
    )


def _partitions(cells: Int64, counts: Int64, max_rows: int) -> tuple[Int64, Int64]:
    """Order and number of the files' cells, sorted along the sky."""
    orders, pixels = [], []
    for order in range(_FINEST + 1):
        pixel, member = np.unique(cells >> (2 * (_FINEST - order)), return_inverse=True)
        total = np.bincount(member, counts, len(pixel))
        done = total <= max_rows if order < _FINEST else np.ones(len(pixel), np.bool_)
        pixels.append(pixel[done])
        orders.append(np.full(int(done.sum()), order, np.int64))
        left = ~done[member]
        cells, counts = cells[left], counts[left]
    order_of, pixel_of = np.concatenate(orders), np.concatenate(pixels)
    along = np.argsort(pixel_of << (2 * (_FINEST - order_of)))
    return order_of[along], pixel_of[along]


def _by_file(
    layout: Layout, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """The rows of each file in turn, as pieces of batches."""
    ends = (layout.pixel + 1) << (2 * (ORDER - layout.order))
    stream = iter(batches)
    rest = next(stream, None)

    def pieces(end: int) -> Iterator[pa.RecordBatch]:
        nonlocal rest
        while rest is not None:
            healpix = rest.column(0).to_numpy()
            here = int(np.searchsorted(healpix, end))
            if here:
                yield rest.slice(0, here)
            if here < rest.num_rows:
                rest = rest.slice(here)
                return
            rest = next(stream, None)

    with ExitStack() as stack:
        if hasattr(stream, "close"):
            stack.callback(stream.close)
        for cell, end in enumerate(ends.tolist()):
            yield cell, pieces(end)


def _place(order: int, pixel: int) -> str:
    return f"Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet"


def _write_partitions(folder: Path, layout: Layout) -> None:
    rows = zip(layout.order.tolist(), layout.pixel.tolist(), strict=True)
    lines = ["Norder,Npix", *(f"{order},{pixel}" for order, pixel in rows)]
    (folder / "partition_info.csv").write_text("\n".join(lines) + "\n")


def _write_map(folder: Path, layout: Layout) -> None:
    """``point_map.fits``, from which LSDB knows where on the sky there are sources."""
    pixel, member = np.unique(layout.cells >> (2 * (_FINEST - _MAP_ORDER)), return_inverse=True)
    total = np.bincount(member, layout.counts, len(pixel)).astype(np.int64)
    table = fits.BinTableHDU.from_columns(
        [fits.Column("PIXEL", "K", array=pixel), fits.Column("VALUE", "K", array=total)]
    )
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="NESTED", COORDSYS="C", NSIDE=2**_MAP_ORDER, ORDER=_MAP_ORDER,
        INDXSCHM="EXPLICIT", OBJECT="PARTIAL",
    )  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / "point_map.fits")


def _properties(layout: Layout, folder: Path) -> Iterator[tuple[str, str]]:
    """Keys and values of ``hats.properties``; provenance in keys of our own."""
    selection, facts = layout.selection, layout.selection.provenance
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    yield "obs_collection", selection.name.rpartition(".")[-1]
    yield "obs_title", selection.title or selection.name
    yield "dataproduct_type", "object"
    yield "hats_nrows", str(int(layout.counts.sum()))
    yield "hats_col_ra", layout.ra
    yield "hats_col_dec", layout.dec
    yield "hats_col_healpix", HEALPIX
    yield "hats_col_healpix_order", str(ORDER)
    yield "hats_npix_suffix", ".parquet"
    yield "hats_max_rows", str(MAX_ROWS)
    yield "hats_order", str(int(layout.order.max(initial=0)))
    yield "hats_estsize", str(size // 1024)
    yield "moc_sky_fraction", f"{len(layout.cells) / (12 * 4**_FINEST):.6g}"
    yield "hats_builder", facts["creator"]
    yield "hats_creation_date", facts["created"][:19] + "Z"
    yield "hats_version", "v1.0"
    for key, value in facts.items():
        yield f"astropt_db_{key}", value


def _escaped(value: str) -> str:
    """In one line, as Java's properties want it."""
    return " ".join(value.split()).replace("\\", "\\\\")
