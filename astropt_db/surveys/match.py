"""The association of a survey with the Euclid sources, as a table and a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.resources import named_queries
from astropt_db.sky.crossmatch import PAIRS, Positions, PositionTable, find_pairs, read_positions
from astropt_db.surveys.positions import SurveyError

MAXIMUM_RADIUS = 60.0
"""Arcsec; also the largest radius that a row's own error can ask for."""

_SIGMAS = 3
_SAMPLE = 50_000
_SHIFTS = (1, 2)
_SOURCES = PositionTable(
    sql.Identifier("q1", "mer_catalogue"), "object_id", "right_ascension", "declination"
)


@dataclass(frozen=True)
class MatchReport:
    """What a match found.

    Attributes
    ----------
    radius
        Arcsec; rows with an error of their own may have a larger one.
    rows
        Rows of the survey.
    pairs
        Rows of the association.
    matched
        Rows of the survey with a source.
    sources
        Sources with a row of the survey.
    median
        Separation of the best pairs, arcsec; NaN without any.
    chance
        Rows of the survey that would be matched by chance, from shifted positions.
    """

    radius: float
    rows: int
    pairs: int
    matched: int
    sources: int
    median: float
    chance: float


def match_survey(
    database: Database, name: str, radius: float | None = None, kind: str = "best"
) -> MatchReport:
    """Fill ``survey.NAME_match`` and make the view ``survey.NAME_matched``.

    Every run makes them anew, in one transaction.

    Parameters
    ----------
    radius
        Arcsec; ``None`` for the survey's usual one. A row whose position has an error is matched
        within three of its errors where that is more.
    kind
        ``best`` keeps the nearest source of each row, ``all`` every pair.

    Raises
    ------
    SurveyError
        If there is no such survey, or the radius is not above 0 and at most 60 arcsec.
    """
    queries = named_queries()
    with connect(database, role=ADMIN) as connection, connection.cursor() as cursor:
        cursor.execute(queries["ingest_lock"], {"key": f"survey/{name}"})
        row = cursor.execute(queries["survey_find"], {"name": name}).fetchone()
        if row is None:
            raise SurveyError(name, "is not there; astropt-db survey list shows all")
        within = float(row[8]) if radius is None else radius
        if not 0 < within <= MAXIMUM_RADIUS:
            raise SurveyError(
                name, f"the radius is {within:g} arcsec; it must be above 0 and at most 60"
            )
        chance = _pairs(cursor, name, within)
        _store(cursor, name, str(row[7]), kind)
        report = _report(cursor, name, within, int(row[3]), chance)
        cursor.execute(
            queries["survey_matched"],
            {
                "name": name,
                "radius": within,
                "kind": kind,
                "pairs": report.pairs,
                "matched": report.matched,
                "chance": chance,
            },
        )
    return report


def _pairs(cursor: psycopg.Cursor[Any], name: str, radius: float) -> float:
    """Fill ``survey_pair`` (survey_row, object_id, separation); the matches by chance."""
    survey = PositionTable(sql.Identifier("survey", name), "survey_row", "sky_ra", "sky_dec")
    sizes = cursor.execute(
        sql.SQL(
            "SELECT (SELECT count(*) FROM {0}), (SELECT count(*) FROM q1.mer_catalogue), "
            "EXISTS (SELECT FROM {0} WHERE {1} * sky_error > {2})"
        ).format(survey.table, sql.Literal(_SIGMAS), sql.Literal(radius))
    ).fetchone()
    assert sizes is not None
    n_survey, n_sources, own_radii = sizes
    # The smaller side is looked up in the larger; only the survey has radii of its own.
    forward = own_radii or n_survey <= 2 * n_sources
    probe_table, target = (survey, _SOURCES) if forward else (_SOURCES, survey)
    within: sql.Composable = sql.Literal(radius)
    if forward:
        within = sql.SQL("least(greatest({}, {} * coalesce(sky_error, 0)), {})").format(
            sql.Literal(radius), sql.Literal(_SIGMAS), sql.Literal(MAXIMUM_RADIUS)
        )
    probe = read_positions(cursor, probe_table, within)
    # Before the pairs, since it uses the same temporary table.
    chance = _chance(cursor, probe, target, "probe_id" if forward else "target_id")
    find_pairs(cursor, probe, target)
    names = ("probe_id", "target_id") if forward else ("target_id", "probe_id")
    for old, new in zip(names, ("survey_row", "object_id"), strict=True):
        cursor.execute(
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                PAIRS, sql.Identifier(old), sql.Identifier(new)
            )
        )
    return chance


def _chance(
    cursor: psycopg.Cursor[Any], probe: Positions, target: PositionTable, survey_side: str
) -> float:
    """Rows of the survey that match after all positions were moved, scaled from a sample."""
    n = len(probe.id)
    if n == 0:
        return 0.0
    # Repeats: the same sample each time.
    chosen = np.random.default_rng(0).permutation(n)[:_SAMPLE]
    sample = probe.take(np.sort(chosen))
    step = max(20 * float(np.median(probe.radius)), 2.5 * float(probe.radius.max()))
    found = []
    for times in _SHIFTS:
        find_pairs(cursor, sample.shifted(times * step), target)
        row = cursor.execute(
            sql.SQL("SELECT count(DISTINCT {}) FROM {}").format(sql.Identifier(survey_side), PAIRS)
        ).fetchone()
        assert row is not None
        found.append(row[0])
    return float(np.mean(found)) * n / len(chosen)


_COLUMNS = (
    ("object_id", "Euclid source identifier [; meta.id.cross]"),
    ("survey_row", "row of the survey [; meta.record]"),
    ("survey_id", "identifier in the survey [; meta.id;meta.main]"),
    ("separation", "angle between the positions [arcsec; pos.angDistance]"),
    ("match_rank", "1 for the nearest source of the survey's row [; meta.code]"),
    ("n_candidates", "sources within the radius of the survey's row [; meta.number]"),
    ("object_rank", "1 for the nearest row of the survey of this source [; meta.code]"),
)


def _store(cursor: psycopg.Cursor[Any], name: str, id_column: str, kind: str) -> None:
    survey, match, view = (
        sql.Identifier("survey", name + end) for end in ("", "_match", "_matched")
    )
    cursor.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(view))
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(match))
    cursor.execute(
        sql.SQL(
            "CREATE TABLE {match} AS SELECT * FROM ("
            "SELECT p.object_id, p.survey_row, s.{id} AS survey_id, p.separation, "
            "row_number() OVER (PARTITION BY p.survey_row ORDER BY p.separation, p.object_id)"
            "::integer AS match_rank, count(*) OVER (PARTITION BY p.survey_row)::integer "
            "AS n_candidates, row_number() OVER (PARTITION BY p.object_id ORDER BY p.separation, "
            "p.survey_row)::integer AS object_rank FROM {pairs} AS p "
            "JOIN {survey} AS s ON s.survey_row = p.survey_row) AS ranked "
            "WHERE match_rank = 1 OR {all} ORDER BY object_id"
        ).format(
            match=match,
            pairs=PAIRS,
            survey=survey,
            id=sql.Identifier(id_column),
            all=sql.Literal(kind == "all"),
        )
    )
    cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (survey_row, object_id)").format(match))
    cursor.execute(sql.SQL("CREATE INDEX ON {} (object_id)").format(match))
    comments = [
        sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
            match, sql.Identifier(column), sql.Literal(text)
        )
        for column, text in _COLUMNS
    ]
    text = f"Sources of survey {name}, see astropt.survey"
    comments.append(sql.SQL("COMMENT ON TABLE {} IS {}").format(match, sql.Literal(text)))
    cursor.execute(sql.SQL(";").join(comments))
    cursor.execute(sql.SQL("ANALYZE {}").format(match))
    _make_view(cursor, name, survey, match, view)


def _make_view(
    cursor: psycopg.Cursor[Any],
    name: str,
    survey: sql.Identifier,
    match: sql.Identifier,
    view: sql.Identifier,
) -> None:
    """The catalogue's columns, the match, and the survey's columns with names that are free."""
    rows = cursor.execute(
        "SELECT attrelid = 'astropt.catalogue'::regclass, attname::text, "
        "atttypid = 'jsonb'::regtype FROM pg_attribute "
        "WHERE attrelid IN ('astropt.catalogue'::regclass, (%s)::regclass) AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum",
        [f"survey.{name}"],
    ).fetchall()
    taken = {column for ours, column, _ in rows if ours} | {"survey_id", "separation", "match_rank"}
    taken |= {"n_candidates", "object_rank"}
    columns = [column for ours, column, _ in rows if not ours and column != "healpix29"]
    renamed = {one: f"{name}_{one}"[:63] if one in taken else one for one in columns}
    # JDBC (TOPCAT) cannot use jsonb.
    as_text = {column for ours, column, is_json in rows if is_json and not ours}
    listed = sql.SQL(", ").join(
        sql.SQL("s.{}::text AS {}" if one in as_text else "s.{} AS {}").format(
            sql.Identifier(one), sql.Identifier(new)
        )
        for one, new in renamed.items()
    )
    cursor.execute(
        sql.SQL(
            "CREATE VIEW {} WITH (security_invoker = true) AS SELECT c.*, m.survey_id, "
            "m.separation, m.match_rank, m.n_candidates, m.object_rank, {} FROM {} AS m "
            "JOIN {} AS s ON s.survey_row = m.survey_row "
            "JOIN astropt.catalogue AS c ON c.object_id = m.object_id"
        ).format(view, listed, match, survey)
    )
    text = f"Euclid sources with their row of survey {name}"
    cursor.execute(sql.SQL("COMMENT ON VIEW {} IS {}").format(view, sql.Literal(text)))
    for source in (f"survey.{name}", f"survey.{name}_match", "astropt.catalogue"):
        cursor.execute(
            "SELECT astropt.copy_comments((%s)::regclass, (%s)::regclass)",
            [f"survey.{name}_matched", source],
        )
    for old, new in renamed.items():
        if old != new:
            text = f"{old} of survey {name} [; ]"
            cursor.execute(
                sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
                    view, sql.Identifier(new), sql.Literal(text)
                )
            )


def _report(
    cursor: psycopg.Cursor[Any], name: str, radius: float, rows: int, chance: float
) -> MatchReport:
    row = cursor.execute(
        sql.SQL(
            "SELECT count(*), count(DISTINCT survey_row), count(DISTINCT object_id), "
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY separation) "
            "FILTER (WHERE match_rank = 1) FROM {}"
        ).format(sql.Identifier("survey", f"{name}_match"))
    ).fetchone()
    assert row is not None
    median = float("nan") if row[3] is None else float(row[3])
    return MatchReport(radius, rows, row[0], row[1], row[2], median, chance)
