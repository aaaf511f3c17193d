"""``astropt-db ingest labels``: what the heads learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from astropt_db.cli.ingest import ingest
from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.errors import ConfigurationError
from astropt_db.ingest.label_recipes import RECIPES
from astropt_db.ingest.labels import LabelRequest, ingest_labels


@ingest.command(
    epilog="Recipes: " + "; ".join(f"{name}: {one.title}" for name, one in RECIPES.items()) + "."
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--set", "name", metavar="NAME", help="Name of the set [default: the recipe's].")
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="Columns and cuts of a survey.")
@click.option("--id", "id_column", metavar="COL", help="Column of the object id.")
@click.option("--ra", metavar="COL", help="Column of the right ascension, degrees.")
@click.option("--dec", metavar="COL", help="Column of the declination, degrees.")
@click.option(
    "--radius",
    type=float,
    default=1.0,
    show_default=True,
    help="Largest distance of a match on the sky, arcsec.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="LABEL=COL",
    help="A label and its column of the file, e.g. z=spec_z; may be repeated. "
    "LABEL='word' gives every row the same word.",
)
@click.option("--where", default="", metavar="SQL", help="Condition on the file's columns.")
@click.option(
    "--duplicates",
    type=click.Choice(["error", "nearest"]),
    default="error",
    show_default=True,
    help="What to do where rows share a source; recipes take the nearest.",
)
@click.option("--replace", is_flag=True, help="Let the set take the place of one of its name.")
@database_option
def labels(
    path: Path | None,
    name: str | None,
    recipe: str | None,
    id_column: str | None,
    ra: str | None,
    dec: str | None,
    radius: float,
    columns: tuple[str, ...],
    where: str,
    duplicates: Literal["error", "nearest"],
    replace: bool,
    database: Database,
) -> None:
    """Load labels from a file, or from the database by a recipe.

    \b
    astropt-db ingest labels zall-pix.fits --recipe desi
    astropt-db ingest labels --recipe zoobot
    astropt-db ingest labels mine.csv --set mine --id object_id --column z=spec_z \\
        --where "quality >= 3"
    """
    name = name or recipe
    if name is None:
        raise ConfigurationError("give the set a name: --set NAME, or take a --recipe")
    request = LabelRequest(
        name,
        path,
        dict(map(_pair, columns)),
        id_column,
        ra,
        dec,
        radius,
        where,
        recipe,
        duplicates,
        replace,
    )
    arguments = {key: str(value) for key, value in vars(request).items() if value}
    with recorded_run(database, "ingest labels", arguments) as run:
        report = ingest_labels(database, request, run.id)
        run.counts = {
            "read": report.read,
            "selected": report.selected,
            "matched": report.matched,
            "duplicates": report.duplicates,
        }
    parts = ", ".join(f"{label} {count:,}" for label, count in report.by_column.items())
    given_up = f" / gave way {report.duplicates:,}" if report.duplicates else ""
    click.echo(
        f"{name}: read {report.read:,} / met the cut {report.selected:,}{given_up} / "
        f"sources with labels {report.matched:,} ({parts})"
    )


def _pair(text: str) -> tuple[str, str]:
    label, sign, column = text.partition("=")
    if not (sign and label.strip() and column.strip()):
        raise ConfigurationError(f"--column {text!r}: expected LABEL=COLUMN, e.g. z=spec_z")
    return label.strip(), column.strip()
