"""Catalogue files of any format that Q1 is served in, as :class:`~.base.Table` objects.

The content decides, not the file name: archives serve gzipped files without suffix, and HTML
error pages under the name of a FITS file.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from astropt_db.errors import FileError
from astropt_db.q1.readers.base import Block, FileColumn, Table, Values

__all__ = ["Block", "FileColumn", "Table", "Values", "catalogue_files", "open_tables"]

_PLAIN = (".fits", ".fit", ".vot", ".votable", ".xml", ".csv", ".tsv", ".ecsv")
SUFFIXES = (*_PLAIN, *(suffix + ".gz" for suffix in _PLAIN), ".parquet", ".parq")
"""File names that a folder is searched for."""

_TEXT = (".csv", ".tsv", ".txt", ".dat", ".ecsv", "")


def open_tables(path: Path) -> list[Table]:
    """Open every table of a file.

    Raises
    ------
    FileError
        If the file cannot be read, is empty, or is no catalogue.
    """
    head = _head(path)
    suffix = _inner_suffix(path)
    if head.startswith(b"SIMPLE  ="):
        from astropt_db.q1.readers.fits import open_fits

        return open_fits(path)
    if head.startswith(b"PAR1"):
        from astropt_db.q1.readers.parquet import open_parquet

        return open_parquet(path)
    if head.startswith(b"PK\x03\x04"):
        raise FileError(path, "is a zip archive.", "Unpack it and give the files inside.")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"<?xml", b"<VOTABLE")) and b"<html" not in start.lower():
        from astropt_db.q1.readers.votable import open_votable

        return open_votable(path)
    if suffix not in _TEXT or start.lower().startswith((b"<!doctype", b"<html")):
        raise FileError(
            path,
            f"is not a catalogue: {_describe(start)}",
            "Expected FITS, Parquet, VOTable, ECSV or CSV; look into the file, an archive may "
            "have sent an error page.",
        )
    from astropt_db.q1.readers import text

    return text.open_ecsv(path) if start.startswith(b"# %ECSV") else text.open_csv(path)


def catalogue_files(path: Path) -> list[Path]:
    """Catalogue files that a path stands for: the file, or a folder's files in name order.

    A HATS catalogue or another folder of Parquet files gives its data files only.

    Raises
    ------
    FileError
        If the path does not exist, may not be read, or a folder holds no catalogue.
    """
    try:
        if not path.exists():
            raise FileError(path, "does not exist.", "Check the path.")
        if path.is_file():
            return [path]
        found = sorted(p for p in path.rglob("*") if p.name.lower().endswith(SUFFIXES))
        # rglob skips folders that may not be read; nothing may be lost silently.
        _check_readable(path)
    except PermissionError as error:
        raise FileError(
            error.filename or path, "may not be read.", "Check its folder's permissions."
        ) from error
    if any(p.name.endswith((".parquet", ".parq")) for p in found):
        from astropt_db.q1.readers.parquet import parquet_files

        others = [p for p in found if not p.name.endswith((".parquet", ".parq"))]
        is_hats = any((path / n).exists() for n in ("properties", "hats.properties"))
        found = parquet_files(path) + ([] if is_hats else others)
    if not found:
        raise FileError(
            path, "holds no catalogue file.", f"Looked for *{', *'.join(SUFFIXES[:6])} and others."
        )
    return found


def _check_readable(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            _check_readable(child)


def _head(path: Path) -> bytes:
    """First kilobyte, decompressed."""
    try:
        with path.open("rb") as handle:
            head = handle.read(1024)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path, "rb") as handle:
                head = handle.read(1024)
    except IsADirectoryError as error:
        raise FileError(path, "is a folder, expected a file.") from error
    except PermissionError as error:
        raise FileError(path, "may not be read.", "Check its permissions.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileError(path, "is a damaged gzip file.", "Download it again.") from error
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror}.") from error
    if not head:
        raise FileError(path, "is empty.", "Download it again.")
    return head


def _inner_suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _describe(start: bytes) -> str:
    if start.lower().startswith((b"<!doctype", b"<html")):
        return "it is an HTML page."
    shown = start[:24].decode("ascii", "replace").replace("\n", " ")
    return f"it begins with {shown!r}."
