"""``astropt-db``: finds the verb, runs it, and turns errors into one line and an exit code.

Exit codes: 0 everything is done, 1 something is not (the message says what), 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import sys

import click
import psycopg

from astropt_db import __version__
from astropt_db.errors import AstroptDbError
from astropt_db.logs import set_up, without_passwords

# Verb -> module:attribute and what it does. Modules are imported when their verb is used, so
# that `astropt-db --help` does not wait for astropy and torch.
VERBS = {
    "cutout": (
        "astropt_db.cli.cutout:cutout",
        "Write pictures or FITS cut-outs of sources.",
    ),
    "db": (
        "astropt_db.cli.db:db",
        "Control the embedded PostgreSQL server; back up and restore any database.",
    ),
    "demo": (
        "astropt_db.cli.demo:demo",
        "Make a small sky with known truth and do everything with it.",
    ),
    "doctor": (
        "astropt_db.cli.setup:doctor",
        "Check server, schema, data, machine and weights; each finding comes with its remedy.",
    ),
    "encoder": (
        "astropt_db.cli.encoder:encoder",
        "Models that make vectors: add, list, convert and pre-train them.",
    ),
    "embed": (
        "astropt_db.cli.embed:embed",
        "Compute the vectors of all sources that have an image and no vector yet.",
    ),
    "export": (
        "astropt_db.cli.export:export",
        "Write a view or a query to a FITS, VOTable, ECSV, CSV or Parquet file, or a HATS folder.",
    ),
    "index": ("astropt_db.cli.index:index", "Vector indexes: build, list, measure, drop."),
    "evaluate": (
        "astropt_db.cli.evaluate:evaluate",
        "Compare heads on embeddings with trees, CNNs and the catalogue, at each label fraction.",
    ),
    "ingest": (
        "astropt_db.cli.ingest_verbs:ingest",
        "Load Euclid Q1 products, images and labels.",
    ),
    "init": (
        "astropt_db.cli.setup:init",
        "Make the database ready: tables, views, functions, roles.",
    ),
    "predict": (
        "astropt_db.cli.predictions:predict",
        "Predict TASK for all sources that have the features and no prediction yet.",
    ),
    "map": (
        "astropt_db.cli.map:map_embedding",
        "Map an embedding: coordinates to astropt.map_coordinate, hexbin figures to a folder.",
    ),
    "outliers": (
        "astropt_db.cli.outliers:outliers",
        "Sources unlike the others: find, list, label and re-rank them.",
    ),
    "quarantine": (
        "astropt_db.cli.quarantine:quarantine",
        "Rows that could not be loaded: list them, look at one, try again.",
    ),
    "query": (
        "astropt_db.cli.query:query",
        'Run one read-only SQL statement and print its rows; "-" reads it from stdin.',
    ),
    "status": (
        "astropt_db.cli.status:status",
        "Show sources, vectors, queue, failures, quarantine, indexes, disk and the last runs.",
    ),
    "report": (
        "astropt_db.cli.report:report",
        "Write one self-contained page about everything in the database.",
    ),
    "similar": (
        "astropt_db.cli.similar:similar",
        "Find the objects most similar to an object, a position or an image.",
    ),
    "simulate": (
        "astropt_db.cli.simulate:simulate",
        "Write a small Q1-like release with known truth to DIRECTORY.",
    ),
    "train": (
        "astropt_db.cli.predictions:train",
        "Train a predictor for TASK: photoz, stellar_mass, morphology, object_class or your own.",
    ),
    "survey": (
        "astropt_db.cli.survey:survey",
        "Load other surveys and match them with the Euclid sources.",
    ),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute = VERBS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="astropt-db")
@click.option("--debug", is_flag=True, envvar="ASTROPT_DB_DEBUG", help="Show tracebacks.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="ASTROPT_DB_LOG_FORMAT",
    show_default=True,
    help="Log lines on stderr for people, or one JSON object per line with the run's number.",
)
def cli(debug: bool, verbose: bool, log_format: str) -> None:
    """Euclid galaxies and their AstroPT embeddings in PostgreSQL.

    With neither --db nor ASTROPT_DB_URL, commands use a private PostgreSQL server in your data
    folder (ASTROPT_DB_HOME), which starts by itself.
    """
    set_up(logging.INFO if verbose else logging.WARNING, log_format)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    argv = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in argv
    try:
        code = cli.main(argv, prog_name="astropt-db", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing is half-written, run the same command again", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (AstroptDbError, psycopg.Error) as error:
        if debug:
            raise
        click.echo(f"error: {without_passwords(str(error).strip())}", err=True)
        sys.exit(1)
