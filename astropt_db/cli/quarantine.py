"""``astropt-db quarantine``: rows that could not be loaded."""

from __future__ import annotations

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import INT8_OID, ResultColumn, write_rows
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError
from astropt_db.ingest.retry import retry as retry_rows

_reason_option = click.option("--reason", help="Only rows with this reason, e.g. id_not_exact.")


@click.group()
def quarantine() -> None:
    """Rows that could not be loaded: list them, look at one, try again."""


@quarantine.command("list")
@_reason_option
@click.option("--by-reason", is_flag=True, help="Count rows by reason and file.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows to list."
)
@format_option
@database_option
def list_rows(
    reason: str | None, by_reason: bool, limit: int, output_format: str, database: Database
) -> None:
    """List the rows in quarantine, oldest first."""
    name = "quarantine_by_reason" if by_reason else "quarantine_list"
    _show(database, name, {"reason": reason, "limit": limit}, output_format)


@quarantine.command()
@click.argument("number", type=int)
@format_option
@database_option
def show(number: int, output_format: str, database: Database) -> None:
    """Show one row in full; NUMBER is its id in the list."""
    if _show(database, "quarantine_show", {"id": number}, output_format) == 0:
        raise ConfigurationError(
            f"there is no row {number} in quarantine; see: astropt-db quarantine list"
        )


@quarantine.command()
@_reason_option
@click.option("--repair-ids", is_flag=True, help="Rebuild destroyed ids from exact positions.")
@database_option
def retry(reason: str | None, repair_ids: bool, database: Database) -> None:
    """Try the rows again; what can be loaded now leaves the quarantine.

    Ends with exit code 1 if rows remain.
    """
    tried = resolved = 0
    arguments = {"reason": reason, "repair_ids": repair_ids}
    with recorded_run(database, "quarantine retry", arguments) as run:
        for report in retry_rows(database, reason=reason, repair_ids=repair_ids):
            tried += report.tried
            resolved += report.resolved
            repaired = f", {report.counts.repaired} ids repaired" if report.counts.repaired else ""
            click.echo(
                f"{report.path} ({report.product}): {report.resolved} of {report.tried} rows "
                f"loaded{repaired}",
                err=True,
            )
        run.counts = {"tried": tried, "resolved": resolved}
        run.failed = resolved < tried
    click.echo(f"tried {tried} / loaded {resolved} / still in quarantine {tried - resolved}")
    if resolved < tried:
        raise SystemExit(1)


def _show(database: Database, name: str, values: dict[str, object], output_format: str) -> int:
    with reading(database) as cursor:
        rows = cursor.execute(named_queries()[name], values)
        columns = [ResultColumn(c.name, c.type_code) for c in rows.description or []]
        # Row numbers and ids of our own are small; only object_id must be text in JSON.
        columns = [
            c if c.name == "object_id" or c.type_oid != INT8_OID else ResultColumn(c.name)
            for c in columns
        ]
        return write_rows(columns, rows, output_format)
