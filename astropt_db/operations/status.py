"""How far things are: rows, queue, failures, indexes, disk, runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from astropt_db.database.connect import Database
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries

_TIMEOUT_S = 120.0

# What is shown, in this order: name of the statement after ``status_``, its title, and the table
# that a database without that part lacks.
_SECTIONS = (
    ("sources", "sources", "q1.mer_catalogue"),
    ("files", "ingested files", "astropt.ingest_file"),
    ("failures", "files that failed and are not in yet", "astropt.ingest_file"),
    ("quarantine", "rows in quarantine", "astropt.quarantine"),
    ("mosaics", "registered mosaics", "q1.mosaic"),
    ("embeddings", "vectors by encoder", "astropt.embedding"),
    ("queue", "embedding queue", "astropt.embed_chunk"),
    ("embed_problems", "sources without vector", "astropt.embed_problem"),
    ("predictors", "predictors", "astropt.predictor"),
    ("outliers", "outlier runs", "astropt.outlier_run"),
    ("indexes", "vector indexes", "astropt.search_index"),
    ("disk", "disk", "q1.mer_catalogue"),
    ("runs", "last runs", "astropt.run"),
)


@dataclass(frozen=True)
class Section:
    """One table of the status.

    Attributes
    ----------
    name, title
        Short name for programs, and what a person reads.
    columns
        Name and PostgreSQL type oid of each column.
    rows
        The rows.
    """

    name: str
    title: str
    columns: Sequence[tuple[str, int]]
    rows: Sequence[Sequence[object]]


def database_status(database: Database) -> list[Section]:
    """Look at everything in one read-only transaction, as the reader role.

    Raises
    ------
    DatabaseError
        If the database cannot be reached or its schema is not ours.
    """
    queries = named_queries()
    found = []
    with reading(database, _TIMEOUT_S) as cursor:
        for name, title, table in _SECTIONS:
            there = cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
            if there != (True,):
                continue
            cursor.execute(queries[f"status_{name}"])
            columns = [(column.name, column.type_code) for column in cursor.description or ()]
            found.append(Section(name, title, columns, cursor.fetchall()))
    if database.embedded is not None:
        found.insert(-1, _free_disk(database))
    return found


def _free_disk(database: Database) -> Section:
    assert database.embedded is not None
    usage = shutil.disk_usage(database.embedded.home)
    columns = [("folder", 25), ("free_bytes", 20), ("total_bytes", 20)]
    row = (str(database.embedded.home), usage.free, usage.total)
    return Section("free_disk", "disk of the embedded server", columns, [row])
