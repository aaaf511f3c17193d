"""Vector indexes: built, measured, used by the planner, dropped; answers stay right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from commands import run, select
from psycopg import sql
from search_database import Searchable, searchable_database
from vector_database import add_vectors

from astropt_db.database.connect import connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import find_encoder
from astropt_db.database.vectors import VectorBatch
from astropt_db.errors import ConfigurationError
from astropt_db.search.exact import exact_neighbours, recall_of
from astropt_db.search.indexes import IndexOptions


@pytest.fixture
def sky(server: EmbeddedServer, template: str) -> Iterator[Searchable]:
    with searchable_database(server, template) as found:
        yield found


@pytest.fixture(scope="module")
def unchanged(server: EmbeddedServer, template: str) -> Iterator[Searchable]:
    with searchable_database(server, template) as found:
        yield found


def similar(sky: Searchable, one: int, k: int = 10, **options: Any) -> list[tuple[Any, ...]]:
    return select(sky.database, question(options), [one, k, *options.values()])


def question(options: dict[str, Any]) -> str:
    extra = "".join(f", {name} => %s" for name in options)
    return f"SELECT object_id, similarity, method, recall FROM astropt.similar(%s, %s{extra})"


def mean_recall(sky: Searchable, **options: Any) -> float:
    """Of 60 objects that were not those of the measurement; its error is about 0.005."""
    allowed = options.pop("allowed", None)
    hits = []
    with connect(sky.database) as connection:
        for one in sky.ids[:60].tolist():
            values = [one, 10, *options.values()]
            rows = connection.execute(question(options), values, prepare=True).fetchall()
            assert len(rows) == 10
            truth = sky.nearest(sky.vector(one), 10, (one,), allowed)
            hits.append(len({row[0] for row in rows} & set(truth)) / 10)
    return float(np.mean(hits))


@pytest.mark.parametrize("kind", ["halfvec", "bit"])
def test_an_index_is_built_measured_used_and_dropped(sky: Searchable, kind: str) -> None:
    one = int(sky.ids[0])
    # Enough queries to tell 0.98 from 0.99: the graph is another at each build.
    outcome = run(sky.database, "index", "build", "--kind", kind, "--queries", 200)
    assert outcome.code == 0, outcome.err
    assert f"one: {kind} index of 1,500 vectors in" in outcome.err
    rows = similar(sky, one)
    assert {row[2] for row in rows} == {kind}
    (measured,) = {row[3] for row in rows}
    assert 0.99 <= measured <= 1
    assert mean_recall(sky) >= 0.98
    # Exact on request, and where k is larger than any that was measured.
    assert {row[2:] for row in similar(sky, one, exact=True)} == {("exact", 1.0)}
    assert {row[2:] for row in similar(sky, one, 101)} == {("exact", 1.0)}
    assert len(similar(sky, one, 5000)) == 1499
    # What the index does not know of: another encoder.
    with pytest.raises(psycopg.Error, match="no embedding of encoder two"):
        similar(sky, one, encoder="two")
    outcome = run(sky.database, "index", "list", "--format", "csv")
    assert outcome.out.splitlines()[1].startswith(f"one,{kind},true,1500,")
    assert run(sky.database, "index", "drop").code == 0
    assert {row[2] for row in similar(sky, one)} == {"exact"}
    assert select(sky.database, "SELECT count(*) FROM astropt.search_recall") == [(0,)]
    assert "no vector index" in run(sky.database, "index", "list").err
    left = "SELECT count(*) FROM pg_proc WHERE proname ~ '^embedding.*nearest$'"
    assert select(sky.database, left) == [(0,)]


@pytest.mark.parametrize("kind", ["halfvec", "bit"])
def test_filtered_answers_from_an_index_have_k_rows(sky: Searchable, kind: str) -> None:
    run(sky.database, "index", "build", "--kind", kind, "--queries", 40)
    # Make comparisons dear, so that the planner takes the index even for rare objects.
    select(sky.database, "UPDATE astropt.search_index SET lookup_us = 1e6 RETURNING 1")
    for share in (2, 40):
        allowed = sky.ids[sky.ids % share == 0]
        text = f"SELECT e.object_id FROM astropt.embedding AS e WHERE e.object_id % {share} = 0"
        assert mean_recall(sky, filter=text, allowed=allowed) >= 0.98
    # Only what is far from the query: the index cannot find it, so all are compared.
    far = sky.nearest(-sky.vectors[0], 30)
    with psycopg.connect(sky.database.url) as connection:
        connection.execute("CREATE TABLE far AS SELECT unnest(%s::bigint[]) AS object_id", [far])
    rows = similar(sky, int(sky.ids[0]), 20, filter="far")
    assert [row[0] for row in rows] == sky.nearest(sky.vectors[0], 20, (), far)
    # Fewer than k are allowed: all of them, not none.
    rows = similar(sky, int(sky.ids[0]), 50, filter="far")
    assert {row[0] for row in rows} == set(far)


def test_settings_of_the_session_are_left_alone(sky: Searchable) -> None:
    run(sky.database, "index", "build", "--queries", 12)
    names = ("hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "enable_seqscan",
             "plan_cache_mode")  # fmt: skip
    shown = "SELECT current_setting(n) FROM unnest(%s::text[]) AS n"
    with psycopg.connect(sky.database.url) as connection:
        connection.execute("SELECT '[1]'::vector")
        connection.execute("SET hnsw.ef_search = 77")
        before = connection.execute(shown, [list(names)]).fetchall()
        assert before[0] == ("77",)
        rows = connection.execute("SELECT * FROM astropt.similar(%s)", [int(sky.ids[0])])
        assert "halfvec" in rows.fetchall()[0]
        assert connection.execute(shown, [list(names)]).fetchall() == before


def test_an_index_of_another_encoder_is_never_asked(sky: Searchable) -> None:
    with connect(sky.database) as connection:
        two = find_encoder(connection, "two")
    # Other vectors of the same objects, of which only the first encoder has an index.
    add_vectors(sky.database, two, sky.ids, np.roll(sky.vectors, 700, axis=0))
    run(sky.database, "index", "build", "--queries", 12)
    one = int(sky.ids[0])
    expected = [row[0] for row in similar(sky, one, encoder="two", exact=True)]
    assert expected != [row[0] for row in similar(sky, one)]
    # Even where its row was altered by hand.
    for number in (sky.encoder.id, two.id):
        select(
            sky.database, "UPDATE astropt.search_index SET encoder_id = %s RETURNING 1", [number]
        )
        rows = similar(sky, one, encoder="two")
        assert [row[0] for row in rows] == expected
        assert {row[2:] for row in rows} == {("exact", 1.0)}


def test_recall_is_measured_with_filters_and_stored(sky: Searchable) -> None:
    run(sky.database, "index", "build", "--queries", 12)
    select_half = "SELECT object_id FROM astropt.embedding WHERE object_id % 2 = 0"
    outcome = run(sky.database, "index", "recall", "--queries", 12, "--where", select_half,
                  "--format", "csv")  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = select(sky.database, "SELECT filter, fraction, recall, fewest_rows, row_count "
                  "FROM astropt.search_recall WHERE ef_search IS NULL ORDER BY id")  # fmt: skip
    assert [row[0] for row in rows] == [
        None, "random, one in 10", "random, one in 100", select_half,
    ]  # fmt: skip
    assert rows[3][1] == pytest.approx(0.5, abs=0.01)
    assert all(row[2] >= 0.95 and row[3] == 10 and row[4] == 1500 for row in rows)
    assert "random, one in 100" in run(sky.database, "index", "list", "--format", "csv").out


def test_a_poor_index_is_not_used_silently(sky: Searchable) -> None:
    run(sky.database, "index", "build", "--queries", 12)
    select(sky.database, "UPDATE astropt.search_recall SET recall = 0.8 RETURNING 1")
    ((method, reason),) = select(
        sky.database, "SELECT method, reason FROM astropt.search_plan(%s, 10)", [sky.encoder.id]
    )
    assert (method, reason) == ("exact", "the index reaches a recall of 0.8 only")
    assert {row[2] for row in similar(sky, int(sky.ids[0]))} == {"exact"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "--encoder", "none"), "no encoder 'none' in the database; there are: one, two"),
        (("build", "--encoder", "two"), "encoder two has no embeddings to index"),
        (("build", "--m", "1"), "m is 1 and ef_construction 48"),
        (("drop",), "encoder one has no vector index; see: astropt-db index list"),
        (("drop", "--kind", "bit"), "encoder one has no bit index"),
        (("recall",), "encoder one has no vector index"),
        (("recall", "--encoder", "two"), "encoder two has no vector index"),
    ],
)
def test_mistakes(unchanged: Searchable, arguments: tuple[str, ...], message: str) -> None:
    outcome = run(unchanged.database, "index", *arguments)
    assert outcome.code == 1
    assert message in outcome.err


def test_an_index_is_replaced_on_request_and_rebuilt_if_somebody_dropped_it(
    sky: Searchable,
) -> None:
    assert run(sky.database, "index", "build", "--queries", 12).code == 0
    outcome = run(sky.database, "index", "build", "--queries", 12)
    assert outcome.code == 1
    assert "has a halfvec index already" in outcome.err
    assert run(sky.database, "index", "build", "--queries", 12, "--replace").code == 0
    with psycopg.connect(sky.database.url) as connection:
        name = sql.Identifier("astropt", f"embedding_{sky.encoder.id}_halfvec")
        connection.execute(sql.SQL("DROP INDEX {}").format(name))
    assert {row[2] for row in similar(sky, int(sky.ids[0]))} == {"exact"}
    assert ",false," in run(sky.database, "index", "list", "--format", "csv").out
    assert run(sky.database, "index", "build", "--queries", 12).code == 0


def test_exact_neighbours_from_a_stream_are_those_of_one_product() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(500, 16)).astype(np.float16)
    ids = rng.permutation(500).astype(np.int64)
    batches = [VectorBatch(ids[i : i + 77], vectors[i : i + 77]) for i in range(0, 500, 77)]
    found, count = exact_neighbours(batches, VectorBatch(ids[:9], vectors[:9]), 7)
    unit = vectors.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit[:9] @ unit.T
    similarity[np.arange(9), np.arange(9)] = -np.inf
    order = np.argsort(-similarity, axis=1)[:, :7]
    assert count == 500
    np.testing.assert_array_equal(found.object_id, ids[order])
    assert recall_of(found.similarity[0], found.similarity[0]) == 1
    assert recall_of(found.similarity[0][:5], found.similarity[0]) == pytest.approx(5 / 7)
    assert recall_of(found.similarity[0][:0], np.full(7, -np.inf, np.float32)) == 1


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="no index kind 'ivf'; expected halfvec or bit"):
        IndexOptions(kind="ivf")
    with pytest.raises(ConfigurationError, match="ef_construction 10"):
        IndexOptions(ef_construction=10)
