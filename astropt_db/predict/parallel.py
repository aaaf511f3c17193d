"""Work on blocks of rows, on all cores: NumPy lets go of the interpreter in each large step."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

from astropt_db.predict.scaling import blocks

T = TypeVar("T")
BLOCK = 1024
"""Rows of a block; what is made of them on the way stays in the cache of a core."""


def map_blocks(work: Callable[[slice], T], n: int, size: int = BLOCK) -> list[T]:
    """Results of ``work`` for the slices that cover n rows, in order.

    Parameters
    ----------
    work
        Must not write to anything shared.
    """
    parts = list(blocks(n, size)) or [slice(0, 0)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if len(parts) == 1 or cores == 1:
        return [work(part) for part in parts]
    # One thread for each product, as there is one block for each core.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores) as pool:
        return list(pool.map(work, parts))
