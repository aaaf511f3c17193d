"""``astropt-db train`` and ``astropt-db predict``."""

from __future__ import annotations

import time

import click

from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run

_MAIN = (
    "nmad", "bias", "outlier_percent", "coverage_68", "coverage_95", "crps", "accuracy",
    "smooth.roc_auc", "edge_on.roc_auc", "spiral.roc_auc", "merger.roc_auc", "star.roc_auc",
    "galaxy.roc_auc", "qso.roc_auc", "artefact.roc_auc",
)  # fmt: skip


@click.command()
@click.argument("task")
@click.option(
    "--labels",
    "label_sets",
    multiple=True,
    required=True,
    metavar="SET",
    help="Label set; may be repeated, the first that knows a source decides.",
)
@click.option("--encoder", metavar="NAME", help="Encoder [default: the current one].")
@click.option(
    "--head",
    type=click.Choice(["linear", "mlp", "knn"]),
    default="mlp",
    show_default=True,
    help="linear: ridge or logistic; mlp: the paper's network; knn: nearest neighbours.",
)
@click.option(
    "--features",
    type=click.Choice(["embedding", "embedding+flux", "flux"]),
    default="embedding+flux",
    show_default=True,
    help="What the head sees; embeddings alone know no brightness.",
)
@click.option("--label", "column", metavar="COLUMN", help="Label of a task of your own.")
@click.option("--where", default="", metavar="SQL", help="Condition on astropt.source.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same predictor.")
@click.option("--keep-current", is_flag=True, help="Do not let the views show the new predictor.")
@database_option
def train(
    task: str,
    label_sets: tuple[str, ...],
    encoder: str | None,
    head: str,
    features: str,
    column: str | None,
    where: str,
    seed: int,
    keep_current: bool,
    database: Database,
) -> None:
    """Train a predictor for TASK: photoz, stellar_mass, morphology, object_class or your own.

    \b
    astropt-db train photoz --labels desi
    astropt-db train morphology --labels zoobot
    astropt-db train object_class --labels desi --labels gaia_stars --labels phz_class
    astropt-db train metallicity --labels mine --label feh

    Learns from the training split (70 % of the sources), calibrates on another 10 % and is
    measured on the last 20 %, which training never reads.
    """
    from astropt_db.predict.tasks import find_task
    from astropt_db.predict.training import TrainRequest
    from astropt_db.predict.training import train as train_predictor

    request = TrainRequest(
        find_task(task, column), label_sets, encoder, head, features, where, seed,  # type: ignore[arg-type]
        not keep_current,
    )  # fmt: skip
    arguments = {
        "task": task, "labels": list(label_sets), "encoder": encoder, "head": head,
        "features": features, "where": where, "seed": seed,
    }  # fmt: skip
    started = time.monotonic()
    with recorded_run(database, "train", arguments) as run:
        report = train_predictor(
            database, request, run.id, say=lambda line: click.echo(line, err=True)
        )
        run.counts = {
            "train": report.n_train,
            "calibration": report.n_calibration,
            "test": report.n_test,
        }
    click.echo(
        f"predictor {report.predictor_id} for {task}: learned from {report.n_train:,}, calibrated "
        f"on {report.n_calibration:,}, tested on {report.n_test:,} sources in "
        f"{time.monotonic() - started:.1f} s"
    )
    for name in _MAIN:
        if name in report.metrics:
            click.echo(f"  {name:<18} {report.metrics[name]:.4g}")


@click.command()
@click.argument("task")
@click.option(
    "--predictor", "number", type=int, metavar="N", help="Predictor [default: the current one]."
)
@click.option("--where", default="", metavar="SQL", help="Condition on astropt.source.")
@click.option("--make-current", is_flag=True, help="Let the views show this predictor.")
@database_option
def predict(
    task: str, number: int | None, where: str, make_current: bool, database: Database
) -> None:
    """Predict TASK for all sources that have the features and no prediction yet.

    Kill it at any moment and run it again: what is done stays, the rest follows.
    """
    from rich.console import Console
    from rich.progress import Progress

    from astropt_db.predict.predicting import predict as predict_sources

    arguments = {"task": task, "predictor": number, "where": where}
    console = Console(stderr=True)
    started = time.monotonic()
    with (
        recorded_run(database, "predict", arguments) as run,
        Progress(console=console, disable=not console.is_terminal) as bar,
    ):
        line = bar.add_task(f"predict {task}", total=None)
        report = predict_sources(
            database,
            task,
            run.id,
            number,
            where,
            make_current,
            lambda done, total: bar.update(line, completed=done, total=total),
        )
        run.counts = {"written": report.written, "known": report.known}
    seconds = max(time.monotonic() - started, 1e-9)
    click.echo(
        f"{task} by predictor {report.predictor_id}: sources {report.wanted:,} / known "
        f"{report.known:,} / predicted {report.written:,} / unlike the training set "
        f"{report.extrapolated:,}; {report.written / seconds:,.0f} sources/s"
    )
