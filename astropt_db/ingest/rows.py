"""The second pass over a table: blocks of file values become batches for COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from astropt_db.database.copy import Field
from astropt_db.ingest.convert import Converted, convert, stack
from astropt_db.ingest.identify import Identities, Reason, describe_ids
from astropt_db.ingest.json_rows import json_rows, json_values
from astropt_db.ingest.match import Target
from astropt_db.q1.products import Column
from astropt_db.q1.readers import Block, Table, Values
from astropt_db.sky.healpix import healpix29

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Rejections:
    """Rows of a table that cannot be loaded, in file order.

    Attributes
    ----------
    rows
        Row numbers from 0, int64.
    reason
        Short code of each, ``object`` array of ``str``.
    detail
        What was expected and found, UTF-8 bytes.
    """

    rows: NDArray[np.int64]
    reason: NDArray[np.object_]
    detail: NDArray[np.bytes_]

    @staticmethod
    def join(parts: list[Rejections]) -> Rejections:
        """Put the rejections of several blocks together, sorted by row."""
        if not parts:
            empty = np.empty(0, np.int64)
            return Rejections(empty, empty.astype(object), empty.astype("S1"))
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows, kind="stable")
        return Rejections(
            rows[order],
            np.concatenate([part.reason for part in parts])[order],
            np.concatenate([part.detail for part in parts])[order],
        )


@dataclass(frozen=True)
class Rows:
    """One block, converted.

    Attributes
    ----------
    fields
        Columns of every row of the block, rejected ones included.
    row_number
        Row numbers from 1, int64.
    good
        Rows that can be loaded.
    duplicate
        Rows whose key an earlier row of the file has.
    rejections
        The others.
    n_read
        Rows of this product in the block (a merged catalogue may have none for an object).
    """

    fields: list[Field]
    row_number: NDArray[np.int64]
    good: Bool
    duplicate: Bool
    rejections: Rejections
    n_read: int


def column_names(target: Target) -> list[str]:
    """File columns that the target reads."""
    names = target.value_columns | set(target.extra) | {target.id_column}
    return sorted(names | {name for name in (target.ra_column, target.dec_column) if name})


def converted_rows(
    table: Table, target: Target, identities: Identities, file_id: int
) -> Iterator[Rows]:
    """Yield the table's rows in database types, block by block."""
    wanted = set(column_names(target))
    names = [c.name for c in table.columns if c.name in wanted]
    for block in table.blocks(names):
        yield _convert_block(block, target, identities, file_id)


@dataclass
class _Judgement:
    """Collects why rows of a block are rejected; the first reason of a row stands."""

    rejected: Bool
    parts: list[Rejections] = field(default_factory=list)
    first_row: int = 0

    def add(self, rows: Bool, reason: str, detail: Callable[[Bool], NDArray[np.bytes_]]) -> None:
        new = rows & ~self.rejected
        if not new.any():
            return
        numbers = np.flatnonzero(new) + self.first_row
        codes = np.full(len(numbers), reason, object)
        self.parts.append(Rejections(numbers, codes, detail(new)))
        self.rejected |= new


def _convert_block(block: Block, target: Target, identities: Identities, file_id: int) -> Rows:
    here = slice(block.first_row, block.first_row + block.n_rows)
    converted = _product_columns(block, target)
    present = _present(converted, target, block.n_rows)
    judgement = _Judgement(~present, first_row=block.first_row)
    _judge_identity(judgement, block, target, identities.reason[here])
    _judge_values(judgement, block, converted)
    good = ~judgement.rejected
    fields = [one.field for one in converted.values()]
    fields += _own_columns(block, target, identities, here, file_id, good)
    return Rows(
        fields=fields,
        row_number=np.arange(here.start + 1, here.stop + 1),
        good=good,
        duplicate=identities.duplicate[here],
        rejections=Rejections.join(judgement.parts),
        n_read=int(present.sum()),
    )


def _product_columns(block: Block, target: Target) -> dict[str, Converted]:
    columns = target.product.by_sql_name
    return {
        name: convert(columns[name], " + ".join(sources), _values(block, columns[name], sources))
        for name, sources in target.sources.items()
        if name != "object_id"
    }


def _values(block: Block, column: Column, sources: tuple[str, ...]) -> Values:
    if len(sources) == 1:
        return block.columns[sources[0]]
    return stack([block.columns[source] for source in sources])


def _present(converted: Mapping[str, Converted], target: Target, n_rows: int) -> Bool:
    """Rows that hold anything of this product."""
    if not target.sparse:
        return np.ones(n_rows, np.bool_)
    present = np.zeros(n_rows, np.bool_)
    for one in converted.values():
        present |= True if one.field.null is None else ~one.field.null
        for refusal in one.refusals:
            present |= refusal.rows
    return present


def _judge_identity(
    judgement: _Judgement, block: Block, target: Target, reasons: NDArray[np.uint8]
) -> None:
    if not reasons.any():
        return
    spelled = describe_ids(block.columns[target.id_column])
    for reason in (Reason(code) for code in np.unique(reasons) if code != Reason.OK):
        rows = reasons == reason

        def detail(new: Bool, reason: Reason = reason) -> NDArray[np.bytes_]:
            text = f"{reason.explanation}; found {target.id_column} = ".encode()
            return np.strings.add(np.strings.add(text, spelled[new]), _position(block, target, new))

        judgement.add(rows, reason.code, detail)


def _position(block: Block, target: Target, rows: Bool) -> NDArray[np.bytes_]:
    if target.ra_column is None or target.dec_column is None:
        return np.full(int(rows.sum()), b"")
    shown = []
    for name in (target.ra_column, target.dec_column):
        values = block.columns[name]
        null = None if values.null is None else values.null[rows]
        text = json_values(Values(values.data[rows], null))
        shown.append(np.strings.add(f", {name} = ".encode(), text))
    return np.strings.add(shown[0], shown[1])


def _judge_values(judgement: _Judgement, block: Block, converted: Mapping[str, Converted]) -> None:
    for one in converted.values():
        for refusal in one.refusals:
            source = refusal.column.split(" + ")[0]
            values = block.columns[source]

            def detail(
                new: Bool,
                values: Values = values,
                text: str = refusal.column,
                want: str = refusal.expected,
            ) -> NDArray[np.bytes_]:
                null = None if values.null is None else values.null[new]
                found = json_values(Values(values.data[new], null))
                return np.strings.add(f"{text}: expected {want}, found ".encode(), found)

            judgement.add(refusal.rows, refusal.reason, detail)


def _own_columns(
    block: Block,
    target: Target,
    identities: Identities,
    here: slice,
    file_id: int,
    good: Bool,
) -> list[Field]:
    """The key, and the columns that the file does not have."""
    n_rows = block.n_rows
    fields = [Field("object_id", "bigint", identities.object_id[here])]
    for name, value in target.constants.items():
        fields.append(Field(name, "integer", np.full(n_rows, value)))
    if target.product.has_position and target.ra_column and target.dec_column:
        cells = np.zeros(n_rows, np.int64)
        ra, dec = (
            convert(target.product.by_sql_name[name], name, block.columns[source]).field.data
            for name, source in (
                ("right_ascension", target.ra_column),
                ("declination", target.dec_column),
            )
        )
        cells[good] = healpix29(ra[good].astype(np.float64), dec[good].astype(np.float64))
        fields.append(Field("healpix29", "bigint", cells))
    if target.extra:
        extra = {name: block.columns[name] for name in target.extra}
        fields.append(Field("extra", "jsonb", json_rows(extra), _all_null(extra)))
    fields.append(Field("ingest_file_id", "bigint", np.full(n_rows, file_id)))
    return fields


def _all_null(columns: Mapping[str, Values]) -> Bool:
    """Rows in which every one of the columns is NULL or NaN."""
    empty: Bool | None = None
    for values in columns.values():
        null = values.null if values.null is not None else np.zeros(len(values.data), np.bool_)
        if values.data.dtype.kind == "f":
            nan = np.isnan(values.data)
            null = null | (nan.all(axis=1) if nan.ndim == 2 else nan)
        empty = null if empty is None else empty & null
    assert empty is not None
    return empty
