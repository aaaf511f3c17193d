"""Rows as JSON text, whole columns at a time, every number exact.

Floats are written in the shortest form that reads back the same; 64-bit integers become strings,
because JSON readers turn numbers into float64 and an object id would be destroyed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astropt_db.q1.readers import Values

Text = NDArray[np.bytes_]


def json_rows(columns: Mapping[str, Values]) -> Text:
    """One JSON object per row, as UTF-8 bytes; NULLs and NaN become ``null``.

    Parameters
    ----------
    columns
        At least one column; all with the same number of rows.
    """
    members = [_member(name, values) for name, values in columns.items()]
    members[0] = np.strings.add(b"{", members[0])
    joined = _join(members)
    return np.strings.add(joined, b"}")


def _join(parts: list[Text]) -> Text:
    """Concatenate columns of text pairwise: the total work grows with log(columns)."""
    while len(parts) > 1:
        pairs = [
            np.strings.add(np.strings.add(parts[i], b","), parts[i + 1])
            for i in range(0, len(parts) - 1, 2)
        ]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def _member(name: str, values: Values) -> Text:
    key = json.dumps(name, ensure_ascii=False).encode() + b":"
    return np.strings.add(key, json_values(values))


def json_values(values: Values) -> Text:
    """JSON text of every value of a column."""
    data = values.data
    if data.ndim == 2:
        parts = [json_values(Values(data[:, i])) for i in range(data.shape[1])]
        text = np.strings.add(np.strings.add(b"[", _join(parts)), b"]")
    elif data.dtype.kind == "S":
        text = _quoted(data)
    elif data.dtype.kind == "b":
        text = np.where(data, b"true", b"false")
    elif data.dtype.kind == "f":
        # JSON has no infinity; as text it can still be read back.
        text = np.where(np.isfinite(data), data.astype("S32"), b"null")
        text = np.where(np.isinf(data), np.where(data > 0, b'"inf"', b'"-inf"'), text)
    else:
        text = data.astype("S21")
        if data.dtype.itemsize == 8:
            text = np.strings.add(np.strings.add(b'"', text), b'"')
    if values.null is not None:
        text = np.where(values.null, b"null", text)
    return np.asarray(text, dtype="S")


def _quoted(data: NDArray[Any]) -> Text:
    """Strings with JSON's escapes; only rows that need an escape take the slow way."""
    raw: Text = np.ascontiguousarray(data, "S")
    plain = np.strings.add(np.strings.add(b'"', raw), b'"')
    codes = raw.view(np.uint8).reshape(len(raw), -1) if raw.size else np.empty((0, 1), np.uint8)
    used = np.arange(codes.shape[1]) < np.strings.str_len(raw)[:, None]
    special = (((codes < 32) | (codes == 34) | (codes == 92) | (codes > 126)) & used).any(axis=1)
    if not special.any():
        return plain
    escaped = np.array([_escape(bytes(one)) for one in raw[special]], "S")
    plain = plain.astype(f"S{max(plain.itemsize, escaped.itemsize)}")
    plain[special] = escaped
    return plain


def _escape(raw: bytes) -> bytes:
    # PostgreSQL's jsonb cannot hold a zero byte, nor bytes that are no UTF-8.
    return json.dumps(raw.decode("utf-8", "replace").replace("\0", "\ufffd")).encode()
