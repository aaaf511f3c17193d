"""``astropt-db doctor``: what is looked at, what is found, and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from conftest import temporary_database
from psycopg import sql
from vector_database import add_encoder, add_vectors

from astropt_db.cli.main import main
from astropt_db.database import health
from astropt_db.database.connect import DATABASE, Database
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.health import Finding, examine
from astropt_db.database.provenance import recorded_run
from astropt_db.operations import doctor as doctor_module


def found(database: Database) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(database)}


def execute(database: Database, *statements: str) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_healthy_database(ready_database: Database) -> None:
    findings = found(ready_database)
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert set(findings) == {
        *("connection", "server", "pgvector", "schema", "roles", "indexes", "quarantine"),
        *("orphans", "vectors"),
    }
    assert findings["server"].finding.startswith("PostgreSQL 18.")
    assert all(not finding.remedy for finding in findings.values())


def test_the_embedded_server_has_a_disk(server: EmbeddedServer, ready_database: Database) -> None:
    disk = found(replace(ready_database, embedded=server))["disk"]
    assert disk.finding.endswith("GB free")


def test_a_server_that_is_not_there() -> None:
    (finding,) = examine(Database("postgresql://ann:secret@127.0.0.1:1/astropt"))
    assert finding.state == "wrong"
    assert "cannot connect" in finding.finding
    assert "secret" not in finding.finding


def test_a_database_without_schema(database_url: str) -> None:
    findings = found(Database(database_url))
    assert findings["pgvector"] == Finding("wrong", "pgvector", "not installed", "astropt-db init")
    assert findings["schema"].state == "wrong"
    assert "holds no astropt-db schema yet" in findings["schema"].finding
    assert "quarantine" not in findings


@pytest.mark.parametrize(
    ("revision", "message"), [("0000", "needs"), ("9999", "which is newer than this")]
)
def test_a_schema_of_another_version(ready_database: Database, revision: str, message: str) -> None:
    execute(ready_database, f"UPDATE astropt.version SET schema_revision = '{revision}'")
    schema = found(ready_database)["schema"]
    assert schema.state == "wrong"
    assert message in schema.finding


def test_software_that_is_too_old(
    ready_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MINIMUM_SERVER", 190000)
    monkeypatch.setattr(health, "MINIMUM_PGVECTOR", (99, 1))
    findings = found(ready_database)
    assert findings["server"].state == findings["pgvector"].state == "wrong"
    assert findings["server"].remedy == "upgrade to 19 or newer"
    assert "older than 99.1" in findings["pgvector"].finding
    assert "ALTER EXTENSION vector UPDATE" in findings["pgvector"].remedy


def test_an_index_that_is_not_valid(ready_database: Database) -> None:
    execute(
        ready_database,
        "UPDATE pg_index SET indisvalid = false "
        "WHERE indexrelid = 'q1.mer_catalogue_healpix29'::regclass",
    )
    indexes = found(ready_database)["indexes"]
    assert indexes == Finding(
        "wrong", "indexes", "not valid: q1.mer_catalogue_healpix29", "REINDEX them"
    )


@pytest.mark.parametrize(
    ("statement", "check", "finding"),
    [
        ("REVOKE SELECT ON q1.mer_catalogue FROM astropt_reader", "roles", "may not read"),
        ("GRANT DELETE ON q1.mer_catalogue TO PUBLIC", "roles", "may write q1.mer_catalogue"),
        (
            "INSERT INTO q1.mer_catalogue (object_id, healpix29, ingest_file_id) VALUES (1, 0, 99)",
            "counts",
            "1 rows of q1.mer_catalogue come from no file",
        ),
    ],
)
def test_what_somebody_did_by_hand(
    ready_database: Database, statement: str, check: str, finding: str
) -> None:
    execute(ready_database, statement)
    assert found(ready_database)[check].state == "wrong"
    assert finding in found(ready_database)[check].finding
    assert found(ready_database)[check].remedy


def test_vectors_without_source_and_partition(ready_database: Database) -> None:
    encoder = add_encoder(ready_database, "vis", 4)
    add_vectors(ready_database, encoder, np.arange(3), np.ones((3, 4), np.float32))
    findings = found(ready_database)
    assert findings["vectors"].state == "ok"
    assert findings["orphans"].finding.startswith("3 rows of astropt.embedding have no row")
    execute(ready_database, f"DROP TABLE astropt.embedding_{encoder.id}")
    assert found(ready_database)["partitions"].state == "wrong"


def test_vectors_whose_encoder_was_deleted(ready_database: Database) -> None:
    add_encoder(ready_database, "gone", 4)
    execute(ready_database, "DELETE FROM astropt.encoder")
    finding = found(ready_database)["partitions"]
    assert finding.state == "wrong"
    assert finding.finding == "embedding_1: the encoder has been deleted"


def test_weights_that_changed_and_weights_that_went(
    ready_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_encoder(ready_database, "gone", 4)
    execute(ready_database, "UPDATE astropt.encoder SET source = '/nowhere/a.safetensors'")

    def weights() -> Finding:
        return {one.check: one for one in doctor_module.diagnose(ready_database)}["weights of gone"]

    assert weights().state == "note"
    assert "encoder add PATH --name gone" in weights().remedy

    class Other:
        sha256 = "f" * 64

    monkeypatch.setattr("astropt_db.astropt.encoder.load_encoder", lambda *_, **__: Other())
    assert weights().state == "wrong"
    assert "has changed since" in weights().finding


def test_settings_that_lose_data(ready_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = "SELECT name, CASE name WHEN 'fsync' THEN 'off' WHEN 'full_page_writes' THEN 'off' "
    settings += "WHEN 'data_checksums' THEN 'off' WHEN 'password_encryption' THEN 'md5' "
    settings += "ELSE setting END, 1::bigint FROM pg_settings"
    monkeypatch.setitem(health.named_queries(), "health_settings", settings)
    findings = found(ready_database)
    for name in ("fsync", "full_page_writes", "password_encryption"):
        assert findings[name].state == "wrong"
        assert findings[name].remedy
    for name in ("data_checksums", "shared_buffers", "maintenance_work_mem"):
        assert findings[name].state == "note"


def test_runs_that_never_ended(ready_database: Database) -> None:
    with recorded_run(ready_database, "ingest catalogue", {}):
        assert "runs" not in found(ready_database)
        execute(ready_database, "UPDATE astropt.run SET started_at = now() - interval '2 days'")
        runs = found(ready_database)["runs"]
    assert runs.state == "note"
    assert runs.finding.startswith("1 started more than a day ago")
    assert "runs" not in found(ready_database)


def test_rows_in_quarantine_and_rows_without_source(ready_database: Database) -> None:
    with recorded_run(ready_database, "ingest catalogue", {}) as run:
        execute(
            ready_database,
            "INSERT INTO astropt.ingest_file (run_id, path, release, state) "
            f"VALUES ({run.id}, 'a.fits', 'Q1', 'done')",
            "INSERT INTO astropt.quarantine "
            "(ingest_file_id, product, row_number, reason, detail, row) "
            "SELECT id, 'mer_catalogue', 1, 'id_missing', '', '{}' FROM astropt.ingest_file",
            "INSERT INTO q1.mer_morphology (object_id, ingest_file_id) VALUES (7, 1), (8, 1)",
            "INSERT INTO q1.mer_catalogue (object_id, healpix29, ingest_file_id) VALUES (8, 0, 1)",
        )
    findings = found(ready_database)
    assert findings["quarantine"] == Finding(
        "note", "quarantine", "1 rows", "astropt-db quarantine list"
    )
    assert findings["orphans"].state == "note"
    assert findings["orphans"].finding == (
        "1 rows of q1.mer_morphology have no row in q1.mer_catalogue"
    )


# The command


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]):
    def run(*options: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *options])
        return ended.value.code, capsys.readouterr().out

    return run


def test_the_command_ends_with_0_where_nothing_is_wrong(doctor, ready_database: Database) -> None:
    code, out = doctor("--db", ready_database.url)
    assert code == 0
    assert "matches this astropt-db" in out
    code, out = doctor("--db", ready_database.url, "--format", "json")
    shown = {finding["check"]: finding["state"] for finding in json.loads(out)}
    assert set(shown.values()) == {"ok"}
    assert {"torch", "gpu"} <= set(shown)


def test_the_command_ends_with_1_where_something_is_wrong(doctor, database_url: str) -> None:
    code, out = doctor("--db", database_url, "--format", "json")
    assert code == 1
    wrong = {one["check"]: one["remedy"] for one in json.loads(out) if one["state"] == "wrong"}
    assert wrong == {"pgvector": "astropt-db init", "schema": "astropt-db init"}


@pytest.fixture
def embedded_home(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let commands without --db use the running server of the tests."""
    monkeypatch.delenv("ASTROPT_DB_URL", raising=False)
    monkeypatch.setenv("ASTROPT_DB_HOME", str(server.home))
    yield
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE))
        )


@pytest.mark.usefixtures("embedded_home")
def test_the_embedded_database_is_made_ready_first(doctor) -> None:
    code, out = doctor("--format", "json")
    findings = {finding["check"]: finding for finding in json.loads(out)}
    assert code == 0
    assert findings["connection"]["finding"] == "the embedded database"
    assert findings["schema"]["state"] == "ok"


def test_other_databases_keep_their_settings(server: EmbeddedServer) -> None:
    with temporary_database(server) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine (i int)")
        examine(Database(url))
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname NOT LIKE 'pg_%' "
            "AND schemaname <> 'information_schema'"
        ).fetchall()
    assert tables == [("mine",)]
