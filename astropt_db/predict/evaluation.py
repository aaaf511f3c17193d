"""``astropt-db evaluate``: heads and rivals on one fixed test set, at every label fraction.

What the paper's public code leaves open is settled here: the test set is the same for every
model, fraction and seed; each seed draws its own labels, nested in fraction; N is stored with
every figure; the catalogue's values are judged on the same sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.database.split import split_of
from astropt_db.errors import ConfigurationError
from astropt_db.predict import cnn, rivals
from astropt_db.predict.comparing import (
    LEAST_TRAIN,
    Job,
    Parts,
    Shown,
    ViewKey,
    do_jobs,
    load_views,
    subset,
)
from astropt_db.predict.data import TrainingError, find_label_sets
from astropt_db.predict.features import Features
from astropt_db.predict.fitting import HeadName, Labelled
from astropt_db.predict.metrics import Metrics
from astropt_db.predict.scoring import score_columns, score_numbers
from astropt_db.predict.tasks import Task

Int64 = NDArray[np.int64]
Images = Callable[[Int64, int], NDArray[np.float32]]
"""From object ids and the number of bands to images ``(n, bands, 224, 224)``."""

DEFAULT_LABELS = {
    "photoz": ("desi",),
    "stellar_mass": ("desi_mass",),
    "morphology": ("zoobot",),
    "object_class": ("desi", "gaia_stars", "phz_class"),
}


@dataclass(frozen=True)
class EvaluationRequest:
    """What to compare.

    Attributes
    ----------
    task
        What is predicted.
    label_sets
        Sets of labels.
    encoders
        Names.
    heads, features
        Every head sees every kind of features.
    rivals
        ``trees``, ``phz``.
    cnns
        ``paper_cnn``, ``resnet``; trained end to end on the images.
    fractions
        Per cent of the training labels.
    seeds
        Number of seeds.
    where
        SQL condition on ``astropt.source``.
    processes
        That fit at the same time; ``None`` for as many as there are cores.
    """

    task: Task
    label_sets: Sequence[str]
    encoders: Sequence[str] = ()
    heads: Sequence[HeadName] = ("linear", "mlp")
    features: Sequence[Features] = ("embedding", "embedding+flux", "flux")
    rivals: Sequence[str] = ("trees", "phz")
    cnns: Sequence[cnn.CnnName] = ()
    fractions: Sequence[float] = (1, 5, 10, 20, 50, 80, 100)
    seeds: int = 3
    where: str = ""
    processes: int | None = None


@dataclass(frozen=True)
class Result:
    """Figures of one model at one fraction and seed."""

    model: str
    encoder: str | None
    features: str
    fraction: float
    seed: int
    n_train: int
    n_test: int
    metrics: Metrics
    shown: Shown | None = None


def evaluate(
    database: Database,
    request: EvaluationRequest,
    run_id: int,
    say: Callable[[str], None] = lambda line: None,
    images: Images | None = None,
) -> list[Result]:
    """Run the comparison and store its figures in ``astropt.evaluation`` as they come.

    Parameters
    ----------
    images
        Where the CNNs get their images; ``None`` for the registered ones.

    Raises
    ------
    ConfigurationError
        If an encoder, set or rival does not exist.
    TrainingError
        If too few sources have labels and all features.
    """
    unknown = set(request.rivals) - {"trees", "phz"}
    if unknown:
        raise ConfigurationError(f"no rival {', '.join(unknown)}; there are trees and phz")
    with connect(database) as connection:
        with connection.cursor() as cursor:
            sets = find_label_sets(cursor, request.label_sets)
        encoders = [find_encoder(connection, name) for name in request.encoders]
        views = load_views(
            connection, request.task, sets, encoders, request.features, request.where
        )
    flux = views["flux", None]
    sizes = {name: len(part) for name, part in flux.items()}
    if sizes["train"] < LEAST_TRAIN or sizes["test"] < LEAST_TRAIN:
        raise TrainingError(
            f"label sets {', '.join(request.label_sets)}: {sizes['train']:,} sources to learn "
            f"from and {sizes['test']:,} to test on have all features; each needs {LEAST_TRAIN}"
        )
    assert (split_of(flux["test"].batch.object_id) == "test").all()
    say(f"{request.task.name}: " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()))
    results = []
    for result in _run_all(database, request, views, images):
        results.append(result)
        _store(database, request, result, run_id)
        say(_line(result))
    return results


def _jobs(request: EvaluationRequest, views: Iterable[ViewKey]) -> list[Job]:
    """All fits, fraction by fraction."""
    jobs = []
    seen = [view for view in views if view[0] in request.features]
    largest = max(request.fractions, default=0)
    for fraction in request.fractions:
        for seed in range(request.seeds):
            shown = fraction == largest and seed == 0
            for view in seen:
                for head in request.heads:
                    last = shown and head == request.heads[-1]
                    jobs.append(Job(head, view, fraction, seed, last))
            if "trees" in request.rivals:
                jobs.append(Job("trees", ("flux", None), fraction, seed))
    return jobs


def _run_all(
    database: Database,
    request: EvaluationRequest,
    views: dict[ViewKey, Parts],
    images: Images | None,
) -> Iterable[Result]:
    if "phz" in request.rivals:
        yield from _catalogue(database, request, views["flux", None]["test"])
    jobs = _jobs(request, views)
    for job, done in zip(jobs, do_jobs(request.task, views, jobs, request.processes), strict=True):
        features, encoder = job.view
        yield Result(
            job.model, encoder, features, job.fraction, job.seed, done.n_train, done.n_test,
            done.metrics, done.shown,
        )  # fmt: skip
    if request.cnns:
        yield from _cnns(request, views["flux", None], images or registered_images(database))


def _catalogue(database: Database, request: EvaluationRequest, test: Labelled) -> Iterable[Result]:
    with connect(database) as connection:
        values = rivals.catalogue_values(connection, request.task, test.batch.object_id)
    if values is None or not np.isfinite(values).any():
        return
    present = np.isfinite(values)
    truth = test.targets[present, 0].astype(np.float64)
    figures = score_numbers(request.task, truth, values[present])
    yield Result("phz", None, "flux", 0.0, 0, 0, int(present.sum()), figures)


def _cnns(request: EvaluationRequest, parts: Parts, images: Images) -> Iterable[Result]:
    """Networks on images, which are read once."""
    bands, test = 4, parts["test"]
    new = images(test.batch.object_id, bands)
    for fraction in request.fractions:
        for seed in range(request.seeds):
            few = subset(parts, fraction, seed)
            both = few["train"].joined(few["calibration"])
            pixels = images(both.batch.object_id, bands)
            for name in request.cnns:
                columns = cnn.train_cnn(name, request.task, pixels, both.targets, new, seed)
                figures = score_columns(request.task, test, columns)
                yield Result(name, None, "images", fraction, seed, len(both), len(test), figures)


def registered_images(database: Database) -> Images:
    """Images of sources from the registered mosaics and cut-outs."""
    from astropt_db.images.registered import read_cutouts
    from astropt_db.images.source import BANDS

    def read(ids: Int64, bands: int) -> NDArray[np.float32]:
        with connect(database) as connection:
            return read_cutouts(connection, ids, BANDS[:bands]).pixels

    return read


def _store(database: Database, request: EvaluationRequest, result: Result, run_id: int) -> None:
    rows = [
        (
            run_id, request.task.name, result.model, result.encoder, result.features,
            list(request.label_sets), result.fraction, result.seed, result.n_train,
            result.n_test, metric, value,
        )
        for metric, value in result.metrics.items()
    ]  # fmt: skip
    with connect(database) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO astropt.evaluation (run_id, task, model, encoder, features, label_sets, "
            "fraction, seed, n_train, n_test, metric, value) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )


def main_metrics(task: Task) -> tuple[str, ...]:
    """The figures that are shown first."""
    if task.kind == "density":
        return ("nmad", "bias", "outlier_percent", "crps", "coverage_68", "coverage_95")
    if task.kind == "classes":
        return ("accuracy", *(f"{name}.roc_auc" for name in task.outputs))
    return tuple(f"{name}.roc_auc" for name in ("early_type", "edge_on", "spiral", "merger"))


def _line(result: Result) -> str:
    names = ("nmad", "crps", "coverage_68", "accuracy", "early_type.roc_auc", "edge_on.roc_auc",
             "star.roc_auc")  # fmt: skip
    shown = [f"{n} {result.metrics[n]:.4g}" for n in names if n in result.metrics]
    who = " ".join(filter(None, (result.model, result.encoder, result.features)))
    return f"{result.fraction:g} % seed {result.seed} {who}: N {result.n_train:,}, " + ", ".join(
        shown
    )
