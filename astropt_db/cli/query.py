"""``astropt-db query``: look at anything with SQL."""

from __future__ import annotations

import sys

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import Database
from astropt_db.database.reading import run_query


@click.command()
@click.argument("statement", metavar="SQL")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    help="Seconds after which the server gives up; 0 means never.",
)
@format_option
@database_option
def query(statement: str, timeout: float, output_format: str, database: Database) -> None:
    """Run one read-only SQL statement and print its rows; "-" reads it from stdin.

    \b
    astropt-db query "SELECT field, count(*) FROM astropt.source GROUP BY field"
    astropt-db query "SELECT * FROM astropt.column_info" --format csv
    """
    text = sys.stdin.read() if statement == "-" else statement
    with run_query(database, text, timeout) as result:
        columns = [ResultColumn(name, oid) for name, oid in result.columns]
        write_rows(columns, result.rows, output_format)
