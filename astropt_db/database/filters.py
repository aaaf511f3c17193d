"""The user's own SQL conditions (``--where``) as queries of object ids.

The short name of any view or table with a column ``object_id`` may be used: ``photoz.z_median``,
``mer_catalogue.flux_h_sersic``, ``morphology.spiral``. The text is the user's; whoever runs the
query does so as the reader, read-only, one statement, with a time limit (:mod:`.reading`).
"""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any, cast

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import Database
from astropt_db.database.reading import Rows, reading
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError, DatabaseError

SOURCE = ("astropt", "source")
CATALOGUE = ("astropt", "catalogue")
TIMEOUT_S = 60.0
"""Limit of a condition that a person waits for, in seconds."""
JOB_TIMEOUT_S = 600.0
"""Limit of a condition that chooses the sources of a job, in seconds."""

_QUOTED = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
_PREFIX = re.compile(r"(?<![\w.])(?:(\w+)\s*\.\s*)?(\w+)\s*\.\s*\"?\w", re.ASCII)
_WORD = re.compile(r"(?<![\w.\"])([a-z_]\w*)\b(?!\s*[.(])", re.IGNORECASE)
_QUERY = re.compile(r"\s*(?:SELECT|WITH|TABLE|VALUES)\b", re.IGNORECASE)


def condition_query(cursor: psycopg.Cursor[Any], where: str) -> str:
    """SQL text of one SELECT of ``object_id`` for a condition.

    Parameters
    ----------
    where
        A condition such as ``photoz.z_median BETWEEN 0.3 AND 0.6 AND mag_vis < 22``; columns
        without a name before them are those of ``astropt.source``, else of ``astropt.catalogue``.
        A whole SELECT that gives ``object_id`` is taken as it is.

    Raises
    ------
    ConfigurationError
        If the condition is empty, or names a table that does not exist.
    """
    if not where.strip():
        raise ConfigurationError("--where is empty; expected a condition such as mag_vis < 22")
    if _QUERY.match(where):
        return where.strip().rstrip(";")
    bare = _QUOTED.sub(" ", where)
    known: dict[str, tuple[str, str]] = {}
    full: dict[tuple[str, str], tuple[str, str]] = {}
    for name, schema in cursor.execute(named_queries()["condition_relations"]):
        known[name] = full[schema, name] = (schema, name)
    base = CATALOGUE if _needs_catalogue(cursor, bare) else SOURCE
    joined = [base]
    for match in _PREFIX.finditer(bare):
        schema, name = (match[1] or "").lower(), match[2].lower()
        if schema and (schema, name) in full:
            found = full[schema, name]
        elif name in known and not schema:
            found = known[name]
        else:
            # A sub-query's own alias, or a mistake, which the server names.
            continue
        if found not in joined:
            joined.append(found)
    text = sql.SQL("SELECT object_id FROM {}").format(sql.Identifier(*base))
    for one in joined[1:]:
        text += sql.SQL(" LEFT JOIN {} USING (object_id)").format(sql.Identifier(*one))
    # Line breaks keep a comment at the end of the condition from swallowing the bracket.
    return text.as_string(cursor) + f" WHERE (\n{where}\n)"


def condition_ids(
    database: Database, where: str, timeout_s: float = JOB_TIMEOUT_S
) -> NDArray[np.int64]:
    """Object ids that fulfil a condition, as the reader sees them, int64, ascending, no twice.

    They are streamed: a whole survey's ids take 8 bytes each.

    Raises
    ------
    ConfigurationError
        As :func:`condition_query`.
    DatabaseError
        With PostgreSQL's message if the condition is wrong, writes, or takes too long.
    """
    with reading(database, timeout_s) as cursor:
        query = condition_query(cursor, where)
        try:
            # The check refuses what does more than read, or gives something else than ids.
            row = cursor.execute(named_queries()["condition_check"], {"query": query}).fetchone()
            assert row is not None
            with closing(cast("Rows", cursor.stream(row[0].encode()))) as found:
                ids = np.fromiter((value for (value, *_) in found if value is not None), np.int64)
        except psycopg.Error as error:
            raise condition_error(where, error, timeout_s) from error
    return np.unique(ids)


def condition_error(where: str, error: psycopg.Error, timeout_s: float) -> DatabaseError:
    """What to tell the author of a condition that PostgreSQL refused."""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return DatabaseError(f"--where {where!r} took longer than {timeout_s:g} s")
    problem = error.diag.message_primary or str(error)
    problem = problem.removeprefix("the filter cannot be used: ")
    return DatabaseError(
        f"--where {where!r}: {problem}. Expected a condition such as mag_vis < 22 or "
        "photoz.z_median BETWEEN 0.3 AND 0.6; astropt.column_info lists the columns"
    )


def _needs_catalogue(cursor: psycopg.Cursor[Any], bare: str) -> bool:
    """Whether a bare word is a column of the catalogue that ``astropt.source`` lacks."""
    words = {match[1].lower() for match in _WORD.finditer(bare)}
    names = [".".join(CATALOGUE), ".".join(SOURCE)]
    columns: dict[str, set[str]] = {name: set() for name in names}
    for column, relation in cursor.execute(
        named_queries()["condition_columns"], {"relations": names}
    ):
        columns[relation].add(column)
    return bool(words & (columns[names[0]] - columns[names[1]]))
