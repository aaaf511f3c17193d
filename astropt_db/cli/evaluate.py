"""``astropt-db evaluate``: the comparison of heads and rivals."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import Database, connect
from astropt_db.database.provenance import recorded_run
from astropt_db.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from astropt_db.predict.evaluation import Result
    from astropt_db.predict.tasks import Task

_LIST = "Separate several by commas."
_SHORT = {"outlier_percent": "outliers %", "coverage_68": "in 68 %"}
_ONLY_IN_FILES = ("bias", "coverage_95")
"""Figures for which a terminal has no room."""


@click.command()
@click.option("--tasks", default="photoz", show_default=True, help=f"Tasks. {_LIST}")
@click.option("--encoders", default="", help=f"Encoders [default: the current one]. {_LIST}")
@click.option("--heads", default="linear,mlp", show_default=True, help=f"Heads. {_LIST}")
@click.option(
    "--features",
    default="embedding,embedding+flux,flux",
    show_default=True,
    help=f"What heads see. {_LIST}",
)
@click.option(
    "--fractions", default="1,5,10,20,50,80,100", show_default=True, help="Per cent of the labels."
)
@click.option("--seeds", type=click.IntRange(1, 100), default=10, show_default=True, help="Seeds.")
@click.option("--rivals", default="trees,phz", show_default=True, help=f"trees, phz. {_LIST}")
@click.option("--cnn", is_flag=True, help="Train both CNNs on the images, too; takes long.")
@click.option(
    "--labels", multiple=True, metavar="TASK=SET[,SET]", help="Label sets of a task, if not usual."
)
@click.option("--where", default="", metavar="SQL", help="Condition on astropt.source.")
@click.option(
    "--processes", type=click.IntRange(1, 256), help="Fits at the same time [default: all cores]."
)
@click.option(
    "--figures", type=click.Path(path_type=Path, file_okay=False), help="Folder for figures."
)
@format_option
@database_option
def evaluate(
    tasks: str,
    encoders: str,
    heads: str,
    features: str,
    fractions: str,
    seeds: int,
    rivals: str,
    cnn: bool,
    labels: tuple[str, ...],
    where: str,
    processes: int | None,
    figures: Path | None,
    output_format: str,
    database: Database,
) -> None:
    """Compare heads on embeddings with trees, CNNs and the catalogue, at each label fraction.

    One fixed test set serves every model. Figures go to astropt.evaluation; the table shows
    their mean and scatter over the seeds.
    """
    from astropt_db.database.encoders import find_encoder
    from astropt_db.predict.cnn import CNNS
    from astropt_db.predict.evaluation import DEFAULT_LABELS, EvaluationRequest
    from astropt_db.predict.evaluation import evaluate as run_evaluation
    from astropt_db.predict.tasks import find_task

    chosen = dict(_assignment(one) for one in labels)
    names = _split(encoders)
    if not names and set(_split(features)) != {"flux"}:
        with connect(database) as connection:
            names = [find_encoder(connection).name]
    rows: list[tuple[object, ...]] = []
    arguments = {"tasks": tasks, "encoders": names, "heads": heads, "fractions": fractions}
    with recorded_run(database, "evaluate", {**arguments, "seeds": seeds}) as run:
        for name in _split(tasks):
            task = find_task(name)
            request = EvaluationRequest(
                task,
                chosen.get(name) or DEFAULT_LABELS[name],
                names,
                _split(heads),  # type: ignore[arg-type]
                _split(features),  # type: ignore[arg-type]
                _split(rivals),
                CNNS if cnn else (),
                [float(one) for one in _split(fractions)],
                seeds,
                where,
                processes,
            )
            results = run_evaluation(
                database, request, run.id, say=lambda line: click.echo(line, err=True)
            )
            rows += _summary(task, results)
            if figures is not None:
                _draw(figures, task, results)
    if output_format == "table":
        _show(rows)
        return
    columns = ("task", "model", "encoder", "features", "percent", "n_train", "n_test", "metric",
               "mean", "scatter")  # fmt: skip
    write_rows([ResultColumn(one) for one in columns], rows, output_format)


def _show(rows: list[tuple[object, ...]]) -> None:
    """A table of means for each task and fraction, a line for each model."""
    tables: dict[tuple[object, ...], dict[tuple[object, ...], dict[str, object]]] = {}
    for task, model, encoder, features, percent, n_train, n_test, metric, mean, _ in rows:
        if metric not in _ONLY_IN_FILES:
            models = tables.setdefault((task, percent, n_train, n_test), {})
            found = models.setdefault((model, encoder, features), {})
            found[_SHORT.get(str(metric), str(metric).removesuffix(".roc_auc"))] = mean
    for (task, percent, n_train, n_test), models in tables.items():
        source = f"{percent:g} % of the labels, {n_train:,}" if n_train else "the catalogue's own"
        click.echo(f"\n{task}: {source}; {n_test:,} test sources")
        names = list(dict.fromkeys(name for found in models.values() for name in found))
        columns = [ResultColumn(one) for one in ("model", "encoder", "features", *names)]
        lines = [(*who, *(found.get(name) for name in names)) for who, found in models.items()]
        write_rows(columns, lines, "table")
    click.echo("\nMeans over the seeds; of classes and shares ROC-AUC. All: --format csv")


def _split(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _assignment(text: str) -> tuple[str, list[str]]:
    task, sign, sets = text.partition("=")
    if not sign:
        raise ConfigurationError(f"--labels {text!r}: expected TASK=SET, e.g. photoz=desi")
    return task.strip(), _split(sets)


def _summary(task: Task, results: list[Result]) -> list[tuple[object, ...]]:
    from astropt_db.predict.evaluation import main_metrics

    groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for one in results:
        for metric in main_metrics(task):
            if metric in one.metrics:
                key = (
                    task.name, one.model, one.encoder, one.features, one.fraction, one.n_train,
                    one.n_test, metric,
                )  # fmt: skip
                groups[key].append(one.metrics[metric])
    return [(*key, round(fmean(v), 4), round(pstdev(v), 4)) for key, v in groups.items()]


def _draw(folder: Path, task: Task, results: list[Result]) -> None:
    from astropt_db.predict.evaluation import main_metrics

    try:
        from astropt_db.predict.figures import draw_all
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot", "astropt-db evaluate --figures") from error
    folder.mkdir(parents=True, exist_ok=True)
    draw_all(folder, task, results, main_metrics(task))
