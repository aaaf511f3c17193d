"""Figures of an evaluation: metrics against label fraction; one predictor's scatter and PIT."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from astropt_db.predict.evaluation import Result
from astropt_db.predict.fitting import Labelled
from astropt_db.predict.metrics import reliability
from astropt_db.predict.predictor import Density, Predictor
from astropt_db.predict.tasks import Task

_LABELS = {
    "nmad": "NMAD",
    "crps": "CRPS",
    "outlier_percent": "outliers [%]",
    "accuracy": "accuracy",
}


def label_efficiency(path: Path, task: Task, results: Sequence[Result], metric: str) -> Path:
    """A metric against the fraction of labels, with the scatter over seeds as error bars."""
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    level = None
    for one in results:
        if metric not in one.metrics:
            continue
        if one.fraction == 0:
            level = one.metrics[metric]
            continue
        name = " ".join(filter(None, (one.model, one.features, one.encoder)))
        curves[name][one.fraction].append(one.metrics[metric])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(sorted(curves.items())):
        fractions = np.array(sorted(points))
        values = [np.array(points[f]) for f in fractions]
        axes.errorbar(
            fractions * (1 + 0.01 * number),
            [v.mean() for v in values],
            [v.std() for v in values],
            marker="o", markersize=3, linewidth=1, label=name,
            linestyle="--" if name.split()[0] in ("trees", "paper_cnn", "resnet") else "-",
        )  # fmt: skip
    if level is not None:
        axes.axhline(level, color="k", linestyle=":", label="PHZ catalogue")
    axes.set(
        xscale="log", xlabel="training labels [%]", ylabel=_LABELS.get(metric, metric),
        title=task.name,
    )  # fmt: skip
    axes.legend(fontsize=6)
    figure.savefig(path, dpi=110)
    return path


def density_figure(path: Path, predictor: Predictor, test: Labelled) -> Path:
    """Predicted against true values, and the distribution of the PIT."""
    assert isinstance(predictor.link, Density)
    truth = test.targets[:, 0].astype(np.float64)
    columns = predictor.predict(test.batch)
    prefix = predictor.task.prefix
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = columns[f"{prefix}_median"]
    low, high = columns[f"{prefix}_lower_68"], columns[f"{prefix}_upper_68"]
    left.errorbar(
        truth, middle, [middle - low, high - middle], fmt=".", markersize=3, linewidth=0.3
    )
    ends = [truth.min(), truth.max()]
    left.plot(ends, ends, "k", linewidth=0.8)
    left.set(xlabel=f"true {prefix}", ylabel=f"predicted {prefix}, 68 % interval")
    right.hist(predictor.pit(test.batch, truth), bins=20, range=(0, 1), density=True)
    right.axhline(1, color="k", linewidth=0.8)
    right.set(xlabel="PIT", ylabel="density")
    figure.savefig(path, dpi=110)
    return path


def reliability_figure(path: Path, predictor: Predictor, test: Labelled) -> Path:
    """How often what is predicted with some probability is true."""
    columns = predictor.predict(test.batch)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "k", linewidth=0.8)
    for number, name in enumerate(predictor.task.outputs):
        present = np.isfinite(test.targets[:, number])
        key = f"prob_{name}" if predictor.task.kind == "classes" else name
        if not present.any() or not columns[key].any():
            continue
        truth = test.targets[present, number] >= 0.5
        mean, share, count = reliability(truth, columns[key][present])
        used = count >= 5
        axes.plot(mean[used], share[used], marker="o", markersize=3, label=name)
    axes.set(xlabel="predicted", ylabel="true share", title=predictor.task.name)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path
