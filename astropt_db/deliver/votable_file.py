"""A VOTable 1.4 with BINARY2 data, written in one pass."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astropt_db.deliver.fixed import FixedColumn, Size, fill, fixed_columns, row_dtype
from astropt_db.deliver.selection import Selection

_DATATYPES = {
    "boolean": "boolean",
    "smallint": "short",
    "integer": "int",
    "bigint": "long",
    "real": "float",
    "double precision": "double",
    "text": "char",
}
_LINE = 48  # bytes that make a line of 64 characters


def write_votable(
    stream: BinaryIO,
    selection: Selection,
    batches: Iterable[pa.RecordBatch],
    sizes: Mapping[str, Size],
) -> int:
    """Write batches; returns the number of rows.

    NULLs are BINARY2's own; text that is not ASCII is ``unicodeChar``.
    """
    columns = fixed_columns(selection.columns, sizes, wide_text=True)
    stream.write(votable_head(selection, columns).encode())
    stream.write(b"<DATA><BINARY2><STREAM encoding='base64'>\n")
    count, rest = 0, b""
    for batch in batches:
        body = rest + _rows(columns, batch).tobytes()
        whole = len(body) // _LINE * _LINE
        stream.write(_lines(body[:whole]))
        rest = body[whole:]
        count += batch.num_rows
    stream.write(binascii.b2a_base64(rest))
    stream.write(b"</STREAM></BINARY2></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n")
    return count


def votable_text(selection: Selection) -> str:
    """A VOTable without data that describes the columns, for the header of a Parquet file."""
    # VOTable has no type for dates and times; tools show those of Parquet as text.
    shown = [
        replace(c, type="text") if c.type in ("date", "timestamp", "timestamptz") else c
        for c in selection.columns
    ]
    columns = fixed_columns(shown, {}, wide_text=False)
    return votable_head(selection, columns, "*") + "</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


def votable_head(
    selection: Selection, columns: Iterable[FixedColumn], arraysize: str | None = None
) -> str:
    """The document up to the data; ``arraysize`` replaces the columns' own lengths."""
    infos = [
        f"<INFO name={quoteattr(key)} value={quoteattr(_clean(value))}/>"
        for key, value in selection.provenance.items()
    ]
    title = f"<DESCRIPTION>{escape(_clean(selection.title))}</DESCRIPTION>"
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
            "<RESOURCE>",
            *infos,
            f"<TABLE name={quoteattr(_clean(selection.name))}>",
            *([title] if selection.title else []),
            *(_field(one, arraysize) for one in columns),
            "",
        ]
    )


def _field(one: FixedColumn, arraysize: str | None) -> str:
    column = one.column
    attributes = {
        "name": column.name,
        "datatype": "unicodeChar" if one.wide else _DATATYPES[one.element],
        "arraysize": (arraysize or str(one.length)) if one.is_text or one.is_array else "",
        "unit": column.unit,
        "ucd": column.ucd,
    }
    inside = " ".join(f"{k}={quoteattr(_clean(v))}" for k, v in attributes.items() if v)
    return (
        f"<FIELD {inside}><DESCRIPTION>{escape(_clean(column.description))}</DESCRIPTION></FIELD>"
    )


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in text if c >= " " or c in "\t\n")


def _rows(columns: list[FixedColumn], batch: pa.RecordBatch) -> NDArray[np.void]:
    """Rows with BINARY2's null bits ahead, the first column in the highest bit."""
    mask_bytes = (len(columns) + 7) // 8
    dtype = row_dtype(columns)
    rows = np.empty(batch.num_rows, [("null", "u1", (mask_bytes,)), ("values", dtype)])
    fill(rows["values"], columns, batch)
    null = np.zeros((batch.num_rows, len(columns)), np.bool_)
    for i, values in enumerate(batch.columns):
        if values.null_count:
            null[:, i] = values.is_null().to_numpy(zero_copy_only=False)
    rows["null"] = np.packbits(null, axis=1)
    return rows


def _lines(body: bytes) -> bytes:
    """Base64 in lines of 64 characters; the body is a whole number of lines."""
    if not body:
        return b""
    text = np.frombuffer(binascii.b2a_base64(body, newline=False), np.uint8).reshape(-1, 64)
    lines = np.full((len(text), 65), ord("\n"), np.uint8)
    lines[:, :64] = text
    return lines.tobytes()
