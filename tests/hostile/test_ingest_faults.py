"""The server, the disk or the user stops an ingestion in its middle; the next one finishes it.

A table lock holds the ingestion inside the transaction of a file until the accident happens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from commands import content, done_files, ingest, kill_group, process, select
from conftest import migrated_template, temporary_database, temporary_server
from psycopg import sql
from q1_files import TILE, file_name, write_product

from astropt_db.database.connect import Database

MER = "mer_catalogue"
N_ROWS = 50
N_FILES = 4
BLOCKED = """
SELECT DISTINCT pid FROM pg_locks
WHERE NOT granted AND relation = 'q1.mer_catalogue'::regclass
"""
OTHERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'astropt-db'
"""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    for i in range(N_FILES):
        write_product(folder, MER, N_ROWS, TILE + i)
    return folder


@pytest.fixture(scope="module")
def undisturbed(server, template, tiles):
    with temporary_database(server, template) as url:
        assert ingest(Database(url), tiles).code == 0
        return content(Database(url))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


@contextmanager
def locked_table(database: Database) -> Iterator[None]:
    """Let nobody write the MER table; the connection may get lost inside."""
    connection = psycopg.connect(database.url)
    connection.execute("LOCK TABLE q1.mer_catalogue IN SHARE MODE")
    yield
    connection.close()


@contextmanager
def blocked_ingestion(
    database: Database, folder: Path, jobs: int
) -> Iterator[subprocess.Popen[str]]:
    """An ingestion with every worker inside the transaction of its first file."""
    with (
        locked_table(database),
        process(database, "ingest", "catalogue", "--jobs", jobs, folder) as running,
    ):
        wait_until(lambda: len(select(database, BLOCKED)) == jobs)
        yield running


def assert_rerun_finishes(database: Database, folder: Path, expected: object) -> None:
    assert ingest(database, folder).code == 0
    assert content(database) == expected
    assert done_files(database) == N_FILES


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c(ready_database, tiles, undisturbed, jobs):
    with blocked_ingestion(ready_database, tiles, jobs) as running:
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "nothing is half-written, run the same command again" in err
    assert "Traceback" not in err
    assert content(ready_database) == {}
    assert done_files(ready_database) == 0
    assert select(ready_database, "SELECT state FROM astropt.run") == [("failed",)]
    assert_rerun_finishes(ready_database, tiles, undisturbed)


def test_ctrl_c_while_the_workers_start(ready_database, tiles, undisturbed):
    arguments = ("ingest", "catalogue", "--jobs", 2, tiles)
    with process(ready_database, *arguments) as running:
        # The resource tracker and the first worker, which still imports.
        wait_until(lambda: len(psutil.Process(running.pid).children()) >= 2)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert content(ready_database) == {}
    assert_rerun_finishes(ready_database, tiles, undisturbed)


@pytest.mark.parametrize("jobs", [1, 2])
def test_kill_9(ready_database, tiles, undisturbed, jobs):
    with blocked_ingestion(ready_database, tiles, jobs) as running:
        kill_group(running.pid)
        running.wait()
    # A backend that waits for a lock does not look whether its client still lives.
    wait_until(lambda: not select(ready_database, OTHERS))
    assert content(ready_database) == {}
    assert done_files(ready_database) == 0
    assert select(ready_database, "SELECT state FROM astropt.run") == [("running",)]
    assert_rerun_finishes(ready_database, tiles, undisturbed)


def test_kill_9_of_the_parent_ends_the_workers(ready_database, tiles, undisturbed):
    with blocked_ingestion(ready_database, tiles, 2) as running:
        workers = psutil.Process(running.pid).children()
        running.kill()
        running.wait()
        psutil.wait_procs(workers, timeout=10)
        assert not any(worker.is_running() for worker in workers)
    assert_rerun_finishes(ready_database, tiles, undisturbed)


def test_kill_9_of_a_worker(ready_database, tiles, undisturbed):
    with blocked_ingestion(ready_database, tiles, 2) as running:
        commands = {p: " ".join(p.cmdline()) for p in psutil.Process(running.pid).children()}
        worker = next(p for p, command in commands.items() if "spawn_main" in command)
        worker.kill()
        _, err = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "a process was killed before this file was in" in err
    assert f"{N_FILES} of {N_FILES} files failed" in err
    assert "Traceback" not in err
    assert content(ready_database) == {}
    assert_rerun_finishes(ready_database, tiles, undisturbed)


# The server


@pytest.fixture(scope="module")
def fragile_server():
    with temporary_server(18) as server:
        migrated_template(server)
        yield server


@pytest.mark.parametrize(
    ("accident", "jobs"), [(signal.SIGINT, 1), (signal.SIGQUIT, 2), (signal.SIGKILL, 2)]
)
def test_the_server_restarts(fragile_server, tiles, undisturbed, accident, jobs):
    """SIGINT is a fast shutdown of PostgreSQL, SIGQUIT an immediate one."""
    with temporary_database(fragile_server, "migrated") as url:
        database = Database(url)
        with blocked_ingestion(database, tiles, jobs) as running:
            pid = fragile_server.status().pid
            assert pid is not None
            os.kill(pid, accident)
            wait_until(lambda: not fragile_server.status().running)
            fragile_server.start()
            _, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert content(database) == undisturbed
        assert done_files(database) == N_FILES


def test_the_server_goes_away(fragile_server, tiles, undisturbed):
    with temporary_database(fragile_server, "migrated") as url:
        database = Database(url)
        path = tiles / file_name(MER)
        with blocked_ingestion(database, path, 1) as running:
            fragile_server.stop()
            try:
                _, err = running.communicate(timeout=90)
            finally:
                fragile_server.start()
        assert running.returncode == 1
        assert str(path) in err
        assert "Traceback" not in err
        assert content(database) == {}
        assert_rerun_finishes(database, tiles, undisturbed)


@pytest.fixture
def small_tablespace(server):
    """A tablespace on a disk of 2 MB, and a command that enlarges it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    with tempfile.TemporaryDirectory(prefix="adb-small-") as disk:
        mount = ["mount", "-t", "tmpfs", "-o"]
        made = subprocess.run([*mount, "size=2m", "tmpfs", disk], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
        os.chown(disk, (server.home / "pgdata").stat().st_uid, -1)
        try:
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                place = sql.Literal(disk)
                connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(place))
                yield lambda: subprocess.run([*mount, "remount,size=64m", disk], check=True)
                connection.execute("DROP TABLESPACE small")
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_disk_full_on_the_server(small_tablespace, server, template, tmp_path, jobs):
    large = write_product(tmp_path, MER, 2000)
    small = write_product(tmp_path, "mer_morphology", N_ROWS)
    with temporary_database(server, template) as url:
        database = Database(url)
        with psycopg.connect(url) as connection:
            connection.execute("ALTER TABLE q1.mer_catalogue SET TABLESPACE small")

        first = ingest(database, "--jobs", jobs, tmp_path)

        assert first.code == 1
        assert f"{large}: the database server's disk is full" in first.err
        assert "free space on the server and run the command again" in first.err
        assert content(database).keys() == {"mer_morphology"}
        states = "SELECT path, state FROM astropt.ingest_file ORDER BY path"
        assert select(database, states) == [(str(large), "failed"), (str(small), "done")]

        small_tablespace()
        assert ingest(database, "--jobs", jobs, tmp_path).code == 0
        assert content(database)[MER][0] == 2000
