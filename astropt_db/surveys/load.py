"""Any catalogue with positions into ``survey.NAME``: one transaction, safe to repeat."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.copy import copy_rows
from astropt_db.database.resources import named_queries
from astropt_db.errors import FileError
from astropt_db.ingest.catalogue import hash_file, storable
from astropt_db.q1.readers import Table, catalogue_files, open_tables
from astropt_db.surveys.columns import SurveyColumn, find_column, plan_columns
from astropt_db.surveys.positions import PositionReader, SurveyError
from astropt_db.surveys.recipes import Recipe, find_recipe
from astropt_db.surveys.rows import RowMaker

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_RA = ("ra", "right_ascension", "raj2000", "ra_deg", "alpha_j2000", "target_ra", "ra [deg]")
_DEC = ("dec", "declination", "dej2000", "decj2000", "dec_deg", "delta_j2000", "target_dec")
_OPTIONS = ("id", "ra", "dec", "unit", "epoch", "pmra", "pmdec", "recipe", "duplicates")


@dataclass(frozen=True)
class SurveyRequest:
    """What to load.

    Attributes
    ----------
    name
        Of the table in schema ``survey``.
    paths
        Files or folders, all of one catalogue.
    id, ra, dec
        Columns; without an id rows are known by their number.
    unit
        Of the positions: ``auto``, ``deg``, ``hours`` or ``rad``.
    epoch, pmra, pmdec
        Julian year of the positions (or a column), and columns of proper motions in mas/yr.
    recipe
        Name of a recipe.
    duplicates
        What to do with ids that come again: ``error``, ``first`` (keep it) or ``keep`` (all);
        empty for the recipe's way.
    replace
        Whether a survey of this name gives way.
    """

    name: str
    paths: tuple[Path, ...]
    id: str | None = None
    ra: str | None = None
    dec: str | None = None
    unit: str = "auto"
    epoch: str | None = None
    pmra: str | None = None
    pmdec: str | None = None
    recipe: str | None = None
    duplicates: str = ""
    replace: bool = False


@dataclass
class SurveyReport:
    """What became of the rows; ``notes`` is worth saying, ``known`` if nothing was to be done."""

    read: int = 0
    rows: int = 0
    without_position: int = 0
    cut: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    known: bool = False


def add_survey(
    database: Database,
    request: SurveyRequest,
    run_id: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> SurveyReport:
    """Load a survey.

    Raises
    ------
    SurveyError
        If the name cannot be used, columns are not there, positions look swapped or like
        radians, ids come twice, no row has a position, or another survey has the name.
    FileError
        If a file cannot be read.
    """
    if not _NAME.fullmatch(request.name) or request.name.endswith(("_match", "_matched")):
        raise SurveyError(
            request.name,
            "a name begins with a letter, goes on with small letters, digits or _, and does not "
            "end with _match or _matched",
        )
    recipe = find_recipe(request.recipe)
    recipe = replace(
        recipe,
        epoch=request.epoch or recipe.epoch,
        pmra=request.pmra or recipe.pmra,
        pmdec=request.pmdec or recipe.pmdec,
    )
    files = [file for path in request.paths for file in catalogue_files(path)]
    hashes = [*map(hash_file, files), _options_hash(request)]
    with (
        connect(database, role=ADMIN) as connection,
        connection.cursor() as cursor,
        ExitStack() as stack,
    ):
        cursor.execute(named_queries()["ingest_lock"], {"key": f"survey/{request.name}"})
        if known := _already_there(cursor, request, hashes):
            return known
        tables = [stack.enter_context(_table_of(path, request, recipe)) for path in files]
        maker, id_column = _plan(request, recipe, tables)
        _create(cursor, request.name, maker.columns, id_column)
        for table in tables:
            for block in table.blocks():
                copy_rows(cursor, _table(request.name), maker.fields(block))
                progress(block.n_rows)
        maker.reader.check()
        report = _finish(cursor, request, maker, id_column)
        _register(cursor, request, recipe, report, files, hashes, id_column, run_id)
    return report


def _options_hash(request: SurveyRequest) -> str:
    text = repr([(key, getattr(request, key)) for key in _OPTIONS])
    return "options " + hashlib.sha256(text.encode()).hexdigest()


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("survey", name)


def _already_there(
    cursor: psycopg.Cursor[Any], request: SurveyRequest, hashes: list[str]
) -> SurveyReport | None:
    """The report of the same content loaded before; makes room where it is replaced."""
    row = cursor.execute(named_queries()["survey_find"], {"name": request.name}).fetchone()
    if row is None:
        return None
    _, old, n_read, n_rows, without, cut, duplicates, *_ = row
    if old == hashes:
        return SurveyReport(n_read, n_rows, without, cut, duplicates, (), True)
    if not request.replace:
        raise SurveyError(
            request.name,
            "is there already, with other content or options; --replace puts this in its place",
        )
    drop_survey(cursor, request.name)
    return None


def drop_survey(cursor: psycopg.Cursor[Any], name: str) -> None:
    """Take a survey, its match and its view out of the database.

    Raises
    ------
    SurveyError
        If there is none such.
    """
    found = cursor.execute(named_queries()["survey_delete"], {"name": name}).fetchone()
    if found is None:
        raise SurveyError(name, "is not there; astropt-db survey list shows all")
    view = sql.Identifier("survey", f"{name}_matched")
    cursor.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(view))
    for table in (f"{name}_match", name):
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_table(table)))


def _table_of(path: Path, request: SurveyRequest, recipe: Recipe) -> Table:
    """The first table of a file that has a position."""
    tables = open_tables(path)
    ra, dec = _wanted(request.ra, recipe.ra, _RA), _wanted(request.dec, recipe.dec, _DEC)
    chosen = None
    for table in tables:
        columns = plan_columns("survey", [table])
        if chosen is None and find_column(columns, ra) and find_column(columns, dec):
            chosen = table
        else:
            table.close()
    if chosen is None:
        names = ", ".join(column.name for column in tables[0].columns[:20])
        raise FileError(
            path,
            f"has no columns {' or '.join(ra[:2])} and {' or '.join(dec[:2])}.",
            f"Say --ra and --dec; it has {names}.",
        )
    return chosen


def _wanted(asked: str | None, recipe: tuple[str, ...], usual: tuple[str, ...]) -> tuple[str, ...]:
    return (asked,) if asked else recipe or usual


def _plan(
    request: SurveyRequest, recipe: Recipe, tables: Sequence[Table]
) -> tuple[RowMaker, SurveyColumn | None]:
    columns = plan_columns(request.name, tables)
    ra = find_column(columns, _wanted(request.ra, recipe.ra, _RA))
    dec = find_column(columns, _wanted(request.dec, recipe.dec, _DEC))
    assert ra is not None
    assert dec is not None
    wanted = (request.id,) if request.id else recipe.id
    id_column = find_column(columns, wanted) if wanted else None
    if wanted and id_column is None:
        names = ", ".join(one.source for one in columns[:20])
        raise SurveyError(
            request.name, f"there is no column {' or '.join(wanted)} for the id; there are: {names}"
        )
    reader = PositionReader(request.name, ra.source, dec.source, request.unit)
    for one in columns:
        if one.name != one.source.lower():
            reader.notes.append(f"column {one.source} is {one.name}")
    moved = [one.source for one in columns if one.in_extra]
    if moved:
        text = f"{len(moved):,} of {len(columns):,} columns are in the JSON column extra, because "
        text += f"a row has no room for them: {moved[0]} to {moved[-1]}"
        reader.notes.insert(0, text)
    return RowMaker(columns, recipe, reader, ra, dec), id_column


_OWN = (
    ("survey_row", "bigint NOT NULL", "row of the files, from 1 [; {}]"),
    ("healpix29", "bigint NOT NULL", "HEALPix cell, order 29, nested [; pos.healpix]"),
    ("sky_ra", "double precision NOT NULL", "right ascension [deg; pos.eq.ra;meta.main]"),
    ("sky_dec", "double precision NOT NULL", "declination [deg; pos.eq.dec;meta.main]"),
    ("sky_error", "real", "error of the position, one sigma [arcsec; stat.error;pos.eq]"),
)


def _create(
    cursor: psycopg.Cursor[Any],
    name: str,
    columns: Sequence[SurveyColumn],
    id_column: SurveyColumn | None,
) -> None:
    main = "meta.record" if id_column else "meta.id;meta.main"
    parts = [(sql.Identifier(one), sql.SQL(kind), text.format(main)) for one, kind, text in _OWN]
    for column in columns:
        if column.in_extra:
            continue
        unit = re.sub(r"[\[\];]", " ", column.target.unit).strip()
        ucd = "meta.id;meta.main" if column is id_column else ""
        source = re.sub(r"[\[\]\0]", " ", column.source).strip()
        comment = f"{source} of the survey's file [{unit}; {ucd}]"
        # The type is one of ours, never the file's text.
        parts.append((sql.Identifier(column.name), sql.SQL(column.target.type), comment))
    if any(column.in_extra for column in columns):
        text = "columns for which a row has no room [; meta.note]"
        parts.append((sql.Identifier("extra"), sql.SQL("jsonb"), text))
    table = _table(name)
    body = sql.SQL(", ").join(sql.SQL("{} {}").format(one, kind) for one, kind, _ in parts)
    cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(table, body))
    comments = [
        sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, one, sql.Literal(text))
        for one, _, text in parts
    ]
    cursor.execute(sql.SQL(";").join(comments))


def _finish(
    cursor: psycopg.Cursor[Any],
    request: SurveyRequest,
    maker: RowMaker,
    id_column: SurveyColumn | None,
) -> SurveyReport:
    table = _table(request.name)
    duplicates = _mend_duplicates(cursor, request, id_column) if id_column else 0
    cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (survey_row)").format(table))
    cursor.execute(sql.SQL("CREATE INDEX ON {} (healpix29)").format(table))
    if id_column:
        index = sql.SQL("CREATE INDEX ON {} ({})")
        cursor.execute(index.format(table, sql.Identifier(id_column.name)))
    title = find_recipe(request.recipe).title or f"survey {request.name}"
    comment = sql.SQL("COMMENT ON TABLE {} IS {}")
    cursor.execute(comment.format(table, sql.Literal(f"Other survey: {title}")))
    cursor.execute(sql.SQL("ANALYZE {}").format(table))
    row = cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert row is not None
    reader = maker.reader
    without = reader.n_missing + reader.n_outside
    if not row[0]:
        raise SurveyError(
            request.name,
            f"no row is left of {maker.n_read:,}: {without:,} without a position, "
            f"{maker.n_cut:,} left out by the recipe's cuts",
        )
    notes = list(reader.notes)
    if reader.n_outside:
        notes.append(f"{reader.n_outside:,} positions are off the sphere, left out")
    notes += [
        f"column {name}: {count:,} values do not fit its type, now NULL"
        for name, count in maker.refused.items()
    ]
    return SurveyReport(maker.n_read, row[0], without, maker.n_cut, duplicates, tuple(notes))


def _mend_duplicates(
    cursor: psycopg.Cursor[Any], request: SurveyRequest, id_column: SurveyColumn
) -> int:
    how = request.duplicates or ("first" if request.recipe else "error")
    if how == "keep":
        return 0
    names = {"table": _table(request.name), "id": sql.Identifier(id_column.name)}
    if how == "first":
        cursor.execute(
            sql.SQL(
                "DELETE FROM {table} AS s USING (SELECT survey_row, row_number() OVER ("
                "PARTITION BY {id} ORDER BY survey_row) AS place FROM {table} "
                "WHERE {id} IS NOT NULL) AS r WHERE r.survey_row = s.survey_row AND r.place > 1"
            ).format(**names)
        )
        return cursor.rowcount
    rows = cursor.execute(
        sql.SQL(
            "SELECT {id}::text, count(*), sum(count(*) - 1) OVER () FROM {table} "
            "WHERE {id} IS NOT NULL GROUP BY {id} HAVING count(*) > 1 "
            "ORDER BY min(survey_row) LIMIT 3"
        ).format(**names)
    ).fetchall()
    if rows:
        shown = ", ".join(f"{text} ({count} times)" for text, count, _ in rows)
        raise SurveyError(
            request.name,
            f"{rows[0][2]:,} rows repeat an id of column {id_column.source}: {shown}. Keep the "
            "first of each with --duplicates first, or all with --duplicates keep",
        )
    return 0


def _register(
    cursor: psycopg.Cursor[Any],
    request: SurveyRequest,
    recipe: Recipe,
    report: SurveyReport,
    files: Sequence[Path],
    hashes: Sequence[str],
    id_column: SurveyColumn | None,
    run_id: int,
) -> None:
    cursor.execute(
        named_queries()["survey_insert"],
        {
            "name": request.name,
            "run_id": run_id,
            "recipe": request.recipe,
            "paths": [storable(path) for path in files],
            "sha256": list(hashes),
            "id_column": id_column.name if id_column else "survey_row",
            "radius": recipe.radius,
            "n_read": report.read,
            "n_rows": report.rows,
            "n_without_position": report.without_position,
            "n_cut": report.cut,
            "n_duplicates": report.duplicates,
        },
    )
