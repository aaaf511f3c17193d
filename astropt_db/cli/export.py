"""``astropt-db export``: a view or a query as a file for other tools."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database

FORMATS = ["fits", "votable", "ecsv", "csv", "parquet", "hats"]


@click.command()
@click.argument("view", required=False)
@click.option("--query", metavar="SQL", help='Export this query instead; "-" reads it from stdin.')
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write; its suffix tells the format: .fits .vot .ecsv .csv .parquet .hats.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    help="Format, where the suffix does not tell it.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=0,
    show_default=True,
    help="Seconds after which the server gives up; 0 means never.",
)
@database_option
def export(
    view: str | None,
    query: str | None,
    target: Path,
    format_name: str | None,
    overwrite: bool,
    timeout: float,
    database: Database,
) -> None:
    """Write a view or a query to a FITS, VOTable, ECSV, CSV or Parquet file, or a HATS folder.

    Units, UCDs, descriptions and provenance go into the header; ids stay 64-bit integers. The
    file appears when it is complete. A Parquet file is a VOParquet file too. A HATS catalogue is a
    folder of Parquet files by place on the sky, for LSDB.

    \b
    astropt-db export source -o source.fits
    astropt-db export --query "SELECT * FROM astropt.source WHERE mag_vis < 20" -o bright.vot
    astropt-db export catalogue -o catalogue.hats
    """
    from astropt_db.deliver.export import export as run

    started = time.monotonic()
    text = sys.stdin.read() if query == "-" else query
    with _progress() as advance:
        report = run(database, target, view, text, format_name, overwrite, timeout, advance)
    click.echo(
        f"{report.path}: {report.rows:,} rows, {report.columns} columns, "
        f"{report.size / 1e6:,.1f} MB in {time.monotonic() - started:.1f} s",
        err=True,
    )
    if report.left_out:
        click.echo(f"warning: {report.left_out:,} rows without a position left out", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Rows so far, on a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("export {task.completed:,} rows"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("export", total=None)
        yield lambda rows: bar.advance(task, rows)
