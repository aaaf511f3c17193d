"""The share of a source is the same in SQL and in NumPy, and depends on its id alone."""

from __future__ import annotations

import numpy as np
from psycopg import sql

from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.split import SPLITS, in_split, percentile_of, split_of


def euclid_ids(n: int) -> np.ndarray:
    """Ids as Euclid makes them, from positions on the whole sky."""
    rng = np.random.default_rng(7)
    ra = np.round(rng.uniform(0, 360, n) * 1e7).astype(np.int64)
    dec = np.round(rng.uniform(-90, 90, n) * 1e7).astype(np.int64)
    return np.sign(dec) * (ra * 1_000_000_000 + np.abs(dec))


def test_sql_and_numpy_agree(ready_database: Database) -> None:
    extremes = np.array([0, 1, -1, 2**31, 2**32, -(2**32), 2**63 - 1, -(2**63)], np.int64)
    ids = np.concatenate([extremes, euclid_ids(5000), np.arange(1000)])
    with connect(ready_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE one (place bigint, object_id bigint)")
        place = np.arange(len(ids))
        copy_rows(
            cursor,
            sql.Identifier("one"),
            [Field("place", "bigint", place), Field("object_id", "bigint", ids)],
        )
        found = cursor.execute("SELECT astropt.split(object_id) FROM one ORDER BY place").fetchall()
    assert [row[0] for row in found] == split_of(ids).tolist()


def test_the_shares_are_even_and_do_not_follow_the_id() -> None:
    ids = euclid_ids(200_000)
    assert np.bincount(percentile_of(ids), minlength=100).std() < 3 * np.sqrt(2000)
    for name, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        inside = in_split(ids, name)
        assert abs(inside.mean() - share) < 0.005
        # Neither the position, nor the parity, nor the neighbour in the list tells the share.
        order = np.argsort(ids)
        for one, other in (
            (inside, ids),
            (inside, ids % 2),
            (inside[order[1:]], inside[order[:-1]]),
        ):
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.01


def test_a_known_share_never_changes() -> None:
    ids = np.array([2627736497657964330, -610000000481234571, -610000000481234576])
    assert split_of(ids).tolist() == ["train", "calibration", "test"]
