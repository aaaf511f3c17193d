"""What the page shows, read from the database; a part that cannot be read is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from astropt_db.database.connect import Database
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries
from astropt_db.deliver.pictures import Picture, take_pictures
from astropt_db.errors import AstroptDbError

Rows = list[tuple[Any, ...]]

MOST_POINTS = 6000
_EXAMPLES = 7
_KINDS = 5
_NEIGHBOURS = 6
_OUTLIERS = 21
_PICTURE_ARCSEC = 12.8
_PREFERRED = ("merger", "spiral", "barred_spiral", "edge_on", "smooth", "featured")


@dataclass
class Facts:
    """Rows by the name of their query, without ``report_``; and the pictures."""

    rows: dict[str, Rows]
    names: dict[str, list[str]]
    pictures: dict[int, Picture] = field(default_factory=dict)
    similar: list[tuple[str, int, Rows]] = field(default_factory=list)
    picture_problem: str = ""
    database: str = ""

    def png(self, object_id: int) -> bytes | None:
        """Picture of a source, if there is one."""
        found = self.pictures.get(object_id)
        return None if found is None else found.png


def gather(database: Database) -> Facts:
    """Read everything the page shows, in one snapshot of the database."""
    facts = Facts({}, {}, database=database.safe_name)
    with reading(database, snapshot=True) as cursor:
        overview = _ask(cursor, facts, "overview")
        step = max(1, int(overview[0][0]) // MOST_POINTS) if overview else 1
        for name in ("products", "vector_counts", "predictors", "encoders", "runs", "photoz"):
            _ask(cursor, facts, name)
        for name in ("sky", "map", "mass"):
            _ask(cursor, facts, name, step=step)
        _ask(cursor, facts, "leakage")
        if not facts.rows["map"]:
            _ask(cursor, facts, "vectors", step=step)
        _ask(cursor, facts, "morphology", k=_EXAMPLES)
        _ask(cursor, facts, "outliers", k=_OUTLIERS)
        _ask(cursor, facts, "examples")
        for kind, one in _chosen(facts.rows["examples"]):
            facts.similar.append((kind, one, _ask(cursor, facts, "similar", id=one, k=_NEIGHBOURS)))
        _add_pictures(cursor.connection, facts)
    return facts


def _ask(cursor: psycopg.Cursor[Any], facts: Facts, name: str, **values: object) -> Rows:
    """Rows of a query; none if the database lacks what it asks for."""
    rows: Rows = []
    try:
        with cursor.connection.transaction():
            cursor.execute(named_queries()[f"report_{name}"], values or None)
            facts.names[name] = [column.name for column in cursor.description or []]
            rows = cursor.fetchall()
    except psycopg.Error:
        # A missing table, an encoder without vectors: the page says what makes them.
        facts.names[name] = []
    facts.rows[name] = rows
    return rows


def _chosen(examples: Rows) -> Rows:
    """Some kinds, the most telling ones first."""
    places = {kind: i for i, kind in enumerate(_PREFERRED)}
    return sorted(examples, key=lambda row: places.get(row[0], len(places)))[:_KINDS]


def _add_pictures(connection: psycopg.Connection[Any], facts: Facts) -> None:
    ids = [row[2] for row in facts.rows["morphology"]]
    ids += [row[0] for row in facts.rows["outliers"]]
    for _, one, rows in facts.similar:
        ids += [one, *(row[0] for row in rows)]
    try:
        for part in _parts(sorted(set(ids)), 64):
            wanted = np.array(part, np.int64)
            facts.pictures |= take_pictures(connection, wanted, _PICTURE_ARCSEC)
    except (AstroptDbError, psycopg.Error) as error:
        facts.picture_problem = str(error)


def _parts(values: Sequence[int], size: int) -> list[Sequence[int]]:
    return [values[first : first + size] for first in range(0, len(values), size)]
