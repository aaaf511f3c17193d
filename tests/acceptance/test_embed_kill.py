"""Each source has exactly one vector, whoever dies and whenever.

Real workers on a real server. At the end the partition is compared, value by value, with that of
a run that met no accident.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from commands import CHECKOUT, run, select
from conftest import temporary_database, temporary_home
from embed_sky import problems, states, tiny_encoder, vectors
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from astropt_db.database.connect import Database, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import EncoderRecord
from astropt_db.embed.queue import plan

TESTS = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])
WORKERS = 4
LEASE = 1.5

# Imports once and forks each worker from it, or most of the time would go into imports.
NURSERY = """
import json, os, sys, tempfile, time
from pathlib import Path
from astropt_db.astropt import load_encoder
from astropt_db.cli import embed
from astropt_db.cli.main import main
from astropt_db.embed import job
from embed_sky import tiny_weights
# Loading a model makes torch import another thousand modules.
with tempfile.TemporaryDirectory() as folder:
    load_encoder(tiny_weights(Path(folder)), "cpu", "reference")
print(0, flush=True)

def work(order):
    os.setpgid(0, 0)
    os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    if order["clock"]:
        right, started = time.time, time.monotonic()
        jump = lambda: order["clock"] if time.monotonic() - started > 0.3 else 0.0
        time.time = lambda: right() + jump()
    main(order["arguments"])

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        work(order)
    print(child, flush=True)
"""


class Nursery:
    """Starts workers, each a process of its own."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._running: set[int] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=CHECKOUT,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": TESTS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == 0

    def start(self, database: Database, encoder: EncoderRecord, *more: object,
              clock: float = 0.0) -> int:  # fmt: skip
        """Start ``embed`` on what is planned; its process id."""
        arguments = ["embed", "--encoder", encoder.name, "--no-plan", "--mode", "reference",
                     "--threads", "1", "--device", "cpu", "--lease", str(LEASE),
                     "--progress-every", "60", *map(str, more), "--db", database.url]  # fmt: skip
        pid = self._ask({"arguments": arguments, "clock": clock, "log": str(self.log)})
        self._running.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Exit code of a worker, negative if a signal ended it."""
        self._running.discard(pid)
        return self._ask({"wait": pid})

    def _ask(self, order: dict[str, object]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Sample:
    """A planned database to copy, what an undisturbed run makes of it, and how long that takes."""

    template: str
    encoder: EncoderRecord
    vectors: dict[int, tuple[str, int, float]]
    duration: float


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("log") / "workers.log")
    yield nursery
    nursery.close()


def make_sample(server, template, nursery, folder) -> Sample:
    name = f"planned_{os.getpid()}_{template}"
    with temporary_database(server, template) as url:
        database = Database(url)
        encoder = tiny_encoder(database, folder, bands=4)
        with connect(database, autocommit=True) as connection:
            plan(connection, encoder, size=12)
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            planned = conninfo_to_dict(url)["dbname"]
            command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(command.format(sql.Identifier(name), sql.Identifier(planned)))
        started = time.monotonic()
        assert nursery.wait(nursery.start(database, encoder)) == 0, nursery.log.read_text()
        duration = time.monotonic() - started
        return Sample(name, encoder, vectors(database, encoder), duration)


@pytest.fixture(scope="module")
def sample(server, sky_template, nursery, tmp_path_factory) -> Sample:
    return make_sample(server, sky_template, nursery, tmp_path_factory.mktemp("weights"))


@pytest.fixture
def database(server, sample) -> Iterator[Database]:
    with temporary_database(server, sample.template) as url:
        yield Database(url)


def assert_exact(database: Database, sample: Sample) -> None:
    """Every source has the vector of the undisturbed run, and nothing else is there."""
    assert vectors(database, sample.encoder) == sample.vectors
    assert problems(database) == {}
    assert set(states(database)) <= {"done", "failed"}


def busy(database: Database) -> int:
    ((number,),) = select(
        database, "SELECT count(*) FROM astropt.embed_chunk WHERE state = 'running'"
    )
    return number


def left(database: Database) -> int:
    ((number,),) = select(
        database, "SELECT count(*) FROM astropt.embed_chunk WHERE state IN ('pending', 'running')"
    )
    return number


def kill_workers(server, sample, nursery, n_kills: int) -> tuple[int, int]:
    """Kill one of four workers again and again; how many kills hit one that had a chunk."""
    moments = random.Random(n_kills)
    kills = hits = 0
    while kills < n_kills:
        with temporary_database(server, sample.template) as url:
            database = Database(url)
            workers = [nursery.start(database, sample.encoder) for _ in range(WORKERS)]
            while kills < n_kills and left(database):
                time.sleep(moments.uniform(0, sample.duration / 4))
                victim = workers.pop(moments.randrange(len(workers)))
                running = busy(database)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                if nursery.wait(victim) == -signal.SIGKILL:
                    kills += 1
                    hits += running > 0
                workers.append(nursery.start(database, sample.encoder))
            assert [nursery.wait(one) for one in workers] == [0] * WORKERS
            assert_exact(database, sample)
    return kills, hits


@pytest.mark.timeout(600)
def test_kill_9_of_workers(server, sample, nursery):
    kills, hits = kill_workers(server, sample, nursery, 4)
    assert hits >= kills // 4, f"only {hits} of {kills} kills met a worker at work"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_of_workers_fifty_times(server, sample, nursery):
    kills, hits = kill_workers(server, sample, nursery, 50)
    assert kills == 50
    assert hits >= kills // 4, f"only {hits} of {kills} kills met a worker at work"


def test_a_worker_frozen_past_its_lease_commits_nothing(database, sample, nursery):
    moments = random.Random(3)
    frozen = []
    for _ in range(2):
        worker = nursery.start(database, sample.encoder)
        deadline = time.monotonic() + 30
        while not busy(database) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(worker, signal.SIGSTOP)
        frozen.append(worker)
    held = dict(
        select(database, "SELECT id, worker FROM astropt.embed_chunk WHERE state = 'running'")
    )
    assert held
    done = {
        row[0]
        for row in select(database, "SELECT id FROM astropt.embed_chunk WHERE state = 'done'")
    }
    time.sleep(LEASE)
    assert nursery.wait(nursery.start(database, sample.encoder)) == 0
    assert_exact(database, sample)
    for worker in frozen:
        os.kill(worker, signal.SIGCONT)
    assert [nursery.wait(worker) for worker in frozen] == [0, 0]
    assert_exact(database, sample)
    # What the frozen ones held was done by somebody else.
    now = dict(select(database, "SELECT id, worker FROM astropt.embed_chunk"))
    assert all(now[chunk] != worker for chunk, worker in held.items() if chunk not in done)


@pytest.mark.slow
def test_the_clock_of_a_worker_jumps(database, sample, nursery):
    """Only the server's clock decides about leases."""
    workers = [nursery.start(database, sample.encoder, clock=jump) for jump in (4e7, -4e7)]
    assert [nursery.wait(one) for one in workers] == [0, 0]
    assert_exact(database, sample)


# -- the server dies --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fragile(nursery, small_sky, tmp_path_factory) -> Iterator[tuple[EmbeddedServer, Sample]]:
    """A server of its own, to be killed."""
    from conftest import migrated_template

    with temporary_home() as home:
        server = EmbeddedServer(home)
        server.start()
        name = migrated_template(server)
        database = Database(server.url(name))
        for kind, folder in (("catalogue", "catalogs/MER_FINAL_CATALOG"), ("mosaics", "MER")):
            assert run(database, "ingest", kind, small_sky / folder).code == 0
        yield server, make_sample(server, name, nursery, tmp_path_factory.mktemp("weights"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_backends_are_killed(fragile, nursery):
    """A killed backend makes PostgreSQL restart all others and recover from its log."""
    server, sample = fragile
    moments = random.Random(5)
    strikes = 0
    while strikes < 2:
        with temporary_database(server, sample.template) as url:
            database = Database(url)
            workers = [nursery.start(database, sample.encoder) for _ in range(2)]
            with contextlib.suppress(psycopg.OperationalError):
                while strikes < 2 and left(database):
                    time.sleep(moments.uniform(0, sample.duration / 2))
                    strikes += strike(database, moments, by_signal=strikes % 2 == 0)
            assert [nursery.wait(one) for one in workers] == [0, 0], nursery.log.read_text()
            assert_exact(database, sample)


def strike(database: Database, moments: random.Random, *, by_signal: bool) -> bool:
    """End a backend of a worker, by SIGKILL or ``pg_terminate_backend``; whether one did."""
    pids = [row[0] for row in select(
        database, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'astropt-db%%' AND pid <> pg_backend_pid()")]  # fmt: skip
    if not pids:
        return False
    victim = moments.choice(pids)
    if by_signal:
        os.kill(victim, signal.SIGKILL)
        time.sleep(0.2)
        return True
    return bool(select(database, "SELECT pg_terminate_backend(%s)", [victim])[0][0])


def test_the_whole_server_is_killed(fragile, nursery):
    server, sample = fragile
    moments = random.Random(6)
    with temporary_database(server, sample.template) as url:
        database = Database(url)
        workers = [nursery.start(database, sample.encoder) for _ in range(2)]
        for _ in range(2):
            time.sleep(moments.uniform(0.1, sample.duration / 2))
            pid = server.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)
            server.start()
        assert [nursery.wait(one) for one in workers] == [0, 0], nursery.log.read_text()
        assert_exact(database, sample)


# -- the disk is full -------------------------------------------------------------------------


@pytest.fixture
def small_disk(server) -> Iterator[Path]:
    """A file system of 1 MB that the server may write to."""
    folder = Path(tempfile.mkdtemp(prefix="adb-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(folder)],
        capture_output=True, text=True)  # fmt: skip
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    place = folder / "space"
    place.mkdir()
    owner = server.status().data_directory.stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    place.chmod(0o700)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk(server, sample, nursery, small_disk):
    ballast = small_disk.parent / "ballast"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(small_disk)))
    try:
        with temporary_database(server, sample.template) as url:
            database = Database(url)
            with psycopg.connect(url, autocommit=True) as connection:
                command = sql.SQL("ALTER TABLE {} SET TABLESPACE small")
                connection.execute(command.format(sample.encoder.partition))
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
            # Without patience a worker ends with the server's message and hands everything back.
            nursery.log.write_text("")
            impatient = nursery.start(database, sample.encoder, "--patience", 0.1)
            assert nursery.wait(impatient) == 1
            assert "No space left on device" in nursery.log.read_text()
            assert vectors(database, sample.encoder) == {}
            patient = nursery.start(database, sample.encoder)
            time.sleep(2)
            assert vectors(database, sample.encoder) == {}
            ballast.unlink()
            assert nursery.wait(patient) == 0
            assert_exact(database, sample)
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("DROP TABLESPACE small")
