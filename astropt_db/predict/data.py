"""Labelled sources from the database. The test split is left out unless it is asked for by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.conditions import select_numbers
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.fixed_rows import read_fixed
from astropt_db.database.resources import named_queries
from astropt_db.errors import AstroptDbError, ConfigurationError
from astropt_db.predict.features import Batch, View, load_features
from astropt_db.predict.fitting import Labelled
from astropt_db.predict.tasks import Task

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
LEAST_LABELS = 50


class TrainingError(AstroptDbError):
    """Labels do not make a training set; the message names the sets and the counts."""


@dataclass(frozen=True)
class LabelSet:
    """A row of ``astropt.label_set``, as far as training needs it."""

    id: int
    name: str
    column_names: list[str]
    categories: dict[str, list[str]]
    n_matched: int


def find_label_sets(cursor: psycopg.Cursor[Any], names: Sequence[str]) -> list[LabelSet]:
    """Label sets by name.

    Raises
    ------
    ConfigurationError
        If one does not exist; the message lists those that do.
    """
    rows = cursor.execute(
        "SELECT id, name, column_names, categories, n_matched FROM astropt.label_set ORDER BY name"
    ).fetchall()
    known = {row[1]: LabelSet(*row) for row in rows}
    missing = [name for name in names if name not in known]
    if missing:
        there = ", ".join(known) or "none; load some: astropt-db ingest labels"
        raise ConfigurationError(f"no label set {', '.join(missing)}; there are: {there}")
    return [known[name] for name in names]


def read_labels(
    cursor: psycopg.Cursor[Any], task: Task, sets: Sequence[LabelSet], splits: Sequence[str]
) -> tuple[Int64, Float32]:
    """Targets of a task in some splits; the first set that knows a source decides.

    Returns
    -------
    tuple
        Object ids, sorted, and targets float32 ``(n, t)``; rows without any label are left out.

    Raises
    ------
    TrainingError
        If a set lacks the labels of the task or has words where numbers are needed.
    """
    ids, targets = [np.empty(0, np.int64)], [np.empty((0, len(task.outputs)), np.float32)]
    for one in sets:
        some, values = _read_columns(cursor, task, one, splits)
        made = _targets(task, one, values)
        kept = np.isfinite(made).any(axis=1)
        ids.append(some[kept])
        targets.append(made[kept])
    everything, first = np.unique(np.concatenate(ids), return_index=True)
    return everything, np.concatenate(targets)[first]


def _read_columns(
    cursor: psycopg.Cursor[Any], task: Task, labels: LabelSet, splits: Sequence[str]
) -> tuple[Int64, NDArray[np.float64]]:
    present = [name for name in task.labels if name in labels.column_names]
    if not present or (task.kind != "fractions" and len(present) < len(task.labels)):
        raise TrainingError(
            f"label set {labels.name} ({labels.n_matched:,} sources) has the labels "
            f"{', '.join(labels.column_names)}; the task {task.name} needs "
            f"{', '.join(task.labels)}. Load them with --column {task.labels[0]}=COLUMN"
        )
    places = [labels.column_names.index(name) + 1 for name in present]
    values = [sql.SQL('l."values"[{}]').format(place) for place in places]
    query = sql.SQL(
        "SELECT l.object_id, {} FROM astropt.label AS l "
        "WHERE l.label_set_id = {} AND astropt.split(l.object_id) = ANY({})"
    ).format(sql.SQL(", ").join(values), labels.id, sql.Literal(list(splits)))
    columns = [("object_id", "bigint", 0)]
    columns += [(f"v{k}", "double precision", 0) for k in range(len(places))]
    parts = list(read_fixed(cursor, query, columns))
    ids = np.concatenate([np.empty(0, np.int64), *(p["object_id"].astype(np.int64) for p in parts)])
    out = np.full((len(ids), len(task.labels)), np.nan)
    for k, name in enumerate(present):
        column = [np.empty(0), *(part[f"v{k}"].astype(np.float64) for part in parts)]
        out[:, task.labels.index(name)] = np.concatenate(column)
    return ids, out


def _targets(task: Task, labels: LabelSet, values: NDArray[np.float64]) -> Float32:
    name = task.labels[0]
    words = labels.categories.get(name)
    if task.kind == "classes":
        return _one_hot(task, labels, values[:, 0], words)
    wordy = [one for one in task.labels if one in labels.categories]
    if wordy:
        known = ", ".join(map(repr, labels.categories[wordy[0]][:4]))
        raise TrainingError(
            f"label set {labels.name}: {wordy[0]} holds words ({known}) in "
            f"{len(values):,} rows; the task {task.name} needs numbers"
        )
    if task.kind == "fractions":
        smooth = values[:, [0]]
        early = np.where(np.isfinite(smooth), smooth >= 0.5, np.nan)
        return np.concatenate([values, early], axis=1).astype(np.float32)
    out = values.astype(np.float32)
    if task.logarithmic:
        out[out <= -1] = np.nan
    return out


def _one_hot(
    task: Task, labels: LabelSet, codes: NDArray[np.float64], words: list[str] | None
) -> Float32:
    if words is None:
        raise TrainingError(
            f"label set {labels.name}: {task.labels[0]} holds numbers in {len(codes):,} rows; "
            f"the task {task.name} needs the words {', '.join(task.outputs)}"
        )
    unknown = [word for word in words if word not in task.outputs]
    if len(unknown) == len(words):
        raise TrainingError(
            f"label set {labels.name}: {task.labels[0]} holds the words {', '.join(words)}; "
            f"the task {task.name} needs some of {', '.join(task.outputs)}"
        )
    table = np.array([task.outputs.index(w) if w in task.outputs else -1 for w in words])
    present = np.isfinite(codes)
    index = np.full(len(codes), -1)
    index[present] = table[codes[present].astype(np.int64)]
    out = np.full((len(codes), len(task.outputs)), np.nan, np.float32)
    out[index >= 0] = np.eye(len(task.outputs), dtype=np.float32)[index[index >= 0]]
    return out


def load_labelled(
    connection: psycopg.Connection[Any],
    task: Task,
    view: View,
    sets: Sequence[LabelSet],
    splits: Sequence[str],
    where: str = "",
) -> Labelled:
    """Sources of some splits with features and targets, by object id.

    Parameters
    ----------
    where
        SQL condition on ``astropt.source``; empty for all sources.

    Raises
    ------
    TrainingError
        If no labelled source has features.
    """
    with connection.cursor() as cursor:
        ids, targets = read_labels(cursor, task, sets, splits)
        if where.strip():
            source = sql.Identifier("astropt", "source")
            inside = np.isin(ids, select_numbers(connection, source, "object_id", where))
            ids, targets = ids[inside], targets[inside]
        batch = features_of(cursor, view, ids)
    if len(ids) and not len(batch):
        names = ", ".join(one.name for one in sets)
        what = f"a vector of encoder {view.encoder.name}" if view.encoder else "fluxes"
        raise TrainingError(
            f"label sets {names}: none of {len(ids):,} labelled sources has {what}; "
            "run first: astropt-db embed"
        )
    return Labelled(batch, targets[np.searchsorted(ids, batch.object_id)])


def features_of(cursor: psycopg.Cursor[Any], view: View, ids: Int64) -> Batch:
    """Features of some sources, by object id; those without are left out."""
    cursor.execute("DROP TABLE IF EXISTS pg_temp.wanted")
    cursor.execute(named_queries()["wanted_table"])
    wanted = sql.Identifier("wanted")
    copy_rows(cursor, wanted, [Field("object_id", "bigint", ids)])
    cursor.execute(sql.SQL("ANALYZE {}").format(wanted))
    condition = sql.SQL("s.object_id IN (SELECT w.object_id FROM {} AS w)").format(wanted)
    return load_features(cursor, view, condition, len(ids))


def check_trainable(task: Task, names: Sequence[str], train: Labelled) -> None:
    """Refuse what cannot be learned from.

    Raises
    ------
    TrainingError
        If there are fewer than 50 sources, or their labels are all the same.
    """
    sets = ", ".join(names)
    n = len(train)
    if n < LEAST_LABELS:
        raise TrainingError(
            f"label sets {sets}: {n:,} labelled sources with features in the training split "
            f"(70 %); the task {task.name} needs at least {LEAST_LABELS}"
        )
    if task.kind == "classes":
        counts = train.targets.sum(axis=0).astype(int)
        present = [f"{name} {k:,}" for name, k in zip(task.outputs, counts, strict=True) if k]
        if len(present) < 2:
            raise TrainingError(
                f"label sets {sets}: all {n:,} labels are of one class ({present[0]}); "
                "add a set with other classes"
            )
        return
    constant = [
        name
        for k, name in enumerate(task.outputs)
        if (column := train.targets[:, k])[np.isfinite(column)].size
        and np.nanmin(column) == np.nanmax(column)
    ]
    if constant and (task.kind == "density" or len(constant) == len(task.outputs)):
        value = np.nanmin(train.targets[:, 0])
        raise TrainingError(
            f"label sets {sets}: {constant[0]} is {value:g} in all {n:,} rows; "
            "there is nothing to learn"
        )
