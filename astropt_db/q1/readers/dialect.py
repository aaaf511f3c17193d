"""How a text file is written: encoding, compression, delimiter, quotes and header line.

The whole file is looked at once, as bytes, before anything is read from it. That costs about a
fifth of reading it and finds what a CSV parser would pass over in silence: a quote that is never
closed swallows the rest of the file, a NUL byte or a wrong encoding ends in another value.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from astropt_db.errors import FileError

_CHUNK = 2**20
_QUOTE = ord('"')
_DELIMITERS = ",\t;"


@dataclass(frozen=True)
class Dialect:
    """How one text file is written.

    Attributes
    ----------
    names
        Column names from the header line.
    delimiter
        One character.
    quoted
        Whether quotes occur after all; without them reading is faster.
    header_lines
        Lines before the first row.
    has_rows
        Whether anything but empty lines follows the header.
    """

    names: tuple[str, ...]
    delimiter: str
    quoted: bool
    header_lines: int
    has_rows: bool


def is_gzip(path: Path) -> bool:
    """Whether the content is gzip-compressed, whatever the name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed if need be."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip(path) else path.open("rb")


def examine(path: Path, delimiter: str | None = None) -> Dialect:
    """Find out how a text file is written; ``delimiter`` if it is known.

    Raises
    ------
    FileError
        If the file is empty, no UTF-8 text, cut short (gzip), or if its header line is missing
        or names a column twice, or if a quote is not closed.
    """
    try:
        quoted, well_quoted = _scan(path, delimiter)
        return _header(path, delimiter, quoted, well_quoted)
    except (OSError, EOFError, zlib.error) as error:
        remedy = "Copy or download the file again."
        raise FileError(path, f"cannot be read to its end: {error}.", remedy) from error


def _scan(path: Path, delimiter: str | None) -> tuple[bool, bool]:
    """Check every byte; tell whether there are quotes and whether all of them pair up."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    pairs = _QuotePairs(delimiter or _DELIMITERS)
    offset = 0
    with open_bytes(path) as file:
        while chunk := file.read(_CHUNK):
            _decode(path, decoder, chunk, offset)
            pairs.feed(chunk.removeprefix(codecs.BOM_UTF8) if offset == 0 else chunk)
            offset += len(chunk)
    if offset == 0:
        raise FileError(path, "the file is empty.", "Copy or download the file again.")
    _decode(path, decoder, b"", offset)
    return pairs.found, pairs.close()


def _decode(path: Path, decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int) -> None:
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        where = offset - pending + error.start
        value = error.object[error.start]
        raise FileError(
            path,
            f"expected UTF-8 text, found byte 0x{value:02X} at byte offset {where}.",
            "Convert it, for example: iconv -f latin1 -t utf-8.",
        ) from error
    if (nul := chunk.find(b"\0")) >= 0:
        raise FileError(path, f"expected text, found a NUL byte at byte offset {offset + nul}.")


class _QuotePairs:
    """Whether each quote opens a value at its start or closes one at its end (RFC 4180).

    Doubled quotes inside a value pass the same test, so that only neighbours need a look.
    """

    def __init__(self, delimiters: str) -> None:
        self._edge = np.zeros(256, np.bool_)
        self._edge[[ord(character) for character in delimiters + '\r\n"']] = True
        self._carry = b"\n"
        self._count = 0
        self._paired = True

    def feed(self, chunk: bytes) -> None:
        # The last byte waits for its right-hand neighbour, and needs its left-hand one.
        data = np.frombuffer(self._carry + chunk, np.uint8)
        self._carry = data[-2:].tobytes()
        quotes = np.flatnonzero(data[1:-1] == _QUOTE) + 1
        if not len(quotes):
            return
        is_open = (np.arange(len(quotes)) + self._count) % 2 == 0
        neighbour = np.where(is_open, data[quotes - 1], data[quotes + 1])
        self._paired &= bool(self._edge[neighbour].all())
        self._count += len(quotes)

    @property
    def found(self) -> bool:
        return self._count > 0

    def close(self) -> bool:
        self.feed(b"\n")
        return self._paired and self._count % 2 == 0


def _header(path: Path, delimiter: str | None, quoted: bool, well_quoted: bool) -> Dialect:
    with _lines(path) as file:
        # Never more than a chunk, even of a file that is all one line.
        lines = iter(lambda: file.readline(_CHUNK), "")
        skipped, first = _first_line(path, lines)
        delimiter = delimiter or _sniff(first)
        reader = csv.reader(chain([first], lines), delimiter=delimiter)
        try:
            names = tuple(next(reader))
        except csv.Error as error:
            raise FileError(path, f"expected a line of column names: {error}.") from error
        has_rows = any(line.strip("\r\n") for line in lines)
    header_lines = skipped + reader.line_num
    _check_names(path, names)
    if not well_quoted:
        _check_quotes(path, delimiter, skipped)
    return Dialect(names, delimiter, quoted, header_lines, has_rows)


def _lines(path: Path) -> io.TextIOWrapper:
    # newline="" keeps line ends, as the csv module wants it.
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def _first_line(path: Path, lines: Iterator[str]) -> tuple[int, str]:
    """Lines skipped (empty or comments), and the line after them."""
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            return number, line
    raise FileError(path, "expected a line of column names, found only empty and comment lines.")


def _sniff(line: str) -> str:
    outside = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=outside.count)


def _check_names(path: Path, names: tuple[str, ...]) -> None:
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise FileError(
            path,
            f"columns of the same name: {', '.join(map(repr, repeated))}.",
            "Rename or drop all but one.",
        )
    for name in names:
        if _is_number(name):
            raise FileError(
                path,
                f"expected a line of column names, found the number {name!r} among them.",
                "Put a line with the column names at the top.",
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_quotes(path: Path, delimiter: str, skipped: int) -> None:
    """Tell a harmless quote inside a value from one that is never closed."""
    with _lines(path) as lines:
        for _ in range(skipped):
            next(lines)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        start = 0
        try:
            for _ in reader:
                start = reader.line_num
        except csv.Error as error:
            raise FileError(
                path,
                f"in the row that starts at line {skipped + start + 1}, a quoted value is not "
                f"closed properly ({error}).",
                'Write a quote inside a quoted value twice: "".',
            ) from error
