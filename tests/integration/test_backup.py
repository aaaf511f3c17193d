"""Backups come back as they were, also on a newer server, and the embedded server moves up."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pytest
from commands import run
from conftest import temporary_database
from psycopg import sql
from vector_database import add_encoder, add_vectors

from astropt_db.database import backup as backup_module
from astropt_db.database import migrate
from astropt_db.database.backup import backup, client_programs, restore
from astropt_db.database.connect import Database, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.embedded.upgrade import UPGRADED
from astropt_db.errors import DatabaseError, FileError


def fill(url: str) -> None:
    """Rows in tables of every kind: arrays, JSON, identities, vectors, non-ASCII text."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO astropt.run (command, arguments, code_version, host, pid, state) "
            """VALUES ('ingest', '{"path": "Grüße\\\\\\n\\t"}', '1', 'h', 1, 'done')"""
        )
        connection.execute(
            "INSERT INTO astropt.ingest_file (run_id, path, release, unknown_columns, state) "
            "VALUES (1, 'a.fits', 'Q1', ARRAY['a', NULL, '\"'], 'done')"
        )
        connection.execute(
            "INSERT INTO q1.mer_catalogue (object_id, healpix29, ingest_file_id, declination) "
            "SELECT -2606000000000000000 - i, i, 1, 1.0 / i FROM generate_series(1, 500) AS i"
        )
    encoder = add_encoder(Database(url), "vis", 16, current=True)
    vectors = np.random.default_rng(1).normal(size=(500, 16)).astype(np.float32)
    add_vectors(Database(url), encoder, np.arange(500), vectors)


def checksums(url: str) -> dict[str, tuple[int, object]]:
    """Rows and an order-independent checksum of the text of every table of ours."""
    found = {}
    with psycopg.connect(url) as connection:
        # hash_record knows no halfvec; the text of a row is the same on every version.
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class AS c "
            "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p') "
            "AND c.relname NOT IN ('version', 'alembic_version')"
        ).fetchall()
        for schema, table in tables:
            query = sql.SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t")
            row = connection.execute(query.format(sql.Identifier(schema, table))).fetchone()
            assert row is not None
            found[f"{schema}.{table}"] = (row[0], row[1])
    return found


@pytest.mark.parametrize("source", ["server", "server16"])
def test_a_backup_comes_back_whole(
    source: str,
    request: pytest.FixtureRequest,
    database_url: str,
    tmp_path: Path,
) -> None:
    """Written on PostgreSQL 18 and on 16, restored on 18."""
    with temporary_database(request.getfixturevalue(source)) as url:
        migrate.upgrade(url)
        fill(url)
        before = checksums(url)
        done = run(Database(url), "db", "backup", tmp_path / "a backup.dump")
        assert done.code == 0, done.err
    done = run(Database(database_url), "db", "restore", tmp_path / "a backup.dump")
    assert done.code == 0, done.err
    assert checksums(database_url) == before
    assert sum(count for count, _ in before.values()) > 1500
    assert [path.name for path in tmp_path.iterdir()] == ["a backup.dump"]
    with connect(Database(database_url)) as connection:
        # Identities go on where they were, and partitions take rows.
        row = connection.execute(
            "INSERT INTO astropt.run (command, arguments, code_version, host, pid, state) "
            "VALUES ('x', '{}', '', '', 1, 'done') RETURNING id"
        ).fetchone()
        assert row == (2,)
        connection.execute("SET ROLE astropt_reader")
        assert connection.execute("SELECT count(*) FROM astropt.embedding_array").fetchone()


def test_data_is_not_overwritten_unasked(ready_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "b.dump"
    backup(ready_database, path)
    fill(ready_database.url)
    before = checksums(ready_database.url)
    with pytest.raises(DatabaseError, match=r"holds data already; .*--replace"):
        restore(ready_database, path)
    assert checksums(ready_database.url) == before
    restore(ready_database, path, replace=True)
    assert checksums(ready_database.url)["q1.mer_catalogue"][0] == 0


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_damaged_backup_changes_nothing(
    ready_database: Database, tmp_path: Path, keep: float
) -> None:
    path = tmp_path / "b.dump"
    fill(ready_database.url)
    backup(ready_database, path)
    before = checksums(ready_database.url)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises((DatabaseError, FileError)):
        restore(ready_database, path, replace=True)
    assert checksums(ready_database.url) == before


def test_what_is_no_backup_is_refused(
    ready_database: Database, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("DROP SCHEMA q1 CASCADE;")
    with pytest.raises(FileError, match="expected a backup in pg_dump's custom format"):
        restore(ready_database, tmp_path / "notes.txt")
    with pytest.raises(FileError, match="no such file"):
        restore(ready_database, tmp_path / "absent")
    with pytest.raises(DatabaseError, match="nothing to save"):
        backup(Database(database_url), tmp_path / "b.dump")
    assert not (tmp_path / "b.dump").exists()


def test_a_backup_of_newer_code_is_refused(ready_database: Database, tmp_path: Path) -> None:
    backup(ready_database, tmp_path / "b.dump")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_module, "latest_revision", lambda: "0001")
        with pytest.raises(DatabaseError, match=r"has schema \d+, .* Upgrade the package first"):
            restore(ready_database, tmp_path / "b.dump")


def test_a_failed_backup_leaves_the_old_one(
    ready_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.dump"
    backup(ready_database, path)
    before = path.read_bytes()
    monkeypatch.setattr(backup_module, "SCHEMAS", ("absent",))
    monkeypatch.setattr(backup_module, "_client", lambda url: ("--dbname=host=/nowhere", {}))
    with pytest.raises(DatabaseError, match="pg_dump failed"):
        backup(ready_database, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_password_is_not_in_the_process_list(
    server: EmbeddedServer, template: str, tmp_path: Path
) -> None:
    seen: set[str] = set()
    with temporary_database(server, template) as url:
        command = [*("python", "-m", "astropt_db", "db", "backup", str(tmp_path / "b.dump"))]
        programs = str(client_programs(18))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ASTROPT_DB_URL", url + "&password=Geheim77")
            running = subprocess.Popen(command, stderr=subprocess.PIPE)
            while running.poll() is None:
                for process in psutil.process_iter():
                    try:
                        seen.add(" ".join(process.cmdline()))
                    except psutil.Error:
                        continue
                time.sleep(0.005)
            assert running.communicate()[1]
    assert any(line.startswith(programs) for line in seen), "pg_dump was seen"
    assert not any("Geheim77" in line for line in seen)


# Major versions of the embedded server


def test_the_embedded_server_moves_to_the_next_major_version(home: Path) -> None:
    old = EmbeddedServer(home, 16)
    old.start()
    old.create_database("astropt")
    migrate.upgrade(old.url())
    fill(old.url())
    before = checksums(old.url())
    new = EmbeddedServer(home, 18)
    with pytest.raises(Exception, match="astropt-db db upgrade"):
        new.start()
    kept = new.upgrade()
    assert kept is not None
    assert (kept / "PG_VERSION").read_text().strip() == "16"
    assert new.status().version.startswith("18.")
    assert checksums(new.url()) == before
    migrate.upgrade(new.url())
    assert checksums(new.url()) == before
    assert new.upgrade() is None
    # A client that died between the two renames left this.
    new.stop()
    (home / "pgdata").rename(home / UPGRADED)
    new.start()
    assert checksums(new.url()) == before
