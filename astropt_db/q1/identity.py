"""OBJECT_ID: the number that is a position.

``OBJECT_ID = sign(Dec) (int(RA 1e7) 1e9 + int(|Dec| 1e7))``, a signed 64-bit integer of 18-19
digits (Euclid DPDD, equation 10; it holds for every one of 5,309 real rows). A float64 cannot
hold it: most ids that went through one are wrong in their last digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_RA_FACTOR = np.int64(1_000_000_000)
_DEG = 1e7


def encode(ra: Float64, dec: Float64) -> Int64:
    """Object ids of positions.

    Parameters
    ----------
    ra, dec
        ICRS degrees, float64, shape ``(n,)``; finite, RA in [0, 360), Dec in [-90, 90].
    """
    magnitude = np.trunc(ra * _DEG).astype(np.int64) * _RA_FACTOR
    magnitude += np.trunc(np.abs(dec) * _DEG).astype(np.int64)
    return np.where(np.signbit(dec), -magnitude, magnitude)


def decode(object_id: Int64) -> tuple[Float64, Float64]:
    """Positions of object ids in degrees, good to 1e-7 degree (0.00036 arcsec).

    The true position lies up to 1e-7 degree further from zero, since the id truncates.
    """
    magnitude = np.abs(object_id)
    ra = (magnitude // _RA_FACTOR).astype(np.float64) / _DEG
    dec = np.sign(object_id) * ((magnitude % _RA_FACTOR).astype(np.float64) / _DEG)
    return ra, dec


def decodes_to_sky(object_id: Int64) -> Bool:
    """Whether an id decodes to a place on the sky: RA < 360, \\|Dec\\| <= 90.

    Numbers below 1e9 do not: they would lie within 1e-7 degree of RA 0, and are the running
    numbers of some table.
    """
    ra, dec = decode(object_id)
    # The smallest int64 has no positive counterpart: its RA comes out negative.
    on_sky = (ra >= 0.0) & (ra < 360.0) & (np.abs(dec) <= 90.0)
    return np.asarray((np.abs(object_id) >= _RA_FACTOR) & on_sky, np.bool_)
