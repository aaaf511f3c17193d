"""Quarantined rows tried again: with repaired ids, or after the cause has gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import Database, connect
from astropt_db.database.resources import named_queries
from astropt_db.ingest.identify import identify
from astropt_db.ingest.match import targets
from astropt_db.ingest.merge import Counts, merge
from astropt_db.q1.readers import Block, FileColumn, Table, Values
from astropt_db.q1.readers.base import BLOCK_ROWS

_CHUNK = 50_000


@dataclass(frozen=True)
class RetryReport:
    """What became of one file's quarantined rows of one product."""

    path: str
    product: str
    tried: int
    counts: Counts

    @property
    def resolved(self) -> int:
        """Rows that are in the product table now."""
        return self.tried - self.counts.rejected


@dataclass
class QuarantineTable(Table):
    """Quarantined rows as a table; every value is text, as the quarantine keeps it."""

    texts: dict[str, NDArray[np.object_]] = field(default_factory=dict)

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order; see :meth:`Table.blocks`."""
        total = self.n_rows or 0
        wanted = list(self.texts) if names is None else list(names)
        for first in range(0, total, rows):
            here = slice(first, min(first + rows, total))
            columns = {name: _values(self.texts[name][here]) for name in wanted}
            yield Block(first, here.stop - first, columns)


def _values(texts: NDArray[np.object_]) -> Values:
    null = np.asarray(texts == np.array(None), np.bool_)
    encoded = np.char.encode(np.where(null, "", texts).astype(str), "utf-8")
    return Values(encoded, null)


def retry(
    database: Database, *, reason: str | None = None, repair_ids: bool = False
) -> Iterator[RetryReport]:
    """Try open quarantined rows again, one transaction per file and product.

    Parameters
    ----------
    reason
        Only rows with this reason.
    repair_ids
        Rebuild destroyed ids from the positions where these leave no doubt.
    """
    queries = named_queries()
    with connect(database) as connection:
        groups = connection.execute(queries["quarantine_groups"], {"reason": reason}).fetchall()
    for file_id, product, path, _ in groups:
        with connect(database) as connection, connection.cursor() as cursor:
            key = {"file": file_id, "product": product, "reason": reason}
            ids = [row[0] for row in cursor.execute(queries["quarantine_rows"], key)]
            total = RetryReport(path, product, len(ids), Counts())
            for first in range(0, len(ids), _CHUNK):
                chunk = ids[first : first + _CHUNK]
                total.counts.add(_retry_rows(cursor, file_id, product, path, chunk, repair_ids))
        yield total


def _retry_rows(
    cursor: psycopg.Cursor,
    file_id: int,
    product: str,
    path: str,
    ids: list[int],
    repair_ids: bool,
) -> Counts:
    queries = named_queries()
    table = _read(cursor, path, ids)
    ((_, target),) = targets([table], product)
    identities = identify(table, target, repair=repair_ids)
    counts, rejections = merge(
        cursor, table, target, identities, file_id, replaced_files=None, progress=lambda rows: None
    )
    open_ids = [ids[row] for row in rejections.rows.tolist()]
    resolved = sorted(set(ids) - set(open_ids))
    cursor.execute(queries["quarantine_resolve"], {"ids": resolved})
    cursor.execute(
        queries["quarantine_reject_again"],
        {
            "ids": open_ids,
            "reasons": rejections.reason.tolist(),
            "details": [one.decode("utf-8", "replace") for one in rejections.detail.tolist()],
        },
    )
    cursor.execute(
        queries["quarantine_recount"], vars(counts) | {"resolved": len(resolved), "id": file_id}
    )
    return counts


def _read(cursor: psycopg.Cursor, path: str, ids: list[int]) -> QuarantineTable:
    keys = [row[0] for row in cursor.execute(named_queries()["quarantine_keys"], {"ids": ids})]
    # As parameters: a literal with a % in it would be taken for one.
    members = sql.SQL(", ").join([sql.SQL("row ->> %s::text")] * len(keys))
    query = sql.SQL("SELECT {} FROM astropt.quarantine WHERE id = ANY(%s) ORDER BY id")
    rows = cursor.execute(query.format(members), [*keys, ids]).fetchall()
    columns = np.array(rows, dtype=object).T
    return QuarantineTable(
        path=Path(path),
        columns=tuple(FileColumn(key, np.dtype("S")) for key in keys),
        n_rows=len(rows),
        texts=dict(zip(keys, columns, strict=True)),
    )
