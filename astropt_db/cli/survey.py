"""``astropt-db survey``: other catalogues beside Euclid's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.provenance import recorded_run
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries
from astropt_db.surveys.load import SurveyRequest, add_survey, drop_survey
from astropt_db.surveys.match import match_survey
from astropt_db.surveys.recipes import RECIPES


@click.group()
def survey() -> None:
    """Load other surveys and match them with the Euclid sources."""


@survey.command(
    epilog="Recipes: " + "; ".join(f"{name}: {one.title}" for name, one in RECIPES.items()) + "."
)
@click.argument("name")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--id", metavar="COL", help="Column of the id [default: the row's number].")
@click.option("--ra", metavar="COL", help="Column of the right ascension.")
@click.option("--dec", metavar="COL", help="Column of the declination.")
@click.option(
    "--unit",
    type=click.Choice(["auto", "deg", "hours", "rad"]),
    default="auto",
    show_default=True,
    help="Of the positions; hours is for the right ascension.",
)
@click.option("--epoch", metavar="YEAR|COL", help="Julian year of the positions, e.g. 2016.0.")
@click.option("--pmra", metavar="COL", help="Proper motion in RA with cos dec, mas/yr.")
@click.option("--pmdec", metavar="COL", help="Proper motion in declination, mas/yr.")
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="What is known of a survey.")
@click.option(
    "--duplicates",
    type=click.Choice(["error", "first", "keep"]),
    help="What to do where an id comes again [default: error; with a recipe: first].",
)
@click.option("--replace", is_flag=True, help="Let it take the place of one of its name.")
@database_option
def add(
    database: Database, name: str, paths: tuple[Path, ...], duplicates: str | None, **options: Any
) -> None:
    """Load a catalogue of any format into the table survey.NAME.

    Positions with proper motions are moved to Euclid's epoch, 2024.5; the position that is used
    stands in the columns sky_ra and sky_dec, degrees.
    """
    request = SurveyRequest(name=name, paths=paths, duplicates=duplicates or "", **options)
    arguments = {key: str(value) for key, value in vars(request).items() if value}
    with recorded_run(database, "survey add", arguments) as run:
        report = add_survey(database, request, run.id)
        run.counts = {"read": report.read, "rows": report.rows}
    for note in report.notes:
        click.echo(f"{name}: {note}", err=True)
    if report.known:
        click.echo(f"survey.{name}: the same content is there already, {report.rows:,} rows")
        return
    click.echo(
        f"survey.{name}: read {report.read:,} / rows {report.rows:,} / without position "
        f"{report.without_position:,} / cut {report.cut:,} / duplicates {report.duplicates:,}"
    )


@survey.command()
@click.argument("name")
@click.option(
    "--radius",
    type=float,
    help="Arcsec [default: the recipe's, else 1]; three errors of a row where that is more.",
)
@click.option(
    "--best/--all",
    "best",
    default=True,
    help="Keep each row's nearest source, or every pair.  [default: best]",
)
@database_option
def match(database: Database, name: str, radius: float | None, best: bool) -> None:
    """Match a survey with the sources: table survey.NAME_match, view survey.NAME_matched."""
    kind = "best" if best else "all"
    arguments = {"name": name, "radius": radius, "kind": kind}
    with recorded_run(database, "survey match", arguments) as run:
        report = match_survey(database, name, radius, kind)
        run.counts = {"pairs": report.pairs, "matched": report.matched}
    median = f", median {report.median:.3f} arcsec" if report.matched else ""
    click.echo(
        f"survey.{name}_match: {report.matched:,} of {report.rows:,} rows match "
        f"{report.sources:,} sources within {report.radius:g} arcsec{median} / pairs "
        f"{report.pairs:,} / expected by chance {report.chance:,.1f}"
    )


@survey.command("list")
@format_option
@database_option
def list_surveys(database: Database, output_format: str) -> None:
    """Show the surveys and their matches."""
    with reading(database) as cursor:
        rows = cursor.execute(named_queries()["survey_list"]).fetchall()
        columns = [ResultColumn(one.name, one.type_code) for one in cursor.description or ()]
    write_rows(columns, rows, output_format)


@survey.command()
@click.argument("name")
@database_option
def drop(database: Database, name: str) -> None:
    """Take a survey with its match out of the database."""
    with connect(database, role=ADMIN) as connection, connection.cursor() as cursor:
        drop_survey(cursor, name)
    click.echo(f"survey.{name} is gone")
