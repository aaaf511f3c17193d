"""FITS binary tables, read in blocks straight from their bytes.

astropy parses the headers; the rows are then windows on the file's own big-endian records,
which is also the byte order of PostgreSQL's COPY. Sizes are checked against the header before a
single row is read, because astropy only warns about a truncated file.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astropt_db.errors import FileError
from astropt_db.q1.readers.base import BLOCK_ROWS, Block, FileColumn, Table, Values

_WIDTH = {"L": 1, "X": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16}
_WIDTH |= {"P": 8, "Q": 16}
_NUMERIC = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
# TZERO that turns a signed FITS integer into an unsigned one.
_UNSIGNED = {"I": (2**15, "u2"), "J": (2**31, "u4"), "K": (2**63, "u8")}
_CHUNK = 1 << 22
Cards = Mapping[str, Any]
_MIN_FREE = 1 << 30
# What astropy and the conversion of header values raise where a header makes no sense.
_BAD_HEADER = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, fits.VerifyError)


@dataclass(frozen=True)
class _Layout:
    """Where one column lies in a row and how its bytes become values."""

    column: FileColumn
    offset: int
    code: str
    repeat: int
    scale: float = 1.0
    zero: float = 0.0

    @property
    def scaled(self) -> bool:
        return self.scale != 1.0 or self.zero != 0.0


@dataclass
class FitsTable(Table):
    """One binary-table extension of a FITS file."""

    descriptor: int = -1
    data_offset: int = 0
    row_bytes: int = 0
    layouts: Sequence[_Layout] = field(default_factory=tuple)

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order; see :meth:`Table.blocks`."""
        wanted = set(names) if names is not None else None
        layouts = [one for one in self.layouts if wanted is None or one.column.name in wanted]
        total = self.n_rows or 0
        for first in range(0, total, rows):
            count = min(rows, total - first)
            raw = self._read(self.data_offset + first * self.row_bytes, count * self.row_bytes)
            columns = {one.column.name: self._values(one, raw, count) for one in layouts}
            yield Block(first, count, columns)

    def _read(self, offset: int, size: int) -> bytes:
        parts = []
        while size:
            part = os.pread(self.descriptor, size, offset)
            if not part:
                raise FileError(
                    self.path,
                    f"ended {size} bytes early while it was being read.",
                    "It changed under our hands; try again with a complete copy.",
                )
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _values(self, layout: _Layout, raw: bytes, count: int) -> Values:
        if layout.code == "A":
            text: NDArray[np.bytes_] = np.ndarray(
                (count,), f"S{layout.repeat}", raw, layout.offset, (self.row_bytes,)
            )
            text = np.strings.rstrip(text)
            # FITS has no NULL for text; a blank field is the custom for "no value".
            return Values(text, text == b"")
        dtype = np.dtype("S1" if layout.code == "L" else _NUMERIC[layout.code])
        shape: tuple[int, ...] = (count,)
        strides: tuple[int, ...] = (self.row_bytes,)
        if layout.column.length is not None:
            shape, strides = (count, layout.repeat), (self.row_bytes, dtype.itemsize)
        data: NDArray[Any] = np.ndarray(shape, dtype, raw, layout.offset, strides)
        # Every later pass over a column would touch as much memory as the whole rows take.
        data = data.astype(dtype.newbyteorder("="))
        null: NDArray[np.bool_] | None = None
        if layout.code == "L":
            data, null = data == b"T", ~np.isin(data, [b"T", b"F"])
        elif layout.column.null is not None:
            null = data == layout.column.null
        if layout.scaled:
            data = _scale(layout, data)
        if null is None or null.ndim == 1:
            return Values(data, null)
        if layout.column.dtype.kind == "f":
            data = np.where(null, np.nan, data)
        return Values(data, np.asarray(null.all(axis=1), np.bool_))

    def close(self) -> None:
        """Close the file; the other tables of it keep their own descriptors."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _scale(layout: _Layout, data: NDArray[Any]) -> NDArray[Any]:
    """Apply TSCAL and TZERO; unsigned integers stay exact."""
    unsigned = _UNSIGNED.get(layout.code)
    if unsigned is not None and layout.scale == 1.0 and layout.zero == unsigned[0]:
        native = data.astype(data.dtype.newbyteorder("="))
        bits: NDArray[Any] = native.view(unsigned[1]) ^ np.array(unsigned[0], unsigned[1])
        return bits
    return data.astype(np.float64) * layout.scale + layout.zero


def open_fits(path: Path) -> list[Table]:
    """Tables of a FITS file, plain or gzipped, one per binary-table extension.

    Raises
    ------
    FileError
        If the file is truncated, holds no table, or has a column that cannot be read.
    """
    handle: IO[bytes] = _decompressed(path) if _is_gzip(path) else path.open("rb")
    try:
        size = os.fstat(handle.fileno()).st_size
        headers = _table_headers(path, handle, size)
        if not headers:
            raise FileError(
                path,
                "holds no binary table.",
                "Catalogues are tables; this command does not read images.",
            )
        with ExitStack() as opened:
            tables: list[Table] = [
                opened.enter_context(_open_table(path, handle, header, offset))
                for header, offset in headers
            ]
            opened.pop_all()  # only an error closes them here
        return tables
    finally:
        handle.close()


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def _decompressed(path: Path) -> IO[bytes]:
    """Gunzip into an unnamed temporary file: the blocks need random access."""
    spool = tempfile.TemporaryFile(prefix="astropt-db-")  # noqa: SIM115 - the caller closes it
    try:
        with gzip.open(path, "rb") as source:
            while chunk := source.read(_CHUNK):
                spool.write(chunk)
                if shutil.disk_usage(tempfile.gettempdir()).free < _MIN_FREE:
                    raise FileError(
                        path,
                        f"does not fit decompressed into {tempfile.gettempdir()} "
                        "(less than 1 GB would be left).",
                        "Free some space or set TMPDIR to a larger disk.",
                    )
        spool.flush()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        spool.close()
        raise FileError(
            path,
            f"is a damaged gzip file ({str(error).rstrip('.')}).",
            "Download it again.",
        ) from error
    except BaseException:
        spool.close()
        raise
    return spool


def _table_headers(path: Path, handle: IO[bytes], size: int) -> list[tuple[fits.Header, int]]:
    """Headers and data offsets of the binary tables, every size checked."""
    found: list[tuple[fits.Header, int]] = []
    position = 0
    while position < size:
        handle.seek(position)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = fits.Header.fromfile(handle, endcard=True)
                data = _data_bytes(header)
                is_table = str(header.get("XTENSION")).strip() == "BINTABLE"
                is_image = bool(header.get("ZIMAGE", False))
        except _BAD_HEADER as error:
            if found and not _begins_header(handle, position):
                break  # padding after the last extension is allowed
            raise FileError(
                path,
                f"has no readable FITS header at byte {position} ({_one_line(error)}).",
                "The file is damaged or was not downloaded completely; fetch it again.",
            ) from error
        offset = handle.tell()
        if offset + data > size:
            raise FileError(
                path,
                f"is truncated: its headers promise {offset + data:,} bytes, it has {size:,}.",
                "Download it again.",
            )
        if is_table and not is_image:
            found.append((header, offset))
        position = offset + math.ceil(data / 2880) * 2880
    return found


def _begins_header(handle: IO[bytes], position: int) -> bool:
    """Whether a header of an extension begins at this byte."""
    handle.seek(position)
    return handle.read(8) in (b"XTENSION", b"SIMPLE  ")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _data_bytes(header: fits.Header) -> int:
    """Size of the data unit that follows a header, without padding."""
    axes = [int(header[f"NAXIS{i + 1}"]) for i in range(int(header["NAXIS"]))]
    if not axes:
        return 0
    if min(axes) < 0:
        raise ValueError(f"NAXIS{axes.index(min(axes)) + 1} is {min(axes)}")
    elements = math.prod(axes) + int(header.get("PCOUNT", 0))
    return abs(int(header["BITPIX"])) // 8 * elements * int(header.get("GCOUNT", 1))


def _open_table(path: Path, handle: IO[bytes], header: fits.Header, offset: int) -> FitsTable:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A plain dictionary: astropy's look-up by keyword is slow for 1,400 cards.
            return _read_header(path, handle, dict(header.items()), offset)
    except _BAD_HEADER as error:
        raise FileError(
            path,
            f"has a table header that makes no sense ({_one_line(error)}).",
            "The file is damaged; fetch it again.",
        ) from error


def _read_header(path: Path, handle: IO[bytes], header: Cards, offset: int) -> FitsTable:
    layouts = list(_layouts(path, header))
    row_bytes = int(header["NAXIS1"])
    width = layouts[-1].offset + layouts[-1].repeat * _WIDTH[layouts[-1].code] if layouts else 0
    if width > row_bytes:
        raise FileError(
            path,
            f"is inconsistent: its columns need {width} bytes a row, NAXIS1 says {row_bytes}.",
            "The file is damaged; fetch it again.",
        )
    names = [layout.column.name.upper() for layout in layouts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FileError(
            path,
            f"has two columns named {twice[0]!r}.",
            "Rename one of them, so that it is clear which to use.",
        )
    tile = header.get("TILE_INDEX", header.get("TILEINDX"))
    return FitsTable(
        path=path,
        label=str(header.get("EXTNAME", "")).strip(),
        columns=tuple(layout.column for layout in layouts),
        n_rows=int(header["NAXIS2"]),
        tile=int(tile) if str(tile).strip().isdigit() else None,
        descriptor=os.dup(handle.fileno()),
        data_offset=offset,
        row_bytes=row_bytes,
        layouts=layouts,
    )


def _layouts(path: Path, header: Cards) -> Iterator[_Layout]:
    offset = 0
    for i in range(1, int(header.get("TFIELDS", 0)) + 1):
        name = str(header.get(f"TTYPE{i}", f"col{i}")).strip()
        form = str(header.get(f"TFORM{i}", ""))
        match = re.fullmatch(r"\s*(\d*)([LXBIJKAEDCMPQ])(.*)", form.strip())
        if match is None:
            raise FileError(path, f"column {name!r} has no valid TFORM ({form!r}).")
        repeat, code = int(match[1] or 1), match[2]
        width = math.ceil(repeat / 8) if code == "X" else repeat * _WIDTH[code]
        if repeat > 0:
            if code in "XCMPQ":
                raise FileError(
                    path,
                    f"column {name!r} has the FITS type {form.strip()!r}; expected numbers, "
                    "text, logicals, or vectors of fixed length.",
                    "Remove the column or convert it (for instance with astropy).",
                )
            yield _layout(header, i, name, offset, code, repeat)
        offset += width


def _layout(header: Cards, i: int, name: str, offset: int, code: str, repeat: int) -> _Layout:
    null = header.get(f"TNULL{i}")
    scale, zero = float(header.get(f"TSCAL{i}", 1)), float(header.get(f"TZERO{i}", 0))
    if not (math.isfinite(scale) and math.isfinite(zero)):
        raise ValueError(f"TSCAL{i} is {scale}, TZERO{i} is {zero}")
    unsigned = _UNSIGNED.get(code)
    dtype: np.dtype[Any]
    if code == "A":
        dtype = np.dtype("S")
    elif code == "L":
        dtype = np.dtype("?")
    elif unsigned is not None and scale == 1.0 and zero == unsigned[0]:
        dtype = np.dtype(unsigned[1])
    elif scale != 1.0 or zero != 0.0:
        dtype = np.dtype("f8")
    elif null is not None and repeat > 1 and code in "BIJ":
        dtype = np.dtype("f8")  # a single element without value becomes NaN
    else:
        dtype = np.dtype(_NUMERIC[code]).newbyteorder("=")
    column = FileColumn(
        name=name,
        dtype=dtype,
        length=repeat if repeat > 1 and code != "A" else None,
        unit=str(header.get(f"TUNIT{i}", "")).strip(),
        null=int(null) if null is not None and code in "BIJK" else None,
    )
    return _Layout(column, offset, code, repeat, scale, zero)
