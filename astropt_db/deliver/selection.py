"""What is exported: a view or a query, its columns with their units, and where they came from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import DiagnosticField, ExecStatus

from astropt_db import __version__
from astropt_db.database.copy_out import OutColumn
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError, DatabaseError

_PLAIN = {
    # PostgreSQL's long names of types that are copied out as they are.
    "boolean": "boolean",
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "real": "real",
    "double precision": "double precision",
    "text": "text",
    "character varying": "text",
    "date": "date",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
_MOMENTS = {
    "date": "{}::text",
    "timestamp": "to_json({})#>>'{{}}'",
    "timestamptz": "to_json({} AT TIME ZONE 'UTC')#>>'{{}}'",
}
_ARRAYS = ("boolean[]", "smallint[]", "integer[]", "bigint[]", "real[]", "double precision[]")
_VECTORS = ("halfvec", "vector", "sparsevec")
_SCHEMAS = ("astropt", "q1", "survey")

# JSON has no NaN; to_json writes it as a string, readers of tables want the bare word.
_JSON = """replace(replace(replace(
    to_json({})::text, '"NaN"', 'NaN'), '"Infinity"', 'Infinity'), '"-Infinity"', '-Infinity')"""
_JSON_OF_VECTOR = "to_json({}::real[])::text"


@dataclass(frozen=True)
class ExportColumn:
    """A column of an export.

    Attributes
    ----------
    name, type
        Name, and type as in :class:`~astropt_db.database.copy_out.OutColumn`.
    unit, ucd, description
        From the comments in the database; empty where there are none.
    array
        Type of the arrays that a text column holds as JSON; empty where it holds none.
    """

    name: str
    type: str
    unit: str = ""
    ucd: str = ""
    description: str = ""
    array: str = ""

    @property
    def out(self) -> OutColumn:
        """The column for reading."""
        return OutColumn(self.name, self.type)


@dataclass(frozen=True)
class Selection:
    """A query that is ready to be copied out.

    Attributes
    ----------
    name
        Of the view, or ``query``.
    title
        One line about it.
    columns
        Its columns.
    query
        SQL whose columns have exactly these types.
    provenance
        What every format writes into its header, by a short name.
    """

    name: str
    title: str
    columns: tuple[ExportColumn, ...]
    query: sql.Composed
    provenance: Mapping[str, str]


def view_query(cursor: psycopg.Cursor[Any], view: str) -> tuple[str, str]:
    """Full name and SQL text of a view or table given as ``schema.name`` or ``name``.

    Raises
    ------
    ConfigurationError
        If there is none; the message suggests similar names.
    """
    known = [tuple(row) for row in cursor.execute(named_queries()["export_relations"])]
    for schema in _SCHEMAS:
        name = tuple(view.split(".")) if "." in view else (schema, view)
        if name in known:
            text = sql.SQL("SELECT * FROM {}").format(sql.Identifier(*name))
            return ".".join(name), text.as_string(cursor)
    full = [".".join(name) for name in known]
    bare = {name[-1]: ".".join(name) for name in reversed(known)}
    close = difflib.get_close_matches(view, full, 4, 0.6)
    close += [bare[one] for one in difflib.get_close_matches(view.split(".")[-1], bare, 4, 0.6)]
    hint = (
        f"did you mean {', '.join(dict.fromkeys(close))}?"
        if close
        else (
            'all of them: astropt-db query "SELECT DISTINCT table_schema, table_name FROM '
            'astropt.column_info ORDER BY 1, 2"'
        )
    )
    raise ConfigurationError(f"there is no view or table {view!r}; {hint}")


def select(
    cursor: psycopg.Cursor[Any],
    view: str | None,
    query: str | None,
    text_moments: bool = False,
    text_arrays: bool = False,
) -> Selection:
    """Prepare a view or the user's own query for export.

    Parameters
    ----------
    cursor
        In a read-only transaction.
    view, query
        One of the two.
    text_moments, text_arrays
        Whether dates and times become ISO 8601 text (UTC), and arrays JSON text, for formats
        that do not have them.

    Raises
    ------
    ConfigurationError
        If there is no such view, or the query names two columns alike.
    DatabaseError
        If the query is wrong.
    """
    title = ""
    if view is not None:
        name, text = view_query(cursor, view)
        schema, _, bare = name.partition(".")
        row = cursor.execute(
            named_queries()["export_comment"], {"schema": schema, "name": bare}
        ).fetchone()
        title = str(row[0]) if row and row[0] else ""
    else:
        assert query is not None
        name, text = "query", query.strip().rstrip(";").strip()
    found = _describe(cursor, text)
    _check_names([one.name for one in found])
    types = _types(cursor, found)
    plans = [_plan(types[one.oid], text_moments, text_arrays) for one in found]
    labels = _labels(cursor, found)
    columns = tuple(
        ExportColumn(one.name, plan.type, *labels[i], plan.array)
        for i, (one, plan) in enumerate(zip(found, plans, strict=True))
    )
    provenance = _provenance(cursor, name, text if query is not None else "")
    cast = _cast(text, [one.name for one in found], [plan.cast for plan in plans])
    return Selection(name, title, columns, cast, provenance)


@dataclass(frozen=True)
class _Found:
    name: str
    oid: int
    table: int
    number: int


def _describe(cursor: psycopg.Cursor[Any], text: str) -> list[_Found]:
    """Columns of exactly one statement, and the table columns that they show."""
    pgconn = cursor.connection.pgconn
    prepared = pgconn.prepare(b"", text.encode())
    if prepared.status != ExecStatus.COMMAND_OK:
        raise DatabaseError(_message(prepared))
    shown = pgconn.describe_prepared(b"")
    if not shown.nfields:
        raise DatabaseError("the statement gives no rows; expected one SELECT, TABLE or VALUES")
    return [
        _Found((shown.fname(i) or b"").decode(), shown.ftype(i), shown.ftable(i), column)
        for i in range(shown.nfields)
        for column in [shown.ftablecol(i)]
    ]


def _message(result: psycopg.pq.abc.PGresult) -> str:
    def part(field: DiagnosticField) -> str:
        return (result.error_field(field) or b"").decode()

    text = part(DiagnosticField.MESSAGE_PRIMARY)
    if text.startswith("cannot insert multiple commands"):
        return "expected one statement, found several; export them one by one"
    if position := part(DiagnosticField.STATEMENT_POSITION):
        text += f" (at character {position})"
    if hint := part(DiagnosticField.MESSAGE_HINT):
        text += f". {hint}"
    return text


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"the query gives several columns the name {', '.join(twice)}; a file needs each "
            "name once: write `expression AS name`"
        )


def _types(cursor: psycopg.Cursor[Any], found: Sequence[_Found]) -> dict[int, str]:
    oids = sorted({one.oid for one in found})
    return dict(cursor.execute(named_queries()["export_types"], {"oids": oids}).fetchall())


@dataclass(frozen=True)
class _Plan:
    """Type that is copied out; the expression on column ``{}`` that gives it; see ``array``."""

    type: str
    cast: sql.SQL | None = None
    array: str = ""


def _plan(type_name: str, text_moments: bool, text_arrays: bool) -> _Plan:
    plain = _PLAIN.get(type_name)
    if plain in _MOMENTS and text_moments:
        return _Plan("text", sql.SQL(_MOMENTS[plain]))
    if plain is not None:
        return _Plan(plain)
    if type_name == "numeric":
        return _Plan("double precision", sql.SQL("{}::double precision"))
    if type_name.split(".")[-1] in _VECTORS:
        if text_arrays:
            return _Plan("text", sql.SQL(_JSON_OF_VECTOR), "real[]")
        return _Plan("real[]", sql.SQL("{}::real[]"))
    if not type_name.endswith("[]"):
        return _Plan("text", sql.SQL("{}::text"))
    if type_name not in _ARRAYS:
        return _Plan("text", sql.SQL(_JSON))
    return _Plan("text", sql.SQL(_JSON), type_name) if text_arrays else _Plan(type_name)


def _cast(text: str, names: Sequence[str], casts: Sequence[sql.SQL | None]) -> sql.Composed:
    """The query with its columns cast; as it is where none needs it.

    The line ends keep a comment at the query's end from hiding what follows it.
    """
    # The user's own text, which PostgreSQL has parsed as exactly one statement; the transaction
    # is read-only and of least role.
    own = sql.SQL("\n{}\n").format(sql.SQL(text))
    if not any(casts):
        return own
    columns = [
        (cast or sql.SQL("{}")).format(sql.Identifier(name))
        + sql.SQL(" AS {}").format(sql.Identifier(name))
        for name, cast in zip(names, casts, strict=True)
    ]
    return sql.SQL("SELECT {} FROM ({}) AS q").format(sql.SQL(", ").join(columns), own)


def _labels(cursor: psycopg.Cursor[Any], found: Sequence[_Found]) -> list[tuple[str, str, str]]:
    """Unit, UCD and description of each column.

    PostgreSQL knows which view column a result column shows; a column that was computed gets
    those of its namesakes where all of them agree.
    """
    queries = named_queries()
    names = [one.name for one in found]
    namesakes = {
        row[0]: tuple(value or "" for value in row[1:])
        for row in cursor.execute(queries["export_namesakes"], {"names": names})
    }
    labels = [namesakes.get(name, ("", "", "")) for name in names]
    rows = cursor.execute(
        queries["export_origins"],
        {"tables": [one.table for one in found], "numbers": [one.number for one in found]},
    )
    for place, *values in rows:
        labels[place - 1] = tuple(value or "" for value in values)
    return labels  # type: ignore[return-value]  # three each


def _provenance(cursor: psycopg.Cursor[Any], name: str, text: str) -> dict[str, str]:
    """Where the rows came from, by short names that fit every format."""
    queries = named_queries()
    facts = {
        "creator": f"astropt-db {__version__}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": name,
        "query": " ".join(text.split()),
    }
    for fact in ("releases", "encoder", "predictors", "runs"):
        # With values, even if there are none: only then does %% mean %.
        row = cursor.execute(queries[f"export_{fact}"], {}).fetchone()
        facts[fact] = str(row[0]) if row and row[0] else ""
    return {key: value for key, value in facts.items() if value}
