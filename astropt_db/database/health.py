"""What ``astropt-db doctor`` looks at: server, extension, schema, and the state of the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

from astropt_db.database.connect import Database, check_version, open_connection
from astropt_db.database.migrate import MINIMUM_PGVECTOR, MINIMUM_SERVER
from astropt_db.database.resources import named_queries
from astropt_db.errors import DatabaseError

_LOW_DISK = 2 * 2**30


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
        for check in _DATA_CHECKS:
            findings += check(connection)
    return findings


def _server(connection: psycopg.Connection) -> Iterator[Finding]:
    version = connection.info.server_version
    shown = f"PostgreSQL {version // 10000}.{version % 10000}"
    if version < MINIMUM_SERVER:
        yield Finding("wrong", "server", shown, f"upgrade to {MINIMUM_SERVER // 10000} or newer")
    else:
        yield Finding("ok", "server", shown)
    settings: dict[str, str] = dict(
        connection.execute(named_queries()["health_settings"]).fetchall()
    )
    if settings.get("fsync") == "off":
        yield Finding("wrong", "fsync", "off: a crash can lose everything", "set fsync = on")


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
    rows = connection.execute(named_queries()["health_orphans"]).fetchall()
    for table, count in rows:
        if count:
            yield Finding(
                "note",
                "orphans",
                f"{count} rows of {table} have no row in q1.mer_catalogue",
                "ingest the MER catalogue of these tiles",
            )


_DATA_CHECKS: tuple[Callable[[psycopg.Connection], Iterator[Finding]], ...] = (
    _indexes,
    _killed_runs,
    _quarantine,
    _orphans,
)
