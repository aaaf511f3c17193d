"""``astropt-db status`` and the log lines of a run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time

import numpy as np
import psycopg
import pytest
from commands import CHECKOUT, ingest, run
from q1_files import make_rows, write_product
from vector_database import add_encoder, add_vectors

from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.logs import JsonFormatter, TextFormatter, without_passwords


@pytest.fixture
def loaded(ready_database: Database, tmp_path):
    rows = make_rows("mer_catalogue", 30)
    rows["OBJECT_ID"][3] += 100
    write_product(tmp_path, "mer_catalogue", rows)
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE")
    assert ingest(ready_database, tmp_path).code == 1
    encoder = add_encoder(ready_database, "vis", 4, current=True)
    add_vectors(ready_database, encoder, np.arange(3), np.ones((3, 4), np.float32))
    return ready_database


def test_the_status_of_a_database(loaded: Database) -> None:
    done = run(loaded, "status", "--json")
    assert done.code == 0, done.err
    status = json.loads(done.out)
    assert status["sources"][0]["n_sources"] == "29"
    assert status["files"][0] == {
        "product": "mer_catalogue",
        "done": "1",
        "failed": "0",
        "replaced": "0",
        "rows_inserted": "29",
    }
    assert [(row["reason"], row["n_rows"]) for row in status["quarantine"]] == [
        ("id_position_mismatch", "1")
    ]
    assert "broken.fits" in status["failures"][0]["path"]
    assert status["failures"][0]["error"]
    assert status["embeddings"][0]["n_vectors"] == "3"
    assert status["embeddings"][0]["percent_of_sources"] == pytest.approx(10.3)
    assert {row["schema"] for row in status["disk"]} >= {"q1", "astropt"}
    assert status["runs"][0]["command"].startswith("ingest")
    assert status["runs"][0]["state"] == "failed"
    table = run(loaded, "status")
    assert table.code == 0
    assert "vectors by encoder" in table.out


def test_an_empty_database_has_a_status(ready_database: Database) -> None:
    done = run(ready_database, "status", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["sources"] == []


def test_it_can_be_watched(ready_database: Database) -> None:
    command = [sys.executable, "-m", "astropt_db", "status", "--json", "--watch", "0.2"]
    with subprocess.Popen(
        [*command, "--db", ready_database.url], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        lines = [json.loads(running.stdout.readline()) for _ in range(2)]
        running.terminate()
    assert lines[0]["runs"] == lines[1]["runs"] == []


def test_a_reader_may_look(loaded: Database) -> None:
    with psycopg.connect(loaded.url, autocommit=True) as connection:
        connection.execute("SET ROLE astropt_reader")
        for line in json.loads(run(loaded, "status", "--json").out):
            assert line
    reader = Database(loaded.url + "&options=-c%20role%3Dastropt_reader")
    assert run(reader, "status", "--json").code == 0


# Logs


def record(message: str, **extras: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "a.b"})
    vars(made).update(extras, created=time.time())
    return made


def test_json_lines_carry_the_run(ready_database: Database) -> None:
    with recorded_run(ready_database, "test", {}) as job:
        line = json.loads(JsonFormatter().format(record('tile "x"\ndone', tile=7)))
        assert line["run"] == job.id
        assert TextFormatter().format(record("m")) == f"INFO a.b: [run {job.id}] m"
    assert line["message"] == 'tile "x"\ndone'
    assert line["tile"] == "7"
    assert line["level"] == "info"
    assert line["time"].endswith("+00:00")
    assert json.loads(JsonFormatter().format(record("m")))["run"] is None


def test_the_command_line_writes_json_lines(ready_database: Database, tmp_path) -> None:
    write_product(tmp_path, "mer_catalogue", make_rows("mer_catalogue", 5))
    command = [sys.executable, "-m", "astropt_db", "-v", "--log-format", "json"]
    done = subprocess.run(
        [*command, "ingest", "catalogue", str(tmp_path), "--db", ready_database.url],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr
    assert [line["run"] for line in lines if line["logger"].endswith("provenance")] == [1, 1]


SECRETS = [
    "postgresql://ann:Geheim77@host/db",
    "cannot reach postgres+psycopg://ann:Geheim77@host:5432/db?x=1 now",
    "https://ann:Geheim77@mirror.example/simple",
    "host=h password=Geheim77 dbname=d",
    "password = 'Geheim77 with \\' quote' x",
    "postgresql://h/db?user=a&password=Geheim77&x=1",
]


@pytest.mark.parametrize("text", SECRETS)
def test_log_lines_lose_passwords(text: str) -> None:
    assert "Geheim77" not in without_passwords(text)
    assert "Geheim77" not in JsonFormatter().format(record("%s", args=(text,)))
    assert "Geheim77" not in TextFormatter().format(record(text))


def test_a_run_stores_no_password(ready_database: Database) -> None:
    with recorded_run(ready_database, "test", {"urls": [SECRETS[0]], "path": 'a"b'}):
        pass
    with psycopg.connect(ready_database.url) as connection:
        row = connection.execute("SELECT arguments FROM astropt.run").fetchone()
    assert row == ({"urls": ["postgresql://ann:***@host/db"], "path": 'a"b'},)
