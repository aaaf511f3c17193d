"""Every earlier schema moves up to this one, with rows in all of its tables."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from conftest import temporary_database
from psycopg import sql

from astropt_db.database import migrate
from astropt_db.database.connect import Database, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.resources import migrations_folder

REVISIONS = sorted(path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py"))
ROWS = 3
# Of each table: its columns with their types, and the words that a CHECK allows.
TABLES = """
    SELECT n.nspname, c.relname,
        jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)),
        (SELECT jsonb_object_agg(k.attname, word.found[1])
         FROM pg_constraint AS o
         JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = o.conkey[1],
         regexp_match(pg_get_constraintdef(o.oid), '\'\'([^\'\']+)\'\'::text') AS word (found)
         WHERE o.conrelid = c.oid AND o.contype = 'c' AND word.found IS NOT NULL)
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND c.relname NOT IN ('version', 'alembic_version')
    GROUP BY 1, 2, c.oid ORDER BY 1, 2
"""


def value(number: int, kind: str) -> Any:
    """A value of a type, as JSON."""
    if kind.endswith("[]"):
        return [value(number, kind.removesuffix("[]"))] * 2
    if kind.startswith(("halfvec", "vector")):
        return f"[{number},2,3]"
    if kind.startswith("timestamp"):
        return f"2025-03-19T00:00:0{number}Z"
    special = {
        "uuid": f"00000000-0000-0000-0000-00000000000{number}",
        "boolean": number == 1,
        "jsonb": {"n": number},
        "bytea": f"\\x0{number}",
    }
    if kind in special:
        return special[kind]
    return f"x{number}" if kind in ("text", "character(64)") else number


def fill_all(connection: psycopg.Connection) -> dict[tuple[str, str], list[str]]:
    """Rows in every table; the columns of each."""
    connection.execute("SET session_replication_role = replica")  # no foreign keys meanwhile
    if connection.execute("SELECT to_regclass('astropt.embedding')").fetchone() != (None,):
        connection.execute(
            "CREATE TABLE astropt.embedding_1 PARTITION OF astropt.embedding FOR VALUES IN (1)"
        )
    columns = {}
    for schema, table, kinds, words in connection.execute(TABLES).fetchall():
        columns[schema, table] = sorted(kinds)
        for number in range(1, ROWS + 1):
            row = {name: value(number, kind) for name, kind in kinds.items()} | (words or {})
            if table == "embedding":
                row["encoder_id"] = 1
            query = sql.SQL(
                "INSERT INTO {0} OVERRIDING SYSTEM VALUE "
                "SELECT (jsonb_populate_record(NULL::{0}, %s)).*"
            )
            connection.execute(query.format(sql.Identifier(schema, table)), [json.dumps(row)])
    return columns


def contents(
    connection: psycopg.Connection, columns: dict[tuple[str, str], list[str]]
) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """All rows as text, of the columns that are asked for."""
    found = {}
    for (schema, table), names in columns.items():
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(n)) for n in names)
        query = sql.SQL("SELECT {} FROM {}")
        rows = connection.execute(query.format(texts, sql.Identifier(schema, table))).fetchall()
        found[schema, table] = sorted(rows, key=repr)
    return found


@pytest.mark.parametrize(
    "revision",
    [
        # The oldest and the last but one always, those between in the slow suite.
        pytest.param(one, marks=[] if one in (REVISIONS[0], REVISIONS[-2]) else pytest.mark.slow)
        for one in REVISIONS
    ],
)
def test_every_earlier_schema_moves_up_with_its_rows(server: EmbeddedServer, revision: str) -> None:
    with temporary_database(server) as url:
        migrate.upgrade(url, revision)
        with psycopg.connect(url) as connection:
            columns = fill_all(connection)
            before = contents(connection, columns)
        migrate.upgrade(url)
        with psycopg.connect(url) as connection:
            assert contents(connection, columns) == before
        assert all(len(rows) == ROWS for rows in before.values())
        assert len(before) > 10
        with connect(Database(url)):
            pass
