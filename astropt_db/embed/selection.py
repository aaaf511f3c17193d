"""Sources that fulfil a condition of the user's, found with the rights of a reader."""

from __future__ import annotations

import math

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import Database
from astropt_db.database.reading import run_query
from astropt_db.errors import DatabaseError

TIMEOUT_S = 600.0


def select_objects(
    database: Database, condition: str, timeout_s: float = TIMEOUT_S
) -> NDArray[np.int64]:
    """Ids of the sources of ``astropt.source`` that fulfil an SQL condition.

    The condition is the user's own SQL, such as ``mag_vis < 22 AND field = 'EDF-N'`` or
    ``object_id IN (SELECT …)``. It runs in a read-only transaction, as the reader where we may
    take on that role, as one statement with a time limit.

    Raises
    ------
    DatabaseError
        With PostgreSQL's message if the condition is wrong, writes, or takes too long.
    """
    # Line breaks keep a comment at the end of the condition from swallowing the bracket.
    query = sql.SQL("SELECT object_id FROM astropt.source WHERE (\n{}\n)").format(
        sql.SQL(condition)
    )
    try:
        with run_query(database, query.as_string(), math.ceil(timeout_s)) as result:
            return np.fromiter((row[0] for row in result.rows), np.int64)
    except (psycopg.Error, TypeError) as error:
        raise DatabaseError(f"--where {condition!r}: {error}") from error
    except DatabaseError as error:
        raise DatabaseError(
            f"--where {condition!r}: {error}. Expected a condition on the columns of "
            "astropt.source, e.g. mag_vis < 22"
        ) from error
