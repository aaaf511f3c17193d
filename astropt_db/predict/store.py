"""Predictors in the database: stored with their weights, so that they travel with a dump."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from astropt_db import __version__
from astropt_db.database.encoders import EncoderRecord, list_encoders
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError, DatabaseError
from astropt_db.predict.features import View
from astropt_db.predict.mixture import PROBABILITIES
from astropt_db.predict.predictor import Predictor, from_bytes, to_bytes
from astropt_db.predict.tasks import TASKS, Task


@dataclass(frozen=True)
class Training:
    """How a predictor came about, for its row."""

    view: View
    label_sets: Sequence[str]
    cut: str
    object_id: np.ndarray[Any, np.dtype[np.int64]]
    n_calibration: int
    seed: int
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Stored:
    """A predictor of the database.

    Attributes
    ----------
    id
        Its number.
    predictor
        Ready to predict.
    view
        Features that it needs.
    """

    id: int
    predictor: Predictor
    view: View


def store(
    cursor: psycopg.Cursor[Any],
    predictor: Predictor,
    training: Training,
    run_id: int,
    make_current: bool,
) -> int:
    """Write a predictor; returns its number."""
    weights = to_bytes(predictor)
    task, encoder = predictor.task, training.view.encoder
    ids = np.sort(training.object_id).astype("<i8")
    facts = {
        "labels": list(task.labels),
        "splits": {"train": 70, "calibration": 10, "test": 20},
        "object_ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
    }
    finite = {k: v for k, v in training.metrics.items() if np.isfinite(v)}
    row = cursor.execute(
        named_queries()["predictor_insert"],
        {
            "task": task.name,
            "head": predictor.head,
            "features": training.view.features,
            "encoder_id": encoder.id if encoder and training.view.uses_embedding else None,
            "label_sets": list(training.label_sets),
            "cut": training.cut or None,
            "training": Jsonb(facts),
            "n_train": len(ids),
            "n_calibration": training.n_calibration,
            "outputs": list(task.outputs),
            "probabilities": list(PROBABILITIES) if task.kind == "density" else None,
            "settings": Jsonb(dict(training.settings)),
            "metrics": Jsonb(finite),
            "weights": weights,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "seed": training.seed,
            "code_version": __version__,
            "run_id": run_id,
        },
    ).fetchone()
    assert row is not None
    if make_current:
        use(cursor, task.name, row[0])
    return int(row[0])


def use(cursor: psycopg.Cursor[Any], task: str, number: int) -> None:
    """Let the views of a task show this predictor."""
    cursor.execute(named_queries()["predictor_use_none"], {"task": task})
    cursor.execute(named_queries()["predictor_use"], {"id": number})


def find(connection: psycopg.Connection[Any], task: str, number: int | None = None) -> Stored:
    """A predictor by its number, or the current one of a task.

    Raises
    ------
    ConfigurationError
        If there is none such; the message lists those that exist.
    DatabaseError
        If its encoder has gone.
    """
    row = connection.execute(
        named_queries()["predictor_find"], {"task": task, "id": number}
    ).fetchone()
    if row is None or row[1] != task:
        rows = connection.execute(named_queries()["predictor_tasks"]).fetchall()
        there = "; ".join(f"{name}: {', '.join(map(str, ids))}" for name, ids in rows)
        what = f"no predictor {number}" if number is not None else "no current predictor"
        raise ConfigurationError(
            f"there is {what} for the task {task}; there are: {there or 'none yet'}. "
            f"Train one: astropt-db train {task}"
        )
    found_task = TASKS.get(task) or Task(
        task, "density", (row[7][0],), (row[7][0],), "prediction_value", "value"
    )
    encoder = _encoder(connection, int(row[0]), row[3], row[4])
    return Stored(int(row[0]), from_bytes(found_task, row[11]), View(row[3], encoder))


def _encoder(
    connection: psycopg.Connection[Any], number: int, features: str, encoder_id: int | None
) -> EncoderRecord | None:
    """The predictor's encoder, whose vectors must be there."""
    if features == "flux":
        return None
    by_id = {one.id: one for one in list_encoders(connection)}
    encoder = by_id.get(encoder_id or -1)
    if encoder is None:
        names = ", ".join(one.name for one in by_id.values()) or "none"
        raise DatabaseError(
            f"predictor {number} needs encoder {encoder_id}, which is not in the database; there "
            f"are: {names}. Add it again, or train anew"
        )
    partition = connection.execute(
        "SELECT to_regclass(%s)", [f"astropt.embedding_{encoder.id}"]
    ).fetchone()
    if partition is None or partition[0] is None:
        raise DatabaseError(
            f"predictor {number} needs vectors of encoder {encoder.name}, and there are none; "
            "run: astropt-db embed"
        )
    return encoder
