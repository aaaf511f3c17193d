"""Every table, view, column and function says what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import astropy.units as u
import psycopg
import pytest
from astropy.io.votable.ucd import parse_ucd
from conftest import temporary_database

from astropt_db.database.embedded import EmbeddedServer

# Logarithms of quantities, which astropy writes as decades.
LOGARITHMIC = {"log10(Msun)": "dex(Msun)", "log10(Msun/yr)": "dex(Msun/yr)"}
RELATIONS = """
    SELECT oid::regclass::text, obj_description(oid, 'pg_class') FROM pg_class
    WHERE relnamespace::regnamespace::text IN ('q1', 'astropt', 'survey')
        AND relkind IN ('r', 'p', 'v', 'm') AND relname <> 'alembic_version'"""
FUNCTIONS = """
    SELECT oid::regprocedure::text, obj_description(oid, 'pg_proc') FROM pg_proc
    WHERE pronamespace::regnamespace::text IN ('q1', 'astropt', 'survey')"""
COLUMNS = """
    SELECT c.oid::regclass || '.' || a.attname, col_description(c.oid, a.attnum)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relnamespace::regnamespace::text IN ('q1', 'astropt', 'survey')
        AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'alembic_version'
        AND a.attnum > 0 AND NOT a.attisdropped"""


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer, template: str) -> Iterator[psycopg.Connection]:
    with temporary_database(server, template) as url, psycopg.connect(url) as connection:
        yield connection


@pytest.mark.parametrize("query", [RELATIONS, FUNCTIONS], ids=["relations", "functions"])
def test_tables_views_and_functions_are_described(
    connection: psycopg.Connection, query: str
) -> None:
    comments = dict(connection.execute(query).fetchall())
    assert comments
    assert [name for name, comment in comments.items() if not comment] == []


def problem(comment: str | None) -> str | None:
    """What is wrong with a column's comment; it must be ``description [unit; ucd]``."""
    match = re.fullmatch(r"(\S.*) \[([^\[\];]*); ([\w.;-]+)\]", comment or "")
    if match is None:
        return f"not of the form `description [unit; ucd]`: {comment}"
    try:
        u.Unit(LOGARITHMIC.get(match[2], match[2]))
        parse_ucd(match[3], check_controlled_vocabulary=True)
    except ValueError as error:
        return str(error)
    return None


def test_columns_are_described_with_unit_and_ucd(connection: psycopg.Connection) -> None:
    comments = dict(connection.execute(COLUMNS).fetchall())
    assert len(comments) > 850
    problems = {name: problem(comment) for name, comment in comments.items()}
    assert {name: text for name, text in problems.items() if text} == {}


def test_column_info_splits_the_comments(connection: psycopg.Connection) -> None:
    rows = connection.execute(
        "SELECT table_name || '.' || column_name, data_type, unit, ucd, description "
        "FROM astropt.column_info WHERE table_schema IN ('q1', 'astropt')"
    ).fetchall()
    facts = {name: tuple(rest) for name, *rest in rows}
    assert len(facts) == len(connection.execute(COLUMNS).fetchall())
    assert facts["source.mag_vis"][:3] == ("double precision", "mag", "phot.mag;em.opt")
    assert facts["mer_catalogue.flux_vis_psf"][:2] == ("real", "uJy")
    # Brackets in a description are no unit.
    kind, unit, ucd, description = facts["phz_photo_z.phz_70_int"]
    assert (kind, unit, ucd) == ("real[]", None, "src.redshift.phot;stat.interval")
    assert description == "[lower, upper] 70% interval"


def test_views_on_views_repeat_the_comments(connection: psycopg.Connection) -> None:
    query = (
        "SELECT column_name, unit, ucd, description FROM astropt.column_info "
        "WHERE table_name = %s ORDER BY position"
    )
    source, selection = (
        connection.execute(query, [name]).fetchall() for name in ("source", "paper_selection")
    )
    assert len(source) > 15
    assert selection == source
