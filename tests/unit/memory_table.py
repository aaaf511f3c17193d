"""A table whose columns are given by the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from astropt_db.q1.readers import Block, FileColumn, Table, Values
from astropt_db.q1.readers.base import BLOCK_ROWS


@dataclass
class MemoryTable(Table):
    """Columns in memory, read in blocks like those of a file."""

    values: Mapping[str, Values] = field(default_factory=dict)

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        wanted = self.values if names is None else {name: self.values[name] for name in names}
        for first in range(0, self.n_rows or 0, rows):
            here = slice(first, min(first + rows, self.n_rows or 0))
            parts = {
                name: Values(one.data[here], None if one.null is None else one.null[here])
                for name, one in wanted.items()
            }
            yield Block(first, here.stop - here.start, parts)


def memory_table(
    path: str = "catalogue.fits", label: str = "", **columns: np.ndarray | list | Values
) -> MemoryTable:
    """A table of scalar, text (lists of ``str``) or vector columns."""
    values = {name: _values(one) for name, one in columns.items()}
    declared = tuple(
        FileColumn(
            name,
            np.dtype("S") if one.data.dtype.kind == "S" else one.data.dtype,
            one.data.shape[1] if one.data.ndim == 2 else None,
        )
        for name, one in values.items()
    )
    n_rows = len(next(iter(values.values())).data)
    return MemoryTable(Path(path), label, declared, n_rows, values=values)


def _values(one: np.ndarray | list | Values) -> Values:
    if isinstance(one, Values):
        return one
    data = np.asarray(one)
    return Values(np.char.encode(data, "utf-8") if data.dtype.kind == "U" else data)


def empty_table(names: Sequence[str], path: str = "catalogue.fits", label: str = "") -> MemoryTable:
    """A table without rows, of which only the column names matter."""
    return memory_table(path, label, **{name: np.empty(0) for name in names})
