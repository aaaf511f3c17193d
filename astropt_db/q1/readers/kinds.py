"""Which type a column of a text file has, found by reading all of it once.

Types found in the first rows do not hold: a column that is empty or whole-numbered in one tile
is a float in the next thousand rows, and an identifier that passes through a float is lost.
So every column is read to its end before its type is settled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

NULL_WORDS = ("", "NaN", "nan", "null", "NULL", "--", "N/A")
"""Words for "no value" in columns of numbers and booleans; in texts only the empty one is."""

TRUE_WORDS = ("true", "TRUE", "True")
FALSE_WORDS = ("false", "FALSE", "False")

_IDENTIFIER = re.compile(
    r"(.*[_ .])?((object|source|target|specobj|obj|gaia|euclid)?id)(_[a-z0-9]{1,2}|_euclid)?",
    re.IGNORECASE,
)
"""``object_id``, ``objectid``, ``GAIA_ID``; also as joins rename it: ``Euclid_ID_x``, ``id_2``."""

_EXACT = 2**53
"""From here on a float64 cannot tell whole numbers apart."""

_VECTOR = r"^\s*\[[^\[\]]*\]\s*$"
_WHOLE = r"^[ \t]*[-+]?[0-9]+[ \t]*$"


class Kind(Enum):
    """Type of a column."""

    EMPTY = "no value at all"
    BOOL = "boolean"
    INT = "int64"
    FLOAT = "float64"
    VECTOR = "float64 vector"
    TEXT = "text"


@dataclass(frozen=True)
class Seen:
    """What a column, or a part of one, holds.

    Attributes
    ----------
    kind
        The narrowest type that holds every value.
    length
        Values per row of a vector, else 0.
    large
        Whether a whole number is too large for a float to keep.
    blank
        Whether a value is missing.
    """

    kind: Kind = Kind.EMPTY
    length: int = 0
    large: bool = False
    blank: bool = False

    def __or__(self, other: Seen) -> Seen:
        kinds = {self.kind, other.kind} - {Kind.EMPTY}
        length = max(self.length, other.length)
        if len(kinds) == 2:
            kind = Kind.FLOAT if kinds == {Kind.INT, Kind.FLOAT} else Kind.TEXT
        elif kinds == {Kind.VECTOR} and {self.length, other.length} - {0, length}:
            kind = Kind.TEXT
        else:
            kind = kinds.pop() if kinds else Kind.EMPTY
        return Seen(kind, length, self.large or other.large, self.blank or other.blank)


def settle(name: str, seen: Seen) -> Seen:
    """Final type of a column: identifiers are int64 in every row, or the text as written.

    An identifier is a column with such a name, or one with whole numbers beyond 2^53.
    """
    if not (seen.large or is_identifier(name)):
        return seen
    return seen if seen.kind is Kind.INT and not seen.blank else Seen(Kind.TEXT)


def is_identifier(name: str) -> bool:
    """Whether a column of this name holds identifiers."""
    return _IDENTIFIER.fullmatch(name) is not None


def find_kinds(names: Iterable[str], batches: Iterable[pa.RecordBatch]) -> dict[str, Seen]:
    """What every column holds, from batches with ``NULL_WORDS`` as nulls.

    Columns come as text or, to save time, as the numbers that ``expect`` made of them.

    Raises
    ------
    NeedsTextError
        If a column that came as numbers must be seen as text.
    """
    seen = {name: Seen() for name in names}
    exact = {name for name in seen if is_identifier(name)}
    for batch in batches:
        for name, so_far in seen.items():
            if so_far.kind is not Kind.TEXT:
                array = batch.column(name)
                is_text = pa.types.is_string(array.type)
                part = _look(array, so_far.kind, name in exact) if is_text else _numbers(array)
                seen[name] = so_far | part
    return seen


class NeedsTextError(ValueError):
    """Numbers are so large that only their text tells what they are."""


def expect(first: dict[str, Seen]) -> dict[str, pa.DataType]:
    """Types to read the columns with, from what their first rows hold.

    Columns of ordinary numbers are parsed as such, which takes a third of the time of looking
    at their texts; should they turn out to be something else, reading them fails.
    """
    numbers = {Kind.INT: pa.int64(), Kind.FLOAT: pa.float64()}
    return {
        name: pa.string()
        if seen.large or is_identifier(name)
        else numbers.get(seen.kind, pa.string())
        for name, seen in first.items()
    }


def parse_vectors(texts: pa.Array, value_type: pa.DataType) -> pa.Array | None:
    """Lists of numbers from texts such as ``[0.269,4.884]``; ``None`` if any text is not one."""
    if not pc.all(pc.match_substring_regex(texts, _VECTOR)).as_py():
        return None
    parts = pc.split_pattern(pc.utf8_trim(texts, characters="[] \t"), ",")
    numbers = _cast(without_null_words(pc.ascii_trim(parts.values, characters=" \t")), value_type)
    if numbers is None:
        return None
    return pa.ListArray.from_arrays(parts.offsets, numbers, mask=parts.is_null())


def without_null_words(texts: pa.Array) -> pa.Array:
    """The texts with null in the place of every one of ``NULL_WORDS``."""
    none = pa.scalar(None, texts.type)
    return pc.if_else(pc.is_in(texts, pa.array(NULL_WORDS, texts.type)), none, texts)


def _numbers(numbers: pa.Array) -> Seen:
    blank = numbers.null_count > 0
    if numbers.null_count == len(numbers):
        return Seen(blank=blank)
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] <= -_EXACT or bounds["max"] >= _EXACT:
        raise NeedsTextError
    return Seen(Kind.INT if pa.types.is_integer(numbers.type) else Kind.FLOAT, blank=blank)


def _look(texts: pa.Array, guess: Kind, exact: bool) -> Seen:
    blank = texts.null_count > 0
    if texts.null_count == len(texts):
        return Seen(Kind.EMPTY, blank=blank)
    looks = {Kind.INT: _integers, Kind.FLOAT: _floats, Kind.BOOL: _booleans, Kind.VECTOR: _vectors}
    # The type of the rows before comes first: it is nearly always the type of these, too.
    for kind in sorted(looks, key=lambda kind: kind is not guess):
        if (found := looks[kind](texts)) is not None:
            if kind is Kind.INT and (exact or found.large) and not _round_trips(texts):
                break
            return Seen(found.kind, found.length, found.large, blank)
    return Seen(Kind.TEXT, blank=blank)


def _integers(texts: pa.Array) -> Seen | None:
    numbers = _cast(texts, pa.int64())
    if numbers is None:
        return None
    bounds = pc.min_max(numbers).as_py()
    return Seen(Kind.INT, large=bounds["min"] <= -_EXACT or bounds["max"] >= _EXACT)


def _floats(texts: pa.Array) -> Seen | None:
    numbers = _cast(texts, pa.float64())
    if numbers is None:
        return None
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] > -_EXACT and bounds["max"] < _EXACT:
        return Seen(Kind.FLOAT)
    large = pc.greater_equal(pc.abs(numbers), float(_EXACT))
    whole = pc.match_substring_regex(texts.filter(large), _WHOLE)
    return Seen(Kind.FLOAT, large=pc.any(whole).as_py() or False)


def _booleans(texts: pa.Array) -> Seen | None:
    words = pa.array((*TRUE_WORDS, *FALSE_WORDS, None), texts.type)
    return Seen(Kind.BOOL) if pc.all(pc.is_in(texts, words)).as_py() else None


def _vectors(texts: pa.Array) -> Seen | None:
    lists = parse_vectors(texts, pa.float64())
    if lists is None:
        return None
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    return Seen(Kind.VECTOR, lengths["max"]) if lengths["min"] == lengths["max"] else None


def _round_trips(texts: pa.Array) -> bool:
    """Whether int64 writes every number as it stands in the file (not so ``007``)."""
    trimmed = pc.ascii_trim(texts, characters=" \t")
    written = trimmed.cast(pa.int64()).cast(texts.type)
    return bool(pc.all(pc.equal(trimmed, written)).as_py())


def _cast(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
    for trial in (texts, None):
        try:
            # Blanks around numbers are trimmed, as the CSV reader does; few files have them.
            source = pc.ascii_trim(texts, characters=" \t") if trial is None else trial
            return pc.cast(source, kind)
        except pa.ArrowInvalid:
            continue
    return None
