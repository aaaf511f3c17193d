"""What ``astropt-db doctor`` looks at: server, extension, schema, and the state of the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from astropt_db.database.connect import Database, check_version, open_connection
from astropt_db.database.migrate import MINIMUM_PGVECTOR, MINIMUM_SERVER
from astropt_db.database.resources import named_queries
from astropt_db.errors import DatabaseError

_LOW_DISK = 2 * 2**30
_LEAST_MEMORY = {"shared_buffers": 64 * 2**20, "maintenance_work_mem": 64 * 2**20}
_TIMEOUT_MS = 300_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    state
        ``ok``, ``note`` (worth knowing) or ``wrong`` (needs the remedy).
    check, finding, remedy
        What was looked at, what was found, and what to do.
    """

    state: str
    check: str
    finding: str
    remedy: str = ""


def examine(database: Database) -> list[Finding]:
    """Look at a database from the outside in; stops where nothing further can be seen."""
    try:
        connection = open_connection(database.url, autocommit=True)
    except DatabaseError as error:
        return [Finding("wrong", "connection", str(error), "see the message")]
    findings = [Finding("ok", "connection", database.safe_name)]
    with connection:
        findings += [*_server(connection), *_extension(connection), *_disk(database)]
        try:
            check_version(connection, database.safe_name)
        except DatabaseError as error:
            return [*findings, Finding("wrong", "schema", str(error), "astropt-db init")]
        findings.append(Finding("ok", "schema", "matches this astropt-db"))
        connection.execute(sql.SQL("SET statement_timeout = {}").format(_TIMEOUT_MS))
        for check in _DATA_CHECKS:
            findings += _checked(check, connection)
    return findings


def _checked(
    check: Callable[[psycopg.Connection], Iterator[Finding]], connection: psycopg.Connection
) -> list[Finding]:
    """What a check finds; that it could not look is a finding too."""
    name = check.__name__.strip("_").replace("_", " ")
    try:
        return list(check(connection))
    except psycopg.errors.UndefinedTable:
        return []
    except psycopg.errors.QueryCanceled:
        return [Finding("note", name, "took too long to look at", "run it when less is going on")]
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error).strip().splitlines()[0]
        return [Finding("note", name, f"not looked at: {reason}", "run it as astropt_admin")]


def _server(connection: psycopg.Connection) -> Iterator[Finding]:
    version = connection.info.server_version
    shown = f"PostgreSQL {version // 10000}.{version % 10000}"
    if version < MINIMUM_SERVER:
        yield Finding("wrong", "server", shown, f"upgrade to {MINIMUM_SERVER // 10000} or newer")
    else:
        yield Finding("ok", "server", shown)
    settings = {
        name: (setting, size)
        for name, setting, size in connection.execute(named_queries()["health_settings"])
    }
    if settings["fsync"][0] == "off":
        yield Finding("wrong", "fsync", "off: a crash can lose everything", "set fsync = on")
    if settings["full_page_writes"][0] == "off":
        yield Finding(
            "wrong",
            "full_page_writes",
            "off: a crash can damage pages",
            "set full_page_writes = on, unless the file system writes whole pages",
        )
    if settings["data_checksums"][0] == "off":
        yield Finding(
            "note",
            "data_checksums",
            "off: a failing disk goes unnoticed",
            "stop the server and run: pg_checksums --enable",
        )
    if settings["password_encryption"][0] != "scram-sha-256":
        yield Finding(
            "wrong",
            "password_encryption",
            f"{settings['password_encryption'][0]}: passwords can be guessed from their hash",
            "set password_encryption = 'scram-sha-256' and give the roles new passwords",
        )
    for name, least in _LEAST_MEMORY.items():
        if settings[name][1] < least:
            yield Finding(
                "note",
                name,
                f"{settings[name][1] // 2**20} MB: queries and index builds will be slow",
                f"set {name} = '{least // 2**20}MB' or more",
            )


def _extension(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    if row is None:
        yield Finding("wrong", "pgvector", "not installed", "astropt-db init")
        return
    version = tuple(int(part) for part in row[0].split("."))
    if version < MINIMUM_PGVECTOR:
        wanted = ".".join(map(str, MINIMUM_PGVECTOR))
        yield Finding(
            "wrong",
            "pgvector",
            f"{row[0]}: older than {wanted}, which mended a memory-safety fault in index builds",
            f"install pgvector {wanted} or newer, then ALTER EXTENSION vector UPDATE",
        )
    else:
        yield Finding("ok", "pgvector", row[0])
    newer = connection.execute(named_queries()["health_extension_update"]).fetchone()
    if newer is not None:
        yield Finding(
            "note",
            "pgvector update",
            f"the server has {newer[0]}, this database uses {row[0]}",
            "ALTER EXTENSION vector UPDATE",
        )


def _roles(connection: psycopg.Connection) -> Iterator[Finding]:
    queries = named_queries()
    missing = _names(connection, queries["health_missing_roles"])
    if missing:
        yield Finding(
            "note",
            "roles",
            f"there is no {missing}: every account has all rights of the tables' owner or none",
            "run astropt-db init once as a role with CREATEROLE",
        )
        return
    closed = _names(connection, queries["health_not_readable"])
    if closed:
        yield Finding("wrong", "roles", f"astropt_reader may not read {closed}", "astropt-db init")
    writable = _names(connection, queries["health_writable_by_all"])
    if writable:
        yield Finding(
            "wrong",
            "roles",
            f"astropt_reader may write {writable}",
            "REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON them FROM astropt_reader, PUBLIC",
        )
    if not closed and not writable:
        yield Finding("ok", "roles", "reader, worker and admin, with their rights")


def _names(connection: psycopg.Connection, query: str) -> str:
    """Names in the first column: the first few, and how many more there are."""
    names = [str(row[0]) for row in connection.execute(query.encode())]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _disk(database: Database) -> Iterator[Finding]:
    if database.embedded is None:
        return
    free = shutil.disk_usage(database.embedded.home).free
    state = "wrong" if free < _LOW_DISK else "ok"
    remedy = "free some space, or move ASTROPT_DB_HOME" if state == "wrong" else ""
    yield Finding(state, "disk", f"{free / 2**30:.0f} GB free", remedy)


def _indexes(connection: psycopg.Connection) -> Iterator[Finding]:
    rows = connection.execute(named_queries()["health_invalid_indexes"]).fetchall()
    if rows:
        names = ", ".join(row[0] for row in rows)
        yield Finding("wrong", "indexes", f"not valid: {names}", "REINDEX them")
    else:
        yield Finding("ok", "indexes", "all valid")


def _killed_runs(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(named_queries()["health_unfinished_runs"]).fetchone()
    if row is not None and row[0]:
        yield Finding(
            "note",
            "runs",
            f"{row[0]} started more than a day ago and never ended (killed?)",
            "run the same command again; what is done is not done twice",
        )


def _quarantine(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(named_queries()["health_quarantine"]).fetchone()
    if row is not None and row[0]:
        yield Finding("note", "quarantine", f"{row[0]} rows", "astropt-db quarantine list")
    else:
        yield Finding("ok", "quarantine", "empty")


def _orphans(connection: psycopg.Connection) -> Iterator[Finding]:
    """Rows whose source, or whose file, the database does not know."""
    queries = named_queries()
    tables = connection.execute(queries["health_object_tables"]).fetchall()
    found = False
    for schema, table, has_file in tables:
        name = sql.Identifier(schema, table)
        count = _count(connection, sql.SQL(queries["health_orphans"]).format(name))
        if count:
            found = True
            yield Finding(
                "note",
                "orphans",
                f"{count} rows of {schema}.{table} have no row in q1.mer_catalogue",
                "ingest the MER catalogue of these tiles",
            )
        without = has_file and _count(
            connection, sql.SQL(queries["health_without_file"]).format(name)
        )
        if without:
            found = True
            yield Finding(
                "wrong",
                "counts",
                f"{without} rows of {schema}.{table} come from no file in astropt.ingest_file "
                "that is done",
                "delete them and ingest their file again; were rows changed by hand?",
            )
    if not found:
        yield Finding("ok", "orphans", "every row belongs to a source and a file")


def _count(connection: psycopg.Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _failed_files(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(named_queries()["health_failed_files"]).fetchone()
    if row is not None and row[0]:
        yield Finding(
            "note",
            "files",
            f"{row[0]} files failed and are not in yet",
            "astropt-db status tells why; mend them and ingest them again",
        )


def _vectors(connection: psycopg.Connection) -> Iterator[Finding]:
    queries = named_queries()
    rows = connection.execute(queries["health_vectors"]).fetchall()
    for name, count in rows:
        yield Finding(
            "wrong",
            "vectors",
            f"{count} vectors of the encoder {name!r} are zero, not finite or of another length",
            "delete them and run astropt-db embed again",
        )
    missing = _names(connection, queries["health_partitions"])
    if missing:
        yield Finding(
            "wrong",
            "partitions",
            f"there is none for the vectors of the encoder {missing}",
            "SELECT astropt.create_embedding_partition(id) FROM astropt.encoder",
        )
    strays = _names(connection, queries["health_stray_partitions"])
    if strays:
        yield Finding(
            "wrong",
            "partitions",
            f"{strays}: the encoder has been deleted",
            "drop them; a vector without its encoder means nothing",
        )
    if not rows and not missing and not strays:
        yield Finding("ok", "vectors", "finite, not zero, of their encoder's length")


def _queue(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(named_queries()["health_queue"]).fetchone()
    assert row is not None
    ran_out, dead = row
    if ran_out:
        yield Finding(
            "note",
            "queue",
            f"{ran_out} chunks belong to workers that are gone",
            "run astropt-db embed: it takes them over",
        )
    if dead:
        yield Finding(
            "note",
            "queue",
            f"{dead} chunks failed for good",
            "look at astropt.embed_chunk.error, then run astropt-db embed again",
        )


def _vector_indexes(connection: psycopg.Connection) -> Iterator[Finding]:
    missing = _names(connection, named_queries()["health_index_tables"])
    if missing:
        yield Finding(
            "wrong",
            "vector indexes",
            f"recorded but not there: {missing}",
            "astropt-db index build",
        )


_DATA_CHECKS: tuple[Callable[[psycopg.Connection], Iterator[Finding]], ...] = (
    _roles,
    _indexes,
    _killed_runs,
    _failed_files,
    _quarantine,
    _orphans,
    _vectors,
    _queue,
    _vector_indexes,
)
