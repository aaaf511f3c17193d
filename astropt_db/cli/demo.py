"""``astropt-db demo``: from nothing to tables, pictures and a report, on a fresh machine."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
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
from astropt_db.errors import ConfigurationError
from astropt_db.ingest.catalogue import Options

_TABLES = (
    ("demo_products", "What is in the database"),
    ("demo_brightest", "The brightest galaxies with what is known of them"),
    ("demo_similar", "What looks like the first of them, from the embeddings alone"),
    ("demo_outliers", "The oddest sources, and why"),
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
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="Page to write; an older report is replaced.",
)
@click.option(
    "--db",
    "url",
    envvar="ASTROPT_DB_URL",
    metavar="URL",
    help="Use this PostgreSQL instead of a private one; the demo's rows stay there.",
)
def demo(sources: int, seed: int, keep: bool, target: Path, url: str | None) -> None:
    """Make a small sky with known truth and do everything with it.

    Simulates, ingests, embeds, trains, predicts, searches, and writes report.html. Needs no
    server, no GPU and no network. Without --keep only the report is left behind.
    """
    _refuse_foreign(target)
    say = _clock()
    with _database(url, keep) as database, _sky(url, keep, sources, seed, say) as sky:
        migrate.upgrade(database.url)
        say(f"the database is ready: {database.safe_name}")
        from astropt_db.deliver.demo import compute
        from astropt_db.deliver.report import write_report

        reports = ingest_paths(database, [str(sky / "catalogs")], Options(), jobs=1)
        compute(database, sky, say)
        write_report(database, target, overwrite=True, title="A simulated Euclid field")
        say(f"wrote {target}: open it in a browser")
        example = _show_tables(database)
        say("done")
    _next_steps(example, keep, url)
    if any(report.state == "failed" for report in reports):
        raise SystemExit(1)


def _clock() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda line: click.echo(f"[{time.monotonic() - started:5.1f} s] {line}", err=True)


def _refuse_foreign(target: Path) -> None:
    """Replace nothing but a report of ours."""
    if not target.parent.is_dir():
        raise ConfigurationError(f"there is no folder {target.parent}; make it first")
    if target.exists() and b"name='generator' content='astropt-db'" not in _start(target):
        raise ConfigurationError(
            f"{target} exists and is no report of astropt-db; name another file: -o FILE"
        )


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(500)


@contextmanager
def _sky(
    url: str | None, keep: bool, sources: int, seed: int, say: Callable[[str], None]
) -> Iterator[Path]:
    """Folder of the simulated release: it stays where the database that points to it stays."""
    from astropt_db.simulate import simulate

    def draw(folder: Path) -> Path:
        summary = simulate(folder, sources, 2, "EDF-N", seed, jobs=2, progress=say)
        say(f"wrote {len(summary.files)} files like those of Euclid Q1")
        return folder

    if url is None and not keep:
        with tempfile.TemporaryDirectory(prefix="astropt-") as temporary:
            yield draw(Path(temporary) / "sky")
        return
    folder = demo_home().with_name(f"{demo_home().name}-sky") / f"{sources}-{seed}"
    if not (folder / "truth.parquet").exists():
        shutil.rmtree(folder, ignore_errors=True)
        draw(folder)
    else:
        say(f"the sky is there: {folder}")
    yield folder


@contextmanager
def _database(url: str | None, keep: bool) -> Iterator[Database]:
    """The database to play in: the user's, one that stays, or one that goes with the demo."""
    if url is not None:
        yield resolve(url)
        return
    home = demo_home() if keep else _temporary() / "home"
    server = EmbeddedServer(home)
    try:
        server.start()
        server.create_database(DATABASE)
        yield Database(server.url(DATABASE), server)
    finally:
        if not keep:
            server.stop()
            shutil.rmtree(home.parent, ignore_errors=True)


def _temporary() -> Path:
    """A folder that the server's user can pass through, where the demo runs as root."""
    folder = Path(tempfile.mkdtemp(prefix="astropt-"))
    folder.chmod(0o755)
    return folder


def demo_home() -> Path:
    """Where ``demo --keep`` leaves its server, apart from the user's own data."""
    return default_home().parent / f"{default_home().name}-demo"


def _show_tables(database: Database) -> int | None:
    """Print the tables that hold something; returns the id of an example."""
    with reading(database) as cursor:
        found = cursor.execute(named_queries()["demo_example"]).fetchone()
        example = None if found is None else int(found[0])
        for name, title in _TABLES:
            cursor.execute(named_queries()[name], {"id": example})
            columns = [
                ResultColumn(c.name, c.type_code if c.name == "object_id" else 0)
                for c in cursor.description or []
            ]
            rows = cursor.fetchall()
            if rows:
                click.echo(f"\n{title}")
                write_rows(columns, rows, "table")
    click.echo("")
    return example


def _next_steps(example: int | None, keep: bool, url: str | None) -> None:
    """Three commands that show the way on."""
    stays = keep or url is not None
    click.echo("The database stays. Try:" if stays else "With --keep the database stays; then try:")
    if url is None:
        click.echo(f"  export ASTROPT_DB_HOME='{demo_home()}'")
    address = '"$(astropt-db db url)"' if url is None else '"$ASTROPT_DB_URL"'
    click.echo(f"  psql {address} -c 'TABLE astropt.catalogue LIMIT 5'")
    click.echo("  astropt-db export catalogue -o catalogue.fits && topcat catalogue.fits")
    if example is not None:
        click.echo(f"  astropt-db similar {example} --top 5")
    if keep and url is None:
        click.echo("  astropt-db db stop")
