"""Each role logs in and tries what it must not do."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psycopg
import pytest
from commands import run
from conftest import temporary_database
from psycopg import sql
from psycopg.conninfo import make_conninfo
from q1_files import make_rows, write_product
from vector_database import add_encoder, add_vectors

from astropt_db.database import migrate
from astropt_db.database.connect import ADMIN, READER, WORKER, Database, analyse_table, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.reading import run_query
from astropt_db.database.resources import sql_folder
from astropt_db.errors import DatabaseError

ROLES = ("astropt_reader", "astropt_worker", "astropt_admin")
FORBIDDEN_TO_ALL = (
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/astropt_db_test'",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "CREATE ROLE mallory SUPERUSER",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE c AS 'x', 'y'",
    "CREATE TABLE public.mine (i int)",
)
FORBIDDEN_TO_WORKERS = (
    "DROP TABLE q1.mer_catalogue",
    "TRUNCATE q1.mer_catalogue",
    "ALTER TABLE astropt.run ADD COLUMN mine int",
    "CREATE TABLE astropt.mine (i int)",
    "CREATE TABLE q1.mine (i int)",
    "CREATE INDEX ON q1.mer_catalogue (declination)",
    "CREATE OR REPLACE VIEW astropt.source AS SELECT 1 AS object_id",
    "CREATE OR REPLACE FUNCTION astropt.field_name(float8, float8) RETURNS text LANGUAGE sql "
    "AS 'SELECT 1::text'",
    "UPDATE astropt.version SET code_version = '9'",
    "INSERT INTO astropt.release_access VALUES ('Q2', 'astropt_reader')",
    "SET ROLE astropt_admin",
    "GRANT astropt_admin TO CURRENT_USER",
    "CREATE SCHEMA mine",
)
FORBIDDEN_TO_READERS = (
    "INSERT INTO astropt.run (command, arguments, code_version, host, pid, state) "
    "VALUES ('x', '{}', '', '', 1, 'done')",
    "UPDATE q1.mer_catalogue SET declination = 0",
    "DELETE FROM astropt.quarantine",
    "SELECT * FROM q1.mer_catalogue FOR UPDATE",
    "BEGIN; LOCK TABLE q1.mer_catalogue IN EXCLUSIVE MODE",
    "SELECT astropt.create_embedding_partition(1)",
    "SELECT nextval('astropt.run_id_seq')",
    "SET ROLE astropt_worker",
)


@pytest.fixture
def accounts(server: EmbeddedServer, ready_database: Database) -> Iterator[dict[str, str]]:
    """Address of an account of each role, with a login of its own; ``stranger`` has none."""
    suffix = uuid.uuid4().hex[:8]
    names = {role: f"{role}_{suffix}" for role in ROLES} | {"stranger": f"stranger_{suffix}"}
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        for role, name in names.items():
            member = sql.SQL("IN ROLE {}").format(sql.Identifier(role)) if role in ROLES else None
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN {}").format(
                    sql.Identifier(name), member or sql.SQL("")
                )
            )
    try:
        yield {role: make_conninfo(ready_database.url, user=name) for role, name in names.items()}
    finally:
        with psycopg.connect(ready_database.url, autocommit=True) as connection:
            for name in names.values():
                for command in ("DROP OWNED BY {} CASCADE", "DROP ROLE {}"):
                    connection.execute(sql.SQL(command).format(sql.Identifier(name)))


def refused(url: str, statements: tuple[str, ...]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)  # type: ignore[call-overload]
            connection.execute("ROLLBACK")


def test_readers_see_and_nothing_more(accounts: dict[str, str]) -> None:
    url = accounts["astropt_reader"]
    with psycopg.connect(url, autocommit=True) as connection:
        for schema, view in (
            ("astropt", "source"),
            ("astropt", "column_info"),
            ("q1", "mer_catalogue"),
            ("astropt", "run"),
        ):
            query = sql.SQL("SELECT count(*) FROM {}")
            connection.execute(query.format(sql.Identifier(schema, view)))
        assert connection.execute("SELECT astropt.field_name(269, 66)").fetchone() == ("EDF-N",)
    refused(url, FORBIDDEN_TO_ALL + FORBIDDEN_TO_WORKERS + FORBIDDEN_TO_READERS)


def test_workers_write_rows_and_make_partitions_only(
    accounts: dict[str, str], ready_database: Database
) -> None:
    url = accounts["astropt_worker"]
    encoder = add_encoder(Database(url), "vis", 8)
    add_vectors(Database(url), encoder, np.arange(3), np.ones((3, 8), np.float32))
    with psycopg.connect(accounts["astropt_reader"]) as connection:
        count = connection.execute("SELECT count(*) FROM astropt.embedding_array").fetchone()
        assert count == (3,)
        connection.execute(sql.SQL("SELECT count(*) FROM {}").format(encoder.partition))
    refused(url, FORBIDDEN_TO_ALL + FORBIDDEN_TO_WORKERS)
    with psycopg.connect(ready_database.url) as connection:
        owner = connection.execute(
            "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = %s",
            [f"embedding_{encoder.id}"],
        ).fetchone()
    assert owner == ("astropt_admin",)


def test_the_worker_account_suffices_to_ingest(accounts: dict[str, str], tmp_path: Path) -> None:
    worker = Database(accounts["astropt_worker"])
    write_product(tmp_path, "mer_catalogue", make_rows("mer_catalogue", 20))
    write_product(tmp_path, "phz_photo_z", make_rows("phz_photo_z", 20))
    done = run(worker, "ingest", "catalogue", tmp_path)
    assert done.code == 0, done.err
    write_product(tmp_path, "mer_catalogue", make_rows("mer_catalogue", 15))
    done = run(worker, "ingest", "catalogue", tmp_path, "--replace")
    assert done.code == 0, done.err
    reader = Database(accounts["astropt_reader"])
    assert run(reader, "status").code == 0
    refused = run(reader, "ingest", "catalogue", tmp_path)
    assert refused.code == 1
    assert "permission denied" in refused.err


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_superusers_commands_step_down(ready_database: Database, autocommit: bool) -> None:
    with connect(ready_database, autocommit=autocommit) as connection:
        connection.rollback()
        assert connection.execute("SELECT current_user").fetchone() == (WORKER,)
        for statement in FORBIDDEN_TO_WORKERS[:-3]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    with connect(ready_database, role=READER, autocommit=autocommit) as connection:
        for statement in FORBIDDEN_TO_READERS[:3]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    with (
        connect(ready_database, role=ADMIN, autocommit=autocommit) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT pg_read_file('/etc/passwd')")


def test_an_account_outside_a_role_keeps_its_own_rights(
    accounts: dict[str, str], ready_database: Database
) -> None:
    own = psycopg.conninfo.conninfo_to_dict(accounts["astropt_reader"])["user"]
    for role in (WORKER, ADMIN):
        with connect(Database(accounts["astropt_reader"]), role=role) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (own,)
    with psycopg.connect(ready_database.url) as connection:
        connection.execute("REVOKE ALL ON SCHEMA astropt FROM astropt_reader")
    with connect(ready_database) as connection:  # the role has no rights here
        assert connection.execute("SELECT current_user").fetchone() != (WORKER,)


def test_what_a_worker_account_is_refused_by_commands(
    accounts: dict[str, str], ready_database: Database, tmp_path: Path
) -> None:
    encoder = add_encoder(ready_database, "vis", 8)
    add_vectors(ready_database, encoder, np.arange(20), np.ones((20, 8), np.float32))
    file = tmp_path / "other.csv"
    file.write_text("id,ra,dec\n1,10,10\n")
    worker, admin = (Database(accounts[role]) for role in ("astropt_worker", "astropt_admin"))
    for command in (["index", "build", "--encoder", "vis"], ["survey", "add", "other", file]):
        refused = run(worker, *command)
        assert refused.code == 1
        assert re.search("must be owner|permission denied", refused.err), refused.err
        done = run(admin, *command)
        assert done.code == 0, done.err


def test_workers_collect_statistics_of_our_tables_only(accounts: dict[str, str]) -> None:
    with psycopg.connect(accounts["astropt_worker"], autocommit=True) as connection:
        analyse_table(connection, sql.Identifier("q1", "mer_catalogue"), ["object_id"])
        analyse_table(connection, sql.Identifier("astropt", "embedding"))
        for hostile in ("object_id); DROP TABLE q1.mer_catalogue; --", 'no "such" column'):
            with pytest.raises(psycopg.errors.UndefinedColumn):
                analyse_table(connection, sql.Identifier("q1", "mer_catalogue"), [hostile])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            analyse_table(connection, sql.Identifier("pg_catalog", "pg_class"))


def test_the_admin_owns_and_can_upgrade(accounts: dict[str, str], ready_database: Database) -> None:
    # A copy of a template lacks the rights on the template as a database.
    migrate.upgrade(ready_database.url)
    url = accounts["astropt_admin"]
    migrate.upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class "
            "WHERE relnamespace::regnamespace::text IN ('q1', 'astropt')"
        ).fetchall()
        assert rows == [("astropt_admin",)]
        connection.execute("CREATE TABLE astropt.later (object_id bigint)")
    with psycopg.connect(accounts["astropt_worker"]) as connection:
        connection.execute("INSERT INTO astropt.later VALUES (1)")
    refused(url, FORBIDDEN_TO_ALL)


def test_strangers_see_nothing(accounts: dict[str, str]) -> None:
    statements = (
        "SELECT * FROM q1.mer_catalogue",
        "SELECT * FROM astropt.source",
        "SELECT astropt.field_name(269, 66)",
        "SELECT * FROM astropt.run",
    )
    refused(accounts["stranger"], statements)


def test_tables_that_come_later_are_readable(
    accounts: dict[str, str], ready_database: Database
) -> None:
    with psycopg.connect(ready_database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE q1.later (object_id bigint)")
    with psycopg.connect(accounts["astropt_reader"]) as connection:
        connection.execute("SELECT * FROM q1.later")


ESCAPES = (
    "SELECT set_config('statement_timeout', '0', false), pg_sleep(30)",
    "SELECT set_config('statement_timeout', '0', true) FROM pg_sleep(30)",
    "WITH off AS MATERIALIZED (SELECT set_config('transaction_timeout', '0', false)) "
    "SELECT pg_sleep(30) FROM off",
)


@pytest.mark.parametrize("query", ESCAPES)
def test_a_query_cannot_lift_its_time_limit(ready_database: Database, query: str) -> None:
    with (
        pytest.raises(DatabaseError, match=r"stopped after 0\.3 s"),
        run_query(ready_database, query, 0.3) as result,
    ):
        list(result.rows)


@pytest.mark.parametrize(
    "query", ["RESET ROLE", "SET ROLE postgres", "COMMIT; DROP TABLE q1.mer_catalogue", "COMMIT"]
)
def test_a_query_cannot_leave_its_role(ready_database: Database, query: str) -> None:
    with pytest.raises(DatabaseError), run_query(ready_database, query, 5) as result:
        list(result.rows)


def test_the_operator_can_end_what_runs_too_long(
    accounts: dict[str, str], ready_database: Database
) -> None:
    """A login can lift its own statement_timeout: PostgreSQL lets every role set it."""
    with (
        psycopg.connect(accounts["astropt_reader"], autocommit=True) as reader,
        psycopg.connect(ready_database.url, autocommit=True) as operator,
        ExitStack() as stack,
    ):
        reader.execute("SET statement_timeout = 0")
        pool = stack.enter_context(ThreadPoolExecutor(1))
        sleeping = pool.submit(reader.execute, "SELECT pg_sleep(30)")
        cancelled: list[tuple[object, ...]] = []
        while not cancelled:
            cancelled = operator.execute(
                "SELECT pid FROM astropt.cancel_long_queries('50 ms')"
            ).fetchall()
        assert cancelled == [(reader.info.backend_pid,)]
        with pytest.raises(psycopg.errors.QueryCanceled):
            sleeping.result()


# Row-level security


def add_release(database: Database, release: str, object_id: int) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute(
            "WITH run AS (INSERT INTO astropt.run "
            "(command, arguments, code_version, host, pid, state) "
            "VALUES ('test', '{}', '', '', 1, 'done') RETURNING id), "
            "file AS (INSERT INTO astropt.ingest_file (run_id, path, release, state) "
            "SELECT id, %(release)s, %(release)s, 'done' FROM run RETURNING id) "
            "INSERT INTO q1.mer_catalogue "
            "(object_id, healpix29, ingest_file_id, right_ascension, declination) "
            "SELECT %(object_id)s, 0, id, 10, 10 FROM file",
            {"release": release, "object_id": object_id},
        )


def test_row_security_hides_a_release_everywhere(
    accounts: dict[str, str], ready_database: Database
) -> None:
    add_release(ready_database, "Q1", 1)
    add_release(ready_database, "internal", 2)
    first = add_encoder(ready_database, "vis", 8)
    add_vectors(ready_database, first, np.array([1, 2]), np.ones((2, 8), np.float32))
    option = (sql_folder() / "options" / "row_security.sql").read_bytes()
    member = psycopg.conninfo.conninfo_to_dict(accounts["stranger"])["user"]
    with psycopg.connect(ready_database.url, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(option)
        connection.execute("INSERT INTO astropt.release_access VALUES ('Q1', 'astropt_reader')")
    worker = Database(accounts["astropt_worker"])
    later = add_encoder(worker, "late", 8)
    add_vectors(worker, later, np.array([1, 2]), np.ones((2, 8), np.float32))
    places = (
        sql.Identifier("q1", "mer_catalogue"),
        sql.Identifier("astropt", "source"),
        sql.Identifier("astropt", "embedding"),
        sql.Identifier("astropt", "embedding_array"),
        first.partition,
        later.partition,
    )
    queries = [sql.SQL("SELECT object_id FROM {}").format(place) for place in places]

    def seen(role: str) -> list[set[int]]:
        with psycopg.connect(accounts[role]) as connection:
            rows = [connection.execute(query).fetchall() for query in queries]
        return [{row[0] for row in found} for found in rows]

    assert seen("astropt_reader") == [{1}] * len(places)
    assert seen("astropt_worker") == [{1, 2}] * len(places)
    assert seen("astropt_admin") == [{1, 2}] * len(places)
    with psycopg.connect(ready_database.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("GRANT astropt_reader TO {}").format(sql.Identifier(str(member)))
        )
        connection.execute(
            "INSERT INTO astropt.release_access VALUES ('internal', %s)", [str(member)]
        )
    assert seen("stranger") == [{1, 2}] * len(places)
    assert seen("astropt_reader") == [{1}] * len(places)


def test_a_server_without_our_roles_works(server16: EmbeddedServer) -> None:
    """An account that owns its database and may create no role keeps everything to itself."""
    with psycopg.connect(server16.url("postgres"), autocommit=True) as connection:
        taken = connection.execute("SELECT FROM pg_roles WHERE rolname LIKE 'astropt_%'").fetchall()
        connection.execute("CREATE ROLE tenant LOGIN")
    try:
        with temporary_database(server16) as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION vector")
                connection.execute("GRANT CREATE ON SCHEMA public TO tenant")
                name = connection.info.dbname
                connection.execute(
                    sql.SQL("ALTER DATABASE {} OWNER TO tenant").format(sql.Identifier(name))
                )
            mine = Database(make_conninfo(url, user="tenant"))
            migrate.upgrade(mine.url)
            migrate.upgrade(mine.url)
            with run_query(mine, "SELECT count(*) FROM astropt.source") as result:
                assert list(result.rows) == [(0,)]
    finally:
        with psycopg.connect(server16.url("postgres"), autocommit=True) as connection:
            connection.execute("DROP ROLE tenant")
    assert isinstance(taken, list)
