"""Sources chosen by the user's own SQL condition."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import Database
from astropt_db.database.reading import run_query


def select_ids(database: Database, condition: str, timeout_s: float = 600) -> NDArray[np.int64]:
    """Ids of the sources that meet a condition on the columns of ``astropt.source``, ascending.

    The condition is the user's own text: it runs read-only, in the least role, with a time limit.

    Raises
    ------
    DatabaseError
        With PostgreSQL's message if the condition is wrong or takes too long.
    """
    # PostgreSQL reads a comment to the end of its line, so the bracket stands on the next.
    query = sql.SQL("SELECT object_id FROM astropt.source WHERE (\n{}\n) ORDER BY 1")
    text = query.format(sql.SQL(condition)).as_string()
    with run_query(database, text, timeout_s) as result:
        return np.fromiter(chain.from_iterable(result.rows), dtype=np.int64)
