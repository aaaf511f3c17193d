"""What every catalogue reader gives: columns by name, in blocks of rows.

A reader knows a file format and nothing of products or databases. It never holds more than one
block of rows in memory (VOTable excepted, see ``votable``), and it may be read several times:
ingestion first reads only the identifiers, then everything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8192
"""Rows per block: a block of the widest product (2 kB a row) stays near the processor's caches."""


@dataclass(frozen=True)
class FileColumn:
    """A column as its file declares it.

    Attributes
    ----------
    name
        Name in the file, unchanged.
    dtype
        Numeric or boolean NumPy dtype of one value; ``np.dtype("S")`` for text.
    length
        Values per row of a vector column; ``None`` for a scalar.
    unit
        Unit as written in the file; empty if none.
    null
        Integer that stands for "no value" (FITS TNULL, VOTable null); ``None`` if none.
        Readers apply it themselves; it is kept here for reports.
    """

    name: str
    dtype: np.dtype[Any]
    length: int | None = None
    unit: str = ""
    null: int | None = None


@dataclass(frozen=True)
class Values:
    """The values of one column in one block.

    Attributes
    ----------
    data
        Shape ``(n,)``, or ``(n, length)`` for vectors; any byte order. Text is a UTF-8
        encoded bytes array (dtype ``S``).
    null
        True where there is no value, shape ``(n,)``; ``None`` if the reader knows of none.
        NaN is *not* marked here: whether NaN means "no value" is the product's affair.
    """

    data: NDArray[Any]
    null: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table.

    Attributes
    ----------
    first_row
        Number of the block's first row in the table, counted from 0.
    n_rows
        Rows in this block.
    columns
        Values by column name as in the file, each with ``n_rows`` rows.
    """

    first_row: int
    n_rows: int
    columns: dict[str, Values]


@dataclass
class Table(ABC):
    """One table of a file; use as a context manager.

    Attributes
    ----------
    path
        The file, as the user named it.
    label
        Name of the table inside the file (FITS EXTNAME), empty if it has none.
    columns
        Its columns in file order. Names are unique.
    n_rows
        Number of rows, ``None`` where only reading to the end tells (CSV).
    tile
        Tile index from the table's header, ``None`` if it has none.
    """

    path: Path
    label: str = ""
    columns: Sequence[FileColumn] = field(default_factory=tuple)
    n_rows: int | None = None
    tile: int | None = None

    @abstractmethod
    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order, ``rows`` at a time; only the named columns if given.

        Raises
        ------
        FileError
            If the file ends early or its content is not what its header promised.
        """

    def close(self) -> None:  # noqa: B027 - closing is optional for readers without a handle
        """Release the file. Reading after it is an error."""

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
