"""The schema: migrations equal the declaration, go forth and back, and meet each other."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import CHECKOUT, temporary_database
from psycopg import sql
from psycopg.conninfo import make_conninfo

from astropt_db import __version__
from astropt_db.database import migrate
from astropt_db.database.connect import Database, connect, open_connection
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.resources import latest_revision, migrations_folder
from astropt_db.errors import DatabaseError
from astropt_db.q1.products import PRODUCTS
from astropt_db.schema import metadata

SCHEMAS = ("q1", "astropt")
# What a schema is made of; the order of columns is free, since a migration appends.
CATALOGUE = {
    "columns": """
        SELECT a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod),
            a.attnotnull, a.attidentity::text, pg_get_expr(d.adbin, d.adrelid),
            col_description(a.attrelid, a.attnum)
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v')
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace::regnamespace::text = ANY(%(schemas)s)
            AND a.attnum > 0 AND NOT a.attisdropped""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace::regnamespace::text = ANY(%(schemas)s)""",
    "indexes": """
        SELECT indexdef FROM pg_indexes WHERE schemaname = ANY(%(schemas)s)""",
    "comments": """
        SELECT oid::regclass::text, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relnamespace::regnamespace::text = ANY(%(schemas)s) AND relkind IN ('r', 'p', 'v')""",
}
STATED_ANEW = {
    "views": """
        SELECT schemaname, viewname, definition FROM pg_views
        WHERE schemaname = ANY(%(schemas)s)""",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_functiondef(oid), obj_description(oid, 'pg_proc')
        FROM pg_proc WHERE pronamespace::regnamespace::text = ANY(%(schemas)s)""",
    "grants": """
        SELECT oid::regclass::text, relacl::text FROM pg_class
        WHERE relnamespace::regnamespace::text = ANY(%(schemas)s)""",
}
UPGRADE = "import sys; from astropt_db.database.migrate import upgrade; upgrade(sys.argv[1])"


def contents(url: str, queries: dict[str, str]) -> dict[str, list[tuple[object, ...]]]:
    with psycopg.connect(url) as connection:
        return {
            name: sorted(connection.execute(query, {"schemas": list(SCHEMAS)}).fetchall(), key=repr)
            for name, query in queries.items()
        }


def tables_only(found: dict[str, list[tuple[object, ...]]]) -> dict[str, list[tuple[object, ...]]]:
    """Without views (which ``sql/`` states) and Alembic's own table."""
    names = {f"{table.schema}.{table.name}" for table in metadata.sorted_tables}
    names |= {table.name for table in metadata.sorted_tables}

    def ours(row: tuple[object, ...]) -> bool:
        return str(row[0]) in names or "alembic_version" not in str(row[0])

    relations = {
        name: [row for row in rows if str(row[0]) in names]
        for name, rows in found.items()
        if name != "indexes"
    }
    return relations | {"indexes": [row for row in found["indexes"] if ours(row)]}


@pytest.fixture(params=["database_url", "database_url16"], ids=["PostgreSQL 18", "PostgreSQL 16"])
def url(request: pytest.FixtureRequest) -> str:
    """Address of a new, empty database on each version."""
    return str(request.getfixturevalue(request.param))


def test_migrated_schema_is_the_declared_one(url: str) -> None:
    migrate.upgrade(url)
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: open_connection(url))
    with engine.connect() as connection:
        options = {
            "include_schemas": True,
            "version_table_schema": "astropt",
            "compare_type": True,
            "compare_server_default": True,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrated_schema_has_what_the_declaration_would_create(
    ready_database: Database, database_url: str
) -> None:
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: open_connection(database_url)
    )
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE EXTENSION vector"))
        for schema in SCHEMAS:
            connection.execute(sa.schema.CreateSchema(schema))
        metadata.create_all(connection)
    engine.dispose()
    declared = tables_only(contents(database_url, CATALOGUE))
    migrated = tables_only(contents(ready_database.url, CATALOGUE))
    assert len(declared["columns"]) > 800
    for name, rows in declared.items():
        assert migrated[name] == rows


def test_up_down_and_up_again(url: str) -> None:
    migrate.upgrade(url)
    everything = CATALOGUE | STATED_ANEW
    before = contents(url, everything)
    migrate.downgrade(url, "base")
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = ANY(%s) AND tablename <> %s"
        assert connection.execute(query, [list(SCHEMAS), "alembic_version"]).fetchone() == (0,)
    migrate.upgrade(url)
    assert contents(url, everything) == before


def test_every_revision_can_be_undone(database_url: str) -> None:
    """Each step back and forth leaves the tables as they were."""
    migrate.upgrade(database_url)
    before = contents(database_url, CATALOGUE)
    migrate.downgrade(database_url, "-1")
    migrate.upgrade(database_url)
    assert contents(database_url, CATALOGUE) == before


def test_upgrade_can_be_repeated(ready_database: Database) -> None:
    before = contents(ready_database.url, CATALOGUE | STATED_ANEW)
    with connect(ready_database) as connection:
        connection.execute(
            "INSERT INTO q1.mer_morphology (object_id, ingest_file_id) VALUES (-5, 1)"
        )
    migrate.upgrade(ready_database.url)
    assert contents(ready_database.url, CATALOGUE | STATED_ANEW) == before
    with connect(ready_database) as connection:
        rows = connection.execute("SELECT object_id FROM q1.mer_morphology").fetchall()
    assert rows == [(-5,)]


def upgrades(urls: list[str]) -> list[str]:
    """What processes that upgrade at the same time complain about."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, url], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True
        )
        for url in urls
    ]
    return [process.communicate(timeout=60)[1].strip() for process in processes]


def test_processes_may_upgrade_at_the_same_time(server: EmbeddedServer, template: str) -> None:
    with temporary_database(server) as one, temporary_database(server) as other:
        assert upgrades([one, one, other]) == [""] * 3
        assert contents(one, CATALOGUE) == contents(server.url(template), CATALOGUE)
        with connect(Database(one)), connect(Database(other)):
            pass


def test_the_first_migration_still_creates_the_listed_columns() -> None:
    with (migrations_folder() / "frozen" / "0001_q1_columns.csv").open(newline="") as handle:
        frozen = [tuple(row.values()) for row in csv.DictReader(handle)]
    listed = [
        (product.table, column.sql, column.type, str(int(column.sql in product.key)))
        for product in PRODUCTS
        for column in product.columns
    ]
    assert sorted(frozen) == sorted(listed)


# Versions


def set_version(database: Database, revision: str, code: str) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute(
            "UPDATE astropt.version SET schema_revision = %s, code_version = %s", [revision, code]
        )


def test_versions_are_recorded(ready_database: Database) -> None:
    with connect(ready_database) as connection:
        row = connection.execute(
            "SELECT schema_revision, code_version FROM astropt.version"
        ).fetchone()
    assert row == (latest_revision(), __version__)


def test_a_database_without_schema_is_refused(database_url: str) -> None:
    with pytest.raises(DatabaseError, match="holds no astropt-db schema yet; run: astropt-db init"):
        connect(Database(database_url))


def test_an_older_schema_is_refused(ready_database: Database) -> None:
    set_version(ready_database, "0000", "0.0.1")
    message = (
        rf"has schema 0000 \(from astropt-db 0\.0\.1\), this astropt-db {__version__} needs "
        rf"{latest_revision()}; run: astropt-db init"
    )
    with pytest.raises(DatabaseError, match=message):
        connect(ready_database)
    migrate.upgrade(ready_database.url)
    connect(ready_database).close()


def test_a_newer_schema_is_refused(ready_database: Database) -> None:
    set_version(ready_database, "9999", "99.0")
    message = r"has schema 9999, made by astropt-db 99\.0, which is newer .*; upgrade the package"
    with pytest.raises(DatabaseError, match=message):
        connect(ready_database)


# Rights


@pytest.fixture
def stranger(server: EmbeddedServer) -> Iterator[str]:
    """A role that may connect and nothing else."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN")
        yield "stranger"
        connection.execute("DROP ROLE stranger")


def test_a_role_that_may_not_create_is_told_so(database_url: str, stranger: str) -> None:
    url = make_conninfo(database_url, user=stranger)
    with pytest.raises(DatabaseError, match="the extension pgvector cannot be created"):
        migrate.upgrade(url)
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE EXTENSION vector")
    with pytest.raises(DatabaseError, match=r"permission denied .*needs CREATE on the database"):
        migrate.upgrade(url)


def test_readers_read_and_nothing_more(ready_database: Database) -> None:
    with connect(ready_database, autocommit=True) as connection:
        connection.execute("SET ROLE astropt_reader")
        assert connection.execute("SELECT count(*) FROM astropt.source").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM q1.mer_catalogue").fetchone() == (0,)
        for statement in (
            "DELETE FROM q1.mer_catalogue",
            "INSERT INTO astropt.version DEFAULT VALUES",
            "CREATE TABLE astropt.mine (i int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL(statement))
