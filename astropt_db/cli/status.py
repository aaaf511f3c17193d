"""``astropt-db status``: how far things are."""

from __future__ import annotations

import json
import time

import click

from astropt_db.cli.options import database_option
from astropt_db.cli.output import ResultColumn, json_record, write_rows
from astropt_db.database.connect import Database
from astropt_db.operations.status import Section, database_status


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--watch",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Show it again every so many seconds, until Ctrl-C; with --json, a line each time.",
)
@database_option
def status(as_json: bool, watch: float | None, database: Database) -> None:
    """Show sources, vectors, queue, failures, quarantine, indexes, disk and the last runs.

    64-bit integers are strings in JSON.
    """
    while True:
        sections = database_status(database)
        if as_json:
            click.echo(json.dumps(_record(sections), ensure_ascii=False))
        else:
            if watch is not None:
                click.clear()
            _show(sections)
        if watch is None:
            return
        time.sleep(watch)


def _record(sections: list[Section]) -> dict[str, object]:
    return {
        section.name: [
            json_record([ResultColumn(*column) for column in section.columns], row)
            for row in section.rows
        ]
        for section in sections
    }


def _show(sections: list[Section]) -> None:
    for section in sections:
        click.secho(section.title, bold=True)
        if section.rows:
            columns = [ResultColumn(*column) for column in section.columns]
            write_rows(columns, section.rows, "table")
        else:
            click.echo("none")
        click.echo()
