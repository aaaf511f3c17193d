"""File values to database values: types, NULLs, and which rows cannot be taken.

What counts as "no value": the reader's NULLs, NaN, and the sentinels that the column list names.
What is refused: infinities, numbers that the database type cannot hold exactly enough, text that
is no number. A refused value rejects its row, with the reason; it is never rounded into place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from astropt_db.database.copy import Field
from astropt_db.errors import FileError
from astropt_db.q1.products import Column
from astropt_db.q1.readers import Values

Bool = NDArray[np.bool_]

_DTYPE: dict[str, np.dtype[Any]] = {
    "smallint": np.dtype("i2"),
    "integer": np.dtype("i4"),
    "bigint": np.dtype("i8"),
    "real": np.dtype("f4"),
    "double precision": np.dtype("f8"),
}
_EXACT = 2.0**53
_FLOAT32 = float(np.finfo(np.float32).max)
_EMPTY = ["", "nan", "NaN", "NAN", "null", "NULL", "None", "--", "N/A", "[NaN,NaN]"]


@dataclass(frozen=True)
class Refusal:
    """Rows of a block that one column rejects.

    Attributes
    ----------
    rows
        True where the row is rejected.
    reason
        Short code for the quarantine.
    column
        File column at fault.
    expected
        What the database column can hold, for people.
    """

    rows: Bool
    reason: str
    column: str
    expected: str


@dataclass(frozen=True)
class Converted:
    """A column for COPY and the rows that it rejects."""

    field: Field
    refusals: tuple[Refusal, ...] = ()


def convert(column: Column, source: str, values: Values) -> Converted:
    """Bring one scalar or vector column of a block to its database type.

    Parameters
    ----------
    column
        Target column.
    source
        Name of the file column, for messages.
    values
        Its values in this block.
    """
    if column.length is not None:
        return _vector(column, source, values)
    if column.type == "text":
        return _text(column, source, values)
    if values.data.dtype.kind == "S":
        numbers, unreadable = parse_numbers(values, column.type)
        refusals = _refuse(unreadable, "value_not_numeric", source, f"a number ({column.type})")
        inner = convert(column, source, numbers)
        return Converted(inner.field, refusals + inner.refusals)
    if column.type == "boolean":
        return _boolean(column, source, values)
    if _DTYPE[column.type].kind == "f":
        return _floating(column, source, values)
    return _integer(column, source, values)


def _refuse(rows: Bool | None, reason: str, source: str, expected: str) -> tuple[Refusal, ...]:
    if rows is None or not rows.any():
        return ()
    return (Refusal(rows, reason, source, expected),)


def _or(first: Bool | None, second: Bool | None) -> Bool | None:
    if first is None or second is None:
        return first if second is None else second
    return first | second


def _sentinels(column: Column, data: NDArray[Any], null: Bool | None) -> Bool | None:
    return _or(null, np.isin(data, column.null)) if column.null else null


def _floating(column: Column, source: str, values: Values) -> Converted:
    data, null = values.data, _sentinels(column, values.data, values.null)
    if data.dtype.kind != "f":
        return Converted(Field(column.sql, column.type, data, null))
    finite = np.isfinite(data)
    if not finite.all():
        nan = np.isnan(data)
        infinite = ~(finite | nan)
        refusals = _refuse(_but(infinite, null), "value_infinite", source, "a finite number")
        null = _or(null, ~finite)
    else:
        refusals = ()
    if data.dtype.itemsize > _DTYPE[column.type].itemsize:
        large = _but(np.abs(data) > _FLOAT32, null)
        if large.any():
            refusals += _refuse(large, "value_out_of_range", source, "a 32-bit float")
            null = _or(null, large)
        # What is NULL is not sent, but a value that overflows in the cast would warn.
        data = np.where(null, 0, data) if null is not None and null.any() else data
    return Converted(Field(column.sql, column.type, data, null), refusals)


def _but(rows: Bool, null: Bool | None) -> Bool:
    """Rows without those that are NULL anyhow."""
    return rows if null is None else rows & ~null


def _integer(column: Column, source: str, values: Values) -> Converted:
    target = _DTYPE[column.type]
    data, null = values.data, _sentinels(column, values.data, values.null)
    refusals: tuple[Refusal, ...] = ()
    if data.dtype.kind == "f":
        null = _or(null, np.isnan(data))
        clean = np.where(null, 0, data) if null is not None else data
        broken = (clean != np.trunc(clean)) | (np.abs(clean) >= _EXACT) | ~np.isfinite(clean)
        refusals = _refuse(broken, "value_not_integer", source, f"a whole number ({column.type})")
        data = np.where(broken, 0, clean).astype(np.int64)
        null = _or(null, broken)
    if data.dtype.kind == "u" or data.dtype.itemsize > target.itemsize:
        limits = np.iinfo(target)
        outside = data > np.array(limits.max).astype(data.dtype, casting="unsafe")
        if data.dtype.kind == "u" and data.dtype.itemsize < target.itemsize:
            outside = np.zeros(len(data), np.bool_)
        if data.dtype.kind == "i":
            outside = outside | (data < limits.min)
        outside = _but(outside, null)
        refusals += _refuse(
            outside, "value_out_of_range", source, f"{limits.min} to {limits.max} ({column.type})"
        )
        null = _or(null, outside) if outside.any() else null
    return Converted(Field(column.sql, column.type, data, null), refusals)


def _boolean(column: Column, source: str, values: Values) -> Converted:
    data, null = values.data, values.null
    if data.dtype.kind == "f":
        null = _or(null, np.isnan(data))
    if data.dtype.kind == "b":
        return Converted(Field(column.sql, column.type, data, null))
    other = _but((data != 0) & (data != 1), null)
    refusals = _refuse(other, "value_out_of_range", source, "0 or 1")
    return Converted(Field(column.sql, column.type, data == 1, _or(null, other)), refusals)


def _text(column: Column, source: str, values: Values) -> Converted:
    data, null = values.data, values.null
    if data.dtype.kind == "f":
        null = _or(null, np.isnan(data))
    if data.dtype.kind != "S":
        data = data.astype("S32")
    codes = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), data.dtype.itemsize)
    foreign = (codes > 127).any(axis=1)
    zero_inside = ((codes[:, :-1] == 0) & (codes[:, 1:] != 0)).any(axis=1)
    if not foreign.any() and not zero_inside.any():
        return Converted(Field(column.sql, "text", data, null))
    broken = zero_inside
    if foreign.any():
        rows = np.flatnonzero(foreign)
        # Non-ASCII text is rare; only these values are looked at one by one.
        broken[rows] |= np.array([not _is_utf8(bytes(one)) for one in data[rows]])
    refusals = _refuse(broken, "text_not_utf8", source, "UTF-8 text without zero bytes")
    return Converted(Field(column.sql, "text", data, _or(null, broken)), refusals)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _vector(column: Column, source: str, values: Values) -> Converted:
    assert column.length is not None
    data, null = values.data, values.null
    refusals: tuple[Refusal, ...] = ()
    if data.dtype.kind == "S":
        data, null, unreadable = _parse_vectors(values, column.length)
        expected = f"[a,b,...] with {column.length} numbers"
        refusals = _refuse(unreadable, "value_not_a_vector", source, expected)
    if data.ndim != 2 or data.shape[1] != column.length:
        found = data.shape[1] if data.ndim == 2 else 1
        raise FileError(source, f"has {found} values per row, {column.name} needs {column.length}.")
    empty = np.isnan(data).all(axis=1) if data.dtype.kind == "f" else None
    null = _or(null, empty)
    if data.dtype.kind == "f":
        infinite = _but(np.isinf(data).any(axis=1), null)
        refusals += _refuse(infinite, "value_infinite", source, "finite numbers")
        null = _or(null, infinite) if infinite.any() else null
    if data.dtype.kind == "f" and data.dtype.itemsize > 4:
        large = _but((np.abs(data) > _FLOAT32).any(axis=1), null)
        refusals += _refuse(large, "value_out_of_range", source, "32-bit floats")
        null = _or(null, large)
        data = np.where(null[:, None], 0, data) if null is not None and null.any() else data
    return Converted(Field(column.sql, column.type, data, null), refusals)


def stack(parts: list[Values]) -> Values:
    """A vector column from its scalar parts; NULL where every part is NULL."""
    data = np.stack([part.data.astype(np.float64) for part in parts], axis=1)
    nulls = np.stack(
        [np.zeros(len(data), np.bool_) if p.null is None else p.null for p in parts], axis=1
    )
    data[nulls] = np.nan
    return Values(data, np.asarray(nulls.all(axis=1), np.bool_))


def _strings(values: Values) -> pa.Array:
    """Arrow strings, trimmed, with everything that means "no value" NULL."""
    array = pa.array(values.data.astype(object), type=pa.binary(), mask=values.null)
    try:
        array = array.cast(pa.string())
    except pa.ArrowInvalid:
        # Rare: another encoding. No such text is a number, so it need not be read well.
        readable = [one.decode("utf-8", "replace") for one in values.data.tolist()]
        array = pa.array(readable, type=pa.string(), mask=values.null)
    text = pc.utf8_trim_whitespace(array)
    empty = pc.is_in(text, value_set=pa.array(_EMPTY))
    return pc.if_else(empty, pa.scalar(None, pa.string()), text)


def _numpy_mask(condition: pa.Array) -> Bool:
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), np.bool_)


_INTEGER = r"^[+-]?[0-9]{1,19}$"
_WHOLE_FLOAT = r"^([+-]?[0-9]{1,15})\.0*$"
_REAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?(inf|Inf|Infinity)$"


def parse_numbers(values: Values, type_name: str) -> tuple[Values, Bool]:
    """Numbers written as text; returns them and the rows that hold no such number.

    Integers are parsed as integers, never through a float; ``12.0`` is one, as long as a float
    could hold it exactly.
    """
    text = _strings(values)
    if type_name == "boolean":
        lower = pc.utf8_lower(text)
        known = pc.is_in(lower, value_set=pa.array(["true", "false", "t", "f", "1", "0"]))
        truth = pc.is_in(lower, value_set=pa.array(["true", "t", "1"]))
        null = _numpy_mask(pc.is_null(text))
        return Values(_numpy_mask(truth), null), ~_numpy_mask(known) & ~null
    whole = _DTYPE[type_name].kind == "i"
    if whole:
        text = pc.replace_substring_regex(text, _WHOLE_FLOAT, r"\1")
    fits = pc.match_substring_regex(text, _INTEGER if whole else _REAL)
    null = _numpy_mask(pc.is_null(text))
    bad = ~_numpy_mask(fits) & ~null
    clean = pc.if_else(pc.fill_null(fits, False), text, "0")
    if whole:
        try:
            numbers = pc.cast(pc.utf8_ltrim(clean, "+"), pa.int64())
        except pa.ArrowInvalid:
            # 19 digits may exceed 64 bits; decimals hold them, and the range check refuses.
            wide = pc.cast(pc.utf8_ltrim(clean, "+"), pa.decimal128(20))
            inside = pc.and_(
                pc.less_equal(wide, pa.scalar(2**63 - 1, pa.decimal128(20))),
                pc.greater_equal(wide, pa.scalar(-(2**63), pa.decimal128(20))),
            )
            bad |= ~_numpy_mask(inside)
            zero = pa.scalar(0, pa.decimal128(20))
            numbers = pc.cast(pc.if_else(inside, wide, zero), pa.int64())
    else:
        numbers = pc.cast(pc.utf8_ltrim(clean, "+"), pa.float64())
    return Values(numbers.to_numpy(zero_copy_only=False), null | bad), bad


def _parse_vectors(values: Values, length: int) -> tuple[NDArray[np.float64], Bool, Bool]:
    text = pc.utf8_trim(_strings(values), "[](){} ")
    null = _numpy_mask(pc.is_null(text))
    parts = pc.split_pattern(text, ",")
    right = _numpy_mask(pc.equal(pc.list_value_length(parts), length))
    filler = pa.scalar(",".join(["nan"] * length))
    flat = pc.split_pattern(pc.if_else(pa.array(right), text, filler), ",").flatten()
    raw = flat.to_numpy(zero_copy_only=False).astype("S")
    numbers, bad = parse_numbers(Values(raw), "double precision")
    assert numbers.null is not None
    data = np.where(numbers.null, np.nan, numbers.data).reshape(-1, length)
    unreadable = (~right & ~null) | bad.reshape(-1, length).any(axis=1)
    return data, null | unreadable, unreadable
