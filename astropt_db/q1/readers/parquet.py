"""Parquet: one file at a time, streamed; and the data files of a folder or HATS catalogue.

HATS is the layout of large catalogues on disk (``dataset/Norder=k/Dir=d/Npix=n...``; IVOA Note
"HATS", https://www.ivoa.net/documents/Notes/HATS/). Norder, Dir and Npix stand in the path only
and say nothing that the position does not, so they are no columns here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from astropt_db.errors import FileError
from astropt_db.q1.readers.arrow import blocks, is_list, numpy_type, pick, plain, plain_type
from astropt_db.q1.readers.base import BLOCK_ROWS, Block, FileColumn, Table

_BUFFER = 2**16
"""Bytes read ahead per column: bounds the memory of a row group of any size."""

_SUFFIXES = {".parquet", ".parq", ".pq"}
_THUMBNAIL = "data_thumbnail"
"""A HATS file that repeats a few rows of every partition."""

_PROPERTY_FILES = ("hats.properties", "properties")
_REMEDY = "Copy or download the file again."


@dataclass(kw_only=True)
class ParquetTable(Table):
    """A Parquet file; ``n_rows`` comes from its footer."""

    handle: pq.ParquetFile = field(repr=False)

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order; see ``Table.blocks``.

        Memory holds a page (a megabyte as a rule) of every wanted column, however large the row
        groups are. A null list and an empty list both count as "no value"; missing values inside
        a list of floats are NaN.
        """
        columns = pick(self.columns, names)
        # The file's own pruning wants at least one column to know the number of rows.
        wanted = [column.name for column in columns] or [self.columns[0].name]
        yield from blocks(self.path, columns, self._batches(wanted, rows), rows)

    def close(self) -> None:
        """Close the file."""
        self.handle.close(force=True)

    def _batches(self, names: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        found = 0
        try:
            for batch in self.handle.iter_batches(rows, columns=names, use_threads=False):
                found += batch.num_rows
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise FileError(
                self.path, f"cannot be read beyond row {found}: {_one_line(error)}.", _REMEDY
            ) from error
        if found != self.n_rows:
            problem = f"the footer promises {self.n_rows} rows, but the file holds {found}."
            raise FileError(self.path, problem, _REMEDY)


def open_parquet(path: Path) -> list[Table]:
    """Open a Parquet file; it has one table.

    Unsigned integers become the next larger signed type (those of 64 bits int64, checked row by
    row), float16 becomes float32; decimals, dates and times become text, so that no digit is
    lost. Units come from the fields' metadata key ``unit``.

    Raises
    ------
    FileError
        If the file is no complete Parquet file, if column names repeat, or if a column's type
        has no place in a table (structs, maps, lists of texts).
    """
    try:
        handle = pq.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        problem = f"is not a complete Parquet file: {_one_line(error)}."
        raise FileError(path, problem, _REMEDY) from error
    try:
        return [_table(path, handle)]
    except BaseException:
        handle.close(force=True)
        raise


def _table(path: Path, handle: pq.ParquetFile) -> ParquetTable:
    schema = handle.schema_arrow
    if not schema.names:
        raise FileError(path, "the file has no columns.")
    if repeated := [name for name, times in Counter(schema.names).items() if times > 1]:
        raise FileError(path, f"columns of the same name: {', '.join(map(repr, repeated))}.")
    columns = tuple(_column(path, handle, item) for item in schema)
    return ParquetTable(path=path, columns=columns, n_rows=handle.metadata.num_rows, handle=handle)


def _column(path: Path, handle: pq.ParquetFile, item: pa.Field) -> FileColumn:
    kind = plain_type(item.type)
    value = plain_type(kind.value_type) if is_list(kind) else kind
    dtype = numpy_type(value)
    if dtype is None or (is_list(kind) and dtype.kind == "S"):
        raise FileError(
            path,
            f"column {item.name!r} has type {item.type}; expected numbers, booleans, texts or "
            "lists of numbers.",
            "Leave the column out, or write each of its parts as a column of its own.",
        )
    unit = (item.metadata or {}).get(b"unit", b"").decode("utf-8", "replace")
    if not is_list(kind):
        return FileColumn(item.name, dtype, unit=unit)
    if pa.types.is_fixed_size_list(kind):
        return FileColumn(item.name, dtype, kind.list_size, unit)
    length = _list_length(path, handle, item.name)
    # Lists that are empty in every row have no length to speak of: a column without values.
    return (
        FileColumn(item.name, dtype, length, unit)
        if length
        else FileColumn(item.name, np.dtype(np.float64), 1, unit)
    )


def _list_length(path: Path, handle: pq.ParquetFile, name: str) -> int:
    """Length of the first list that is not empty, 0 if there is none."""
    try:
        for batch in handle.iter_batches(BLOCK_ROWS, columns=[name], use_threads=False):
            lengths = pc.list_value_length(plain(batch.column(name)))
            if longest := pc.max(lengths).as_py():
                filled = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
                return int(filled[np.argmax(filled > 0)]) if longest else 0
    except (pa.ArrowException, OSError) as error:
        raise FileError(path, f"column {name!r}: {_one_line(error)}.", _REMEDY) from error
    return 0


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip().rstrip(".")


def parquet_files(folder: Path) -> list[Path]:
    """Data files of a folder, or of a HATS catalogue or collection, in path order.

    Left out are hidden files, ``_metadata`` and the like, and the parts of a HATS catalogue
    that repeat its rows: margin caches and indexes.

    Raises
    ------
    FileError
        If there are none, if a folder cannot be listed, or if the folder itself is a margin
        cache or an index.
    """
    kind = _hats_kind(folder)
    if kind in {"margin", "index"}:
        raise FileError(
            folder,
            f"is the {kind} of a HATS catalogue, which repeats rows of the catalogue.",
            "Name the folder of the catalogue itself.",
        )
    found = sorted(_walk(folder), key=lambda path: _natural(path.relative_to(folder)))
    if not found:
        raise FileError(folder, "holds no Parquet data files.")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise FileError(error.filename, f"cannot be listed: {error.strerror}.") from error

    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(root)
        real = os.path.realpath(root)
        if real in seen:  # a link back into the tree
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_aside(here / name)]
        yield from (
            here / name
            for name in names
            if Path(name).suffix.lower() in _SUFFIXES
            and name[0] not in "._"
            and Path(name).stem != _THUMBNAIL
        )


def _is_aside(folder: Path) -> bool:
    name = folder.name
    return name[0] in "._" or "_margin" in name or _hats_kind(folder) in {"margin", "index"}


def _hats_kind(folder: Path) -> str:
    """``dataproduct_type`` of a HATS catalogue's properties, empty if the folder has none."""
    for name in _PROPERTY_FILES:
        try:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = re.search(r"^\s*dataproduct_type\s*=\s*(\w+)", text, re.MULTILINE)
        return found[1].lower() if found else ""
    return ""


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which ``Npix=9`` comes before ``Npix=10``."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
