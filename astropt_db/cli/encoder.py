"""``astropt-db encoder``: the models that make vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from astropt_db.cli.options import database_option, format_option, ready_database
from astropt_db.cli.output import INT8_OID, ResultColumn, write_rows
from astropt_db.cli.progress import StepProgress
from astropt_db.database.connect import Database
from astropt_db.database.encoders import find_encoder
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries

# As in astropt_db.astropt.pretrain.Settings, which would bring torch along; a test compares them.
SETTINGS: dict[str, Any] = {
    "iterations": 30_000,
    "accumulate": 1,
    "learning_rate": 6e-4,
    "warmup": 2000,
    "weight_decay": 0.1,
    "tokens": None,
    "full_every": 8,
    "evaluate_every": 1000,
    "evaluation_batches": 8,
    "seed": 1337,
}


def _setting(name: str, text: str, default: Any = None) -> Callable[[Any], Any]:
    """Option for a number of the training settings."""
    default = SETTINGS.get(name, default)
    real = isinstance(default, float)
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        type=click.FloatRange(0) if real else click.IntRange(0 if name == "warmup" else 1),
        default=default,
        show_default=default is not None,
        help=text,
    )


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
    from astropt_db.astropt.convert import convert as run

    path = run(source, target, allow)
    click.echo(f"{path}; add it: astropt-db encoder add {path}")


@encoder.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--modalities",
    type=click.Choice(["vis", "vis_nisp", "vis_nisp_sed"]),
    default="vis_nisp_sed",
    show_default=True,
    help="What it sees: VIS alone, four bands, or four bands and the SED.",
)
@click.option(
    "--size",
    type=click.Choice(["mini", "5M", "21M", "90M"]),
    default="mini",
    show_default=True,
    help="Parameters; 90M is the architecture of the released Euclid models.",
)
@click.option("--name", help="Of the encoder's file. [default: SIZE-MODALITIES]")
@click.option("--where", default="", metavar="SQL", help="Condition on astropt.source.")
@click.option(
    "--often",
    default="",
    metavar="SQL",
    help="Condition for sources seen in every epoch. [default: all]",
)
@click.option(
    "--rest-every",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="The other sources are seen in every k-th epoch.",
)
@_setting("iterations", "Steps.")
@_setting("batch", "Sources in a micro-batch.", 16)
@_setting("accumulate", "Micro-batches in a step, shared among processes.")
@_setting("learning_rate", "Peak of the learning rate; it ends at a tenth.")
@_setting("warmup", "Steps to the peak.")
@_setting("weight_decay", "AdamW's decay of matrices.")
@_setting("tokens", "Image tokens that most steps see. [default: all]")
@_setting("full_every", "Every k-th step sees all tokens.")
@_setting("evaluate_every", "Steps between validations; the state is saved with them.")
@_setting("evaluation_batches", "Micro-batches of a validation.")
@_setting("seed", "Of weights, order and orientations.")
@click.option("--start", default="", metavar="ENCODER", help="Begin with its weights that fit.")
@click.option(
    "--memory", type=float, default=4.0, show_default=True, help="GiB of windows in memory."
)
@click.option(
    "--store",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the numbers in the encoder's file.",
)
@click.option("--device", help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")
@click.option(
    "--also-db", multiple=True, metavar="URL", help="A further database with sources; repeatable."
)
@database_option
def pretrain(
    folder: Path,
    modalities: str,
    size: str,
    name: str | None,
    where: str,
    often: str,
    rest_every: int,
    start: str,
    memory: float,
    store: str,
    device: str | None,
    also_db: tuple[str, ...],
    database: Database,
    **settings: Any,
) -> None:
    """Pre-train an encoder on registered images; FOLDER gets weights, state and curves.

    Sources in the train share of astropt.split are learned from, those in the calibration share
    give the validation loss. Run the same command again to go on exactly where the last state was
    saved. On several GPUs: torchrun --nproc-per-node N -m astropt_db encoder pretrain ...
    """
    from astropt_db.astropt.pretrain import Settings
    from astropt_db.encoders import pretraining
    from astropt_db.encoders.training_data import Selection

    job = pretraining.Job(
        folder,
        name or f"{size}-{modalities}",
        modalities,
        size,
        settings.pop("batch"),
        int(memory * 2**30),
        start,
        store,
        tuple(map(ready_database, also_db)),
    )
    how = Settings(**settings, final_rate=settings["learning_rate"] / 10)
    selection = Selection(where, often, rest_every)
    with StepProgress(how.iterations) as progress:
        outcome = pretraining.pretrain(database, job, how, selection, device, progress.advance)
    if outcome is not None:
        click.echo(
            f"{outcome.encoder}: {outcome.iterations:,} steps on {outcome.training:,} sources; "
            f"curves in {folder}. Add it: astropt-db encoder add {outcome.encoder}"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Pairs of a dotted name and a plain value."""
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
