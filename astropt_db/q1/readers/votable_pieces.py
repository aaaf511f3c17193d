"""A long VOTable as a sequence of short ones, so that it never lies in memory as a whole.

The rows of a TABLEDATA element are cut between ``</TR>`` and ``<TR>``; every piece is put between
the head of the document and the closing tags, and is then a VOTable like any other. Nothing is
known here of columns and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from astropt_db.errors import FileError
from astropt_db.q1.readers.dialect import open_bytes

PIECE_BYTES = 2**24
"""Bytes of rows in a piece: about 100 MB as a table in memory."""

_HEAD_BYTES = 2**23
_START = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?)TABLEDATA\s*>")
_ANNOUNCED = re.compile(rb'(<(?:[\w.-]+:)?TABLE\b[^>]*?)\snrows\s*=\s*["\']\s*(\d+)\s*["\']')


@dataclass(frozen=True)
class Pieces:
    """Where the rows of a VOTable lie, and what surrounds them.

    Attributes
    ----------
    path
        The file.
    head
        The document up to and with the TABLEDATA tag, the announced number of rows taken out.
    offset
        Byte of the (decompressed) file where the rows begin.
    prefix
        XML prefix of the elements, with its colon; mostly empty.
    closing
        The tags that close what the head opens.
    n_rows
        Rows that the document announces, ``None`` if it does not.
    """

    path: Path
    head: bytes
    offset: int
    prefix: bytes
    closing: bytes
    n_rows: int | None

    def documents(self, size: int | None = None) -> Iterator[bytes]:
        """Yield documents of about ``size`` bytes of rows; the last one ends as the file does.

        Raises
        ------
        FileError
            If the rows end without their closing tag, one row is longer than a piece, or
            another table follows.
        """
        size = PIECE_BYTES if size is None else size
        row_end, end = b"</" + self.prefix + b"TR>", b"</" + self.prefix + b"TABLEDATA"
        rest = b""
        with open_bytes(self.path) as file:
            file.seek(self.offset)
            while chunk := file.read(size):
                rest += chunk
                if (found := rest.find(end)) >= 0:
                    yield self._last(rest, found, file.read(size))
                    return
                cut = rest.rfind(row_end) + len(row_end)
                if cut < len(row_end):
                    raise FileError(
                        self.path, f"holds no complete row in {len(rest):,} bytes of its table."
                    )
                yield self.head + rest[:cut] + self.closing
                rest = rest[cut:]
        raise FileError(
            self.path,
            "is not a valid VOTable: it ends inside its table.",
            "Copy or download the file again.",
        )

    def _last(self, rest: bytes, found: int, more: bytes) -> bytes:
        if re.search(rb"<(?:[\w.-]+:)?TABLE[\s>]", rest[found:] + more):
            raise FileError(
                self.path,
                "holds several tables and is too large to be read as a whole.",
                "Save each table as a file of its own (for example with TOPCAT or stilts).",
            )
        return self.head + rest + more


def find_pieces(path: Path) -> Pieces | None:
    """How to cut a VOTable into pieces; ``None`` if its first table is not TABLEDATA.

    Raises
    ------
    FileError
        If what stands before the rows is no valid XML.
    """
    with open_bytes(path) as file:
        start = file.read(_HEAD_BYTES)
    found = _START.search(start)
    if not found:
        return None
    head = start[: found.end()]
    announced = _ANNOUNCED.search(head)
    return Pieces(
        path=path,
        head=_ANNOUNCED.sub(rb"\1", head),
        offset=found.end(),
        prefix=found.group(1),
        closing=_closing_tags(path, head),
        n_rows=int(announced.group(2)) if announced else None,
    )


def _closing_tags(path: Path, head: bytes) -> bytes:
    elements: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: elements.append(name)
    parser.EndElementHandler = lambda _: elements.pop()
    try:
        parser.Parse(head, False)
    except expat.ExpatError as error:
        raise FileError(
            path, f"is not valid XML: {error}.", "Copy or download the file again."
        ) from error
    return "".join(f"</{name}>" for name in reversed(elements)).encode()
