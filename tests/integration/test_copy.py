"""Rows through the binary COPY encoder into a real PostgreSQL and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from psycopg import sql

from astropt_db.database import copy
from astropt_db.database.copy import Field, copy_rows, encode, encode_batches, split_large
from astropt_db.database.embedded import EmbeddedServer

TABLE = sql.Identifier("pg_temp", "rows")
SCALARS = {
    "boolean": "?",
    "smallint": "i2",
    "integer": "i4",
    "bigint": "i8",
    "real": "f4",
    "double precision": "f8",
}
ARRAYS = {f"{name}[]": dtype for name, dtype in SCALARS.items()}
VECTORS = {"halfvec": "f2", "vector": "f4"}


@pytest.fixture(scope="module")
def cursor(server: EmbeddedServer) -> Iterator[psycopg.Cursor]:
    """Cursor that receives binary values, so that floats come back bit by bit."""
    server.create_database("copying")
    with (
        psycopg.connect(server.url("copying"), autocommit=True) as connection,
        connection.cursor(binary=True) as cursor,
    ):
        connection.prepare_threshold = None  # the table is another one each time
        cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        yield cursor


def stored(cursor: psycopg.Cursor, fields: Sequence[Field]) -> list[tuple[object, ...]]:
    """Copy rows into a new table and read them in the same order."""
    names = [sql.Identifier(field.name) for field in fields]
    types = (
        sql.SQL("{} {}").format(name, sql.SQL(field.type))
        for name, field in zip(names, fields, strict=True)
    )
    cursor.execute("DROP TABLE IF EXISTS pg_temp.rows")
    cursor.execute(sql.SQL("CREATE TEMPORARY TABLE rows ({})").format(sql.SQL(", ").join(types)))
    assert copy_rows(cursor, TABLE, fields) == len(fields[0].data)
    readable = (
        sql.SQL("{}::real[]").format(name) if field.type in VECTORS else name
        for name, field in zip(names, fields, strict=True)
    )
    query = sql.SQL("SELECT {} FROM rows ORDER BY ctid").format(sql.SQL(", ").join(readable))
    return cursor.execute(query).fetchall()


def expected(fields: Sequence[Field]) -> list[tuple[object, ...]]:
    return list(zip(*map(_python_values, fields), strict=True))


def _python_values(field: Field) -> list[object]:
    values = field.data.tolist()
    if field.type == "text":
        values = [value.decode() for value in values]
    elif field.type == "jsonb":
        values = [json.loads(value) for value in values]
    null = np.zeros(len(values), bool) if field.null is None else field.null
    return [None if none else value for value, none in zip(values, null, strict=True)]


def assert_same(cursor: psycopg.Cursor, fields: Sequence[Field]) -> None:
    # repr tells -0.0 from 0.0, and NaN is like NaN.
    assert repr(stored(cursor, fields)) == repr(expected(fields))


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, max_size=12)
values = st.integers(-(2**70), 2**70) | texts | st.none()
# jsonb sorts the keys of an object, so one key is enough here.
documents = st.dictionaries(texts, st.lists(values, max_size=3), max_size=1)


def _laid_out(draw: st.DrawFn, data: np.ndarray) -> np.ndarray:
    """The same values in another byte order, or with gaps between them."""
    layout = draw(st.sampled_from(["plain", "big-endian", "strided", "column-major"]))
    if layout == "big-endian":
        return data.astype(data.dtype.newbyteorder(">"))
    if layout == "strided":
        return np.repeat(data, 3, axis=0)[::3]
    return np.asfortranarray(data) if layout == "column-major" else data


@st.composite
def columns(draw: st.DrawFn, n_rows: int, number: int) -> Field:
    kind = draw(st.sampled_from([*SCALARS, *ARRAYS, *VECTORS, "text", "jsonb"]))
    if kind in ("text", "jsonb"):
        written = texts if kind == "text" else documents.map(json.dumps)
        data = np.array([draw(written).encode() for _ in range(n_rows)], "S")
    elif kind in SCALARS:
        data = draw(hnp.arrays(SCALARS[kind], n_rows))
    elif kind in ARRAYS:
        data = draw(hnp.arrays(ARRAYS[kind], (n_rows, draw(st.integers(1, 5)))))
    else:
        finite = {"allow_nan": False, "allow_infinity": False}
        shape = (n_rows, draw(st.integers(1, 5)))
        data = draw(hnp.arrays(VECTORS[kind], shape, elements=finite))
    null = draw(st.none() | hnp.arrays("?", n_rows))
    return Field(f"column {number}", kind, _laid_out(draw, data), null)


@st.composite
def batches(draw: st.DrawFn) -> list[Field]:
    n_rows = draw(st.integers(1, 6))
    return [draw(columns(n_rows, number)) for number in range(draw(st.integers(1, 5)))]


@settings(max_examples=120, deadline=None)
@given(fields=batches())
def test_every_type_and_layout_comes_back_as_it_went_in(
    cursor: psycopg.Cursor, fields: list[Field]
) -> None:
    assert_same(cursor, fields)


@pytest.mark.parametrize("kind", SCALARS)
def test_extremes_of_scalars(cursor: psycopg.Cursor, kind: str) -> None:
    dtype = np.dtype(SCALARS[kind])
    if dtype.kind == "i":
        data = np.array([np.iinfo(dtype).min, -1, 0, np.iinfo(dtype).max], dtype)
    elif dtype.kind == "f":
        tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
        data = np.array([-huge, -0.0, tiny, huge, np.nan, np.inf, -np.inf], dtype)
    else:
        data = np.array([False, True])
    assert_same(cursor, [Field("value", kind, data)])


def test_object_ids_stay_exact(cursor: psycopg.Cursor) -> None:
    ids = np.array([2684805874647806467, -532257415282400330], ">i8")
    assert stored(cursor, [Field("object_id", "bigint", ids)]) == [(one,) for one in ids.tolist()]


@pytest.mark.parametrize("kind", ["real[]", "double precision[]"])
def test_vectors_keep_nan_elements(cursor: psycopg.Cursor, kind: str) -> None:
    data = np.array([[np.nan, 1.5, -0.0], [np.nan, np.nan, np.nan]], ARRAYS[kind])
    assert_same(cursor, [Field("pdf", kind, data)])


def test_texts_of_different_lengths(cursor: psycopg.Cursor) -> None:
    words = ["", "EDF-N", "µJy", "星系", "🌌", "a\tb\n\\N"]
    data = np.array([word.encode() for word in words], "S")
    null = np.array([False, True, False, False, False, False])
    assert_same(cursor, [Field("text", "text", data), Field("same", "text", data, null)])


def test_no_rows_at_all(cursor: psycopg.Cursor) -> None:
    fields = [Field("id", "bigint", np.empty(0, "i8")), Field("name", "text", np.empty(0, "S4"))]
    assert stored(cursor, fields) == []


def test_columns_without_any_value_are_not_sent(cursor: psycopg.Cursor) -> None:
    everywhere = np.ones(3, bool)
    fields = [
        Field("id", "bigint", np.arange(3)),
        Field("flux", "real", np.full(3, np.nan, "f4"), everywhere),
        Field("pdf", "real[]", np.zeros((3, 601), "f4"), everywhere),
        Field("name", "text", np.array([b"a", b"b", b"c"]), np.array([True, False, True])),
    ]
    (batch,) = encode_batches(fields)
    assert batch.names == ("id", "name")
    assert_same(cursor, fields)


def test_rows_without_any_value_at_all(cursor: psycopg.Cursor) -> None:
    everywhere = np.ones(2, bool)
    fields = [
        Field("flux", "real", np.zeros(2, "f4"), everywhere),
        Field("name", "text", np.array([b"", b""]), everywhere),
    ]
    assert stored(cursor, fields) == [(None, None), (None, None)]


def test_one_long_text_does_not_widen_every_row(
    cursor: psycopg.Cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 100_000
    monkeypatch.setattr(copy, "_MAX_BATCH_BYTES", limit)
    words = [b"short"] * 1000
    words[700] = b"\xc3\xa9" * 25_000
    fields = [
        Field("id", "bigint", np.arange(1000)),
        Field("name", "text", np.array(words), np.arange(1000) % 7 == 6),
    ]
    pieces = split_large(fields)
    widths = [piece[1].data.dtype.itemsize for piece in pieces]
    assert widths.count(50_000) == 1
    assert sum(len(encode(piece)) for piece in pieces) < limit
    assert_same(cursor, fields)


def test_a_type_without_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="no binary layout for PostgreSQL type 'numeric'"):
        encode([Field("value", "numeric", np.arange(3))])


def test_rows_can_be_taken_from_a_column() -> None:
    field = Field("value", "real", np.arange(4.0), np.array([True, False, False, True]))
    taken = field.take(np.array([True, False, True, False]))
    assert taken.data.tolist() == [0.0, 2.0]
    assert taken.null is not None
    assert taken.null.tolist() == [True, False]
    assert field.take(slice(3, 4)).all_null
    assert not field.all_null
