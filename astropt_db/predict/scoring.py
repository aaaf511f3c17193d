"""Figures of a predictor on labelled sources that it has not seen."""

from __future__ import annotations

import numpy as np

from astropt_db.predict import metrics
from astropt_db.predict.fitting import Labelled
from astropt_db.predict.metrics import Metrics
from astropt_db.predict.predictor import Columns, Predictor
from astropt_db.predict.tasks import Task


def score(predictor: Predictor, test: Labelled) -> Metrics:
    """All figures of a task; empty without test sources."""
    if len(test) == 0:
        return {}
    columns = predictor.predict(test.batch)
    found = score_columns(predictor.task, test, columns)
    if predictor.task.kind == "density":
        truth = test.targets[:, 0].astype(np.float64)
        quantiles = columns[f"{predictor.task.prefix}_quantiles"]
        found |= metrics.density_metrics(truth, quantiles, predictor.pit(test.batch, truth))
    return found


def score_columns(task: Task, test: Labelled, columns: Columns) -> Metrics:
    """Figures of predicted columns, whoever made them."""
    if task.kind == "density":
        truth = test.targets[:, 0].astype(np.float64)
        return score_numbers(task, truth, columns[f"{task.prefix}_median"])
    if task.kind == "classes":
        probability = np.stack([columns[f"prob_{name}"] for name in task.outputs], axis=1)
        return metrics.class_metrics(test.targets.argmax(axis=1), probability, task.outputs)
    found: Metrics = {}
    for number, name in enumerate(task.outputs):
        one = metrics.share_metrics(test.targets[:, number], columns[name])
        found |= {f"{name}.{key}": value for key, value in one.items()}
    return found


def score_numbers(task: Task, truth: np.ndarray, predicted: np.ndarray) -> Metrics:
    """Figures of point predictions; masses in dex, and as the paper has them (``paper_``)."""
    if task.name == "photoz":
        return metrics.number_metrics(truth, predicted, 1 + truth, metrics.OUTLIER_Z)
    found = metrics.number_metrics(truth, predicted, 1.0, metrics.OUTLIER_MASS)
    if task.name == "stellar_mass":
        paper = metrics.number_metrics(truth, predicted, 1 + truth, metrics.OUTLIER_MASS)
        names = ("bias", "nmad", "sigma_68", "outlier_percent")
        found |= {f"paper_{name}": paper[name] for name in names}
    return found
