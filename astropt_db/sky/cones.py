"""Cells that cover a cone, as ranges of order-29 numbers: what an index on healpix29 is asked."""

from __future__ import annotations

import math

import astropy.units as u
import cdshealpix.nested
import numpy as np
from astropy.coordinates import Latitude, Longitude

from astropt_db.sky.healpix import ORDER


def cone_ranges(ra: float, dec: float, radius: float) -> list[tuple[int, int]]:
    """First and last order-29 cells of the ranges that cover a cone; correct at the poles.

    Parameters
    ----------
    ra, dec
        ICRS degrees.
    radius
        Degrees; candidates beyond it are among the cells.
    """
    radius = max(radius, 1e-7)
    # Cells about a quarter of the radius wide: a few dozen, in a handful of ranges.
    depth = int(np.clip(math.log2(58.6 / radius) + 2, 0, ORDER - 1))
    cells, depths, _ = cdshealpix.nested.cone_search(
        Longitude(ra % 360, u.deg), Latitude(dec, u.deg), radius * u.deg, depth, flat=False
    )
    shift = 2 * (ORDER - depths.astype(np.uint64))
    first = cells.astype(np.uint64) << shift
    last = first + (np.uint64(1) << shift) - np.uint64(1)
    order = np.argsort(first)
    first, last = first[order].astype(np.int64), last[order].astype(np.int64)
    begins = np.append(True, first[1:] != last[:-1] + 1)
    ends = np.append(begins[1:], True)
    return list(zip(first[begins].tolist(), last[ends].tolist(), strict=True))
