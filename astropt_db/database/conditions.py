"""Conditions in the user's own SQL: read-only, with the least role, within a time limit."""

from __future__ import annotations

from contextlib import closing
from typing import Any, cast

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import READER, step_down
from astropt_db.database.reading import Rows
from astropt_db.errors import ConfigurationError

CONDITION_TIMEOUT_S = 600.0


def select_numbers(
    connection: psycopg.Connection[Any],
    relation: sql.Identifier,
    column: str,
    condition: str,
    timeout_s: float = CONDITION_TIMEOUT_S,
) -> NDArray[np.int64]:
    """Values of a bigint column in the rows that meet a condition, in no order.

    Runs in a savepoint that is rolled back, so that role, limit and read-only mode end with it.

    Parameters
    ----------
    relation, column
        Table or view that the condition speaks of, and its column to return.
    condition
        Text after WHERE; empty for all rows.
    timeout_s
        Seconds after which the server stops it.

    Raises
    ------
    ConfigurationError
        With PostgreSQL's message if the condition is wrong, writes, or takes too long.
    """
    # The condition is the user's own text; read-only and least role are its limits. A stream
    # takes the extended protocol, which runs exactly one statement.
    query = sql.SQL("SELECT {} FROM {} WHERE ").format(sql.Identifier(column), relation)
    text = query.as_bytes(connection) + b"(" + (condition.strip() or "true").encode() + b"\n)"
    try:
        with connection.transaction(force_rollback=True), connection.cursor() as cursor:
            _step_down(cursor, relation, timeout_s)
            with closing(cast("Rows", cursor.stream(text))) as rows:
                return np.fromiter((row[0] for row in rows), np.int64)
    except psycopg.errors.QueryCanceled as error:
        raise ConfigurationError(
            f"the condition {condition!r} was stopped after {timeout_s:g} s; ask for less"
        ) from error
    except psycopg.Error as error:
        reason = error.diag.message_primary or str(error).strip()
        raise ConfigurationError(
            f"the condition {condition!r} cannot be used: {reason}. Expected SQL as after WHERE"
        ) from error


def _step_down(cursor: psycopg.Cursor[Any], relation: sql.Identifier, timeout_s: float) -> None:
    if "." not in relation.as_string():  # a temporary table, which only this session reaches
        cursor.execute(sql.SQL("GRANT SELECT ON {} TO PUBLIC").format(relation))
    step_down(cursor.connection, READER, local=True)
    cursor.execute(
        sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(round(timeout_s * 1000)))
    )
    cursor.execute("SET TRANSACTION READ ONLY")
