"""Rows as JSON: exact numbers, escapes, NULLs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from astropt_db.ingest.json_rows import json_rows, json_values
from astropt_db.q1.readers import Values


def parsed(data: np.ndarray, null: list[bool] | None = None) -> list[object]:
    values = Values(data, None if null is None else np.array(null))
    return [json.loads(one) for one in json_values(values)]


@given(hnp.arrays(st.sampled_from(["f4", "f8", ">f4", ">f8"]), st.integers(0, 8)))
def test_floats_read_back_the_same(numbers: np.ndarray) -> None:
    back = np.array(
        [np.nan if one is None else float(one) for one in parsed(numbers)], numbers.dtype
    )
    np.testing.assert_array_equal(back, numbers)


def test_floats_are_as_short_as_their_precision() -> None:
    written = json_values(Values(np.array([0.1, 3e-45, 1e20], "f4")))
    assert written.tolist() == [b"0.1", b"3e-45", b"1e+20"]


def test_infinity_is_text_and_nan_is_null() -> None:
    assert parsed(np.array([np.inf, -np.inf, np.nan])) == ["inf", "-inf", None]


@given(hnp.arrays(st.sampled_from(["i8", "u8", ">i8"]), st.integers(0, 8)))
def test_64_bit_integers_are_strings(numbers: np.ndarray) -> None:
    assert parsed(numbers) == [str(one) for one in numbers.tolist()]


def test_smaller_integers_and_booleans() -> None:
    assert parsed(np.array([-(2**31), 2**31 - 1], ">i4")) == [-(2**31), 2**31 - 1]
    assert parsed(np.array([0, 255], "u1")) == [0, 255]
    assert parsed(np.array([True, False])) == [True, False]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=1))
def test_every_text_is_escaped(words: list[str]) -> None:
    data = np.array([word.encode() for word in words], "S")
    # PostgreSQL's jsonb holds no zero byte; at the end NumPy drops it.
    wanted = [word.rstrip("\0").replace("\0", "\ufffd") for word in words]
    assert parsed(data) == wanted
    assert parsed(np.repeat(data, 2)[::2]) == wanted


def test_bytes_that_are_no_utf8() -> None:
    assert parsed(np.array([b"\xff\xfe1", b"plain"])) == ["\ufffd\ufffd1", "plain"]


def test_null_wins_over_the_value() -> None:
    assert parsed(np.array([1, 2]), [True, False]) == [None, "2"]
    assert parsed(np.array([b"a", b'"']), [True, False]) == [None, '"']


def test_vectors() -> None:
    assert parsed(np.array([[0.5, np.nan], [1.0, np.inf]])) == [[0.5, None], [1.0, "inf"]]
    assert parsed(np.array([[1, 2**62], [3, 4]]), [False, True]) == [["1", str(2**62)], None]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_rows_of_any_number_of_columns(count: int) -> None:
    columns = {f"c{i}": Values(np.array([i, -i], "i4")) for i in range(count)}
    rows = [json.loads(row) for row in json_rows(columns)]
    assert rows == [{f"c{i}": i for i in range(count)}, {f"c{i}": -i for i in range(count)}]


def test_column_names_are_escaped() -> None:
    names = ['a"b', "E(B-V)", "µJy", "back\\slash", "'; DROP TABLE run; --"]
    columns = {name: Values(np.array([0.5])) for name in names}
    assert json.loads(json_rows(columns)[0]) == dict.fromkeys(names, 0.5)
