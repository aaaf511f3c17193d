"""Fixtures shared by all tests: real PostgreSQL servers in temporary homes, and real samples."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

from astropt_db.database import migrate
from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer

CHECKOUT = Path(__file__).resolve().parents[1]

# A background job inherits an ignored Ctrl-C; the tests that press it need it, in children too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Fuzz with new examples at every run of a developer, with the same ones in continuous integration.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


# A new server syncs a thousand files to disk, a new database some hundred: in memory both are
# fast, whatever else uses the disk.
MEMORY_DISK = Path("/dev/shm")
ROOM_FOR_SERVERS = 1 << 30


def memory_disk() -> Path | None:
    """Where servers of tests live: in memory if there is room, else on disk."""
    roomy = MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free > ROOM_FOR_SERVERS
    return MEMORY_DISK if roomy else None


@contextmanager
def temporary_home(folder: Path | None = None) -> Iterator[Path]:
    """A place for an embedded server; its path is short enough for a socket."""
    parent = Path(tempfile.mkdtemp(prefix="adb-", dir=folder))
    parent.chmod(0o755)
    home = parent / "home"
    try:
        yield home
    finally:
        EmbeddedServer(home).stop()
        shutil.rmtree(parent)


@contextmanager
def temporary_server(version: int) -> Iterator[EmbeddedServer]:
    with temporary_home(memory_disk()) as home:
        server = EmbeddedServer(home, version)
        server.start()
        yield server


@pytest.fixture
def home() -> Iterator[Path]:
    """Home of an embedded server that does not exist yet; stopped and removed at the end."""
    with temporary_home(memory_disk()) as folder:
        yield folder


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A running PostgreSQL 18."""
    with temporary_server(18) as running:
        yield running


@pytest.fixture(scope="session")
def server16() -> Iterator[EmbeddedServer]:
    """A running PostgreSQL 16."""
    with temporary_server(16) as running:
        yield running


@contextmanager
def temporary_database(server: EmbeddedServer, template: str | None = None) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    if template is None:
        server.create_database(name)
    else:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(command.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield server.url(name)
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            command = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(command.format(sql.Identifier(name)))


def migrated_template(server: EmbeddedServer) -> str:
    """Make a database with the schema and no rows; copying it is faster than migrating."""
    server.create_database("migrated")
    migrate.upgrade(server.url("migrated"))
    return "migrated"


@pytest.fixture
def database_url(server: EmbeddedServer) -> Iterator[str]:
    """Address of a new, empty database on PostgreSQL 18."""
    with temporary_database(server) as url:
        yield url


@pytest.fixture(scope="session")
def template(server: EmbeddedServer) -> str:
    """Name of a database on PostgreSQL 18 that holds the schema and no rows."""
    return migrated_template(server)


@pytest.fixture
def ready_database(server: EmbeddedServer, template: str) -> Iterator[Database]:
    """A new database on PostgreSQL 18 with the schema and no rows."""
    with temporary_database(server, template) as url:
        yield Database(url)


@pytest.fixture
def database_url16(server16: EmbeddedServer) -> Iterator[str]:
    """Address of a new, empty database on PostgreSQL 16."""
    with temporary_database(server16) as url:
        yield url


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real Euclid samples, which are not part of the repository."""
    folder = Path(os.environ.get("ASTROPT_DB_REAL_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}; name their folder in ASTROPT_DB_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def small_sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated release: 300 sources on 2 tiles. Read only."""
    from astropt_db.simulate import simulate

    folder = tmp_path_factory.mktemp("sky") / "sky"
    simulate(folder, 300, 2, "EDF-N", 11, jobs=1)
    return folder


@pytest.fixture(scope="session")
def sky_template(server: EmbeddedServer, template: str, small_sky: Path) -> str:
    """Name of a database that holds the catalogues and the registered mosaics of the small sky."""
    from commands import run

    name = "small_sky"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(command.format(sql.Identifier(name), sql.Identifier(template)))
    database = Database(server.url(name))
    for kind, folder in (("catalogue", "catalogs"), ("mosaics", "MER")):
        outcome = run(database, "ingest", kind, small_sky / folder)
        assert outcome.code == 0, outcome.err
    return name


@pytest.fixture
def sky_database(server: EmbeddedServer, sky_template: str) -> Iterator[Database]:
    """A copy of the database of the small sky."""
    with temporary_database(server, sky_template) as url:
        yield Database(url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
