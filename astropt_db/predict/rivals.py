"""What heads on embeddings must beat: trees on the fluxes, and the catalogue's own values."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from astropt_db.predict.features import FLUXES, Batch
from astropt_db.predict.fitting import Labelled
from astropt_db.predict.predictor import Columns
from astropt_db.predict.tasks import Task

Float32 = NDArray[np.float32]

CATALOGUE_VALUES = {
    "photoz": ("phz_photo_z", "phz_median"),
    "stellar_mass": ("phz_physical_parameters", "phz_pp_median_stellarmass"),
}
"""Table and column of schema ``q1`` that hold the catalogue's own value of a task."""


def tree_features(batch: Batch) -> Float32:
    """Softened logarithms of the fluxes and their differences (colours), ``(n, 18)``.

    Trees split one column at a time, so they cannot form colours on their own.
    """
    light = batch.light()
    bands = light[:, : len(FLUXES) - 1]
    return np.concatenate([light, np.diff(bands, axis=1)], axis=1)


def fit_trees(task: Task, train: Labelled, test: Labelled, seed: int) -> Columns:
    """Gradient-boosted trees on the fluxes: predicted columns of the test sources."""
    x, new = tree_features(train.batch), tree_features(test.batch)
    # The trees' binning fails on a column without any value.
    used = np.isfinite(x).any(axis=0)
    x, new = x[:, used], new[:, used]
    options: dict[str, Any] = {
        "random_state": seed,
        "learning_rate": 0.06,
        "max_iter": 300,
        "min_samples_leaf": int(np.clip(len(train) // 50, 3, 20)),
        "early_stopping": len(train) >= 400,
        "l2_regularization": 1.0,
    }
    if task.kind == "classes":
        truth = train.targets.argmax(axis=1)
        trees = HistGradientBoostingClassifier(**options).fit(x, truth)
        found = np.zeros((len(new), len(task.outputs)), np.float32)
        found[:, trees.classes_] = trees.predict_proba(new)
        names = [f"prob_{name}" for name in task.outputs]
        return dict(zip(names, found.T, strict=True))
    if task.kind == "density":
        target = train.targets[:, 0].astype(np.float64)
        target = np.log1p(target) if task.logarithmic else target
        value = HistGradientBoostingRegressor(**options).fit(x, target).predict(new)
        return {f"{task.prefix}_median": np.expm1(value) if task.logarithmic else value}
    columns: Columns = {}
    for number, name in enumerate(task.outputs):
        present = np.isfinite(train.targets[:, number])
        if present.sum() < 10:
            columns[name] = np.zeros(len(new))
            continue
        trees = HistGradientBoostingRegressor(**options)
        trees.fit(x[present], train.targets[present, number])
        columns[name] = np.clip(trees.predict(new), 0, 1)
    return columns


def catalogue_values(
    connection: psycopg.Connection[Any], task: Task, ids: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """The catalogue's own values of a task, NaN where it has none; ``None`` of other tasks."""
    if task.name not in CATALOGUE_VALUES:
        return None
    table, column = CATALOGUE_VALUES[task.name]
    query = sql.SQL("SELECT object_id, {} FROM {} WHERE object_id = ANY(%s)").format(
        sql.Identifier(column), sql.Identifier("q1", table)
    )
    rows = dict(connection.execute(query, [ids.tolist()]).fetchall())
    values = [rows.get(one) for one in ids.tolist()]
    return np.array([np.nan if one is None else one for one in values], np.float64)
