"""Labels to sources: by id, or by position through HEALPix cells."""

from __future__ import annotations

from typing import Any

import cdshealpix.nested
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.resources import named_queries
from astropt_db.errors import AstroptDbError
from astropt_db.ingest.label_files import Near, Places
from astropt_db.sky.healpix import ORDER, healpix29

_COARSE = 8
_CELL_ARCSEC = 211_077.0
"""Width of a HEALPix cell of order 0; each order halves it."""
_PLACE = sql.Identifier("label_place")
Float64 = NDArray[np.float64]


class LabelError(AstroptDbError):
    """A set of labels cannot be used; the message names the set and the counts."""

    def __init__(self, name: str, problem: str) -> None:
        self.name, self.problem = name, problem
        super().__init__(f"label set {name}: {problem}")

    def __reduce__(self) -> tuple[type[LabelError], tuple[str, str]]:
        return type(self), (self.name, self.problem)


def near_sources(cursor: psycopg.Cursor[Any]) -> Near:
    """Whether positions lie in or beside a coarse HEALPix cell that holds a source.

    All-sky surveys have hundreds of rows elsewhere for each one in our fields.
    """
    rows = cursor.execute(
        named_queries()["label_source_cells"], {"shift": 2 * (ORDER - _COARSE)}
    ).fetchall()
    cells = np.array([row[0] for row in rows], np.uint64)
    around = _with_neighbours(cells, _COARSE).ravel() if len(cells) else cells.astype(np.int64)

    def near(ra: Float64, dec: Float64) -> NDArray[np.bool_]:
        return np.isin(healpix29(ra, dec) >> 2 * (ORDER - _COARSE), around)

    return near


def _with_neighbours(cells: NDArray[Any], order: int) -> NDArray[np.int64]:
    """Each cell with its eight neighbours ``(n, 9)``; -1 where a corner has none."""
    found = cdshealpix.nested.neighbours(cells.astype(np.uint64), order, num_threads=1)
    return np.asarray(found).astype(np.int64)


def match_labels(
    cursor: psycopg.Cursor[Any], name: str, places: Places, radius: float | None, nearest: bool
) -> int:
    """Fill the temporary table ``label_match``: row number, source and separation.

    Parameters
    ----------
    name
        Of the set, for messages.
    places
        Of the rows.
    radius
        Largest separation, arcsec; ``None`` to match by id.
    nearest
        Whether the nearest of several rows of one source is kept; else they are an error.

    Returns
    -------
    int
        Rows that gave way to a nearer one.

    Raises
    ------
    LabelError
        If nothing matches, or rows share a source and ``nearest`` is false.
    """
    queries = named_queries()
    cursor.execute(queries["label_match_table"])
    if radius is None:
        cursor.execute(
            "CREATE TEMPORARY TABLE label_place (row_number bigint, object_id bigint) "
            "ON COMMIT DROP"
        )
        fields = [
            Field("row_number", "bigint", places.row_number),
            Field("object_id", "bigint", places.object_id),
        ]
        copy_rows(cursor, _PLACE, fields)
        cursor.execute(queries["label_match_ids"])
    else:
        values = _place_by_cells(cursor, places, radius)
        cursor.execute(queries["label_match_positions"], values)
    row = cursor.execute(queries["label_match_counts"]).fetchone()
    assert row is not None
    rows, sources = row
    if not rows:
        how = (
            f"has an object id of the {count_sources(cursor):,} sources in the database"
            if radius is None
            else f"lies within {radius:g} arcsec of one of {count_sources(cursor):,} sources"
        )
        raise LabelError(name, f"none of {len(places.row_number):,} rows {how}")
    if rows == sources:
        return 0
    if not nearest:
        raise LabelError(
            name,
            f"{rows:,} matching rows share {sources:,} sources, so {rows - sources:,} sources' "
            "labels are given twice or more. Cut them out with --where, or take the nearest "
            "with --duplicates nearest",
        )
    cursor.execute(queries["label_match_keep_nearest"])
    return int(rows - sources)


def count_sources(cursor: psycopg.Cursor[Any]) -> int:
    """Sources in the database."""
    row = cursor.execute("SELECT count(*) FROM q1.mer_catalogue").fetchone()
    assert row is not None
    return int(row[0])


def _place_by_cells(
    cursor: psycopg.Cursor[Any], places: Places, radius: float
) -> dict[str, object]:
    """Each label's cell and its neighbours, wide enough to cover the radius."""
    # A cell of order k is about 211,077 / 2^k arcsec wide; four radii leave room for its skew.
    order = min(int(np.log2(_CELL_ARCSEC / (4 * radius))), 20)
    shift = 2 * (ORDER - order)
    cells = _with_neighbours(healpix29(places.ra, places.dec) >> shift, order)
    rows, columns = np.nonzero(cells >= 0)
    cursor.execute(
        "CREATE TEMPORARY TABLE label_place (row_number bigint, ra double precision, "
        "dec double precision, cell bigint) ON COMMIT DROP"
    )
    fields = [
        Field("row_number", "bigint", places.row_number[rows]),
        Field("ra", "double precision", places.ra[rows]),
        Field("dec", "double precision", places.dec[rows]),
        Field("cell", "bigint", cells[rows, columns]),
    ]
    copy_rows(cursor, _PLACE, fields)
    return {"shift": shift, "radius": radius}
