"""What can be predicted: labels that a task learns from, and the columns that it fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from astropt_db.errors import ConfigurationError

Kind = Literal["density", "fractions", "classes"]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes
    ----------
    name
        As users call it.
    kind
        ``density``: a number with its distribution; ``fractions``: several shares between 0 and
        1, each with gaps in its labels; ``classes``: one of several classes.
    labels
        Label columns: one for ``density`` and ``classes``, the shares for ``fractions``.
    outputs
        Names of what is predicted.
    table
        Table of the predictions in schema ``astropt``.
    prefix
        Of the columns of a density.
    logarithmic
        Whether log(1 + value) is learned, whose errors are alike at all values.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    outputs: tuple[str, ...]
    table: str
    prefix: str = ""
    logarithmic: bool = False


SHAPES = ("smooth", "featured", "artefact", "edge_on", "spiral", "bar", "merger")
CLASSES = ("star", "galaxy", "qso", "artefact")

TASKS = {
    "photoz": Task("photoz", "density", ("z",), ("z",), "prediction_photoz", "z", True),
    "stellar_mass": Task(
        "stellar_mass",
        "density",
        ("log_mass",),
        ("log_mass",),
        "prediction_stellar_mass",
        "log_mass",
    ),
    "morphology": Task(
        "morphology", "fractions", SHAPES, (*SHAPES, "early_type"), "prediction_morphology"
    ),
    "object_class": Task(
        "object_class", "classes", ("object_class",), CLASSES, "prediction_object_class"
    ),
}


def find_task(name: str, column: str | None = None) -> Task:
    """A built-in task, or one for a label column of the user's.

    Parameters
    ----------
    name
        Of a built-in task, or the user's name for a new one.
    column
        Label column of a new task.

    Raises
    ------
    ConfigurationError
        If there is no such task and no column to make one of.
    """
    if name in TASKS:
        if column is not None and (column,) != TASKS[name].labels:
            raise ConfigurationError(
                f"the task {name} learns from {', '.join(TASKS[name].labels)}; give a task of your "
                f"own another name to learn from {column}"
            )
        return TASKS[name]
    if column is None:
        raise ConfigurationError(
            f"there is no task {name!r}; there are: {', '.join(TASKS)}. For a task of your own, "
            "name its label: --label COLUMN"
        )
    return Task(name, "density", (column,), (column,), "prediction_value", "value")
