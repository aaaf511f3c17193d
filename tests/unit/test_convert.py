"""File values to database values: what becomes NULL, what is refused, what stays exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from astropt_db.errors import FileError
from astropt_db.ingest.convert import Converted, convert, parse_numbers, stack
from astropt_db.q1.products import Column
from astropt_db.q1.readers import Values


def column(kind: str, length: int | None = None, null: tuple[int, ...] = ()) -> Column:
    return Column("VALUE", kind, length, "", "meta.code", null, "")


def converted(kind: str, data: object, **options: object) -> Converted:
    null = options.pop("nulls", None)
    values = Values(np.asarray(data), None if null is None else np.asarray(null))
    return convert(column(kind, **options), "VALUE", values)


def texts(*words: str | bytes) -> np.ndarray:
    return np.array([word if isinstance(word, bytes) else word.encode() for word in words], "S")


def shown(result: Converted) -> list[object]:
    """Values for the database, with ``None`` for NULL."""
    values, null = result.field.data.tolist(), result.field.null
    return [None if null is not None and null[i] else one for i, one in enumerate(values)]


def refused(result: Converted) -> dict[str, list[int]]:
    """Rows that are refused, by reason."""
    return {one.reason: np.flatnonzero(one.rows).tolist() for one in result.refusals}


# Floats


def test_nan_is_null_and_infinity_is_refused() -> None:
    result = converted("real", [1.5, np.nan, np.inf, -np.inf])
    assert shown(result) == [1.5, None, None, None]
    assert refused(result) == {"value_infinite": [2, 3]}


def test_sentinels_are_null() -> None:
    assert shown(converted("real", [-99.0, -1.0, 2.0], null=(-99, -1))) == [None, None, 2.0]
    assert shown(converted("integer", [-99, -1, 2], null=(-99, -1))) == [None, None, 2]
    assert shown(converted("integer", [-99.0, 2.0], null=(-99, -1))) == [None, 2]


def test_a_double_that_no_real_can_hold_is_refused() -> None:
    result = converted("real", [1e300, 3.4e38, -1e39, np.nan])
    assert refused(result) == {"value_out_of_range": [0, 2]}
    assert shown(result) == [None, 3.4e38, None, None]
    assert refused(converted("double precision", [1e300])) == {}


def test_what_is_null_anyhow_is_not_refused() -> None:
    result = converted("real", [np.inf, 1e300, 5.0], nulls=[True, True, False])
    assert shown(result) == [None, None, 5.0]
    assert refused(result) == {}


def test_byte_order_does_not_matter() -> None:
    big = np.array([1.5, np.inf, np.nan], ">f4")
    assert shown(converted("real", big)) == [1.5, None, None]
    assert shown(converted("integer", np.array([7, -2], ">i8"))) == [7, -2]


# Integers


def test_whole_floats_become_integers() -> None:
    result = converted("smallint", [1.0, np.nan, -3.0, 0.5, np.inf, 2.0**53])
    assert shown(result) == [1, None, -3, None, None, None]
    assert refused(result) == {"value_not_integer": [3, 4, 5]}


@pytest.mark.parametrize("kind", ["smallint", "integer", "bigint"])
def test_integers_at_the_limits(kind: str) -> None:
    limits = np.iinfo({"smallint": "i2", "integer": "i4", "bigint": "i8"}[kind])
    result = converted(kind, np.array([limits.min, limits.max], "i8"))
    assert shown(result) == [limits.min, limits.max]
    assert refused(result) == {}
    if kind != "bigint":
        beyond = np.array([limits.min - 1, limits.max + 1, 0], "i8")
        assert refused(converted(kind, beyond)) == {"value_out_of_range": [0, 1]}


def test_unsigned_integers() -> None:
    assert shown(converted("smallint", np.array([255], "u1"))) == [255]
    assert shown(converted("integer", np.array([2**16 - 1], "u2"))) == [65535]
    result = converted("bigint", np.array([2**63, 2**63 - 1], "u8"))
    assert shown(result) == [None, 2**63 - 1]
    assert refused(result) == {"value_out_of_range": [0]}
    assert refused(converted("integer", np.array([2**31], "u4"))) == {"value_out_of_range": [0]}


def test_out_of_range_counts_only_where_there_is_a_value() -> None:
    result = converted("smallint", np.array([70_000, 70_000], "i4"), nulls=[True, False])
    assert refused(result) == {"value_out_of_range": [1]}


# Booleans


def test_booleans() -> None:
    assert shown(converted("boolean", [True, False])) == [True, False]
    result = converted("boolean", [1.0, 0.0, np.nan, 2.0])
    assert shown(result) == [True, False, None, None]
    assert refused(result) == {"value_out_of_range": [3]}
    result = converted("boolean", texts("T", "false", "1", "", "maybe"))
    assert shown(result)[:4] == [True, False, True, None]
    assert refused(result) == {"value_not_numeric": [4]}


# Text to numbers


@pytest.mark.parametrize("word", ["", "nan", "NaN", "null", "None", "--", "N/A", "  "])
def test_words_for_no_value(word: str) -> None:
    assert shown(converted("real", texts(word, "1"))) == [None, 1.0]
    assert shown(converted("integer", texts(word, "1"))) == [None, 1]


def test_numbers_written_as_text() -> None:
    result = converted("real", texts("1.5", " -.5e1 ", "+7", "1,5", "0x10", "1e400", "inf"))
    assert shown(result) == [1.5, -5.0, 7.0, None, None, None, None]
    assert refused(result) == {"value_not_numeric": [3, 4], "value_infinite": [5, 6]}


def test_integers_are_never_parsed_through_a_float() -> None:
    words = ["2684805874647806467", "-532257415282400330", "+9007199254740993"]
    result = converted("bigint", texts(*words))
    assert shown(result) == [int(word) for word in words]


def test_integers_of_19_digits_beyond_64_bits() -> None:
    words = ["9223372036854775807", "9223372036854775808", "-9223372036854775808", "9" * 19]
    result = converted("bigint", texts(*words, "1" * 20))
    assert shown(result) == [2**63 - 1, None, -(2**63), None, None]
    assert refused(result) == {"value_not_numeric": [1, 3, 4]}


def test_whole_numbers_with_a_decimal_point() -> None:
    result = converted("integer", texts("12.0", "-3.", "12.5", "1e3"))
    assert shown(result) == [12, -3, None, None]
    assert refused(result) == {"value_not_numeric": [2, 3]}
    # With so many digits it may have been rounded by the float that wrote it.
    assert refused(converted("bigint", texts("5322574152824003.0"))) == {"value_not_numeric": [0]}


def test_text_numbers_are_checked_against_their_column() -> None:
    assert refused(converted("smallint", texts("40000", "1"))) == {"value_out_of_range": [0]}
    assert shown(converted("integer", texts("-99", "4"), null=(-99,))) == [None, 4]


def test_text_of_another_encoding_is_no_number() -> None:
    result = converted("integer", texts("5", b"\xff1", "µ"))
    assert shown(result) == [5, None, None]
    assert refused(result) == {"value_not_numeric": [1, 2]}


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=8))
def test_every_bigint_survives_its_spelling(numbers: list[int | None]) -> None:
    words = texts(*("" if one is None else str(one) for one in numbers)).astype("S20")
    assert shown(converted("bigint", words)) == numbers


@given(hnp.arrays("f8", st.integers(0, 8), elements={"allow_infinity": False}))
def test_every_double_survives_its_spelling(numbers: np.ndarray) -> None:
    words = numbers.astype("S32")
    values, bad = parse_numbers(Values(words), "double precision")
    assert not bad.any()
    assert values.null is not None
    np.testing.assert_array_equal(np.where(values.null, np.nan, values.data), numbers)


# Text


def test_text_is_kept_as_it_is() -> None:
    result = converted("text", texts("EDF-N", "µJy", " a "), nulls=[False, False, False])
    assert [one.decode() for one in result.field.data] == ["EDF-N", "µJy", " a "]
    assert refused(result) == {}


def test_text_that_postgresql_cannot_hold_is_refused() -> None:
    result = converted("text", texts("good", b"\xff", b"a\0b", "µ"))
    assert refused(result) == {"text_not_utf8": [1, 2]}


def test_numbers_in_a_text_column_are_spelled_out() -> None:
    assert shown(converted("text", np.array([2684805874647806467]))) == [b"2684805874647806467"]
    # An empty column arrives as floats from some archives.
    assert shown(converted("text", [np.nan, 0.5])) == [None, b"0.5"]


# Vectors


def test_vectors() -> None:
    data = np.array([[1.0, 2.0], [np.nan, 2.0], [np.nan, np.nan], [np.inf, 1.0]], ">f4")
    result = converted("real[]", data, length=2)
    assert repr(shown(result)) == "[[1.0, 2.0], [nan, 2.0], None, None]"
    assert refused(result) == {"value_infinite": [3]}


def test_vectors_of_doubles_must_fit_reals() -> None:
    result = converted("real[]", [[1e300, np.nan], [1.0, np.nan]], length=2)
    assert refused(result) == {"value_out_of_range": [0]}
    assert repr(shown(result)) == "[None, [1.0, nan]]"


def test_vectors_written_as_text() -> None:
    words = texts("[0.269,4.884]", "[NaN,NaN]", "", "(1, 2)", "[0.5, null]", "[1]", "[a,b]", "7")
    result = converted("real[]", words, length=2)
    assert repr(shown(result)) == (
        "[[0.269, 4.884], None, None, [1.0, 2.0], [0.5, nan], None, None, None]"
    )
    assert refused(result) == {"value_not_a_vector": [5, 6, 7]}


def test_a_vector_of_another_length_fails_the_file() -> None:
    with pytest.raises(FileError, match="3 values per row, VALUE needs 2"):
        converted("real[]", np.zeros((4, 3)), length=2)
    with pytest.raises(FileError, match="1 values per row, VALUE needs 2"):
        converted("real[]", np.zeros(4), length=2)


def test_a_vector_from_its_scalar_parts() -> None:
    parts = [
        Values(np.array([1, 2, 3]), np.array([False, True, True])),
        Values(np.array([0.5, np.nan, 9.0], ">f4"), np.array([False, False, True])),
    ]
    stacked = stack(parts)
    np.testing.assert_array_equal(stacked.data, [[1, 0.5], [np.nan, np.nan], [np.nan, np.nan]])
    assert stacked.null is not None
    assert stacked.null.tolist() == [False, False, True]
    result = convert(column("real[]", 2), "V1 + V2", stacked)
    assert shown(result) == [[1.0, 0.5], None, None]


def test_refusals_name_the_column_and_what_it_can_hold() -> None:
    (refusal,) = converted("smallint", [40_000]).refusals
    assert refusal.column == "VALUE"
    assert refusal.expected == "-32768 to 32767 (smallint)"


@pytest.mark.parametrize("kind", ["real", "bigint", "text", "boolean"])
def test_no_rows(kind: str) -> None:
    assert shown(converted(kind, np.empty(0, "S4"))) == []
    assert shown(converted(kind, np.empty(0, "f8"))) == []
