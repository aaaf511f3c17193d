"""``astropt-db embed``: images into vectors, by any number of workers."""

from __future__ import annotations

import click

from astropt_db.cli.embed_progress import EmbedProgress
from astropt_db.cli.options import database_option, format_option, ready_database
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord, find_encoder, list_encoders
from astropt_db.database.provenance import recorded_run
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries

_encoder_option = click.option("--encoder", metavar="NAME", help="Only this encoder's.")


@click.group(invoke_without_command=True)
@click.option("--encoder", metavar="NAME", help="Encoder [default: the current one].")
@click.option(
    "--where",
    metavar="SQL",
    help="Only sources with this condition on astropt.source, astropt.catalogue or, by name, any "
    "table of sources, e.g. 'mag_vis < 22 AND photoz.z_median < 0.5'.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or cuda:1; auto takes a GPU if there is one.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes."
)
@click.option("--threads", type=click.IntRange(1), help="Of torch in each worker on a CPU.")
@click.option(
    "--drain/--watch",
    "drain",
    default=True,
    help="End when nothing is left, or wait for more.  [default: drain]",
)
@click.option(
    "--mode",
    type=click.Choice(["fast", "reference"]),
    default="fast",
    show_default=True,
    help="reference repeats bit for bit, slowly.",
)
@click.option(
    "--plan/--no-plan",
    "planning",
    default=True,
    help="Look for sources without a vector first, or only work on the queue.  [default: plan]",
)
@click.option("--plan-only", is_flag=True, help="Fill the queue and end.")
@click.option(
    "--chunk-size",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Sources of a chunk.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Claims after which a chunk is split or given up.",
)
@click.option(
    "--lease",
    type=click.FloatRange(0.5),
    default=120.0,
    show_default=True,
    help="Seconds after which a silent worker's chunks go to others.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    help="Seconds to wait for a server that is away.",
)
@click.option("--progress-every", type=float, metavar="S", help="Seconds between progress lines.")
@click.option("--db", "url", envvar="ASTROPT_DB_URL", metavar="URL", help="PostgreSQL address.")
@click.pass_context
def embed(
    context: click.Context,
    encoder: str | None,
    where: str | None,
    device: str,
    workers: int,
    threads: int | None,
    drain: bool,
    mode: str,
    planning: bool,
    plan_only: bool,
    chunk_size: int,
    attempts: int,
    lease: float,
    patience: float,
    progress_every: float | None,
    url: str | None,
) -> None:
    """Compute the vectors of all sources that have an image and no vector yet.

    Kill it at any moment and run it again, or run it on many machines at once: each source gets
    exactly one vector per encoder. Ends with exit code 1 if something was given up.
    """
    if context.invoked_subcommand is not None:
        return
    from astropt_db.embed.job import Settings

    database = ready_database(url)
    record = _encoder(database, encoder)
    settings = Settings(
        encoder=record.name,
        device=None if device == "auto" else device,
        mode="reference" if mode == "reference" else "fast",
        threads=threads,
        watch=not drain,
        lease_s=lease,
        max_attempts=attempts,
        patience_s=patience,
    )
    if planning or plan_only:
        _plan(database, record, where, chunk_size)
    if plan_only:
        return
    _run(database, record, settings, workers, {"where": where}, progress_every)


def _encoder(database: Database, name: str | None) -> EncoderRecord:
    """The encoder; a bundled one that is not in the database yet is added."""
    from astropt_db.astropt.encoder import bundled_encoders
    from astropt_db.encoders.registry import add_encoder

    with connect(database) as connection:
        known = {one.name for one in list_encoders(connection)}
    if name in bundled_encoders() and name not in known:
        click.echo(f"{name}: adding the bundled encoder", err=True)
        return add_encoder(database, name).record
    with connect(database) as connection:
        return find_encoder(connection, name)


def _plan(database: Database, record: EncoderRecord, where: str | None, size: int) -> None:
    from astropt_db.database.filters import condition_ids
    from astropt_db.embed.queue import plan

    wanted = None if where is None else condition_ids(database, where)
    with connect(database, autocommit=True) as connection:
        planned = plan(connection, record, wanted, size)
    without = f"; {planned.without_image:,} have no registered image" * bool(planned.without_image)
    click.echo(
        f"{record.name}: {planned.sources:,} sources to embed in {planned.chunks:,} new chunks"
        f"{without}",
        err=True,
    )


def _run(
    database: Database,
    record: EncoderRecord,
    settings: object,
    workers: int,
    more: dict[str, object],
    interval_s: float | None,
) -> None:
    from astropt_db.embed.job import Settings, refresh_statistics, run_here, run_processes

    assert isinstance(settings, Settings)
    arguments = settings.described() | more | {"workers": workers}
    with recorded_run(database, "embed", arguments) as run:
        before = _totals(database, record)
        with EmbedProgress(database, record, interval_s) as progress:
            try:
                if workers == 1:
                    run_here(database, settings, run.id)
                else:
                    run_processes(database, settings, run.id, workers, lambda: progress.done)
            finally:
                refresh_statistics(database, record)
        after = _totals(database, record)
        run.counts = {key: after[key] - before[key] for key in ("embedded", "problems", "dead")}
        run.failed = after["dead"] > 0
    _summary(record, run.counts, after)
    raise SystemExit(1 if after["dead"] else 0)


def _totals(database: Database, record: EncoderRecord) -> dict[str, int]:
    with connect(database) as connection:
        query = named_queries()["embed_progress"]
        row = connection.execute(query, {"encoder_id": record.id}).fetchone()
    assert row is not None
    return dict(zip(("embedded", "problems", "waiting", "dead"), row, strict=False))


def _summary(record: EncoderRecord, counts: dict[str, int], after: dict[str, int]) -> None:
    click.echo(
        f"{record.name}: embedded {counts['embedded']:,} / without a vector "
        f"{counts['problems']:,} / given up {after['dead']:,} / waiting {after['waiting']:,}"
    )
    if counts["problems"] or after["dead"]:
        click.echo("reasons: astropt-db embed status", err=True)


@embed.command()
@_encoder_option
@format_option
@database_option
def status(encoder: str | None, output_format: str, database: Database) -> None:
    """Show the queue by state, and why sources have no vector."""
    with reading(database) as cursor:
        _show(cursor, "embed_status", encoder, output_format)
        if output_format == "table":
            click.echo("")
            _show(cursor, "embed_problems_by_reason", encoder, output_format)


def _show(cursor: object, name: str, encoder: str | None, output_format: str) -> None:
    import psycopg

    assert isinstance(cursor, psycopg.Cursor)
    rows = cursor.execute(named_queries()[name], {"encoder": encoder}).fetchall()
    columns = [ResultColumn(column.name) for column in cursor.description or []]
    write_rows(columns, rows, output_format)


@embed.command()
@_encoder_option
@click.option("--reason", help="Only sources in quarantine with this reason, e.g. no_pixels.")
@database_option
def retry(encoder: str | None, reason: str | None, database: Database) -> None:
    """Try again what was given up or quarantined; then run embed."""
    from astropt_db.embed.queue import retry as retry_chunks

    with connect(database, autocommit=True) as connection:
        number = None if encoder is None else find_encoder(connection, encoder).id
        chunks, problems = retry_chunks(connection, number, reason)
    click.echo(f"{chunks:,} sources wait again; {problems:,} left the quarantine")


@embed.command()
@_encoder_option
@database_option
def cancel(encoder: str | None, database: Database) -> None:
    """Empty the queue: workers lose what they have, and write nothing of it."""
    from astropt_db.embed.queue import cancel as cancel_chunks

    with connect(database, autocommit=True) as connection:
        number = None if encoder is None else find_encoder(connection, encoder).id
        sources = cancel_chunks(connection, number)
    click.echo(f"{sources:,} sources taken out of the queue")
