"""``astropt-db report``: one page about everything in the database."""

from __future__ import annotations

from pathlib import Path

import click

from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database


@click.command()
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write.",
)
@click.option("--title", help="Headline of the page.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@database_option
def report(target: Path, title: str | None, overwrite: bool, database: Database) -> None:
    """Write one self-contained page about everything in the database.

    Contents, sky, embedding map, redshifts, masses, morphology, similar objects, outliers.
    It needs no server and no network to be read. What is not there yet is named with the
    command that makes it.
    """
    from astropt_db.deliver.report import write_report

    missing = write_report(database, target, overwrite, title)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB", err=True)
    if missing:
        click.echo(f"nothing yet for: {', '.join(missing)}; the page names the commands", err=True)
