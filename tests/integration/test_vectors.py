"""Vectors in and out of the database."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from psycopg import sql
from vector_database import add_encoder

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder, list_encoders
from astropt_db.database.vectors import copy_vectors, load_vectors, read_vectors, to_float32
from astropt_db.errors import ConfigurationError, DatabaseError

DIMENSION = 24


def vectors(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, DIMENSION)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
@pytest.mark.parametrize("batch", [1, 7, 16_384])
def test_what_goes_in_comes_out(ready_database: Database, n: int, batch: int) -> None:
    encoder = add_encoder(ready_database, "one", DIMENSION)
    ids = np.random.default_rng(2).permutation(n).astype(np.int64) - (1 << 62)
    with connect(ready_database) as connection, connection.cursor() as cursor:
        assert copy_vectors(cursor, encoder, 1, ids, vectors(n)) == n
        parts = list(read_vectors(cursor, encoder, batch=batch))
        everything = load_vectors(cursor, encoder)
    assert all(len(part) <= batch for part in parts)
    assert sum(map(len, parts)) == n
    order = np.argsort(ids)
    np.testing.assert_array_equal(everything.object_id, ids[order])
    np.testing.assert_array_equal(everything.vectors, vectors(n)[order].astype(np.float16))


def test_every_finite_half_is_exact_as_float32() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert len(halves) == 65536 - 2048
    singles = to_float32(halves)
    assert singles.dtype == np.float32
    np.testing.assert_array_equal(singles.view(np.int32), halves.astype(np.float32).view(np.int32))


def test_some_objects_only(ready_database: Database) -> None:
    encoder = add_encoder(ready_database, "one", DIMENSION)
    with connect(ready_database) as connection, connection.cursor() as cursor:
        copy_vectors(cursor, encoder, 1, np.arange(10), vectors(10))
        some = sql.SQL("SELECT generate_series(3, 5) AS object_id")
        found = load_vectors(cursor, encoder, some)
    assert found.object_id.tolist() == [3, 4, 5]


def test_a_vector_is_finite_not_zero_and_of_the_right_length(ready_database: Database) -> None:
    encoder = add_encoder(ready_database, "one", DIMENSION)
    good = vectors(1)
    for bad in (np.nan, np.inf, 1e6, 0.0):
        with connect(ready_database) as connection, connection.cursor() as cursor:
            broken = good * 0 if bad == 0 else np.where(np.arange(DIMENSION) == 3, bad, good)
            with (
                np.errstate(over="ignore"),
                pytest.raises((psycopg.DataError, psycopg.IntegrityError)),
            ):
                copy_vectors(cursor, encoder, 1, np.array([1]), broken)
    with connect(ready_database) as connection, connection.cursor() as cursor:
        with pytest.raises(DatabaseError, match=r"shape \(1, 23\); expected \(1, 24\)"):
            copy_vectors(cursor, encoder, 1, np.array([1]), good[:, 1:])
        with pytest.raises(psycopg.errors.CheckViolation):
            cursor.execute(
                "INSERT INTO astropt.embedding (object_id, encoder_id, run_id, embedding) "
                "VALUES (1, %s, 1, '[1,2]')",
                [encoder.id],
            )


def test_encoders_by_name(ready_database: Database) -> None:
    with connect(ready_database) as connection, pytest.raises(ConfigurationError, match="none yet"):
        find_encoder(connection)
    first = add_encoder(ready_database, "one", DIMENSION, current=True)
    add_encoder(ready_database, "two", DIMENSION)
    with connect(ready_database) as connection:
        assert [one.name for one in list_encoders(connection)] == ["one", "two"]
        assert find_encoder(connection) == first
        assert find_encoder(connection, "two").is_current is False
        with pytest.raises(ConfigurationError, match=r"no encoder 'three'.*there are: one, two"):
            find_encoder(connection, "three")
        assert connection.execute("SELECT astropt.encoder_id()").fetchone() == (first.id,)
        with pytest.raises(psycopg.Error, match="no encoder 'three'"):
            connection.execute("SELECT astropt.encoder_id('three')")


def test_a_partition_takes_vectors_of_its_encoder_only(ready_database: Database) -> None:
    encoder = add_encoder(ready_database, "one", DIMENSION)
    insert = sql.SQL(
        "INSERT INTO {} (object_id, encoder_id, run_id, embedding) VALUES (1, %s, 1, %s)"
    )
    values = [encoder.id + 1, str([1.0] * DIMENSION)]
    for table in (sql.Identifier("astropt", "embedding"), encoder.partition):
        with (
            connect(ready_database) as connection,
            pytest.raises(psycopg.errors.CheckViolation, match="partition"),
        ):
            connection.execute(insert.format(table), values)
