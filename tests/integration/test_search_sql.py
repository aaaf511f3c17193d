"""Similarity search as SQL functions: right answers, always k rows, and clear refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from search_database import DIMENSION, N, Searchable, searchable_database

from astropt_db.database.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def sky(server: EmbeddedServer, template: str) -> Iterator[Searchable]:
    with searchable_database(server, template) as found:
        yield found


@pytest.fixture(scope="module")
def connection(sky: Searchable) -> Iterator[psycopg.Connection]:
    with psycopg.connect(sky.database.url, autocommit=True) as connection:
        yield connection


def ask(connection: psycopg.Connection, call: str, *values: Any) -> list[tuple[Any, ...]]:
    query = f"SELECT object_id, similarity, rank, method, recall FROM astropt.{call}"
    return connection.execute(query, values).fetchall()


def ids_of(rows: list[tuple[Any, ...]]) -> list[int]:
    return [row[0] for row in rows]


def test_similar_is_the_exact_answer_without_the_object(
    sky: Searchable, connection: psycopg.Connection
) -> None:
    for one in sky.ids[:5].tolist():
        rows = ask(connection, "similar(%s, 20)", one)
        assert ids_of(rows) == sky.nearest(sky.vector(one), 20, (one,))
        assert [row[2] for row in rows] == list(range(1, 21))
        similarities = [row[1] for row in rows]
        assert similarities == sorted(similarities, reverse=True)
        assert {row[3:] for row in rows} == {("exact", 1.0)}


def test_similar_to_a_vector_whatever_its_length(
    sky: Searchable, connection: psycopg.Connection
) -> None:
    vector = sky.vectors[7]
    for scale in (1.0, 1e-9, 1e9):
        rows = ask(connection, "similar_to(%s::real[], 5)", (vector * scale).tolist())
        assert ids_of(rows) == sky.nearest(vector, 5)
        assert rows[0][1] == pytest.approx(1, abs=1e-5)
    rows = ask(connection, "similar_to(%s::real[], 5, excluded => %s)", vector.tolist(),
               [int(sky.ids[7])])  # fmt: skip
    assert ids_of(rows) == sky.nearest(vector, 5, (int(sky.ids[7]),))


def test_likes_and_dislikes(sky: Searchable, connection: psycopg.Connection) -> None:
    unit = sky.vectors / np.linalg.norm(sky.vectors, axis=1, keepdims=True)
    likes, dislikes = sky.ids[:3].tolist(), sky.ids[3:5].tolist()
    rows = ask(connection, "similar_to_sets(%s, k => 10)", likes)
    assert ids_of(rows) == sky.nearest(unit[:3].mean(axis=0), 10, tuple(likes))
    rows = ask(connection, "similar_to_sets(%s, %s, 10)", likes, dislikes)
    query = unit[:3].mean(axis=0) - 0.5 * unit[3:5].mean(axis=0)
    assert set(ids_of(rows)[:8]) <= set(sky.nearest(query, 10, (*likes, *dislikes)))
    assert rows == ask(connection, "similar_to_sets(%s, %s, 10)", [*likes, likes[0]], dislikes)


@pytest.mark.parametrize("share", [1, 3, 100, 1000])
def test_a_filter_leaves_k_rows(
    sky: Searchable, connection: psycopg.Connection, share: int
) -> None:
    one = int(sky.ids[0])
    allowed = sky.ids[sky.ids % share == 0]
    # numpy's % is never negative, PostgreSQL's may be; both are 0 for the same numbers.
    select = f"SELECT e.object_id FROM astropt.embedding AS e WHERE e.object_id % {share} = 0"
    rows = ask(connection, "similar(%s, 10, NULL, %s)", one, select)
    expected = sky.nearest(sky.vector(one), 10, (one,), allowed)
    assert ids_of(rows) == expected
    assert len(expected) == min(10, len(allowed) - (one in allowed))


def test_forms_of_a_filter(sky: Searchable, connection: psycopg.Connection) -> None:
    one = int(sky.ids[0])
    connection.execute("CREATE TABLE chosen AS SELECT object_id FROM astropt.embedding LIMIT 40")
    expected = ask(connection, "similar(%s, 10, NULL, 'chosen')", one)
    assert len(expected) == 10
    for text in (
        "TABLE chosen",
        "SELECT object_id FROM chosen; ",
        "SELECT object_id FROM chosen -- a comment",
        "WITH s AS (TABLE chosen) SELECT object_id FROM s WHERE ';)' <> '('",
        "public.chosen",
        'public."chosen"',
    ):
        assert ask(connection, "similar(%s, 10, NULL, %s)", one, text) == expected


REFUSED = {
    "no relation": ("nothing.there", "neither a relation nor a SELECT"),
    "empty": ("  ", "neither a relation nor a SELECT"),
    "two statements": ("SELECT 1 AS object_id; SELECT 2", "not one statement"),
    "breaking out": ("SELECT 1) AS f); DROP TABLE astropt.embedding; --", "syntax error"),
    "open comment": ("SELECT 1 AS object_id /*", "unterminated"),
    "writing": ("DELETE FROM astropt.embedding RETURNING object_id", "more than read"),
    "writing inside": (
        "WITH d AS (DELETE FROM astropt.embedding RETURNING object_id) TABLE d",
        "more than read",
    ),
    "a command": ("VACUUM", "neither a relation"),
    "a setting": ("SHOW work_mem", "more than read"),
    "no id": ("SELECT 1 AS x", "no column object_id"),
    "a float": ("SELECT 1e17::float8 AS object_id", "double precision, not bigint"),
    "a decimal": ("SELECT 1.5 AS object_id", "numeric, not bigint"),
    "a parameter": ("SELECT $1 AS object_id", "no parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_filter_is_refused(
    sky: Searchable, connection: psycopg.Connection, name: str
) -> None:
    text, message = REFUSED[name]
    with pytest.raises(psycopg.Error, match=message):
        ask(connection, "similar(%s, 10, NULL, %s)", int(sky.ids[0]), text)
    assert connection.execute("SELECT count(*) FROM astropt.embedding").fetchone() == (N,)


def test_functions_lend_no_rights(sky: Searchable, connection: psycopg.Connection) -> None:
    one = int(sky.ids[0])
    connection.execute("CREATE TABLE secret AS SELECT object_id FROM astropt.embedding LIMIT 9")
    with psycopg.connect(sky.database.url) as reader:
        reader.execute("SET LOCAL ROLE astropt_reader")
        assert len(ask(reader, "similar(%s, 10)", one)) == 10
        with pytest.raises(psycopg.Error, match="permission denied for table secret"):
            ask(reader, "similar(%s, 10, NULL, 'secret')", one)


def test_a_filter_that_allows_nothing_says_so(
    sky: Searchable, connection: psycopg.Connection
) -> None:
    notices: list[str | None] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    select = "SELECT object_id FROM astropt.embedding WHERE false"
    assert ask(connection, "similar(%s, 10, NULL, %s)", int(sky.ids[0]), select) == []
    assert len(ask(connection, "similar(%s, %s)", int(sky.ids[0]), N + 10)) == N - 1
    assert notices == [
        "only 0 of 10 rows exist: the filter allows no other object with a vector of this encoder",
        f"only {N - 1} of {N + 10} rows exist",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("similar({one}, 0)", "k is 0; expected 1 to"),
        ("similar({one}, NULL)", "k is NULL"),
        ("similar({one}, -1)", "k is -1"),
        ("similar({one}, 2000000)", "k is 2000000"),
        ("similar(12)", "there is no object 12"),
        ("similar(NULL)", "id is NULL"),
        ("similar({one}, 10, 'none')", "no encoder 'none'"),
        ("similar({one}, 10, 'two')", "object {one} has no embedding of encoder two"),
        ("similar_to('{{1,2}}')", f"has 2 numbers; encoder one has vectors of {DIMENSION}"),
        ("similar_to(NULL)", "has no numbers"),
        ("similar_to(array_fill(0::real, ARRAY[48]))", "zero, or holds"),
        ("similar_to(array_fill('NaN'::real, ARRAY[48]))", "zero, or holds"),
        ("similar_to(array_fill('-Infinity'::real, ARRAY[48]))", "zero, or holds"),
        ("similar_to(array_fill(NULL::real, ARRAY[48]))", "zero, or holds"),
        ("similar_to_sets('{{}}')", "no object is liked"),
        ("similar_to_sets(ARRAY[{one}], ARRAY[{one}])", "both liked and disliked: {one}"),
        ("similar_to_sets(ARRAY[{one}, 12])", "no object 12"),
        ("similar_to_sets(ARRAY[{one}], ARRAY[12])", "no object 12"),
    ],
)
def test_bad_arguments(
    sky: Searchable, connection: psycopg.Connection, call: str, message: str
) -> None:
    one = int(sky.ids[0])
    with pytest.raises(psycopg.Error, match=message.format(one=one)):
        ask(connection, call.format(one=one))


def test_an_unknown_id_suggests_near_ones(sky: Searchable, connection: psycopg.Connection) -> None:
    # Among others what a float makes of an id, and ends of the range.
    for wrong in (-570_040_238_507_005_000, 2**63 - 1, -(2**63)):
        with pytest.raises(psycopg.Error) as caught:
            ask(connection, "similar(%s)", wrong)
        assert caught.value.diag.message_primary == f"there is no object {wrong}"
        distance = [abs(int(one) - wrong) for one in sky.ids.tolist()]
        nearest = int(sky.ids[int(np.argmin(distance))])
        assert f"encoder one are {nearest}, " in str(caught.value.diag.message_hint)
    with pytest.raises(psycopg.Error) as caught:
        ask(connection, "similar(%s, 10, 'two')", int(sky.ids[0]))
    assert "has no embeddings yet" in str(caught.value.diag.message_hint)
