"""``astropt-db export``: a view or a query as a file, or as a folder of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psycopg
import pyarrow as pa

from astropt_db.database.connect import Database
from astropt_db.database.copy_out import stream as copy_out
from astropt_db.database.reading import query_errors, reading
from astropt_db.deliver.files import check_target, new_file, new_folder
from astropt_db.deliver.fits_file import write_fits
from astropt_db.deliver.fixed import Size, measure
from astropt_db.deliver.hats_folder import PROPERTIES, lay_out, write_hats
from astropt_db.deliver.parquet_file import write_parquet
from astropt_db.deliver.selection import Selection, select
from astropt_db.deliver.text_file import write_csv, write_ecsv
from astropt_db.deliver.votable_file import write_votable
from astropt_db.errors import ConfigurationError

Writer = Callable[[BinaryIO, Selection, Iterable[pa.RecordBatch], Mapping[str, Size]], int]


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes
    ----------
    name
        As on the command line.
    suffixes
        Of file names.
    write
        Writes batches to a file, returns the number of rows; ``None`` for HATS, a folder.
    text_arrays, text_moments
        Whether arrays, and dates and times, are written as text.
    measured
        Whether the longest text and array must be known before the first row.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Writer | None
    text_arrays: bool = False
    text_moments: bool = True
    measured: bool = False


FORMATS = (
    Format("fits", (".fits", ".fit"), write_fits, measured=True),
    Format("votable", (".vot", ".votable", ".xml"), write_votable, measured=True),
    Format("ecsv", (".ecsv",), write_ecsv, text_arrays=True),
    Format("csv", (".csv",), write_csv, text_arrays=True),
    Format("parquet", (".parquet", ".pq"), write_parquet, text_moments=False),
    Format("hats", (".hats",), None, text_moments=False),
)


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes
    ----------
    path
        File or folder.
    rows, columns
        How many.
    size
        Bytes.
    left_out
        Rows without a position, which a HATS catalogue cannot hold.
    """

    path: Path
    rows: int
    columns: int
    size: int
    left_out: int = 0


def find_format(target: Path, name: str | None = None) -> Format:
    """The format of a name, or of a file's suffix.

    Raises
    ------
    ConfigurationError
        If there is none; the message lists the suffixes.
    """
    for one in FORMATS:
        if one.name == name or (name is None and target.name.lower().endswith(one.suffixes)):
            return one
    known = ", ".join(f"{one.suffixes[0]} ({one.name})" for one in FORMATS)
    raise ConfigurationError(
        f"{target}: the format cannot be told from the name; expected one of {known}, or --format"
    )


def export(
    database: Database,
    target: Path,
    view: str | None = None,
    query: str | None = None,
    format_name: str | None = None,
    overwrite: bool = False,
    timeout_s: float = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> ExportReport:
    """Write the rows of a view or a query to a file, which is whole or not there.

    Parameters
    ----------
    target
        File, or folder of a HATS catalogue; its suffix tells the format unless
        ``format_name`` does.
    view, query
        One of the two.
    overwrite
        Whether an existing file may be replaced.
    timeout_s
        Seconds after which the server gives up; 0 means never.
    progress
        Told the number of rows of each batch.

    Raises
    ------
    ConfigurationError
        If the file exists, its format or the view is unknown, or rows for HATS have no position.
    DatabaseError
        If the query is wrong or takes too long.
    FileError
        If the file cannot be written, for example because the disk is full.
    """
    if (view is None) == (query is None):
        raise ConfigurationError("name a view or give --query SQL, one of the two")
    chosen = find_format(target, format_name)
    check_target(target, overwrite)
    with query_errors(timeout_s), reading(database, timeout_s, snapshot=True) as cursor:
        selection = select(cursor, view, query, chosen.text_moments, chosen.text_arrays)
        if chosen.write is None:
            return _export_hats(cursor, target, selection, overwrite, progress)
        sizes = measure(cursor, selection) if chosen.measured else {}
        batches = _told(cursor, selection, progress)
        with new_file(target, overwrite) as stream:
            rows = chosen.write(stream, selection, batches, sizes)
    return ExportReport(target, rows, len(selection.columns), target.stat().st_size)


def _export_hats(
    cursor: psycopg.Cursor,
    target: Path,
    selection: Selection,
    overwrite: bool,
    progress: Callable[[int], None],
) -> ExportReport:
    layout = lay_out(cursor, selection)
    batches = _told(cursor, layout.selection, progress)
    with new_folder(target, PROPERTIES, overwrite) as folder:
        rows = write_hats(folder, layout, batches)
    size = sum(path.stat().st_size for path in target.rglob("*"))
    return ExportReport(target, rows, len(layout.selection.columns), size, layout.left_out)


def _told(
    cursor: psycopg.Cursor, selection: Selection, progress: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    columns = [column.out for column in selection.columns]
    for batch in copy_out(cursor, selection.query, columns):
        yield batch
        progress(batch.num_rows)
