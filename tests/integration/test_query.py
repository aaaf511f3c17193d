"""``astropt-db query``: formats, read-only rights, limits and messages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from conftest import temporary_database

from astropt_db.cli.main import main
from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.reading import run_query
from astropt_db.errors import DatabaseError

IDS = (2684805874647806467, -532257415282400330)
VALUES = f"""
    SELECT {IDS[0]}::bigint AS object_id, 'NaN'::float8 AS flux, 0.1::real AS flux_err,
        ARRAY[0.5, 'NaN']::real[] AS interval, ARRAY[{IDS[1]}, 7]::bigint[] AS ids,
        NULL::text AS note, true AS good, '{{"a": [1, "x"]}}'::jsonb AS extra,
        1.50::numeric AS mean, '2026-10-21'::date AS day, 'µ, "q"' AS text, '\\x00ff'::bytea AS raw
"""


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a query that failed, which is one line and no traceback."""
        assert self.code == 1
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def url(server: EmbeddedServer, template: str) -> Iterator[str]:
    with temporary_database(server, template) as url:
        with psycopg.connect(url) as connection:
            connection.execute(
                "INSERT INTO q1.mer_morphology (object_id, gini, ingest_file_id) "
                "SELECT object_id, 0.5, 1 FROM unnest(%s::bigint[]) AS object_id",
                [list(IDS)],
            )
        yield url


@pytest.fixture
def query(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run the command in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(statement: str, *options: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main(["query", statement, "--db", url, *options])
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run


# Formats


def test_json(query) -> None:
    answer = query(VALUES, "--format", "json")
    assert answer.code == 0
    assert json.loads(answer.out) == [
        {
            "object_id": str(IDS[0]),
            "flux": None,
            "flux_err": 0.1,
            "interval": [0.5, None],
            "ids": [str(IDS[1]), "7"],
            "note": None,
            "good": True,
            "extra": {"a": [1, "x"]},
            "mean": "1.50",
            "day": "2026-10-21",
            "text": 'µ, "q"',
            "raw": "\\x00ff",
        }
    ]


def test_csv(query) -> None:
    answer = query(VALUES, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(answer.out))
    assert row == {
        "object_id": str(IDS[0]),
        "flux": "nan",
        "flux_err": "0.1",
        "interval": "[0.5, null]",
        "ids": f'["{IDS[1]}", 7]',
        "note": "",
        "good": "true",
        "extra": '{"a": [1, "x"]}',
        "mean": "1.50",
        "day": "2026-10-21",
        "text": 'µ, "q"',
        "raw": "\\x00ff",
    }


def test_a_narrow_table(query) -> None:
    answer = query("SELECT object_id, gini FROM q1.mer_morphology ORDER BY 1")
    assert [line.split() for line in answer.out.splitlines()] == [
        ["object_id", "gini"],
        [str(IDS[1]), "0.5"],
        [str(IDS[0]), "0.5"],
    ]


def test_no_rows(query) -> None:
    nothing = "SELECT object_id, gini FROM q1.mer_morphology WHERE false"
    assert json.loads(query(nothing, "--format", "json").out) == []
    assert query(nothing, "--format", "csv").out == "object_id,gini\n"
    assert query(nothing).out.split() == ["object_id", "gini"]


def test_columns_of_one_name_are_all_in_json(query) -> None:
    answer = query("SELECT 1 AS a, 2 AS a, 3 AS b", "--format", "json")
    assert json.loads(answer.out) == [{"a": 1, "a_2": 2, "b": 3}]


def test_a_wide_row_is_shown_value_by_value_and_nothing_is_cut_off(query) -> None:
    words = " ".join(f"word-{i}" for i in range(40))
    statement = f"""SELECT '{words}' AS detail, repeat('x', 100) AS path,
        '{{"object_id": "5", "ra": 1.5}}'::jsonb AS row, NULL AS nothing"""
    lines = query(statement).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == ["row 1", "  detail  word-0 word-1 word-2 word-3 word-4 word-5 word-6"
                         " word-7 word-8 word-9"]  # fmt: skip
    assert " ".join(" ".join(lines).split()).count("word-") == 40
    assert "".join(lines).count("x") == 100
    assert '  row     {"ra": 1.5, "object_id": "5"}' in lines
    assert lines[-1] == "  nothing"
    continued = [line for line in lines[2:] if line.startswith("          ")]
    assert len(continued) == 5


def test_a_single_wide_column_is_shown_as_it_is(query) -> None:
    answer = query("SELECT repeat('y', 200) AS plan UNION ALL SELECT '  indented'")
    assert answer.out.splitlines() == ["plan", "y" * 200, "  indented"]


def test_long_arrays_are_shortened_in_tables_only(query) -> None:
    pdf = "SELECT array_fill(0.25::real, ARRAY[601]) AS phz_pdf"
    assert query(pdf).out.splitlines()[1].strip() == "[0.25, 0.25, 0.25, 0.25, … 601]"
    assert len(json.loads(query(pdf, "--format", "json").out)[0]["phz_pdf"]) == 601


def test_a_table_stops_after_500_rows_and_says_so(query) -> None:
    many = "SELECT generate_series(1, 1000000) AS number"
    answer = query(many)
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 501
    assert "the first 500 are shown, --format csv gives all" in answer.err
    assert query(many.replace("1000000", "500")).err == ""
    assert len(query(many.replace("1000000", "2000"), "--format", "csv").out.splitlines()) == 2001


def test_the_statement_from_stdin(query, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("-- a comment\nSELECT '%s' AS a, 7 % 4 AS b;\n"))
    assert query("-", "--format", "csv").out == "a,b\n%s,3\n"


# Read-only


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("INSERT INTO astropt.version DEFAULT VALUES", "cannot execute INSERT in a read-only"),
        ("DELETE FROM q1.mer_morphology", "cannot execute DELETE in a read-only"),
        ("UPDATE q1.mer_morphology SET gini = 1", "cannot execute UPDATE in a read-only"),
        ("TRUNCATE q1.mer_morphology", "cannot execute TRUNCATE TABLE in a read-only"),
        ("DROP SCHEMA q1 CASCADE", "cannot execute DROP SCHEMA in a read-only"),
        ("CREATE TEMPORARY TABLE mine (i int)", "cannot execute CREATE TABLE in a read-only"),
        (
            "WITH gone AS (DELETE FROM q1.mer_morphology RETURNING *) SELECT * FROM gone",
            "in a read-only transaction",
        ),
        ("DO $$ BEGIN DELETE FROM q1.mer_morphology; END $$", "cannot execute DELETE"),
        ("COPY q1.mer_morphology TO PROGRAM 'cat'", "permission denied to COPY"),
        ("COPY q1.mer_morphology TO '/tmp/stolen'", "permission denied to COPY"),
        ("COPY q1.mer_morphology FROM STDIN", "permission denied for table"),
        ("SELECT pg_read_file('/etc/passwd')", "permission denied for function"),
        ("SELECT set_config('role', 'none', false), pg_read_file('x')", "permission denied"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "must be set before any query"),
        ("SET TRANSACTION READ WRITE", "must be set before any query"),
        ("SELECT nextval('astropt.run_id_seq')", "permission denied for sequence"),
        (
            "SELECT set_config('role', 'none', false),"
            " query_to_xml('DELETE FROM q1.mer_morphology', true, true, '')",
            "DELETE is not allowed",
        ),
        ("SELECT 1; DELETE FROM q1.mer_morphology", "expected one statement, found several"),
        ("COMMIT; DELETE FROM q1.mer_morphology", "expected one statement, found several"),
    ],
)
def test_nothing_can_be_changed(query, url: str, statement: str, message: str) -> None:
    assert message in query(statement).error
    with psycopg.connect(url) as connection:
        count = connection.execute("SELECT count(*) FROM q1.mer_morphology").fetchone()
    assert count == (2,)


def test_settings_do_not_outlive_the_query(query) -> None:
    """Each query has a connection of its own; what one sets, the next does not see."""
    query("SELECT set_config('default_transaction_read_only', 'off', false)")
    query("SELECT set_config('role', 'none', false)")
    assert "DELETE in a read-only" in query("DELETE FROM q1.mer_morphology").error
    assert query("SELECT current_user", "--format", "csv").out == "current_user\nastropt_reader\n"


# Limits and messages


def test_a_query_that_takes_too_long(query) -> None:
    message = query("SELECT pg_sleep(60)", "--timeout", "0.1").error
    assert message == "the query was stopped after 0.1 s; ask for less, or raise --timeout"
    assert "was stopped" in query("SELECT pg_sleep(60)", "--timeout", "0.0001").error
    assert query("SELECT pg_sleep(0.05)", "--timeout", "0").code == 0


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC" (at character 1)'),
        ("SELECT rightascension FROM astropt.source", 'column "rightascension" does not exist'),
        ("SELECT * FROM mer_catalogue", 'relation "mer_catalogue" does not exist'),
        ("SELECT 1 / 0", "division by zero"),
        ("SELECT 1 / (2 - i) FROM generate_series(1, 9) AS i", "division by zero"),
        ("", "the statement gives no rows; expected one SELECT"),
        ("BEGIN", "the statement gives no rows; expected one SELECT"),
        ("COPY (SELECT 1) TO STDOUT", "the statement gives no rows; expected one SELECT"),
    ],
)
def test_mistakes_are_explained_in_a_line(query, statement: str, message: str) -> None:
    assert message in query(statement).error


def test_a_hint_of_the_server_is_passed_on(query) -> None:
    message = query("SELECT s.ginni FROM q1.mer_morphology AS s").error
    assert "Perhaps you meant to reference the column" in message


def test_the_failing_row_may_come_late(url: str) -> None:
    statement = "SELECT 1 / (5000 - i) AS x FROM generate_series(1, 9000) AS i"
    with (
        pytest.raises(DatabaseError, match="division by zero"),
        run_query(Database(url), statement) as result,
    ):
        list(result.rows)


def test_rows_arrive_one_by_one_and_may_be_left(url: str) -> None:
    statement = "SELECT generate_series(1, 100000000)"
    with run_query(Database(url), statement) as result:
        first = [next(result.rows) for _ in range(3)]
    assert first == [(1,), (2,), (3,)]


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["query", "SELECT 1", "--db", "postgresql://ann:secret@127.0.0.1:1/astropt"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "cannot connect to" in said.err
    assert "secret" not in said.err


def test_an_address_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["query", "SELECT 1", "--db", "mysql://localhost/astropt"])
    assert ended.value.code == 1
    assert "is not a PostgreSQL connection string" in capsys.readouterr().err
