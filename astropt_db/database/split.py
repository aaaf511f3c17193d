"""Which sources a model may learn from: the twin of ``astropt.split`` in ``sql/functions``.

A hash of the object id decides, so that a source is in the same share for every model, task,
database and release, and no list of ids has to be kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "calibration", "test")
"""Shares of 70, 10 and 20 per cent."""

_LOW = np.int64(0xFFFFFFFF)
_FACTOR = np.int64(0x45D9F3B)  # below 2^31: no product leaves 63 bits, as PostgreSQL demands


def _mix32(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Spread the lowest 32 bits evenly; ``astropt.mix32``."""
    x = number & _LOW
    for _ in range(2):
        x = (((x >> 16) ^ x) * _FACTOR) & _LOW
    return (x >> 16) ^ x


def percentile_of(object_id: NDArray[Any]) -> NDArray[np.int64]:
    """The number 0 … 99 that the hash gives to each object id."""
    ids = np.asarray(object_id, np.int64)
    return _mix32(_mix32(ids >> 32) ^ (ids & _LOW)) % 100


def split_of(object_id: NDArray[Any]) -> NDArray[np.str_]:
    """Share of each source: ``train``, ``calibration`` or ``test``.

    Parameters
    ----------
    object_id
        int64 ``(n,)``.
    """
    number = np.digitize(percentile_of(object_id), [70, 80])
    return np.array(SPLITS)[number]


def in_split(object_id: NDArray[Any], *names: str) -> NDArray[np.bool_]:
    """Whether each source is in one of the named shares."""
    return np.isin(split_of(object_id), names)
