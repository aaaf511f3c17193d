"""Windows cut from an image in bulk.

A window's first pixel is ``ceil(position - size / 2)``, the rule of astropy.nddata.Cutout2D, so
that both give the same pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Floats = NDArray[np.floating]
Bool = NDArray[np.bool_]

FAR = np.int64(-(1 << 31))
"""Origin of a window that has no place in the image."""


def origins(position: Float64 | float, size: int) -> Int64:
    """First pixel of windows about pixel positions (from 0), int64; ``FAR`` for NaN."""
    edge = np.ceil(position - size / 2.0)
    known = np.abs(edge) < -float(FAR)
    return np.where(known, edge, float(FAR)).astype(np.int64)


def overlaps(x: Int64, y: Int64, width: int, height: int, size: int) -> tuple[Bool, Bool]:
    """Whether windows touch an image at all, and whether they lie in it entirely."""
    touches = (x > -size) & (y > -size) & (x < width) & (y < height)
    inside = (x >= 0) & (y >= 0) & (x <= width - size) & (y <= height - size)
    return touches, inside


def gather(image: Floats, x: Int64, y: Int64, size: int) -> Floats:
    """Windows of an image, in its data type and byte order, NaN outside of it.

    Parameters
    ----------
    image
        Floating point ``(height, width)``.
    x, y
        First column and row of each window, int64 ``(n,)``; any value.

    Returns
    -------
    ndarray
        ``(n, size, size)``.
    """
    height, width = image.shape
    _, inside = overlaps(x, y, width, height, size)
    if inside.all():
        return np.asarray(sliding_window_view(image, (size, size))[y, x])
    rows, columns = y[:, None] + np.arange(size), x[:, None] + np.arange(size)
    row, column = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    windows: Floats = image[row[:, :, None], column[:, None, :]]
    windows[(rows != row)[:, :, None] | (columns != column)[:, None, :]] = np.nan
    return windows
