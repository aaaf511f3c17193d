"""``astropt-db index``: vector indexes and their measured recall."""

from __future__ import annotations

from collections.abc import Iterable

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries
from astropt_db.search import indexes
from astropt_db.search.recall import Measurement, calibrate, measure

encoder_option = click.option(
    "--encoder", metavar="NAME", help="Encoder [default: the current one]."
)
_queries_option = click.option(
    "--queries",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Random objects that are asked for.",
)
_COLUMNS = ("k", "ef_search", "filter", "fraction", "recall", "fewest_rows", "median_ms")


@click.group()
def index() -> None:
    """Vector indexes: build, list, measure, drop.

    Below about a million objects an exact search takes a fraction of a second and needs none.
    """


@index.command()
@encoder_option
@click.option(
    "--kind",
    type=click.Choice(indexes.KINDS),
    default="halfvec",
    show_default=True,
    help="halfvec: the vectors; bit: their signs, a fifth of the size, slower to ask.",
)
@click.option("--m", type=int, default=16, show_default=True, help="Links of a node.")
@click.option(
    "--ef-construction",
    type=int,
    default=48,
    show_default=True,
    help="Candidates kept while a node is linked.",
)
@click.option(
    "--memory",
    type=click.IntRange(1),
    metavar="MB",
    help="Memory for the build [default: what it needs, up to half of the machine].",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    help="Parallel workers [default: one less than the server allows].",
)
@click.option("--replace", is_flag=True, help="Build an index anew that exists.")
@_queries_option
@format_option
@database_option
def build(
    encoder: str | None,
    kind: str,
    m: int,
    ef_construction: int,
    memory: int | None,
    workers: int | None,
    replace: bool,
    queries: int,
    output_format: str,
    database: Database,
) -> None:
    """Build an encoder's index and measure its recall against the exact answer.

    Rows cannot be added to the encoder meanwhile. Searches use the index once its recall is
    measured and is 0.99 or better.
    """
    room = None if memory is None else memory * indexes.MIB
    options = indexes.IndexOptions(kind, m, ef_construction, room, workers, replace)
    with recorded_run(database, "index build", {"encoder": encoder, **vars(options)}) as run:
        built = indexes.build_index(database, encoder, options, run)
        click.echo(
            f"{built.encoder.name}: {kind} index of {built.rows:,} vectors in "
            f"{built.seconds:.1f} s; measuring its recall",
            err=True,
        )
        found = calibrate(database, built.encoder.name, kind, queries, run)
    _show(found, output_format)


@index.command("list")
@encoder_option
@click.option("--all", "everything", is_flag=True, help="Also settings that are not in use.")
@format_option
@database_option
def list_indexes(
    encoder: str | None, everything: bool, output_format: str, database: Database
) -> None:
    """List indexes with size, build time and every measured recall."""
    with reading(database) as cursor:
        rows = cursor.execute(
            named_queries()["search_index_list"], {"encoder": encoder, "all": everything}
        )
        columns = [ResultColumn(c.name) for c in rows.description or []]
        count = write_rows(columns, rows, output_format)
    if count == 0:
        click.echo("there is no vector index; searches are exact", err=True)


@index.command()
@encoder_option
@click.option("--kind", type=click.Choice(indexes.KINDS), help="Only this kind.")
@database_option
def drop(encoder: str | None, kind: str | None, database: Database) -> None:
    """Drop an encoder's indexes; searches are exact again."""
    with recorded_run(database, "index drop", {"encoder": encoder, "kind": kind}) as run:
        names = indexes.drop_index(database, encoder, kind)
        run.counts = {"indexes": len(names)}
    click.echo(f"dropped {', '.join(names)}", err=True)


@index.command()
@encoder_option
@click.option("--top", "k", type=click.IntRange(1, 1000), default=10, show_default=True, help="k.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="SQL",
    help="A filter to measure with, as for similar; may be repeated.",
)
@click.option("--calibrate", "again", is_flag=True, help="First try all settings anew.")
@_queries_option
@format_option
@database_option
def recall(
    encoder: str | None,
    k: int,
    conditions: tuple[str, ...],
    again: bool,
    queries: int,
    output_format: str,
    database: Database,
) -> None:
    """Measure recall@k against the exact answer on the live table, and store it.

    Without a filter, with random filters that allow 10 % and 1 %, and with each --where.
    """
    arguments = {"encoder": encoder, "k": k, "where": list(conditions), "calibrate": again}
    with recorded_run(database, "index recall", arguments) as run:
        found = calibrate(database, encoder, None, queries, run) if again else []
        found += measure(database, encoder, k, queries, run, conditions)
    _show(found, output_format)


def _show(found: Iterable[Measurement], output_format: str) -> None:
    rows = [[vars(one)[name] for name in _COLUMNS] for one in found]
    write_rows([ResultColumn(name) for name in _COLUMNS], rows, output_format)
