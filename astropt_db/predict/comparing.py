"""The fits of an evaluation: what is compared, one fit, and many of them on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psycopg
from numpy.typing import NDArray

from astropt_db.database.encoders import EncoderRecord
from astropt_db.database.split import split_of
from astropt_db.predict import rivals
from astropt_db.predict.data import LabelSet, load_labelled
from astropt_db.predict.features import Batch, Features, View
from astropt_db.predict.fitting import HeadName, Labelled, fit
from astropt_db.predict.metrics import Metrics
from astropt_db.predict.predictor import Columns
from astropt_db.predict.scoring import score, score_columns
from astropt_db.predict.tasks import Task

Parts = dict[str, Labelled]
"""Labelled sources by split."""

ViewKey = tuple[Features, str | None]
LEAST_TRAIN = 10
SPLITS = ("train", "calibration", "test")
_FEW_JOBS = 24
"""Fits for which starting processes is not worth while."""


@dataclass(frozen=True)
class Job:
    """One fit: of a head, or of trees.

    Attributes
    ----------
    model
        A head, or ``trees``.
    view
        Features and name of the encoder.
    fraction, seed
        Per cent of the labels, and which.
    shown
        Whether the predictions themselves are wanted, for figures.
    """

    model: HeadName | Literal["trees"]
    view: ViewKey
    fraction: float
    seed: int
    shown: bool = False


@dataclass(frozen=True)
class Shown:
    """Predictions of the test set, for figures.

    Attributes
    ----------
    targets
        ``(n, t)``.
    columns
        As in the prediction table.
    pit
        Of numbers, cumulative probability at the truth ``(n,)``.
    """

    targets: NDArray[np.float32]
    columns: Columns
    pit: NDArray[np.float64] | None


@dataclass(frozen=True)
class Done:
    """What came of a fit."""

    n_train: int
    n_test: int
    metrics: Metrics
    shown: Shown | None = None


def load_views(
    connection: psycopg.Connection[Any],
    task: Task,
    sets: Sequence[LabelSet],
    encoders: Sequence[EncoderRecord],
    features: Sequence[Features],
    where: str,
) -> dict[ViewKey, Parts]:
    """The same sources as each view sees them; those that one view lacks are left out of all.

    Vectors and fluxes are read once for each encoder. The fluxes' own view is always there.
    """
    wanted: list[View] = [View("embedding+flux", one) for one in encoders]
    whole = {
        view.encoder.name if view.encoder else None: load_labelled(
            connection, task, view, sets, SPLITS, where
        )
        for view in wanted or [View("flux", None)]
    }
    ids = [one.batch.object_id for one in whole.values()]
    common = ids[0]
    for others in ids[1:]:
        common = np.intersect1d(common, others, assume_unique=True)
    views: dict[ViewKey, Parts] = {}
    for name, labelled in whole.items():
        some = labelled.take(np.isin(labelled.batch.object_id, common))
        if ("flux", None) not in views:
            views["flux", None] = _parts(_seen(some, "flux"))
        for one in features:
            if one != "flux" and name is not None:
                views[one, name] = _parts(_seen(some, one))
    return views


def _seen(labelled: Labelled, features: Features) -> Labelled:
    batch, n = labelled.batch, len(labelled)
    none = (np.empty((n, 0), np.float16), np.empty((n, 0), np.float32))
    embedding = none[0] if features == "flux" else batch.embedding
    flux = none[1] if features == "embedding" else batch.flux
    return Labelled(Batch(batch.object_id, embedding, flux), labelled.targets)


def _parts(labelled: Labelled) -> Parts:
    split = split_of(labelled.batch.object_id)
    return {name: labelled.take(split == name) for name in SPLITS}


def subset(parts: Parts, fraction: float, seed: int) -> Parts:
    """A fraction of the labels; the test set stays whole. Smaller fractions lie in larger ones."""
    chosen = {"test": parts["test"]}
    for name in ("train", "calibration"):
        part = parts[name]
        order = np.random.default_rng([seed, 7]).permutation(len(part))
        number = max(round(len(part) * fraction / 100), min(LEAST_TRAIN, len(part)))
        chosen[name] = part.take(np.sort(order[:number]))
    return chosen


def do_job(task: Task, views: dict[ViewKey, Parts], job: Job) -> Done:
    """Fit on a subset of the labels and look at the test set."""
    few = subset(views[job.view], job.fraction, job.seed)
    n_train, test = len(few["train"]) + len(few["calibration"]), few["test"]
    if job.model == "trees":
        both = few["train"].joined(few["calibration"])
        columns = rivals.fit_trees(task, both, test, job.seed)
        return Done(n_train, len(test), score_columns(task, test, columns))
    predictor = fit(
        task, job.model, few["train"], few["calibration"], job.seed, novelty=False
    ).predictor
    shown = None
    if job.shown:
        truth = test.targets[:, 0].astype(np.float64)
        pit = predictor.pit(test.batch, truth) if task.kind == "density" else None
        shown = Shown(test.targets, predictor.predict(test.batch), pit)
    return Done(n_train, len(test), score(predictor, test), shown)


def do_jobs(
    task: Task, views: dict[ViewKey, Parts], jobs: Sequence[Job], processes: int | None
) -> Iterator[Done]:
    """All fits, in order, each process with one thread.

    Parameters
    ----------
    processes
        ``None`` for as many as there are cores.
    """
    number = processes or len(os.sched_getaffinity(0))
    if number == 1 or (processes is None and len(jobs) < _FEW_JOBS):
        yield from (do_job(task, views, job) for job in jobs)
        return
    # A forked process would share locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, context, _begin, (task, views)) as pool:
        try:
            yield from pool.map(_continue, jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_world: tuple[Task, dict[ViewKey, Parts]] | None = None


def _begin(task: Task, views: dict[ViewKey, Parts]) -> None:
    global _world
    import torch
    from threadpoolctl import threadpool_limits

    _world = task, views
    torch.set_num_threads(1)
    threadpool_limits(1)


def _continue(job: Job) -> Done:
    assert _world is not None
    return do_job(*_world, job)
