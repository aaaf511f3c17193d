"""Nothing is lost and nothing comes twice, whoever is killed and whenever.

Twenty files are ingested with two workers. Time and again, at random moments, the ingestion or
a server process dies by SIGKILL; after a last, undisturbed run the tables are compared with those
of a database that met no accident.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from commands import CHECKOUT, content, done_files, ingest, kill_group, select
from conftest import migrated_template, temporary_database, temporary_server
from q1_files import TILE, Rows, make_rows, write_product

from astropt_db.database.connect import Database

SLOW = pytest.mark.slow
N_KILLS = (4, pytest.param(50, marks=SLOW))
N_CRASHES = (2, pytest.param(6, marks=SLOW))
N_TILES = 10
ROWS = {"mer_catalogue": 300, "phz_photo_z": 100}
WRITERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database()
AND application_name = 'astropt-db' AND backend_xid IS NOT NULL
"""

# Imports once and forks each ingestion from it, or most of the time would go into imports.
# A child leads a process group; the parent only ever forks and waits.
NURSERY = """
import json, os, sys
from astropt_db.cli import archive, ingest
from astropt_db.cli.main import main
print(0, flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(2, 1)
        main(json.loads(line))
    os.setpgid(child, child)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Starts ingestions, one after another, each as a process group of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=CHECKOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == 0, "it has imported what it needs"

    def start(self, database: Database, folder: Path) -> int:
        """Start ``ingest catalogue --jobs 2``; its process id, which is also the group's."""
        arguments = ["ingest", "catalogue", "--jobs", "2", str(folder), "--db", database.url]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """Exit code of the ingestion, negative if a signal ended it."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Sample:
    """Twenty files, what an undisturbed run makes of them, and how long that takes (seconds)."""

    folder: Path
    content: dict[str, tuple[int, int]]
    duration: float

    @property
    def n_files(self) -> int:
        return N_TILES * len(ROWS)


@contextlib.contextmanager
def new_nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    try:
        yield nursery
    finally:
        nursery.close()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """One for each test: a test that fails between question and answer spoils no other."""
    with new_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def sample(server, template, tmp_path_factory) -> Sample:
    folder = tmp_path_factory.mktemp("tiles")
    for tile in range(TILE, TILE + N_TILES):
        for product, n_rows in ROWS.items():
            rows = make_rows(product, n_rows, tile)
            if product == "mer_catalogue":
                rows = with_bad_rows(rows)
            write_product(folder, product, rows, tile)
    with temporary_database(server, template) as url, new_nursery() as nursery:
        database = Database(url)
        started = time.monotonic()
        nursery.start(database, folder)
        assert nursery.wait() == 1, "rows are in quarantine"
        duration = time.monotonic() - started
        return Sample(folder, content(database), duration)


def with_bad_rows(rows: Rows) -> Rows:
    """A destroyed id, an infinite flux, a row twice and one more with other values."""
    rows = np.concatenate([rows, rows[:2]])
    rows["FLUX_DETECTION_TOTAL"][[7, -1]] = np.inf, 42.0
    rows["OBJECT_ID"][11] += 100
    return rows


def assert_whole(database: Database) -> None:
    """Every table holds the rows of the files that are in, and no other."""
    for product in ROWS:
        ((expected, found),) = select(
            database,
            "SELECT (SELECT coalesce(sum(rows_inserted), 0) FROM astropt.ingest_file "
            f"WHERE state = 'done' AND product = '{product}'), (SELECT count(*) FROM q1.{product})",
        )
        assert found == expected


def assert_complete(database: Database, sample: Sample) -> None:
    assert content(database) == sample.content
    assert done_files(database) == sample.n_files


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_kills", N_KILLS)
def test_kill_9_of_the_ingestion(server, template, nursery, sample, n_kills):
    moments = random.Random(102158889)
    kills = hits = rounds = 0
    while kills < n_kills:
        with temporary_database(server, template) as url:
            database = Database(url)
            while kills < n_kills and done_files(database) < sample.n_files:
                group = nursery.start(database, sample.folder)
                time.sleep(moments.uniform(0, sample.duration))
                writers = len(select(database, WRITERS))
                kill_group(group)
                if nursery.wait() == -signal.SIGKILL:
                    kills += 1
                    hits += writers > 0
                assert_whole(database)
            ingest(database, sample.folder)
            assert_complete(database, sample)
            rounds += 1

    assert hits >= n_kills // 5, f"only {hits} of {kills} kills cut a transaction off"


@pytest.fixture(scope="module")
def fragile_server():
    with temporary_server(18) as server:
        migrated_template(server)
        yield server


@pytest.mark.parametrize("n_crashes", N_CRASHES)
def test_server_processes_die(fragile_server, nursery, sample, n_crashes):
    """A killed backend makes PostgreSQL restart all others and recover from its log."""
    moments = random.Random(102158890)
    accidents = 0
    while accidents < n_crashes:
        with temporary_database(fragile_server, "migrated") as url:
            database = Database(url)
            group = nursery.start(database, sample.folder)
            while accidents < n_crashes and Path(f"/proc/{group}").exists():
                time.sleep(moments.uniform(0, sample.duration / 2))
                with contextlib.suppress(psycopg.OperationalError):
                    accidents += strike(database, moments, by_signal=accidents % 2 == 0)
            assert nursery.wait() == 1, "rows are in quarantine"
            assert_complete(database, sample)


def strike(database: Database, moments: random.Random, *, by_signal: bool) -> bool:
    """End a backend that writes, by SIGKILL or ``pg_terminate_backend``; whether one did."""
    writers = [pid for (pid,) in select(database, WRITERS)]
    if not writers:
        return False
    victim = moments.choice(writers)
    if by_signal:
        os.kill(victim, signal.SIGKILL)
        return True
    return bool(select(database, "SELECT pg_terminate_backend(%s)", [victim])[0][0])
