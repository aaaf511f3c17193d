"""``astropt-db evaluate``: heads and rivals on one fixed test set, at every label fraction.

What the paper's public code leaves open is settled here: the test set is the same for every
model, fraction and seed; each seed draws its own labels, nested in fraction; N is stored with
every figure; the catalogue's values are judged on the same sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.split import split_of
from astropt_db.errors import ConfigurationError
from astropt_db.predict import cnn, rivals
from astropt_db.predict.data import LabelSet, TrainingError, find_label_sets, load_labelled
from astropt_db.predict.features import Features, View
from astropt_db.predict.fitting import HeadName, Labelled, fit
from astropt_db.predict.metrics import Metrics
from astropt_db.predict.mlp import Settings
from astropt_db.predict.scoring import score, score_columns, score_numbers
from astropt_db.predict.tasks import Task

Int64 = NDArray[np.int64]
Images = Callable[[Int64, int], NDArray[np.float32]]
"""From object ids and the number of bands to images ``(n, bands, 224, 224)``."""

LEAST_TRAIN = 10
_SPLITS = ("train", "calibration", "test")
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


@dataclass
class _Data:
    """All views of the same sources, each split by object id."""

    views: dict[tuple[str, str | None], dict[str, Labelled]] = field(default_factory=dict)

    def common(self) -> Int64:
        """Sources that every view has."""
        ids: Int64 | None = None
        for parts in self.views.values():
            own = np.concatenate([part.batch.object_id for part in parts.values()])
            ids = np.unique(own) if ids is None else np.intersect1d(ids, own)
        assert ids is not None
        return ids

    def restrict(self, ids: Int64) -> None:
        """Keep some sources only."""
        for parts in self.views.values():
            for name, part in parts.items():
                parts[name] = part.take(np.isin(part.batch.object_id, ids))


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
    with connect(database) as connection:
        with connection.cursor() as cursor:
            sets = find_label_sets(cursor, request.label_sets)
        encoders = [find_encoder(connection, name) for name in request.encoders]
        data = _load(connection, request, sets, encoders)
    flux = data.views["flux", None]
    sizes = {name: len(part) for name, part in flux.items()}
    if sizes["train"] < LEAST_TRAIN or sizes["test"] < LEAST_TRAIN:
        raise TrainingError(
            f"label sets {', '.join(request.label_sets)}: {sizes['train']:,} sources to learn "
            f"from and {sizes['test']:,} to test on have all features; each needs {LEAST_TRAIN}"
        )
    say(f"{request.task.name}: " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()))
    results = []
    for result in _run_all(database, request, data, images):
        results.append(result)
        _store(database, request, result, run_id)
        say(_line(result))
    return results


def _load(
    connection: psycopg.Connection[Any],
    request: EvaluationRequest,
    sets: Sequence[LabelSet],
    encoders: Sequence[EncoderRecord],
) -> _Data:
    data = _Data()
    wanted: list[View] = [View("flux", None)]
    for encoder in encoders:
        wanted += [View(one, encoder) for one in request.features if one != "flux"]
    for view in wanted:
        name = view.encoder.name if view.encoder else None
        data.views[view.features, name] = {
            split: load_labelled(connection, request.task, view, sets, [split], request.where)
            for split in _SPLITS
        }
    data.restrict(data.common())
    return data


def _run_all(
    database: Database, request: EvaluationRequest, data: _Data, images: Images | None
) -> Iterable[Result]:
    unknown = set(request.rivals) - {"trees", "phz"}
    if unknown:
        raise ConfigurationError(f"no rival {', '.join(unknown)}; there are trees and phz")
    if "phz" in request.rivals:
        yield from _catalogue(database, request, data)
    for fraction in request.fractions:
        for seed in range(request.seeds):
            for (features, encoder), parts in data.views.items():
                if features == "flux" and "flux" not in request.features:
                    continue
                few = _subset(parts, fraction, seed)
                for head in request.heads:
                    fitted = fit(
                        request.task, head, few["train"], few["calibration"], seed,
                        Settings(), novelty=False,
                    )  # fmt: skip
                    figures = score(fitted.predictor, few["test"])
                    yield _result(head, encoder, features, fraction, seed, few, figures)
            few = _subset(data.views["flux", None], fraction, seed)
            if "trees" in request.rivals:
                columns = rivals.fit_trees(request.task, _both(few), few["test"], seed)
                figures = score_columns(request.task, few["test"], columns)
                yield _result("trees", None, "flux", fraction, seed, few, figures)
            for name in request.cnns:
                yield _cnn(database, request, few, images, name, fraction, seed)


def _subset(parts: dict[str, Labelled], fraction: float, seed: int) -> dict[str, Labelled]:
    """A fraction of the labels; the test set stays whole. Smaller fractions lie in larger ones."""
    chosen = {"test": parts["test"]}
    for name in ("train", "calibration"):
        part = parts[name]
        order = np.random.default_rng([seed, 7]).permutation(len(part))
        number = max(round(len(part) * fraction / 100), min(LEAST_TRAIN, len(part)))
        chosen[name] = part.take(np.sort(order[:number]))
    return chosen


def _both(few: dict[str, Labelled]) -> Labelled:
    """Training and calibration labels together, for models that need no calibration."""
    one, two = few["train"], few["calibration"]
    batch = type(one.batch)(
        np.concatenate([one.batch.object_id, two.batch.object_id]),
        np.concatenate([one.batch.embedding, two.batch.embedding]),
        np.concatenate([one.batch.flux, two.batch.flux]),
    )
    return Labelled(batch, np.concatenate([one.targets, two.targets]))


def _catalogue(database: Database, request: EvaluationRequest, data: _Data) -> Iterable[Result]:
    test = data.views["flux", None]["test"]
    with connect(database) as connection:
        values = rivals.catalogue_values(connection, request.task, test.batch.object_id)
    if values is None or not np.isfinite(values).any():
        return
    present = np.isfinite(values)
    truth = test.targets[present, 0].astype(np.float64)
    figures = score_numbers(request.task, truth, values[present])
    yield Result("phz", None, "flux", 0.0, 0, 0, int(present.sum()), figures)


def _cnn(
    database: Database,
    request: EvaluationRequest,
    few: dict[str, Labelled],
    images: Images | None,
    name: cnn.CnnName,
    fraction: float,
    seed: int,
) -> Result:
    source = images or registered_images(database)
    both = _both(few)
    bands = 4
    columns = cnn.train_cnn(
        name, request.task, source(both.batch.object_id, bands), both.targets,
        source(few["test"].batch.object_id, bands), seed,
    )  # fmt: skip
    figures = score_columns(request.task, few["test"], columns)
    return _result(name, None, "images", fraction, seed, few, figures)


def registered_images(database: Database) -> Images:
    """Images of sources from the registered mosaics and cut-outs."""
    from astropt_db.images.registered import read_cutouts
    from astropt_db.images.source import BANDS

    def read(ids: Int64, bands: int) -> NDArray[np.float32]:
        with connect(database) as connection:
            return read_cutouts(connection, ids, BANDS[:bands]).pixels

    return read


def _result(
    model: str,
    encoder: str | None,
    features: str,
    fraction: float,
    seed: int,
    few: dict[str, Labelled],
    figures: Metrics,
) -> Result:
    assert (split_of(few["test"].batch.object_id) == "test").all()
    n_train = len(few["train"]) + len(few["calibration"])
    return Result(model, encoder, features, fraction, seed, n_train, len(few["test"]), figures)


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
