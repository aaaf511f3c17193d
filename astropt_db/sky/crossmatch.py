"""Two tables of the database matched by position, in bulk.

The candidate cells of one side's positions are computed here, all at once; the server looks them
up in the other side's B-tree on ``healpix29``, in the order of the cells and with parallel
workers, and decides by the true distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.copy_out import OutColumn, stream
from astropt_db.sky.ranges import Float64, Int64, disc_ranges

_CHUNK = 2_000_000
PAIRS = sql.Identifier("sky_pair")
"""Temporary table of the pairs found: ``probe_id``, ``target_id``, ``separation`` in arcsec."""


@dataclass(frozen=True)
class Positions:
    """Positions with their ids and search radii.

    Attributes
    ----------
    id
        int64 ``(n,)``.
    ra, dec
        ICRS degrees ``(n,)``.
    radius
        Arcsec ``(n,)``.
    """

    id: Int64
    ra: Float64
    dec: Float64
    radius: Float64

    def shifted(self, arcsec: float) -> Positions:
        """The same positions, moved north (south above dec 0), to count matches by chance."""
        step = np.where(self.dec > 0, -arcsec, arcsec) / 3600
        return Positions(self.id, self.ra, self.dec + step, self.radius)

    def take(self, rows: NDArray[Any]) -> Positions:
        """Some of the positions."""
        return Positions(self.id[rows], self.ra[rows], self.dec[rows], self.radius[rows])


@dataclass(frozen=True)
class PositionTable:
    """A table with positions and an index on ``healpix29``.

    Attributes
    ----------
    table
        Its name.
    id, ra, dec
        Its columns: bigint, and degrees as double precision.
    """

    table: sql.Identifier
    id: str
    ra: str
    dec: str


def read_positions(
    cursor: psycopg.Cursor[Any], source: PositionTable, radius: sql.Composable
) -> Positions:
    """All positions of a table; ``radius`` is an SQL expression in arcsec."""
    query = sql.SQL("SELECT {}, {}, {}, ({})::double precision AS radius FROM {}").format(
        sql.Identifier(source.id),
        sql.Identifier(source.ra),
        sql.Identifier(source.dec),
        radius,
        source.table,
    )
    names = [(source.id, "bigint")] + [
        (name, "double precision") for name in (source.ra, source.dec, "radius")
    ]
    batches = list(stream(cursor, query, [OutColumn(*one) for one in names]))

    def column(i: int) -> NDArray[Any]:
        if not batches:
            return np.empty(0, np.int64 if i == 0 else np.float64)
        parts = [batch.column(i).to_numpy(zero_copy_only=False) for batch in batches]
        return np.concatenate(parts)

    return Positions(column(0), column(1), column(2), column(3))


def find_pairs(
    cursor: psycopg.Cursor[Any], probe: Positions, target: PositionTable, scratch: str = "survey"
) -> int:
    """Fill the temporary table ``sky_pair``; returns the number of pairs.

    Parameters
    ----------
    probe
        Positions to look for, the smaller side where there is a choice.
    target
        Where to look.
    scratch
        Schema for an unlogged table that is dropped before the end: parallel workers cannot
        read a temporary one.
    """
    table = sql.Identifier(scratch, f"sky_probe_{cursor.connection.info.backend_pid}")
    _write_probes(cursor, table, probe)
    for setting in _SETTINGS:
        cursor.execute(setting)
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(PAIRS))
    cursor.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {pairs} ON COMMIT DROP AS "
            "SELECT p.probe_id, t.{id} AS target_id, 3600 * astropt.angular_separation("
            "p.ra, p.declination, t.{ra}, t.{dec}) AS separation FROM {probes} AS p "
            "JOIN {target} AS t ON t.healpix29 BETWEEN p.first_cell AND p.last_cell "
            "WHERE abs(t.{dec} - p.declination) <= p.radius / 3600 + 1e-9 "
            "AND 3600 * astropt.angular_separation(p.ra, p.declination, t.{ra}, t.{dec}) "
            "<= p.radius"
        ).format(
            pairs=PAIRS,
            probes=table,
            target=target.table,
            id=sql.Identifier(target.id),
            ra=sql.Identifier(target.ra),
            dec=sql.Identifier(target.dec),
        )
    )
    n_pairs = cursor.rowcount
    cursor.execute(sql.SQL("DROP TABLE {}").format(table))
    for setting in _RESETS:
        cursor.execute(setting)
    return n_pairs


# The planner does not know how few rows a range of cells holds, nor that a scan of the whole
# target for each position is out of the question.
_SETTINGS = (
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_bitmapscan = off",
    "SET LOCAL min_parallel_table_scan_size = 0",
    "SET LOCAL parallel_setup_cost = 0",
    "SET LOCAL jit = off",
)
_RESETS = (
    "SET LOCAL enable_seqscan = on",
    "SET LOCAL enable_bitmapscan = on",
    "SET LOCAL min_parallel_table_scan_size TO DEFAULT",
    "SET LOCAL parallel_setup_cost TO DEFAULT",
)


def _write_probes(cursor: psycopg.Cursor[Any], table: sql.Identifier, probe: Positions) -> None:
    cursor.execute(
        sql.SQL(
            "CREATE UNLOGGED TABLE {} (first_cell bigint, last_cell bigint, "
            "ra double precision, declination double precision, radius double precision, "
            "probe_id bigint)"
        ).format(table)
    )
    # One size of cell for all radii up to the next power of two.
    steps = np.ceil(np.log2(np.maximum(probe.radius, 1e-3)))
    for step in np.unique(steps):
        rows = np.flatnonzero(steps == step)
        for first in range(0, len(rows), _CHUNK):
            part = probe.take(rows[first : first + _CHUNK])
            found = disc_ranges(part.ra, part.dec, float(part.radius.max()))
            order = np.argsort(found.first)
            at = found.position[order]
            fields = [
                Field("first_cell", "bigint", found.first[order]),
                Field("last_cell", "bigint", found.last[order]),
                Field("ra", "double precision", part.ra[at]),
                Field("declination", "double precision", part.dec[at]),
                Field("radius", "double precision", part.radius[at]),
                Field("probe_id", "bigint", part.id[at]),
            ]
            copy_rows(cursor, table, fields)
