"""``astropt-db outliers``: find them, say why, label them, learn from the labels."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries

_encoder_option = click.option("--encoder", help="Name of the encoder [default: the current one].")


@click.group()
def outliers() -> None:
    """Sources unlike the others: find, list, label and re-rank them."""


@outliers.command()
@_encoder_option
@click.option("--where", help="SQL condition on astropt.source that chooses the sources.")
@click.option(
    "--methods",
    default="if,lof",
    show_default=True,
    help="Comma-separated: if (isolation forest), lof (local outlier factor), knn (distance).",
)
@click.option(
    "--contamination", type=float, default=0.01, show_default=True, help="Fraction to flag."
)
@click.option("--approximate", is_flag=True, help="A faster neighbour graph, its recall measured.")
@click.option("--device", help="cpu or cuda, for the graph [default: a GPU if there is one].")
@format_option
@database_option
def find(
    encoder: str | None,
    where: str | None,
    methods: str,
    contamination: float,
    approximate: bool,
    device: str | None,
    output_format: str,
    database: Database,
) -> None:
    """Score all sources of an encoder; astropt.outliers then shows this run.

    Isolation forests and local outlier factors over the grid of arXiv:2503.15312, each brought
    to 0-1, averaged, the top fraction flagged.
    """
    from astropt_db.outliers.find import Settings, find_outliers

    names = tuple(one.strip() for one in methods.split(",") if one.strip())
    settings = Settings(encoder, names, contamination, where, approximate, device)
    found = find_outliers(database, settings)
    columns = [
        ResultColumn(name)
        for name in ("outlier_run", "encoder", "sources", "flagged", "graph", "recall")
    ]
    row = (
        found.outlier_run,
        found.encoder,
        found.objects,
        found.flagged,
        found.graph,
        found.recall,
    )
    write_rows(columns, [row], output_format)
    click.echo("next: astropt-db outliers list", err=True)


@outliers.command("list")
@_encoder_option
@click.option("--reason", help="Only those with this reason, e.g. near_merger.")
@click.option("--without", help="Only those without this reason, e.g. artefact.")
@click.option("--learned", is_flag=True, help="In the order of `outliers rank --learn`.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Rows.")
@format_option
@database_option
def list_flagged(
    encoder: str | None,
    reason: str | None,
    without: str | None,
    learned: bool,
    limit: int,
    output_format: str,
    database: Database,
) -> None:
    """List flagged sources with their reasons, the oddest first."""
    with connect(database) as connection:
        name = find_encoder(connection, encoder).name
    values = {
        "encoder": name,
        "reason": reason,
        "without": without,
        "learned": learned,
        "limit": limit,
    }
    with reading(database) as cursor:
        rows = cursor.execute(named_queries()["outlier_list"], values)
        columns = [ResultColumn(c.name, c.type_code) for c in rows.description or []]
        if write_rows(columns, rows, output_format) == 0:
            click.echo(
                f"no flagged sources of encoder {name} match; "
                f"search first: astropt-db outliers find --encoder {name}",
                err=True,
            )


# Ids of southern sources are negative, which is no option.
@outliers.command(context_settings={"ignore_unknown_options": True})
@click.argument("object_id", metavar="ID", type=int)
@click.argument("label", type=click.Choice(["interesting", "artefact", "dull"]))
@click.option("--note", help="Why, in your words.")
@click.option("--by", help="Who says so [default: your user name].")
@database_option
def label(object_id: int, label: str, note: str | None, by: str | None, database: Database) -> None:
    """Say what you think of a source; a later label replaces an earlier one."""
    from astropt_db.outliers.learn import put_label

    put_label(database, object_id, label, note, by or getpass.getuser())
    click.echo(f"{object_id} is {label}", err=True)


@outliers.command()
@_encoder_option
@click.option("--learn", is_flag=True, required=True, help="From the labels there are.")
@database_option
def rank(encoder: str | None, learn: bool, database: Database) -> None:
    """Re-rank all sources by what your labels teach; see `outliers list --learned`."""
    from astropt_db.outliers.learn import learn_order

    used, ranked = learn_order(database, encoder)
    click.echo(f"{used} labels re-ranked {ranked} sources; see: astropt-db outliers list --learned")


@outliers.command()
@click.option(
    "--truth",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="truth.parquet of a simulated sky; may be repeated.",
)
@click.option("--top", type=float, default=0.01, show_default=True, help="Top fraction.")
@click.option("--classes", is_flag=True, help="How classes keep together among neighbours instead.")
@format_option
@database_option
def evaluate(
    paths: tuple[Path, ...], top: float, classes: bool, output_format: str, database: Database
) -> None:
    """Count planted oddities at the top, by encoder and method."""
    from astropt_db.outliers import evaluate as measures

    truth = measures.read_truth(paths)
    if classes:
        names: tuple[str, ...] = ("encoder", "kind", "total", "purity", "recall", "by_chance")
        groups = measures.gathered(database, truth)
        rows: list[tuple[object, ...]] = [
            (g.encoder, g.kind, g.total, g.purity, g.recall, g.base) for g in groups
        ]
    else:
        names = ("encoder", "method", "kind", "total", "found", "expected", "enrichment")
        tops = measures.planted(database, truth, top)
        rows = [
            (p.encoder, p.method, p.kind, p.total, p.found, p.expected, p.enrichment) for p in tops
        ]
    write_rows([ResultColumn(name) for name in names], rows, output_format)
