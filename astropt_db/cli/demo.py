"""``astropt-db demo``: from nothing to tables, on a fresh machine."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from astropt_db.cli.ingest import ingest_paths
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database import migrate
from astropt_db.database.connect import DATABASE, Database, resolve
from astropt_db.database.embedded import EmbeddedServer, default_home
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries
from astropt_db.ingest.catalogue import Options

_TABLES = (
    ("demo_products", "What is in the database"),
    ("demo_fields", "Sources by field"),
    ("demo_brightest", "The brightest galaxies with their photometric redshifts"),
    ("demo_files", "Where the rows came from"),
)


@click.command()
@click.option(
    "--sources",
    type=click.IntRange(40, 20000),
    default=600,
    show_default=True,
    help="Sources drawn on the sky.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Same seed, same sky.",
)
@click.option("--keep", is_flag=True, help="Leave the database for playing.")
@click.option(
    "--db",
    "url",
    envvar="ASTROPT_DB_URL",
    metavar="URL",
    help="Use this PostgreSQL instead of a private one; the demo's rows stay there.",
)
def demo(sources: int, seed: int, keep: bool, url: str | None) -> None:
    """Make a small sky with known truth, load it and show the tables.

    Needs no server, no GPU and no network. Without --keep nothing is left behind.
    """
    from astropt_db.simulate import simulate

    started = time.monotonic()
    with _database(url, keep) as database, tempfile.TemporaryDirectory() as folder:
        migrate.upgrade(database.url)
        _say(started, f"the database is ready: {database.safe_name}")
        sky = Path(folder) / "sky"
        summary = simulate(
            sky, sources, 2, "EDF-N", seed, jobs=2, progress=lambda line: _say(started, line)
        )
        _say(started, f"wrote {len(summary.files)} files like those of Euclid Q1")
        reports = ingest_paths(database, [str(sky / "catalogs")], Options(), jobs=1)
        _show_tables(database)
        _say(started, "done")
    if any(report.state == "failed" for report in reports):
        raise SystemExit(1)
    if keep and url is None:
        _next_steps(database)


@contextmanager
def _database(url: str | None, keep: bool) -> Iterator[Database]:
    """The database to play in: the user's, one that stays, or one that goes with the demo."""
    if url is not None:
        yield resolve(url)
        return
    home = demo_home() if keep else Path(tempfile.mkdtemp(prefix="astropt-")) / "home"
    server = EmbeddedServer(home)
    try:
        server.start()
        server.create_database(DATABASE)
        yield Database(server.url(DATABASE), server)
    finally:
        if not keep:
            server.stop()
            shutil.rmtree(home.parent, ignore_errors=True)


def demo_home() -> Path:
    """Where ``demo --keep`` leaves its server, apart from the user's own data."""
    return default_home().parent / f"{default_home().name}-demo"


def _say(started: float, line: str) -> None:
    click.echo(f"[{time.monotonic() - started:5.1f} s] {line}", err=True)


def _show_tables(database: Database) -> None:
    with reading(database) as cursor:
        for name, title in _TABLES:
            cursor.execute(named_queries()[name])
            columns = [
                ResultColumn(c.name, c.type_code if c.name == "object_id" else 0)
                for c in cursor.description or []
            ]
            click.echo(f"\n{title}")
            write_rows(columns, cursor.fetchall(), "table")
    click.echo("")


def _next_steps(database: Database) -> None:
    click.echo("The database stays. Try:")
    click.echo(f"  export ASTROPT_DB_URL='{database.url}'")
    click.echo("  astropt-db query 'SELECT field, avg(mag_vis) FROM astropt.source GROUP BY field'")
    click.echo("  astropt-db query 'SELECT * FROM astropt.paper_selection LIMIT 5'")
    click.echo(f"Stop it with: ASTROPT_DB_HOME='{demo_home()}' astropt-db db stop")
