"""Label files into a temporary table: the columns that are needed, by their SQL names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.errors import FileError
from astropt_db.ingest.convert import convert
from astropt_db.q1.products import Column, sql_name
from astropt_db.q1.readers import FileColumn, Table, open_tables

STAGE = sql.Identifier("label_stage")
_TYPES = {"i": "bigint", "u": "bigint", "f": "double precision", "b": "boolean", "S": "text"}


Near = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
"""From right ascensions and declinations in degrees to whether a source may be there."""


@dataclass(frozen=True)
class Places:
    """Where the rows of a file are.

    Attributes
    ----------
    row_number
        int64 ``(n,)``, from 1.
    object_id
        int64 ``(n,)``; zeros where rows come by position.
    ra, dec
        Degrees ``(n,)``; zeros where rows come by id.
    """

    row_number: NDArray[np.int64]
    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


@dataclass
class Staged:
    """A staged file.

    Attributes
    ----------
    n_read
        Rows of the file.
    types
        PostgreSQL type by column of the temporary table.
    places
        Positions or ids of the rows that could be read.
    """

    n_read: int = 0
    types: dict[str, str] = field(default_factory=dict)
    places: list[Places] = field(default_factory=list)

    def all_places(self) -> Places:
        """The places of all blocks together."""
        empty = Places(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))
        parts = [empty, *self.places]
        return Places(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _PLACE_FIELDS)
        )


_PLACE_FIELDS = ("row_number", "object_id", "ra", "dec")


def stage_file(
    cursor: psycopg.Cursor,
    path: Path,
    needed: Sequence[str],
    cut: str,
    id_column: str | None,
    position: tuple[str, str] | None,
    near: Near,
) -> Staged:
    """Read a file into the temporary table ``label_stage``, which ends with the transaction.

    Parameters
    ----------
    needed
        Columns of the file that hold labels.
    cut
        SQL condition; the columns that it may name are read, too.
    id_column, position
        Column of the object id, or columns of right ascension and declination.
    near
        Which positions may have a source; the others are counted and left out.

    Raises
    ------
    FileError
        If the file lacks a column, or an id, position or label cannot be taken, with counts.
    """
    wanted = [*needed, *([id_column] if id_column else []), *(position or ())]
    table, columns = _find_table(path, wanted, cut)
    with table:
        types = {sql_name(one.name): _type_of(path, one) for one in columns}
        if id_column:
            types[sql_name(id_column)] = "bigint"
        _create(cursor, types)
        staged = Staged(types=types)
        refused: dict[tuple[str, str], int] = {}
        for block in table.blocks([one.name for one in columns]):
            numbers = np.arange(block.n_rows, dtype=np.int64) + block.first_row + 1
            fields = {"row_number": Field("row_number", "bigint", numbers)}
            for one in columns:
                target = _target(one, types[sql_name(one.name)])
                made = convert(target, one.name, block.columns[one.name])
                fields[target.sql] = made.field
                for refusal in made.refusals:
                    key = (one.name, refusal.expected)
                    refused[key] = refused.get(key, 0) + int(refusal.rows.sum())
            places, kept = _places(fields, id_column, position, near)
            copy_rows(cursor, STAGE, [one.take(kept) for one in fields.values()])
            staged.n_read += block.n_rows
            staged.places.append(places)
    for (column, expected), count in refused.items():
        raise FileError(
            path,
            f"column {column}: {count:,} of {staged.n_read:,} rows hold something else than "
            f"{expected}.",
            "Mend the column, or give another one.",
        )
    return staged


def _find_table(path: Path, wanted: Sequence[str], cut: str) -> tuple[Table, list[FileColumn]]:
    """The first table of the file with all wanted columns, and its columns to read."""
    words = {word.lower() for word in re.findall(r"\w+", cut)}
    tables = open_tables(path)
    missing: list[str] = []
    for table in tables:
        by_name = {sql_name(one.name): one for one in table.columns}
        missing = [name for name in wanted if sql_name(name) not in by_name]
        if not missing:
            keep = {sql_name(name) for name in wanted} | words
            for other in tables:
                if other is not table:
                    other.close()
            return table, [one for name, one in by_name.items() if name in keep]
    names = ", ".join(one.name for one in tables[0].columns[:30])
    for table in tables:
        table.close()
    raise FileError(
        path,
        f"has no column {', '.join(map(repr, missing))}.",
        f"It has {names}.",
    )


def _type_of(path: Path, column: FileColumn) -> str:
    if column.length is not None:
        raise FileError(
            path,
            f"column {column.name} holds {column.length} values in each row; a label is one.",
        )
    return _TYPES[column.dtype.kind]


def _target(column: FileColumn, kind: str) -> Column:
    return Column(column.name, kind, None, column.unit, "", (), "")


def _create(cursor: psycopg.Cursor, types: dict[str, str]) -> None:
    parts: list[sql.Composable] = [sql.SQL("row_number bigint NOT NULL")]
    parts += [
        sql.SQL("{} {}").format(sql.Identifier(name), _SQL_TYPES[kind])
        for name, kind in types.items()
    ]
    cursor.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(
            STAGE, sql.SQL(", ").join(parts)
        )
    )


_SQL_TYPES = {
    "bigint": sql.SQL("bigint"),
    "double precision": sql.SQL("double precision"),
    "boolean": sql.SQL("boolean"),
    "text": sql.SQL("text"),
}


def _places(
    fields: dict[str, Field],
    id_column: str | None,
    position: tuple[str, str] | None,
    near: Near,
) -> tuple[Places, NDArray[np.bool_]]:
    """Places of the rows that have one near a source, and which rows those are."""
    n = len(fields["row_number"].data)
    kept = np.ones(n, np.bool_)
    object_id, ra, dec = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    for source in (id_column, *(position or ())):
        if source is not None and (null := fields[sql_name(source)].null) is not None:
            kept &= ~null
    if id_column:
        object_id = fields[sql_name(id_column)].data.astype(np.int64)
    if position:
        ra, dec = (fields[sql_name(name)].data.astype(np.float64) for name in position)
        kept &= np.isfinite(ra) & (np.abs(dec) <= 90)
        kept[kept] = near(ra[kept] % 360, dec[kept])
    numbers = fields["row_number"].data
    return Places(numbers[kept], object_id[kept], ra[kept] % 360, dec[kept]), kept
