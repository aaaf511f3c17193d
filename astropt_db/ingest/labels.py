"""Labels to learn from: files or tables become a set of one row per source.

Everything happens in one transaction: the rows are staged, the cut chooses among them, the rest
is matched with sources by id or by position, and what must not be learned from is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from astropt_db.database.conditions import select_numbers
from astropt_db.database.connect import Database, connect
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError
from astropt_db.ingest.label_files import STAGE, Places, Staged, stage_file
from astropt_db.ingest.label_match import LabelError, count_sources, match_labels, near_sources
from astropt_db.ingest.label_recipes import Recipe, find_recipe
from astropt_db.q1.products import sql_name

MAXIMUM_RADIUS = 60.0
_MAXIMUM_CATEGORIES = 50
_TEXT_OID = 25


@dataclass(frozen=True)
class LabelRequest:
    """What to load.

    Attributes
    ----------
    name
        Name of the set.
    path
        File; ``None`` for a recipe that reads the database.
    columns
        Label by name: a column of the file, or a word in single quotes for every row.
    id_column, ra, dec
        Column of the object id, or columns of the position in degrees.
    radius
        Largest distance of a match by position, arcsec.
    cut
        SQL condition on the file's columns.
    recipe
        Built-in recipe that gives what is not given here.
    duplicates
        What to do if several rows match one source: ``error``, or keep the ``nearest``.
    replace
        Whether an existing set of that name gives way.
    """

    name: str
    path: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    id_column: str | None = None
    ra: str | None = None
    dec: str | None = None
    radius: float = 1.0
    cut: str = ""
    recipe: str | None = None
    duplicates: Literal["error", "nearest"] = "error"
    replace: bool = False


@dataclass(frozen=True)
class LabelReport:
    """What became of the rows.

    Attributes
    ----------
    read, selected, matched
        Rows of the file, those that met the cut, and sources with labels.
    duplicates
        Rows that gave way to a nearer one of the same source.
    by_column
        Sources with a value, by label.
    """

    read: int
    selected: int
    matched: int
    duplicates: int
    by_column: dict[str, int]


def ingest_labels(database: Database, request: LabelRequest, run_id: int) -> LabelReport:
    """Load a set of labels.

    Raises
    ------
    LabelError
        If no row meets the cut or matches, rows match one source twice, a column holds no
        number at all or too many words, or the set exists already.
    FileError, ConfigurationError
        If the file lacks a column, or the request does not fit together.
    """
    recipe = find_recipe(request.recipe) if request.recipe else Recipe("")
    plan = _plan(request, recipe)
    with connect(database) as connection, connection.cursor() as cursor:
        _refuse_existing(cursor, request)
        staged = _stage(cursor, plan)
        chosen = select_numbers(connection, STAGE, "row_number", plan.cut)
        places = _chosen_places(staged, chosen)
        _refuse_none(cursor, plan, staged, len(chosen))
        radius = plan.radius if plan.position else None
        nearest = plan.duplicates == "nearest"
        duplicates = match_labels(cursor, plan.name, places, radius, nearest)
        labels, categories = _expressions(cursor, plan, staged)
        set_id = _write(cursor, plan, labels, categories, staged.n_read, len(chosen), run_id)
        by_column = _check_values(cursor, plan, set_id)
        matched = _count_matched(cursor, set_id)
    return LabelReport(staged.n_read, len(chosen), matched, duplicates, by_column)


@dataclass(frozen=True)
class _Plan:
    """A request with its recipe's answers filled in."""

    name: str
    path: Path | None
    query: str
    columns: dict[str, str]
    id_column: str | None
    position: tuple[str, str] | None
    radius: float
    cut: str
    recipe: str | None
    duplicates: str

    @property
    def literals(self) -> dict[str, str]:
        """Labels that are the same word for every row."""
        quoted = {k: v for k, v in self.columns.items() if len(v) > 1 and v[0] == v[-1] == "'"}
        return {name: value[1:-1] for name, value in quoted.items()}


def _plan(request: LabelRequest, recipe: Recipe) -> _Plan:
    if bool(request.path) == bool(recipe.query):
        raise ConfigurationError(
            f"label set {request.name}: "
            + (
                f"the recipe {request.recipe} reads the database; give no file"
                if request.path
                else "give a file, or a recipe that reads the database"
            )
        )
    if not 0 < request.radius <= MAXIMUM_RADIUS:
        raise ConfigurationError(
            f"the radius is {request.radius:g} arcsec; it must be above 0 and at most "
            f"{MAXIMUM_RADIUS:g}"
        )
    ra, dec = request.ra or recipe.ra, request.dec or recipe.dec
    id_column = request.id_column or ("object_id" if recipe.query else None)
    position = None if id_column else (ra, dec)
    if not id_column and not (ra and dec):
        raise ConfigurationError(
            f"label set {request.name}: say how rows find their source, by --id COLUMN or by "
            "--ra COLUMN --dec COLUMN"
        )
    columns = {sql_name(k): v for k, v in (request.columns or recipe.columns).items()}
    if not columns and not recipe.query:
        raise ConfigurationError(
            f"label set {request.name}: name its labels, e.g. --column z=spec_z"
        )
    cut = " AND ".join(f"({one})" for one in (recipe.cut, request.cut) if one.strip())
    # Two fibres within the radius are common in large surveys, and the nearer one is right.
    duplicates = "nearest" if request.recipe and position else request.duplicates
    return _Plan(
        request.name,
        request.path,
        recipe.query,
        columns,
        id_column,
        position,
        request.radius,
        cut,
        request.recipe,
        duplicates,
    )


def _refuse_existing(cursor: psycopg.Cursor[Any], request: LabelRequest) -> None:
    row = cursor.execute(
        "SELECT n_matched FROM astropt.label_set WHERE name = %s", [request.name]
    ).fetchone()
    if row is None:
        return
    if not request.replace:
        raise LabelError(
            request.name,
            f"exists already, with {row[0]:,} sources. Give another name, or --replace",
        )
    cursor.execute(named_queries()["label_set_delete"], {"name": request.name})


def _stage(cursor: psycopg.Cursor[Any], plan: _Plan) -> Staged:
    if plan.path is not None:
        needed = [value for key, value in plan.columns.items() if key not in plan.literals]
        return stage_file(
            cursor, plan.path, needed, plan.cut, plan.id_column, plan.position, near_sources(cursor)
        )
    query = named_queries()[plan.query].encode()
    cursor.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS "
            "SELECT row_number() OVER () AS row_number, q.* FROM ({}) AS q"
        ).format(STAGE, _Text(query))
    )
    found = cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(STAGE)).description or []
    names = [one.name for one in found if one.name not in ("row_number", "object_id")]
    kinds = {one.name: "text" if one.type_code == _TEXT_OID else "number" for one in found}
    plan.columns.update({name: name for name in names if name not in plan.columns})
    rows = cursor.execute(
        sql.SQL("SELECT row_number, object_id FROM {}").format(STAGE), binary=True
    ).fetchall()
    both = np.array(rows, np.int64).reshape(-1, 2)
    zeros = np.zeros(len(both))
    return Staged(len(both), kinds, [Places(both[:, 0], both[:, 1], zeros, zeros)])


class _Text(sql.Composable):
    """A statement of ``sql/queries`` inside another one."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self._text = text

    def as_bytes(self, context: Any = None) -> bytes:
        return self._text


def _refuse_none(cursor: psycopg.Cursor[Any], plan: _Plan, staged: Staged, n_chosen: int) -> None:
    if plan.position and not len(staged.all_places().row_number):
        raise LabelError(
            plan.name,
            f"none of {staged.n_read:,} rows lies within half a degree of one of "
            f"{count_sources(cursor):,} sources",
        )
    if not n_chosen:
        raise LabelError(plan.name, f"none of {staged.n_read:,} rows meets the cut {plan.cut!r}")


def _chosen_places(staged: Staged, chosen: NDArray[np.int64]) -> Places:
    places = staged.all_places()
    keep = np.isin(places.row_number, chosen)
    return Places(
        places.row_number[keep], places.object_id[keep], places.ra[keep], places.dec[keep]
    )


def _expressions(
    cursor: psycopg.Cursor[Any], plan: _Plan, staged: Staged
) -> tuple[list[sql.Composable], dict[str, list[str]]]:
    """SQL of each label as a number, and the words that numbers stand for."""
    labels: list[sql.Composable] = []
    categories: dict[str, list[str]] = {}
    for name, source in plan.columns.items():
        if name in plan.literals:
            categories[name] = [plan.literals[name].lower()]
            labels.append(sql.SQL("0::double precision"))
            continue
        column = sql.Identifier("s", sql_name(source))
        if staged.types[sql_name(source)] != "text":
            number = sql.SQL("coalesce({}::double precision, 'NaN')")
            if staged.types[sql_name(source)] == "boolean":
                number = sql.SQL("coalesce({}::integer::double precision, 'NaN')")
            labels.append(number.format(column))
            continue
        categories[name] = words = _words(cursor, plan, source)
        labels.append(
            sql.SQL(
                "coalesce((array_position({}::text[], lower(trim({}))) - 1)::double precision, "
                "'NaN')"
            ).format(sql.Literal(words), column)
        )
    return labels, categories


def _words(cursor: psycopg.Cursor[Any], plan: _Plan, source: str) -> list[str]:
    """The words of a text column among the matched rows, in order."""
    query = sql.SQL(
        "SELECT DISTINCT lower(trim({})) FROM {} AS s JOIN label_match USING (row_number) "
        "WHERE trim({}) <> '' ORDER BY 1"
    )
    column = sql.Identifier("s", sql_name(source))
    words = [row[0] for row in cursor.execute(query.format(column, STAGE, column)).fetchall()]
    if len(words) > _MAXIMUM_CATEGORIES:
        shown = ", ".join(map(repr, words[:3]))
        raise LabelError(
            plan.name,
            f"column {source} holds text with {len(words):,} different values ({shown}, …); "
            f"expected numbers, or at most {_MAXIMUM_CATEGORIES} words for classes",
        )
    return words


def _write(
    cursor: psycopg.Cursor[Any],
    plan: _Plan,
    labels: list[sql.Composable],
    categories: dict[str, list[str]],
    n_read: int,
    n_selected: int,
    run_id: int,
) -> int:
    sha256 = None if plan.path is None else _sha256(plan.path)
    row = cursor.execute(
        named_queries()["label_set_insert"],
        {
            "name": plan.name,
            "recipe": plan.recipe,
            "source": plan.query.replace("labels_", "recipe ") if plan.query else str(plan.path),
            "sha256": sha256,
            "column_names": list(plan.columns),
            "categories": Jsonb(categories),
            "cut": plan.cut or None,
            "radius": plan.radius if plan.position else None,
            "n_read": n_read,
            "n_selected": n_selected,
            "n_matched": 0,
            "run_id": run_id,
        },
    ).fetchone()
    assert row is not None
    cursor.execute(
        sql.SQL(
            "INSERT INTO astropt.label SELECT {}, m.object_id, m.separation, l.labels "
            "FROM label_match AS m JOIN {} AS s USING (row_number) "
            "CROSS JOIN LATERAL (SELECT ARRAY[{}]::double precision[] AS labels) AS l "
            "WHERE 'NaN' <> ANY(l.labels)"
        ).format(row[0], STAGE, sql.SQL(", ").join(labels))
    )
    return int(row[0])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check_values(cursor: psycopg.Cursor[Any], plan: _Plan, set_id: int) -> dict[str, int]:
    """Sources with a value by column; refuses columns without any."""
    rows = cursor.execute(
        "SELECT v.place, count(*) FROM astropt.label AS l, "
        "unnest(l.values) WITH ORDINALITY AS v (value, place) "
        "WHERE l.label_set_id = %s AND v.value <> 'NaN' GROUP BY 1",
        [set_id],
    ).fetchall()
    counts = {int(place): int(count) for place, count in rows}
    by_column = {name: counts.get(k, 0) for k, name in enumerate(plan.columns, 1)}
    empty = [name for name, count in by_column.items() if not count]
    # Q1 leaves some answers of Galaxy Zoo empty; that is no fault of a recipe's user.
    if len(empty) == len(by_column) or (empty and not plan.query):
        matches = cursor.execute("SELECT count(*) FROM label_match").fetchone()
        assert matches is not None
        raise LabelError(
            plan.name,
            f"{', '.join(empty)}: no value in any of the {matches[0]:,} matched rows, "
            "all are NaN or empty",
        )
    return by_column


def _count_matched(cursor: psycopg.Cursor[Any], set_id: int) -> int:
    row = cursor.execute(
        "UPDATE astropt.label_set SET n_matched = (SELECT count(*) FROM astropt.label "
        "WHERE label_set_id = id) WHERE id = %s RETURNING n_matched",
        [set_id],
    ).fetchone()
    assert row is not None
    return int(row[0])
