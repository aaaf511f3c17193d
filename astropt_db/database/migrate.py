"""Schema versions: Alembic migrations for tables, then every file of ``sql/``.

``migrations/`` changes tables, forward and back. ``sql/`` holds what can be stated anew at any
time (functions, views, roles); all of it is applied after every upgrade, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from psycopg import sql

from astropt_db import __version__
from astropt_db.database.connect import open_connection
from astropt_db.database.resources import latest_revision, migrations_folder, sql_folder
from astropt_db.errors import DatabaseError

MINIMUM_SERVER = 150000
MINIMUM_PGVECTOR = (0, 8, 4)
"""Older pgvector can write beyond its memory in parallel HNSW builds (CVE) and damage indexes."""

# One migration at a time per database; any constant that nobody else uses.
_LOCK = 7_219_541_503_312


@contextmanager
def alembic_config(url: str) -> Iterator[Config]:
    """Alembic configuration with an open connection; commits at the end, else rolls back."""
    config = Config()
    # Alembic expands % in option values.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: open_connection(url),
        poolclass=sa.pool.NullPool,
    )
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS astropt"))
            config.attributes["connection"] = connection
            yield config
    finally:
        engine.dispose()


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema to a revision, and ``sql/`` with it; safe to repeat.

    Raises
    ------
    DatabaseError
        If the server is too old, pgvector is missing, or the role may not create schemas.
    """
    _require_server(url)
    try:
        with alembic_config(url) as config:
            command.upgrade(config, revision)
        if revision == "head":
            apply_sql(url)
    except (psycopg.errors.InsufficientPrivilege, sa.exc.ProgrammingError) as error:
        raise DatabaseError(
            f"the schema could not be brought up to date: {_first_line(error)}. "
            "The role needs CREATE on the database; ask its owner, or connect as the owner"
        ) from error


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to a revision (``base`` removes everything)."""
    with alembic_config(url) as config:
        command.downgrade(config, revision)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _require_server(url: str) -> None:
    with open_connection(url) as connection:
        if connection.info.server_version < MINIMUM_SERVER:
            raise DatabaseError(
                f"PostgreSQL {connection.info.server_version // 10000} is too old: "
                f"astropt-db needs {MINIMUM_SERVER // 10000} or newer"
            )
        # IF NOT EXISTS alone fails when another process creates it at the same moment.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise DatabaseError(
                f"the extension pgvector cannot be created: {_first_line(error)}. Install "
                "pgvector on the server, or have its administrator run CREATE EXTENSION vector"
            ) from error


def sql_files() -> list[Path]:
    """Files of ``sql/`` in the order in which they are applied."""
    folder = sql_folder()
    return [
        *sorted((folder / "functions").glob("*.sql")),
        *sorted((folder / "views").glob("*.sql")),
        folder / "roles.sql",
    ]


def apply_sql(url: str) -> None:
    """State functions, views and roles anew, and record the versions."""
    with open_connection(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        for path in sql_files():
            try:
                connection.execute(path.read_bytes())
            except psycopg.Error as error:
                raise DatabaseError(f"sql/{path.name}: {_first_line(error)}") from error
        connection.execute(
            "INSERT INTO astropt.version (schema_revision, code_version) VALUES (%s, %s) "
            "ON CONFLICT (singleton) DO UPDATE SET schema_revision = excluded.schema_revision, "
            "code_version = excluded.code_version, applied_at = now()",
            [latest_revision(), __version__],
        )


def apply_comments(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Set the comment of every declared table and column that exists in the database."""
    existing = _existing_columns(connection)
    statements: list[sql.Composed] = []
    for table in metadata.sorted_tables:
        name = sql.Identifier(str(table.schema), table.name)
        present = existing.get((str(table.schema), table.name))
        if present is None:
            continue
        if table.comment:
            statements.append(
                sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(table.comment))
            )
        statements += [
            sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                sql.Identifier(str(table.schema), table.name, column.name),
                sql.Literal(column.comment),
            )
            for column in table.columns
            if column.comment and column.name in present
        ]
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if statements:
        driver.execute(sql.SQL(";\n").join(statements))


def _existing_columns(connection: sa.Connection) -> dict[tuple[str, str], set[str]]:
    rows = connection.execute(
        sa.text("SELECT table_schema, table_name, column_name FROM information_schema.columns")
    )
    columns: dict[tuple[str, str], set[str]] = {}
    for schema, table, column in rows:
        columns.setdefault((schema, table), set()).add(column)
    return columns
