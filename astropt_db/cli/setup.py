"""``astropt-db init`` and ``astropt-db doctor``."""

from __future__ import annotations

import click

from astropt_db import __version__
from astropt_db.cli.options import format_option, ready_database
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database import migrate
from astropt_db.database.connect import resolve
from astropt_db.database.resources import latest_revision
from astropt_db.operations.doctor import diagnose


@click.command()
@click.option("--db", "url", envvar="ASTROPT_DB_URL", metavar="URL", help="PostgreSQL address.")
def init(url: str | None) -> None:
    """Make the database ready: tables, views, functions, roles. Safe to repeat.

    Run it once on a new server, and after each upgrade of astropt-db.
    """
    database = resolve(url)
    migrate.upgrade(database.url)
    click.echo(
        f"{database.safe_name} is ready (schema {latest_revision()}, astropt-db {__version__})",
        err=True,
    )


@click.command()
@click.option("--db", "url", envvar="ASTROPT_DB_URL", metavar="URL", help="PostgreSQL address.")
@format_option
def doctor(url: str | None, output_format: str) -> None:
    """Check server, schema, data, machine and weights; each finding comes with its remedy.

    Ends with exit code 1 if something is wrong.
    """
    findings = diagnose(ready_database(url) if url is None else resolve(url))
    columns = [ResultColumn(name) for name in ("state", "check", "finding", "remedy")]
    rows = [(f.state, f.check, f.finding, f.remedy) for f in findings]
    write_rows(columns, rows, output_format)
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)
