"""Ranges of HEALPix cells around many positions at once.

The cells' side is at least twelve times the radius, so that a disc lies in one cell, or in two
to four where it is near an edge. In units of a base cell's side, coordinates inside a cell change
by less than 1.5 times the distance on the sky (the steepest place is the edge of a polar base
cell, 1.45), and they are continuous across edges; a disc reaches over an edge only where its
centre is nearer to it than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import cdshealpix.nested
import numpy as np
from astropy.coordinates import Latitude, Longitude
from numpy.typing import NDArray

from astropt_db.sky.healpix import ORDER

_ARCSEC = np.radians(1 / 3600)
_STEEPEST = 1.5
_ROOM = 12
_MAX_ORDER = 18
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Ranges:
    """Candidate cells of positions.

    Attributes
    ----------
    position
        Which position, int64 ``(m,)``.
    first, last
        Cells of order 29 from and to, both inclusive, int64 ``(m,)``.
    """

    position: Int64
    first: Int64
    last: Int64


def disc_ranges(ra: Float64, dec: Float64, radius: float) -> Ranges:
    """Ranges that hold everything within a radius of each position.

    Parameters
    ----------
    ra, dec
        ICRS degrees ``(n,)``.
    radius
        Arcsec, at most two degrees.

    Raises
    ------
    ValueError
        If the radius is negative or larger than two degrees.
    """
    if not 0 <= radius <= 7200:
        raise ValueError(f"expected a radius from 0 to 7200 arcsec, found {radius:g}")
    angle = max(radius, 0.1) * _ARCSEC
    order = min(int(np.floor(-np.log2(_ROOM * _STEEPEST * angle))), _MAX_ORDER)
    shift = 2 * (ORDER - order)
    if len(ra) == 0:
        empty = np.empty(0, np.int64)
        return Ranges(empty, empty, empty)
    cells, x, y = cdshealpix.nested.lonlat_to_healpix(
        Longitude(ra, u.deg, copy=False),
        Latitude(dec, u.deg, copy=False),
        order,
        return_offsets=True,
        num_threads=1,
    )
    position, found = _with_near_neighbours(cells, x, y, _STEEPEST * angle * 2**order, order)
    # Neighbours with consecutive numbers make one range.
    by_cell = np.lexsort((found, position))
    position, found = position[by_cell], found[by_cell]
    starts = np.ones(len(found), np.bool_)
    starts[1:] = (position[1:] != position[:-1]) | (found[1:] != found[:-1] + 1)
    begin = np.flatnonzero(starts)
    end = np.append(begin[1:], len(found)) - 1
    return Ranges(position[begin], found[begin] << shift, ((found[end] + 1) << shift) - 1)


def _with_near_neighbours(
    cells: NDArray[np.uint64], x: Float64, y: Float64, margin: float, order: int
) -> tuple[Int64, Int64]:
    """Each cell, and those of its neighbours that lie within the margin of the position."""
    low_x, high_x = x < margin, x > 1 - margin
    low_y, high_y = y < margin, y > 1 - margin
    near = np.flatnonzero(low_x | high_x | low_y | high_y)
    position = [np.arange(len(cells), dtype=np.int64)]
    found = [cells.astype(np.int64)]
    if len(near):
        around = cdshealpix.nested.neighbours(cells[near], order, num_threads=1).astype(np.int64)
        low_x, high_x, low_y, high_y = (edge[near] for edge in (low_x, high_x, low_y, high_y))
        # S, SE, E, SW, the cell, NE, W, NW, N: x grows to the east corner, y to the west corner.
        sides = {
            0: low_x & low_y,
            1: low_y,
            2: high_x & low_y,
            3: low_x,
            5: high_x,
            6: low_x & high_y,
            7: high_y,
            8: high_x & high_y,
        }
        for place, wanted in sides.items():
            rows = np.flatnonzero(wanted & (around[:, place] >= 0))
            position.append(near[rows])
            found.append(around[rows, place])
    return np.concatenate(position), np.concatenate(found)
