"""Read-only queries: the least role that serves, one statement, a time limit."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus

from astropt_db.database.connect import READER, Database, connect
from astropt_db.errors import DatabaseError

Rows = Generator[tuple[Any, ...], None, None]


@dataclass(frozen=True)
class Result:
    """A running query.

    Attributes
    ----------
    columns
        Name and PostgreSQL type oid of each column.
    rows
        The rows as they arrive; never all in memory.
    """

    columns: Sequence[tuple[str, int]]
    rows: Iterator[Sequence[object]]


@contextmanager
def reading(
    database: Database, timeout_s: float = 0, *, snapshot: bool = False
) -> Iterator[psycopg.Cursor]:
    """Cursor in a read-only transaction, as the reader role where we may take it on.

    Parameters
    ----------
    timeout_s
        Seconds after which the server stops a statement; 0 means no limit.
    snapshot
        Whether all statements see the database as the first one did.
    """
    with connect(database, role=READER) as connection:
        connection.read_only = True
        if snapshot:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
        with connection.cursor() as cursor:
            # A query, not SET: after one, nobody can make the transaction writable. Rounded up,
            # since 0 would mean no limit.
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true)",
                [str(math.ceil(timeout_s * 1000))],
            )
            try:
                yield cursor
            finally:
                if connection.info.transaction_status == TransactionStatus.ACTIVE:
                    connection.close()  # in the middle of a COPY nothing else ends it
                elif not connection.closed:
                    connection.rollback()


@contextmanager
def run_query(database: Database, query: str, timeout_s: float = 0) -> Iterator[Result]:
    """Run the user's own SQL, read-only.

    The extended protocol takes exactly one statement, so nothing can end the read-only
    transaction from inside.

    Raises
    ------
    DatabaseError
        With PostgreSQL's message and hint if the query is wrong, writes, or takes too long.
    """
    # The query is the user's own text; read-only and least role are its limits. The stream
    # holds the connection's lock until it is closed, also where nobody read it to its end.
    with (
        query_errors(timeout_s),
        reading(database, timeout_s) as cursor,
        closing(cast("Rows", cursor.stream(query.encode()))) as rows,
    ):
        first = next(rows, None)
        columns = [(column.name, column.type_code) for column in cursor.description or ()]
        if first is None:
            columns = _described(cursor.connection, query)
        yield Result(columns, _chain(first, rows))


@contextmanager
def query_errors(timeout_s: float) -> Iterator[None]:
    """Say in one line what is wrong with the user's own SQL.

    Raises
    ------
    DatabaseError
        With PostgreSQL's message and hint instead of its exceptions.
    """
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise DatabaseError(
            f"the query was stopped after {timeout_s:g} s; ask for less, or raise --timeout"
        ) from error
    except psycopg.Error as error:
        raise DatabaseError(_message(error)) from error


def _described(connection: psycopg.Connection, query: str) -> list[tuple[str, int]]:
    """Columns of a query that gave no row, with which a stream would have brought them."""
    connection.pgconn.prepare(b"", query.encode())
    found = connection.pgconn.describe_prepared(b"")
    return [((found.fname(i) or b"").decode(), found.ftype(i)) for i in range(found.nfields)]


def _chain(
    first: Sequence[object] | None, rest: Iterator[Sequence[object]]
) -> Iterator[Sequence[object]]:
    if first is not None:
        yield first
        yield from rest


def _message(error: psycopg.Error) -> str:
    diag = error.diag
    no_rows = psycopg.ProgrammingError | psycopg.InternalError
    if diag.message_primary is None and isinstance(error, no_rows):
        return "the statement gives no rows; expected one SELECT, TABLE, VALUES, SHOW or EXPLAIN"
    if diag.message_primary is None:
        return str(error).strip().splitlines()[0] if str(error).strip() else "the query failed"
    if diag.message_primary.startswith("cannot insert multiple commands"):
        return "expected one statement, found several; run them one by one"
    text = diag.message_primary
    if diag.statement_position:
        text += f" (at character {diag.statement_position})"
    if diag.message_hint:
        text += f". {diag.message_hint}"
    return text
