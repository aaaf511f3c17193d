"""No SQL is put together from strings, and no name or secret can do harm.

The first part reads the code itself; the second gives hostile names to commands.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pytest
from commands import CHECKOUT, content, ingest, run
from psycopg.conninfo import make_conninfo
from q1_files import make_rows, write_product

from astropt_db.database.accounts import set_account
from astropt_db.database.connect import Database
from astropt_db.errors import ConfigurationError, DatabaseError

SOURCES = sorted(
    [*(CHECKOUT / "astropt_db").rglob("*.py"), *(CHECKOUT / "migrations").rglob("*.py")]
)
RUN_SQL = {"execute", "executemany", "copy", "stream", "text"}
STATEMENT = re.compile(
    r"\s*(SELECT\b.*\bFROM|INSERT\s+INTO|UPDATE\b.*\bSET|DELETE\s+FROM|DROP\s+(TABLE|SCHEMA|VIEW)|"
    r"CREATE\s+(TABLE|INDEX|VIEW|ROLE|DATABASE)|ALTER\s+(TABLE|ROLE)|COPY\s|TRUNCATE\s|GRANT\s)",
    re.IGNORECASE | re.DOTALL,
)
# Where a statement of another language is built from checked parts: ADQL for the archives, whose
# services take no parameters (tests/integration/test_archive.py tries to break out of it).
OTHER_LANGUAGES = {"astropt_db/q1/archive_queries.py"}


def constant(node: ast.expr) -> bool:
    """Whether a string is written down in the code, in one piece or several."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return constant(node.left) and constant(node.right)
    if isinstance(node, ast.IfExp):
        return constant(node.body) and constant(node.orelse)
    return False


def assembled(node: ast.AST) -> bool:
    """Whether a string is made of pieces that are not all written down."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return not constant(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        if node.func.attr == "format":
            return isinstance(owner, ast.Constant | ast.JoinedStr | ast.Subscript)
        if node.func.attr in ("join", "replace"):
            return not (isinstance(owner, ast.Call) and name_of(owner) == "SQL")
        if node.func.attr == "encode":
            return assembled(owner)
    return False


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def start_of(node: ast.AST) -> str:
    """The first written-down piece of an assembled string."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            return part.value
    return ""


def string_sql(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines where SQL is assembled from strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = name_of(node)
            database_call = name in RUN_SQL and node.args
            if (database_call or name == "SQL") and node.args and assembled(node.args[0]):
                yield node.lineno, f"{name}({ast.unparse(node.args[0])[:70]})"
        if assembled(node) and STATEMENT.match(start_of(node)):
            yield node.lineno, ast.unparse(node)[:80]  # type: ignore[attr-defined]


def test_no_sql_is_put_together_from_strings() -> None:
    found = [
        f"{path.relative_to(CHECKOUT)}:{line}: {code}"
        for path in SOURCES
        if str(path.relative_to(CHECKOUT)) not in OTHER_LANGUAGES
        for line, code in string_sql(ast.parse(path.read_text()))
    ]
    assert found == []
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    "code",
    [
        'c.execute(f"SELECT {x}")',
        'c.execute("SELECT " + x)',
        'c.execute("SELECT %s" % x)',
        'c.execute("SELECT {}".format(x))',
        'sql.SQL(f"DROP TABLE {x}")',
        'sql.SQL("a".join(names))',
        'query = f"DELETE FROM {table}"',
        'c.copy(("COPY " + x).encode())',
    ],
)
def test_the_scan_sees_what_it_should(code: str) -> None:
    assert list(string_sql(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        'c.execute("SELECT 1")',
        'c.execute(queries["a"], {"x": x})',
        'c.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(x)))',
        'sql.SQL(", ").join(names)',
        'print(f"expected {x} from {y}")',
    ],
)
def test_the_scan_lets_the_right_way_pass(code: str) -> None:
    assert not list(string_sql(ast.parse(code)))


def test_sql_files_put_names_in_with_format() -> None:
    """In plpgsql, EXECUTE takes a text: names and values come in by format's %I and %L."""
    for path in (CHECKOUT / "sql").rglob("*.sql"):
        for statement in re.findall(r"EXECUTE\s+(.*?);", path.read_text(), flags=re.DOTALL):
            if re.match(r"ON|FUNCTION|IMMEDIATE", statement) or "ON FUNCTION" in statement:
                continue
            assert not re.search(r"'\s*\|\|\s*(?!format|quote_|\$)\w", statement), (
                f"{path.name}: {statement[:80]}"
            )


# Hostile names

NAMES = [
    'x"; DROP TABLE q1.mer_catalogue; --',
    "x'; DROP TABLE q1.mer_catalogue; --",
    "$(touch pwned) `touch pwned`",
    "-rf",
    "%s %(a)s {} {0}",
    "<script>alert(1)</script>",
    "ünï\u202ecödé",
    "a\nb",
    "pg_catalog.pg_authid",
]


@pytest.mark.parametrize("name", NAMES)
def test_files_and_columns_with_hostile_names(
    ready_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name.replace("/", "_")
    folder.mkdir()
    rows = make_rows("mer_catalogue", 3)
    kinds = [(one, rows.dtype[one]) for one in rows.dtype.names]
    wider = np.zeros(len(rows), [*kinds, ("MY_OWN", "f4")])
    for one in rows.dtype.names:
        wider[one] = rows[one]
    path = write_product(folder, "mer_catalogue", wider)
    if isinstance(path, Path):
        renamed = path.with_name(name.replace("/", "_") + ".fits")
        path.rename(renamed)
    done = ingest(ready_database, "./" + folder.name)
    assert done.code == 0, done.err
    assert content(ready_database)["mer_catalogue"][0] == 3
    status = json.loads(run(ready_database, "status", "--json").out)
    assert status["sources"][0]["n_sources"] == "3"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", NAMES)
def test_accounts_with_hostile_names(ready_database: Database, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name an account"):
        set_account(ready_database, name, "reader", "x")


@pytest.mark.parametrize("name", NAMES)
def test_functions_with_hostile_values(ready_database: Database, name: str) -> None:
    with psycopg.connect(ready_database.url) as connection:
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT astropt.encoder_id(%s)", [name])
        connection.rollback()
        row = connection.execute("SELECT count(*) FROM q1.mer_catalogue").fetchone()
    assert row == (0,)


# Accounts


def test_an_account_has_one_right(server, ready_database: Database) -> None:
    try:
        assert set_account(ready_database, "ann_of_test", "worker", "first")
        assert not set_account(ready_database, "ann_of_test", "reader", "it's; \\ new")
        with psycopg.connect(ready_database.url) as connection:
            groups = connection.execute(
                "SELECT r.rolname FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.roleid "
                "WHERE m.member = 'ann_of_test'::regrole"
            ).fetchall()
            secret = connection.execute(
                "SELECT rolpassword FROM pg_authid WHERE rolname = 'ann_of_test'"
            ).fetchone()
        assert groups == [("astropt_reader",)]
        assert secret is not None
        assert secret[0].startswith("SCRAM-SHA-256$")
        with pytest.raises(DatabaseError, match="is a superuser"):
            set_account(ready_database, "postgres", "reader", "x")
        ann = Database(make_conninfo(ready_database.url, user="ann_of_test"))
        with pytest.raises(DatabaseError, match="no right to make the account"):
            set_account(ann, "bob_of_test", "reader", "x")
        assert "new" not in server.status().log.read_text()
    finally:
        with psycopg.connect(ready_database.url) as connection:
            connection.execute("DROP ROLE IF EXISTS ann_of_test, bob_of_test")


# Secrets

SECRET = "Geheim-77"


@pytest.mark.parametrize("verb", ["doctor", "query"])
def test_a_password_is_in_no_message(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong address, given by environment, with everything that the command can say."""
    url = f"postgresql://ann:{SECRET}@127.0.0.1:1/astropt"
    words = [verb, *(["SELECT 1"] if verb == "query" else [])]
    monkeypatch.setenv("ASTROPT_DB_URL", url)
    for options in (["--debug"], ["-v", "--log-format", "json"]):
        done = subprocess.run(
            [sys.executable, "-m", "astropt_db", *options, *words],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert SECRET not in done.stdout + done.stderr
        assert "127.0.0.1" in done.stdout + done.stderr


def test_a_password_is_in_no_process_title(ready_database: Database, tmp_path: Path) -> None:
    """Given by environment or file, it is in the command line of no process."""
    (tmp_path / "secret").write_text(SECRET)
    write_product(tmp_path, "mer_catalogue", make_rows("mer_catalogue", 300))
    command = [sys.executable, "-m", "astropt_db", "ingest", "catalogue", "--jobs", "2"]
    seen = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTROPT_DB_URL", ready_database.url)
        patch.setenv("ASTROPT_DB_PASSWORD_FILE", str(tmp_path / "secret"))
        with subprocess.Popen(
            [*command, tmp_path], cwd=CHECKOUT, stderr=subprocess.PIPE
        ) as running:
            while running.poll() is None:
                for process in psutil.process_iter():
                    try:
                        seen.add(" ".join(process.cmdline()))
                    except psutil.Error:
                        continue
                time.sleep(0.02)
    assert any("ingest catalogue" in line for line in seen)
    assert not any(SECRET in line for line in seen)
