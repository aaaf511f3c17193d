"""The embedded server in awkward homes, and what it runs with."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from processes import START, as_root, ask, client, free_port, mode, plain_user

from astropt_db.database.embedded import EmbeddedServer
from astropt_db.errors import AstroptDbError, ConfigurationError, DatabaseError


def test_long_path_falls_back_to_a_private_temporary_folder(home):
    server = EmbeddedServer(home / ("long" * 30))
    try:
        server.start()
        with psycopg.connect(server.url("postgres")) as connection:
            folder = Path(connection.info.host)
        assert folder.parent == Path(tempfile.gettempdir())
        assert mode(folder) == 0o700
    finally:
        server.stop()
    folder.rmdir()


def test_temporary_folder_of_somebody_else_is_not_trusted(home):
    server = EmbeddedServer(home / ("long" * 30))
    folder = Path(tempfile.gettempdir(), server.url().split("%2F")[-1].split("&")[0])
    assert not folder.exists()
    folder.symlink_to(home.parent)
    try:
        with pytest.raises(ConfigurationError, match="expected a folder of user"):
            server.start()
    finally:
        folder.unlink()


def test_path_too_long_everywhere(home, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "t" * 100)
    with pytest.raises(ConfigurationError, match=r"too long.*ASTROPT_DB_HOME"):
        EmbeddedServer(home / ("long" * 30)).start()


def test_home_with_a_hostile_name(home):
    server = EmbeddedServer(home / 'it\'s "a" $(touch pwned) `é`, \\here')
    server.start()
    folder = server.url().split("%2F")[-1].split("&")[0]
    try:
        assert ask(server.url("postgres"), "SHOW data_directory") == str(server.home / "pgdata")
        server.start(free_port())
        assert ask(server.url("postgres", tcp=True), "SELECT 1") == 1
    finally:
        server.stop()
    assert not list(home.rglob("pwned"))
    shutil.rmtree(Path(tempfile.gettempdir(), folder))


def test_home_that_cannot_be_written(home):
    home.parent.chmod(0o555)
    process = client(START, home, plain_user())
    complaint = process.communicate(timeout=30)[1]
    assert "ConfigurationError" in complaint
    assert "Permission denied" in complaint
    assert "ASTROPT_DB_HOME" in complaint
    home.parent.chmod(0o755)


def test_home_that_is_a_file(home):
    home.write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*ASTROPT_DB_HOME"):
        EmbeddedServer(home).start()
    home.unlink()


def test_other_files_in_the_data_directory(home):
    (home / "pgdata").mkdir(parents=True)
    (home / "pgdata" / "thesis.tex").write_text("")
    with pytest.raises(ConfigurationError, match="expected a PostgreSQL data directory"):
        EmbeddedServer(home).start()
    assert (home / "pgdata" / "thesis.tex").exists()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@as_root
def test_full_disk(home):
    with small_disk(home, "16m"):
        with pytest.raises(ConfigurationError, match=r"is full.*Free some space"):
            EmbeddedServer(home).start()
        assert not list(home.glob("*pgdata*")), "nothing half-made stays"
    home.rmdir()


def test_data_directory_of_another_version(server16):
    pid = server16.status().pid
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 16, but .* PostgreSQL 18.*upgrade"):
        EmbeddedServer(server16.home, version=18).start()
    assert server16.status().pid == pid


def test_failed_start_quotes_the_log(home):
    server = EmbeddedServer(home)
    server.start()
    server.stop()
    with (home / "pgdata" / "postgresql.auto.conf").open("a") as file:
        file.write("work_mem = 'plenty'\n")
    with pytest.raises(
        DatabaseError, match='invalid value for parameter "work_mem": "plenty"'
    ) as e:
        server.start()
    assert isinstance(e.value, AstroptDbError)
    assert str(home / "postgres.log") in str(e.value)


@pytest.mark.parametrize("which", ["database_url", "database_url16"])
def test_pgvector_works(which, request):
    with psycopg.connect(request.getfixturevalue(which)) as connection:
        connection.execute("CREATE EXTENSION vector")
        distance = connection.execute("SELECT '[1,0]'::halfvec <=> '[0,1]'::halfvec").fetchone()
    assert distance == (1.0,)


@pytest.mark.parametrize("which", ["database_url", "database_url16"])
def test_text_sorts_by_code_point(which, request):
    query = "SELECT string_agg(x, '' ORDER BY x) FROM unnest(ARRAY['é', 'a', 'B', '_']) AS x"
    assert ask(request.getfixturevalue(which), query) == "B_aé"
    assert ask(request.getfixturevalue(which), "SHOW server_encoding") == "UTF8"


def test_settings_are_in_force(server, database_url):
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "jit": "off",
        "autovacuum": "on",
        "log_statement": "none",
        "listen_addresses": "",
        "random_page_cost": "1.1",
        "TimeZone": "UTC",
    }
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
        found = dict(rows)
        written = connection.execute(
            "SELECT name FROM pg_file_settings WHERE sourcefile LIKE '%%astropt-db.conf' "
            "AND (NOT applied OR error IS NOT NULL)"
        ).fetchall()
    assert {name: found[name] for name in expected} == expected
    assert written == [], "every line of our file is accepted and in force"
    assert "shared_buffers = " in (server.home / "pgdata" / "astropt-db.conf").read_text()
    # 8 kB blocks: PostgreSQL's own default is 128 MB, whatever the machine.
    memory = psutil.virtual_memory().total
    assert 64 << 20 <= int(found["shared_buffers"]) * 8192 <= max(64 << 20, memory // 8)


def _apart_from_disk(settings):
    """Return the lines without the two sizes that follow the free disk at each start."""
    lines = settings.splitlines()
    kept = [line for line in lines if not line.startswith(("max_wal_size", "min_wal_size"))]
    assert len(kept) == len(lines) - 2
    return kept


def test_settings_are_written_anew_at_each_start(home):
    server = EmbeddedServer(home)
    server.start()
    file = home / "pgdata" / "astropt-db.conf"
    before = _apart_from_disk(file.read_text())
    server.stop()
    file.write_text("fsync = off\n")
    server.start()
    assert _apart_from_disk(file.read_text()) == before
    assert ask(server.url("postgres"), "SHOW fsync") == "on"


def test_log_is_bounded(home):
    server = EmbeddedServer(home)
    server.start()
    log = server.status().log
    with log.open("a") as file:
        file.write("noise\n" * (2 << 20))
    server.start()
    assert log.stat().st_size < 1 << 20
    assert (home / "postgres.log.1").stat().st_size > 8 << 20
    assert mode(home / "postgres.log.1") == 0o600
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url("no_such_database"))
    assert "no_such_database" in log.read_text(), "the server goes on writing"
