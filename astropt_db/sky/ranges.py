"""Ranges of HEALPix cells around many positions at once.

The cells' side is at least 24 times the radius, so that a disc lies in one cell, or in two
to four where it is near an edge. In units of a base cell's side, coordinates inside a cell change
by less than 1.5 times the distance on the sky (the steepest place is the edge of a polar base
cell, 1.45), and they are continuous across edges; a disc reaches over an edge only where its
centre is nearer to it than that. In each cell the range is that of the box around the disc: numbers
grow with both coordinates, so those of the box's two corners hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cdshealpix.nested
import numpy as np
from numpy.typing import NDArray

from astropt_db.sky.healpix import ORDER, healpix29

_SPREAD = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)
_GATHERED = (*(mask for _, mask in _SPREAD[-2::-1]), 0xFFFFFFFF)
# To the neighbours S, SE, E, SW, (none), NE, W, NW, N: x grows to the east corner, y to the west.
_STEPS = ((-1, -1), (0, -1), (1, -1), (-1, 0), (0, 0), (1, 0), (-1, 1), (0, 1), (1, 1))
_ARCSEC = np.radians(1 / 3600)
_STEEPEST = 1.5
_ROOM = 24
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
    order = int(np.clip(np.floor(-np.log2(_ROOM * _STEEPEST * angle)), 0, _MAX_ORDER))
    shift = 2 * (ORDER - order)
    if len(ra) == 0:
        empty = np.empty(0, np.int64)
        return Ranges(empty, empty, empty)
    smallest = healpix29(ra, dec)
    # The place in the cell by its bits; cdshealpix's own offsets may be infinite at corners.
    inside = smallest & ((1 << shift) - 1)
    x, y = _gathered(inside), _gathered(inside >> 1)
    margin = int(np.ceil(_STEEPEST * angle * 2**ORDER)) + 1
    side = 1 << (ORDER - order)
    position, cell, step_x, step_y = _with_near_neighbours(smallest >> shift, x, y, margin, order)
    x, y = x[position] - step_x * side, y[position] - step_y * side
    low, high = (_number(x + reach, y + reach, side) for reach in (-margin, margin))
    # Beyond the edge of a base cell coordinates may turn: all of the neighbour there.
    turned = (cell ^ (smallest >> shift)[position]) >> (2 * order) != 0
    low[turned], high[turned] = 0, (1 << shift) - 1
    return Ranges(position, (cell << shift) + low, (cell << shift) + high)


def _number(x: Int64, y: Int64, side: int) -> Int64:
    """Numbers, inside a cell, of places in it; of its nearest ones for places beyond."""
    x, y = np.clip(x, 0, side - 1), np.clip(y, 0, side - 1)
    return _spread(x) | (_spread(y) << 1)


def _spread(number: Int64) -> Int64:
    """A zero between every two bits of numbers of up to 29 bits."""
    for bits, mask in _SPREAD:
        number = (number | (number << bits)) & mask
    return number


def _gathered(number: Int64) -> Int64:
    """Every second bit, beginning with the lowest: what :func:`_spread` undoes."""
    number = number & _SPREAD[-1][1]
    for (bits, _), mask in zip(_SPREAD[::-1], _GATHERED, strict=True):
        number = (number | (number >> bits)) & mask
    return number


def _with_near_neighbours(
    cells: Int64, x: Int64, y: Int64, margin: int, order: int
) -> tuple[Int64, Int64, Int64, Int64]:
    """Each cell, and those of its neighbours that lie within the margin of the position.

    Returns the position's number, the cell, and the steps to it along x and y.
    """
    side = 1 << (ORDER - order)
    low_x, high_x = x < margin, x >= side - margin
    low_y, high_y = y < margin, y >= side - margin
    near = np.flatnonzero(low_x | high_x | low_y | high_y)
    own = np.zeros(len(cells), np.int64)
    found = [(np.arange(len(cells), dtype=np.int64), cells, own, own)]
    if len(near):
        around = cdshealpix.nested.neighbours(cells[near], order, num_threads=1).astype(np.int64)
        any_way = np.ones(len(near), np.bool_)
        along = {-1: low_x[near], 0: any_way, 1: high_x[near]}
        across = {-1: low_y[near], 0: any_way, 1: high_y[near]}
        for place, (step_x, step_y) in enumerate(_STEPS):
            if (step_x, step_y) != (0, 0):
                rows = np.flatnonzero(along[step_x] & across[step_y] & (around[:, place] >= 0))
                full = np.full((2, len(rows)), [[step_x], [step_y]])
                found.append((near[rows], around[rows, place], full[0], full[1]))
    position, cell, along_x, along_y = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return position, cell, along_x, along_y
