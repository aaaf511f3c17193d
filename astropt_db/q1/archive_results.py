"""What an archive's answer holds: its number of rows and their keys, without the other columns.

A result is judged here before it becomes a file that ingestion reads. VOTable and FITS only.
"""

from __future__ import annotations

import gzip
import shutil
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.votable import parse
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.xml.iterparser import get_xml_iterator
from numpy.typing import NDArray


class BrokenResultError(Exception):
    """The document is cut short or is no table at all, as after a lost connection."""


class RefusedResultError(Exception):
    """The document is complete and says, or shows, that it cannot be used."""


@dataclass(frozen=True)
class Result:
    """What arrived.

    Attributes
    ----------
    rows
        Number of rows.
    keys
        Key columns of every row, int64, shape ``(rows, len(key))``; ``None`` if the result
        lacks one of them or has a row without one.
    """

    rows: int
    keys: NDArray[np.int64] | None


def inspect(path: Path, response_format: str, key: Sequence[str]) -> Result:
    """Count the rows of a result and read their keys.

    Parameters
    ----------
    path
        The file as it arrived. A gzip file is replaced by its content: ESA compresses some
        results without saying so in the HTTP header.
    response_format
        ``votable`` or ``fits``.
    key
        Integer columns that identify a row.

    Raises
    ------
    BrokenResultError
        If the document is not whole.
    RefusedResultError
        If it reports an error or an overflow, or the keys went through a floating-point type.
    """
    _gunzip(path)
    if response_format == "fits":
        return _inspect_fits(path, key)
    return _inspect_votable(path, key)


def single_value(path: Path) -> int:
    """Return the one number that a COUNT(*) gives as VOTable; errors as :func:`inspect`."""
    _gunzip(path)
    array = _read_votable(path, [0])
    if len(array) != 1:
        raise RefusedResultError(f"COUNT(*) gave {len(array)} rows instead of one.")
    return int(array[0][0])


def _gunzip(path: Path) -> None:
    with path.open("rb") as handle:
        if handle.read(2) != b"\x1f\x8b":
            return
    plain = path.with_name(path.name + ".plain")
    try:
        with gzip.open(path) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        plain.replace(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BrokenResultError(f"the compressed result is cut short ({error})") from error
    finally:
        plain.unlink(missing_ok=True)


def _inspect_votable(path: Path, key: Sequence[str]) -> Result:
    fields = _votable_fields(path)
    names = [name for name, _ in fields]
    if not set(key).issubset(names):
        return Result(len(_read_votable(path, [0])), None)
    for name in key:
        _refuse_inexact(name, fields[names.index(name)][1] in ("float", "double"))
    places = sorted(names.index(name) for name in key)
    array = _read_votable(path, places)
    columns = [array[array.dtype.names[places.index(names.index(name))]] for name in key]
    return Result(len(array), _stack(columns))


def _votable_fields(path: Path) -> list[tuple[str, str]]:
    """Name in lower case and datatype of every column of the first table."""
    fields = []
    try:
        with get_xml_iterator(path) as events:
            for start, tag, data, _ in events:
                if start and tag == "FIELD":
                    fields.append((data.get("name", "").lower(), data.get("datatype", "")))
                elif tag == "DATA" or (tag == "TABLE" and not start):
                    break
    except ValueError as error:
        raise BrokenResultError(f"the result is not XML ({error})") from error
    return fields


def _read_votable(path: Path, columns: Sequence[int]) -> np.ma.MaskedArray[Any, Any]:
    """Read some columns, by place, of the only table, unless the service warns of it."""
    # Archives break the letter of the standard (unit "NA"), which is no concern here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            document = parse(path, columns=columns, verify="ignore")
        except (ValueError, EOFError) as error:
            raise BrokenResultError(f"the result is no complete VOTable ({error})") from error
    # DALI 1.1, section 4.4: the status stands in an INFO, an overflow after the table.
    infos = [info for info in document.iter_info() if info.name == "QUERY_STATUS"]
    status = {info.value: info.content for info in infos}
    if "ERROR" in status:
        raise RefusedResultError(f"The service answered: {(status['ERROR'] or '').strip()}")
    if "OVERFLOW" in status:
        raise RefusedResultError("The service says that it left rows out (OVERFLOW).")
    table = next(document.iter_tables(), None)
    if table is None:
        raise RefusedResultError("The result has no table.")
    return np.ma.asarray(table.array)


def _inspect_fits(path: Path, key: Sequence[str]) -> Result:
    with warnings.catch_warnings():
        # Astropy only warns of a file that is shorter than its header says.
        warnings.simplefilter("error", AstropyUserWarning)
        try:
            with fits.open(path, memmap=True) as hdus:
                tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
                if not tables:
                    raise RefusedResultError("The FITS result has no table.")
                rows = int(tables[0].header["NAXIS2"])
                names = [name.lower() for name in tables[0].columns.names]
                if not set(key).issubset(names):
                    return Result(rows, None)
                columns = [np.array(tables[0].data.field(names.index(name))) for name in key]
        except (AstropyUserWarning, OSError) as error:
            raise BrokenResultError(f"the result is no complete FITS file ({error})") from error
    for name, column in zip(key, columns, strict=True):
        _refuse_inexact(name, column.dtype.kind == "f")
    return Result(rows, _stack(columns))


def _refuse_inexact(name: str, is_float: bool) -> None:
    if is_float:
        raise RefusedResultError(
            f"The service sent {name} as floating-point numbers. Identifiers beyond 2^53 lose "
            "their last digits so; nothing was kept."
        )


def _stack(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64] | None:
    if any(np.ma.getmaskarray(column).any() for column in columns):
        return None
    return np.stack([np.ma.getdata(column).astype(np.int64) for column in columns], axis=-1)
