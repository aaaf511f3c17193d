"""``astropt-db encoder``: the models that make vectors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import INT8_OID, ResultColumn, write_rows
from astropt_db.database.connect import Database
from astropt_db.database.encoders import find_encoder
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries


@click.group()
def encoder() -> None:
    """Models that make vectors: add, list, convert and pre-train them."""


@encoder.command()
@click.argument("source")
@click.option("--name", help="How to call it. [default: after its source]")
@click.option(
    "--pooling",
    type=click.Choice(["paper", "middle", "mean", "last"]),
    default="paper",
    show_default=True,
    help="Which states become the vector; paper is that of arXiv:2503.15312.",
)
@click.option("--use", is_flag=True, help="Take it by default from now on.")
@database_option
def add(source: str, name: str | None, pooling: str, use: bool, database: Database) -> None:
    """Add an encoder: a bundled name, a path, or hf://owner/repo@revision/path.

    Bundled are mini-vis, mini-vis_nisp and mini-vis_nisp_sed. The first one added is taken by
    default. The same name with the same weights again changes nothing.
    """
    from astropt_db.encoders.registry import add_encoder

    added = add_encoder(database, source, name, pooling, use)
    record = added.record
    current = ", the current one" if record.is_current else ""
    click.echo(
        f"{record.name}: {added.state}{current}; {record.modalities}, {record.dimension} numbers, "
        f"{record.card['parameters']:,} parameters, pooling {record.pooling['name']}"
    )


@encoder.command("list")
@format_option
@database_option
def list_all(output_format: str, database: Database) -> None:
    """List the encoders in the database."""
    with reading(database) as cursor:
        rows = cursor.execute(named_queries()["encoder_table"])
        columns = [ResultColumn(column.name) for column in rows.description or []]
        if write_rows(columns, rows, output_format) == 0:
            click.echo("none yet; add one: astropt-db encoder add mini-vis_nisp_sed", err=True)


@encoder.command()
@click.argument("name", required=False)
@format_option
@database_option
def show(name: str | None, output_format: str, database: Database) -> None:
    """Show all that is known of an encoder, by default the current one."""
    with reading(database) as cursor:
        record = find_encoder(cursor.connection, name)
        query = cursor.execute(named_queries()["encoder_vectors"], {"id": record.id})
        facts = asdict(record) | {"vectors": (query.fetchone() or (0,))[0]}
    if output_format == "table":
        columns = [ResultColumn("property"), ResultColumn("value")]
        write_rows(columns, _flat(facts), output_format)
    else:
        types = {"vectors": INT8_OID}
        columns = [ResultColumn(key, types.get(key, 0)) for key in facts]
        write_rows(columns, [list(facts.values())], output_format)


@encoder.command()
@click.argument("name")
@database_option
def use(name: str, database: Database) -> None:
    """Take an encoder by default: in commands, functions and views."""
    from astropt_db.encoders.registry import use_encoder

    record = use_encoder(database, name)
    click.echo(f"{record.name} is the current encoder")


@encoder.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", type=click.Path(dir_okay=False))
@click.option(
    "--allow",
    multiple=True,
    metavar="MODULE.CLASS",
    help="A further class that the file may name; it is replaced by a stand-in, never run.",
)
def convert(source: str, target: str, allow: tuple[str, ...]) -> None:
    """Write an official checkpoint as safetensors and JSON, running none of its code."""
    from astropt_db.astropt import convert as run

    path = run(source, target, allow)
    click.echo(f"{path}; add it: astropt-db encoder add {path}")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Pairs of a dotted name and a plain value."""
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
