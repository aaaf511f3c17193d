"""A survey's columns in the database: names that are free, types that hold every value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from astropt_db.q1.products import Column, sql_name
from astropt_db.q1.readers import FileColumn, Table

OURS = ("survey_row", "sky_ra", "sky_dec", "sky_error", "healpix29", "extra")
"""Columns that every survey's table has."""

_SYSTEM = ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")
_LONGEST = 55
_MOST_COLUMNS = 1580  # PostgreSQL takes 1,600
_MOST_BYTES = 7600  # of a page's 8,160, for what TOAST cannot move out of the row
_WIDTHS = {
    "boolean": 1,
    "smallint": 2,
    "integer": 4,
    "bigint": 8,
    "real": 4,
    "double precision": 8,
}
_POINTER = 19  # a long text or array leaves a pointer in the row
_RANKS = ("smallint", "integer", "bigint", "real", "double precision")


@dataclass(frozen=True)
class SurveyColumn:
    """One column of a survey.

    Attributes
    ----------
    source
        Name in the file.
    name
        Name in the table.
    target
        For the conversion: type, length and unit.
    in_extra
        Whether its values go into the JSON column, because a row has no room for it.
    """

    source: str
    name: str
    target: Column
    in_extra: bool = False


def plan_columns(survey: str, tables: Sequence[Table]) -> list[SurveyColumn]:
    """The columns of all files together, in the order of the first one.

    Names become lower case with underscores; ``object_id`` and names of ours get the survey's
    name before them, others that meet a number behind. Types are widened to hold every file's
    values. What does not fit into PostgreSQL's row (1,600 columns, 8 kB) goes into ``extra``.
    """
    found: dict[str, FileColumn] = {}
    kinds: dict[str, str] = {}
    for table in tables:
        for one in table.columns:
            kind = _type_of(one)
            known = kinds.get(one.name)
            kinds[one.name] = kind if known is None else _wider(known, kind)
            found.setdefault(one.name, one)
    taken: set[str] = set(OURS)
    planned = []
    used = 60
    for position, (source, column) in enumerate(found.items()):
        name = _free_name(survey, source, taken)
        taken.add(name)
        kind = kinds[source]
        width = _WIDTHS.get(kind, _POINTER)
        full = position >= _MOST_COLUMNS or used + width > _MOST_BYTES
        used += 0 if full else width + width % 4
        target = Column(source, kind, column.length, column.unit, "", (), "")
        planned.append(SurveyColumn(source, name, target, full))
    return planned


def _type_of(column: FileColumn) -> str:
    kind, size = column.dtype.kind, column.dtype.itemsize
    if kind == "S":
        return "text"
    if kind == "b":
        scalar = "boolean"
    elif kind == "f":
        scalar = "real" if size <= 4 else "double precision"
    elif kind == "u" and size == 8:
        # 20 digits (SDSS) have no place in a bigint; text keeps each of them.
        return "text" if column.length is None else "double precision[]"
    else:
        scalar = {1: "smallint", 2: "smallint", 4: "integer", 8: "bigint"}[
            size * 2 if kind == "u" else size
        ]
    return scalar if column.length is None else f"{scalar}[]"


def _wider(one: str, other: str) -> str:
    if one == other:
        return one
    if one in _RANKS and other in _RANKS:
        wide = max(one, other, key=_RANKS.index)
        mixed = {one, other} & {"integer", "bigint"} and wide == "real"
        return "double precision" if mixed else wide
    return "text"


def _free_name(survey: str, source: str, taken: set[str]) -> str:
    name = re.sub(r"__+", "_", sql_name(source)).strip("_")[:_LONGEST] or "column"
    if name in OURS or name in _SYSTEM or name == "object_id" or name[0].isdigit():
        name = f"{survey}_{name}"[:_LONGEST]
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def find_column(columns: Sequence[SurveyColumn], wanted: Sequence[str]) -> SurveyColumn | None:
    """The first of the wanted columns that there is, by exact name before any case."""
    exact = {one.source: one for one in columns}
    loose = {sql_name(one.source): one for one in columns}
    for name in wanted:
        if found := exact.get(name) or loose.get(sql_name(name)):
            return found
    return None


def number_type(column: SurveyColumn) -> bool:
    """Whether the column holds single numbers."""
    return column.target.type in _RANKS and column.target.length is None


def empty_like(n: int) -> np.ndarray:
    """Where a file lacks a column: nothing, ``n`` times."""
    return np.zeros(n, np.int16)
