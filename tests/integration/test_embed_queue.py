"""The queue's rules: claims, leases, fences, splits; no pixel is read here."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import psycopg
import pytest
from commands import select
from embed_sky import problems, states
from vector_database import add_encoder, add_vectors

from astropt_db.database.connect import Database, connect
from astropt_db.database.filters import condition_ids
from astropt_db.embed.link import Link
from astropt_db.embed.outcome import Outcome
from astropt_db.embed.queue import Queue, cancel, plan, retry
from astropt_db.errors import DatabaseError

D = 8


@pytest.fixture
def encoder(sky_database: Database):
    return add_encoder(sky_database, "queue", D, current=True)


@pytest.fixture
def connection(sky_database: Database):
    with connect(sky_database, autocommit=True) as connection:
        yield connection


def outcome_of(chunk) -> Outcome:
    outcome = Outcome.of(chunk.object_id, D)
    n = len(chunk.object_id)
    outcome.put(np.arange(n), np.ones((n, D), np.float32))
    outcome.describe(np.arange(n), np.zeros(n, np.uint8), np.zeros((n, 1), np.float32), None)
    return outcome


def count(database: Database) -> int:
    ((number,),) = select(database, "SELECT count(*) FROM astropt.embedding")
    return number


def expire(connection, chunk) -> None:
    connection.execute(
        "UPDATE astropt.embed_chunk SET lease_until = clock_timestamp() - interval '1 s' "
        "WHERE id = %s",
        [chunk.id],
    )


def test_planning_takes_what_is_missing_and_only_once(sky_database, encoder, connection):
    ((n_sources,),) = select(sky_database, "SELECT count(*) FROM q1.mer_catalogue")
    some = np.array(
        [
            row[0]
            for row in select(
                sky_database, "SELECT object_id FROM q1.mer_catalogue ORDER BY object_id LIMIT 10"
            )
        ]
    )
    add_vectors(sky_database, encoder, some, np.ones((10, D)))
    planned = plan(connection, encoder, size=40)
    assert planned.sources == n_sources - 10
    assert planned.without_image == 0
    assert plan(connection, encoder).sources == 0
    rows = select(sky_database, "SELECT tile, object_ids FROM astropt.embed_chunk ORDER BY id")
    assert len(rows) == planned.chunks
    ids = np.concatenate([row[1] for row in rows])
    assert len(np.unique(ids)) == len(ids) == planned.sources
    assert not np.isin(some, ids).any()
    # By tile, then by declination, so that a chunk is a strip of its tile.
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    dec = dict(select(sky_database, "SELECT object_id, declination FROM q1.mer_catalogue"))
    assert all(np.diff([dec[one] for one in row[1]]).min() >= 0 for row in rows)
    other = add_encoder(sky_database, "another", D)
    assert plan(connection, other).sources == n_sources


def test_two_planners_at_once_plan_once(sky_database, encoder):
    barrier = threading.Barrier(4)

    def work(_):
        with connect(sky_database, autocommit=True) as own:
            barrier.wait()
            return plan(own, encoder, size=50).sources

    with ThreadPoolExecutor(4) as pool:
        planned = list(pool.map(work, range(4)))
    assert sorted(planned)[:3] == [0, 0, 0]


def test_conditions_run_with_the_rights_of_a_reader(sky_database, encoder, connection):
    ids = condition_ids(sky_database, "mag_vis < 22 -- bright")
    expected = select(sky_database, "SELECT object_id FROM astropt.source WHERE mag_vis < 22")
    assert sorted(ids.tolist()) == sorted(row[0] for row in expected)
    assert plan(connection, encoder, ids).sources == len(ids) > 0
    for wrong in (
        "no_such_column = 1",
        "true); DELETE FROM q1.mer_catalogue; SELECT (true",
        "(SELECT astropt.create_embedding_partition(1)) IS NULL",
        "pg_sleep(10) IS NULL",
    ):
        with pytest.raises(DatabaseError, match="--where"):
            condition_ids(sky_database, wrong, timeout_s=1)
    ((left,),) = select(sky_database, "SELECT count(*) FROM q1.mer_catalogue")
    assert left > 0


def test_a_chunk_has_one_owner(sky_database, encoder):
    with connect(sky_database, autocommit=True) as connection:
        planned = plan(connection, encoder, size=5)

    def work(_):
        queue, claimed = Queue(encoder, 1), []
        with connect(sky_database, autocommit=True) as own:
            while (chunk := queue.claim(own)) is not None:
                claimed.append(chunk.id)
        return claimed

    with ThreadPoolExecutor(6) as pool:
        claimed = [one for part in pool.map(work, range(6)) for one in part]
    assert len(claimed) == len(set(claimed)) == planned.chunks


def test_a_worker_stays_on_its_tile_and_others_take_another(sky_database, encoder, connection):
    plan(connection, encoder, size=20)
    first, second = Queue(encoder, 1), Queue(encoder, 1)
    one = first.claim(connection)
    other = second.claim(connection, spread=True)
    assert other.tile != one.tile
    assert second.claim(connection, tile=other.tile).tile == other.tile
    # With no tile free of workers, any will do.
    assert Queue(encoder, 1).claim(connection, spread=True) is not None


def test_results_and_state_commit_together(sky_database, encoder, connection):
    plan(connection, encoder, size=50)
    queue = Queue(encoder, 3)
    chunk = queue.claim(connection)
    outcome = outcome_of(chunk)
    outcome.vectors[1] = np.inf
    outcome.vectors[2] = 0
    outcome.empty[3] = True
    assert queue.finish(connection, chunk, outcome)
    n = len(chunk.object_id)
    assert count(sky_database) == n - 3
    ids = chunk.object_id
    assert problems(sky_database) == {
        int(ids[1]): "not_finite",
        int(ids[2]): "zero_vector",
        int(ids[3]): "no_pixels",
    }
    assert states(sky_database)["done"] == (1, n)
    assert not queue.finish(connection, chunk, outcome)
    assert count(sky_database) == n - 3


def test_a_late_worker_commits_nothing(sky_database, encoder, connection):
    plan(connection, encoder, size=50)
    late, quick = Queue(encoder, 1), Queue(encoder, 2)
    chunk = late.claim(connection)
    expire(connection, chunk)
    assert late.heartbeat(connection) == set()
    # Its lease is over, and nobody else has the chunk: it may not write even so.
    assert not late.finish(connection, chunk, outcome_of(chunk))
    assert late.fail(connection, chunk, "source", "error", "x") == "lost"
    while (again := quick.claim(connection)).id != chunk.id:
        pass
    assert again.attempts == 2
    assert not late.finish(connection, chunk, outcome_of(chunk))
    assert count(sky_database) == 0
    assert quick.finish(connection, again, outcome_of(again))
    assert not late.finish(connection, chunk, outcome_of(chunk))
    assert count(sky_database) == len(chunk.object_id)


def test_a_zombie_in_the_middle_of_its_transaction(sky_database, encoder, connection):
    """It has written its vectors and sleeps before its last statement."""
    plan(connection, encoder, size=50)
    zombie, quick = Queue(encoder, 1), Queue(encoder, 2)
    chunk = zombie.claim(connection)
    with connect(sky_database) as own:
        expire(connection, chunk)
        while (again := quick.claim(connection)).id != chunk.id:
            pass
        assert not zombie.finish(own, chunk, outcome_of(chunk))
        assert quick.finish(connection, again, outcome_of(again))
    assert count(sky_database) == len(chunk.object_id)


def test_heartbeats_keep_a_chunk(sky_database, encoder, connection):
    plan(connection, encoder, size=1000)
    queue = Queue(encoder, 1, lease_s=1000)
    chunk = queue.claim(connection)
    before = select(
        sky_database, "SELECT lease_until FROM astropt.embed_chunk WHERE id = %s", [chunk.id]
    )
    assert queue.heartbeat(connection) == {chunk.id}
    after = select(
        sky_database, "SELECT lease_until FROM astropt.embed_chunk WHERE id = %s", [chunk.id]
    )
    assert after > before
    assert queue.release(connection) == 1
    assert queue.heartbeat(connection) == set()
    ((attempts,),) = select(
        sky_database, "SELECT attempts FROM astropt.embed_chunk WHERE id = %s", [chunk.id]
    )
    assert attempts == 0


def work_through(connection, queue, poison, blame="source", reason="error") -> None:
    """Do all chunks; one with the poisonous source fails."""
    for _ in range(200):
        chunk = queue.claim(connection)
        if chunk is None:
            return
        if poison in chunk.object_id:
            queue.fail(connection, chunk, blame, reason, "it is poison")
        else:
            assert queue.finish(connection, chunk, outcome_of(chunk))
    raise AssertionError("no end")


def test_the_guilty_source_is_found_and_the_rest_goes_on(sky_database, encoder, connection):
    total = plan(connection, encoder, size=1000).sources
    ((poison,),) = select(
        sky_database, "SELECT object_id FROM q1.mer_catalogue ORDER BY random() LIMIT 1"
    )
    work_through(connection, Queue(encoder, 1), poison)
    assert problems(sky_database) == {poison: "error"}
    assert count(sky_database) == total - 1
    assert set(states(sky_database)) == {"done", "failed"}
    assert plan(connection, encoder).sources == 0
    assert retry(connection, encoder.id, "no_pixels") == (0, 0)
    assert retry(connection, encoder.id, "error") == (0, 1)
    assert plan(connection, encoder).sources == 1


def test_a_source_that_kills_its_workers_is_found(sky_database, encoder, connection):
    """Nobody reports it: the leases just run out."""
    total = plan(connection, encoder, size=60).sources
    ((poison,),) = select(
        sky_database, "SELECT object_id FROM q1.mer_catalogue ORDER BY random() LIMIT 1"
    )
    queue = Queue(encoder, 1, max_attempts=2)
    for _ in range(200):
        chunk = queue.claim(connection)
        if chunk is None:
            break
        if poison in chunk.object_id:
            expire(connection, chunk)
        else:
            assert queue.finish(connection, chunk, outcome_of(chunk))
    assert problems(sky_database) == {poison: "worker_died"}
    assert count(sky_database) == total - 1


def test_a_bad_tile_is_given_up_after_some_attempts(sky_database, encoder, connection):
    planned = plan(connection, encoder, size=1000)
    queue = Queue(encoder, 1)
    chunk = queue.claim(connection)
    assert queue.fail(connection, chunk, "tile", "bad_file", "gone") == "retry"
    # It waits a little, and the others come first.
    assert queue.claim(connection).id != chunk.id
    queue.release(connection)
    connection.execute("UPDATE astropt.embed_chunk SET not_before = now() - interval '1 s'")
    connection.execute("UPDATE astropt.embed_chunk SET attempts = 4")
    for _ in range(planned.chunks):
        assert queue.fail(connection, queue.claim(connection), "tile", "f", "gone") == "dead"
    assert states(sky_database) == {"dead": (planned.chunks, planned.sources)}
    assert plan(connection, encoder).sources == 0
    assert retry(connection, encoder.id, None) == (planned.sources, 0)
    assert states(sky_database) == {"pending": (planned.chunks, planned.sources)}


def test_cancelled_chunks_are_lost_to_their_workers(sky_database, encoder, connection):
    planned = plan(connection, encoder, size=50)
    queue = Queue(encoder, 1)
    chunk = queue.claim(connection)
    assert cancel(connection, encoder.id) == planned.sources
    assert not queue.finish(connection, chunk, outcome_of(chunk))
    assert count(sky_database) == 0
    assert plan(connection, encoder).sources == planned.sources


def test_vectors_that_are_there_are_never_written_twice(sky_database, encoder, connection):
    plan(connection, encoder, size=1000)
    queue = Queue(encoder, 1)
    chunk = queue.claim(connection)
    add_vectors(sky_database, encoder, chunk.object_id[:3], np.ones((3, D)))
    assert set(queue.existing(connection, chunk.object_id)) == set(chunk.object_id[:3])
    assert not queue.finish(connection, chunk, outcome_of(chunk))
    assert count(sky_database) == 3
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE astropt.embed_chunk SET state = 'odd'")


@pytest.mark.parametrize("copying", [False, True], ids=["between statements", "in a COPY"])
def test_a_worker_frozen_in_a_transaction_keeps_no_chunk(
    sky_database, encoder, connection, copying
):
    """The server ends its transaction; else the row that it locked would be skipped for ever."""
    chunks = plan(connection, encoder, size=50).chunks
    quick, frozen, watch = (Queue(encoder, run, lease_s) for run, lease_s in
                            ((1, 1000), (2, 1000), (3, 1)))  # fmt: skip
    for _ in range(chunks - 1):
        assert quick.claim(connection) is not None
    found, held = [], []

    def freeze(own):
        if found:  # woken, and told that its transaction is gone
            return
        held.append(frozen.claim(own).id)
        with own.cursor() as cursor:
            stuck = cursor.copy("COPY pg_temp.held FROM STDIN") if copying else nullcontext()
            with stuck:
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline and not any(found):
                    found.append(quick.claim(connection))
                    if copying:
                        watch.end_frozen(connection)
                    time.sleep(0.05)

    with Link(sky_database, 10, threading.Event(), hold_s=1) as link:
        link.run(lambda own: own.execute("CREATE TEMPORARY TABLE held (i integer)"))
        link.run(freeze)
    assert found[0] is None
    assert [chunk.id for chunk in found if chunk is not None] == held
