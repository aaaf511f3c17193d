"""Outliers and maps from the command line to the views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import run, select
from vector_database import add_encoder, add_vectors

from astropt_db.database.connect import Database
from astropt_db.database.vectors import VectorBatch
from astropt_db.outliers.maps import field_leak

ODD = (3, 77, 150)


@pytest.fixture
def database(ready_database: Database) -> Database:
    """Two encoders of 300 sources, three of which are odd to the first and one to the second."""
    random = np.random.default_rng(5)
    ids = np.arange(300) - (1 << 60)
    for name, odd in (("one", ODD), ("two", ODD[:1])):
        encoder = add_encoder(ready_database, name, 16, current=name == "one")
        rows = 3 + random.normal(size=(300, 16))
        rows[list(odd)] *= -1
        add_vectors(ready_database, encoder, ids, rows)
    return ready_database


def test_find_list_label_rank(database: Database) -> None:
    first = run(database, "outliers", "find", "--format", "csv", "--methods", "if,lof,knn")
    assert first.code == 0, first.err
    assert first.out.splitlines()[1].split(",")[1:] == ["one", "300", "3", "exact", "1.0"]
    assert run(database, "outliers", "find", "--encoder", "two", "--methods", "lof").code == 0
    flagged = select(
        database,
        "SELECT object_id + (1::bigint << 60), outlier_rank, 'sparse' = ANY (reasons), flagged_by, "
        "encoders_asked, cardinality(neighbours) FROM astropt.outliers WHERE is_outlier "
        "ORDER BY object_id",
    )
    assert [row[0] for row in flagged] == list(ODD)
    assert {row[1] for row in flagged} == {1, 2, 3}
    assert flagged[0][3] == ["one", "two"]
    assert {row[4:] for row in flagged} == {(2, 10)}
    listed = run(database, "outliers", "list", "--reason", "all_encoders", "--format", "csv")
    assert str(3 - (1 << 60)) in listed.out
    for place, label in ((3, "interesting"), (77, "dull"), (5, "artefact")):
        done = run(database, "outliers", "label", "--by", "me", place - (1 << 60), label)
        assert done.code == 0, done.err
    ranked = run(database, "outliers", "rank", "--learn")
    assert ranked.out.startswith("3 labels re-ranked 300 sources")
    # With three labels the unexplored may still come first, but what was liked beats the rest.
    order = "SELECT label FROM astropt.outliers WHERE label IS NOT NULL ORDER BY interest_rank"
    assert select(database, order)[0] == ("interesting",)
    assert run(database, "outliers", "list", "--learned").code == 0
    # A new run takes the old one's place.
    assert run(database, "outliers", "find", "--methods", "knn", "--contamination", "0.1").code == 0
    assert select(database, "SELECT count(*), count(score_lof) FROM astropt.outliers") == [(300, 0)]


def test_bad_input(database: Database) -> None:
    for arguments, message in (
        (["find", "--encoder", "three"], "no encoder 'three' in the database; there are: one, two"),
        (["find", "--where", "mag_vis < 0"], "no source matches the condition 'mag_vis < 0'"),
        (["find", "--where", "mag_vis <"], "syntax error"),
        (["find", "--where", "true); DELETE FROM astropt.encoder; --"], "error"),
        (["find", "--methods", "svm"], "expected some of if, lof, knn"),
        (["find", "--contamination", "2"], "expected a fraction"),
        (["label", "5", "dull"], "no source 5; the nearest ids are none: nothing was ingested"),
        (["rank", "--learn", "--encoder", "two"], "no outliers were searched with encoder two"),
        (["evaluate", "--truth", "absent.parquet"], "is no truth.parquet"),
    ):
        done = run(database, "outliers", *arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert message in done.err
    assert select(database, "SELECT count(*) FROM astropt.encoder") == [(2,)]


def test_too_few_vectors(ready_database: Database) -> None:
    add_encoder(ready_database, "one", 4, current=True)
    done = run(ready_database, "outliers", "find")
    assert "has vectors of 0 of the chosen sources; 20 are needed" in done.err
    assert "has 0 vectors, a map needs 20" in run(ready_database, "map", "--method", "pca").err


def test_planted_oddities_are_counted(database: Database, tmp_path: Path) -> None:
    kinds = np.full(300, "spiral", object)
    kinds[list(ODD)] = ["lens", "ghost", "star"]
    ids = np.arange(300) - (1 << 60)
    truth = tmp_path / "truth.parquet"
    pd.DataFrame({"object_id": ids, "morphology": kinds.astype(str)}).to_parquet(truth)
    assert run(database, "outliers", "find", "--methods", "lof").code == 0
    done = run(database, "outliers", "evaluate", "--truth", truth, "--format", "csv")
    assert "one,combined,lens,1,1,0.01,100.0" in done.out.replace("99.99999999999999", "100.0")
    done = run(database, "outliers", "evaluate", "--truth", truth, "--classes", "--format", "csv")
    assert done.code == 0, done.err
    assert "one,star,1,0.0,0.0" in done.out


def test_map_is_stored_and_drawn(database: Database, tmp_path: Path) -> None:
    done = run(database, "map", "--method", "pca", "--out", tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "map_one_pca_sources.png").stat().st_size > 5000
    query = "SELECT count(*), min(encoder), min(method), stddev(x) > 0 FROM astropt.map_coordinate"
    assert select(database, query) == [(300, "one", "pca", True)]
    for colour, message in (("nonsense", "does not exist"), ("NULL::real", "is NULL for every")):
        done = run(database, "map", "--method", "pca", "--colour", colour, "--out", tmp_path)
        assert done.code == 1
        assert message in done.err


@pytest.mark.parametrize(("shift", "low", "high"), [(6.0, 0.97, 1.0), (0.0, 0.3, 0.7)])
def test_field_leakage_is_seen_where_it_is(shift: float, low: float, high: float) -> None:
    random = np.random.default_rng(8)
    vectors = random.normal(size=(300, 16))
    vectors[:100, 3] += shift
    ids = np.arange(300)
    fields = {one: "EDF-N" if one < 100 else "EDF-S" for one in ids.tolist()}
    leak = field_leak(VectorBatch(ids, vectors.astype(np.float16)), fields)
    assert leak is not None
    assert leak.fields == ("EDF-N", "EDF-S")
    assert low <= leak.balanced_accuracy <= high
    assert field_leak(VectorBatch(ids, vectors.astype(np.float16)), dict.fromkeys(ids, "x")) is None
