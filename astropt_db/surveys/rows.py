"""Blocks of a survey's files to database columns, with positions, cuts and epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from astropt_db.database.copy import Field
from astropt_db.ingest.convert import convert
from astropt_db.ingest.json_rows import json_rows
from astropt_db.q1.products import Column
from astropt_db.q1.readers import Block, Values
from astropt_db.sky.healpix import healpix29
from astropt_db.surveys.columns import SurveyColumn, find_column
from astropt_db.surveys.positions import Float64, PositionReader, SurveyError, move
from astropt_db.surveys.recipes import EUCLID_EPOCH, Recipe

Bool = NDArray[np.bool_]


@dataclass
class RowMaker:
    """Makes the rows of one survey.

    Attributes
    ----------
    columns
        Of the table, without ours.
    recipe
        Cuts, epoch, errors, nulls; the command line's options are in it already.
    reader
        Reads the positions.
    ra, dec
        Columns of the position.
    n_read, n_cut
        Rows seen, and left out by cuts.
    refused
        Values that the column's type cannot hold and are NULL now, by column.
    """

    columns: Sequence[SurveyColumn]
    recipe: Recipe
    reader: PositionReader
    ra: SurveyColumn
    dec: SurveyColumn
    n_read: int = 0
    n_cut: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def fields(self, block: Block) -> list[Field]:
        """Columns of the rows that stay, ready for COPY."""
        n = block.n_rows
        number = np.arange(n, dtype=np.int64) + self.n_read + 1
        self.n_read += n
        ra, dec = self.reader.read(
            self._values(block, self.ra),
            self._values(block, self.dec),
            self.ra.target.unit,
            self.dec.target.unit,
        )
        ra, dec = self._at_euclid_epoch(block, ra, dec)
        kept = np.isfinite(ra)
        chosen = kept & self._cut(block)
        self.n_cut += int((kept & ~chosen).sum())
        rows = np.flatnonzero(chosen)
        error = self._errors(block)[rows]
        made = [
            Field("survey_row", "bigint", number[rows]),
            Field("healpix29", "bigint", healpix29(ra[rows], dec[rows])),
            Field("sky_ra", "double precision", ra[rows]),
            Field("sky_dec", "double precision", dec[rows]),
            Field("sky_error", "real", error, np.isnan(error)),
        ]
        made += [self._field(block, one, rows) for one in self.columns if not one.in_extra]
        extra = {one.source: one for one in self.columns if one.in_extra}
        if extra and len(rows):
            texts = json_rows(
                {name: _take(self._values(block, one), rows) for name, one in extra.items()}
            )
            made.append(Field("extra", "jsonb", texts))
        return made

    def _values(self, block: Block, column: SurveyColumn) -> Values:
        found = block.columns.get(column.source)
        if found is not None:
            return found
        shape = (
            (block.n_rows,)
            if column.target.length is None
            else (block.n_rows, column.target.length)
        )
        dtype = "S1" if column.target.type == "text" else np.float64
        return Values(np.zeros(shape, dtype), np.ones(block.n_rows, np.bool_))

    def _field(self, block: Block, column: SurveyColumn, rows: NDArray[np.int64]) -> Field:
        values = _take(self._values(block, column), rows)
        target = replace(column.target, name=column.name)
        if self.recipe.nulls and values.data.dtype.kind in "fi" and values.data.ndim == 1:
            sentinels = np.array(self.recipe.nulls).astype(values.data.dtype.newbyteorder("="))
            absent = np.isin(values.data, sentinels)
            values = Values(values.data, absent if values.null is None else absent | values.null)
        made = convert(target, column.source, values)
        for refusal in made.refusals:
            count = int(refusal.rows.sum())
            self.refused[column.source] = self.refused.get(column.source, 0) + count
        return replace(made.field, name=column.name)

    def _number(self, block: Block, name: str) -> Float64 | None:
        """A column's numbers with NaN where there is none; ``None`` if there is no such column."""
        column = find_column(self.columns, [name])
        if column is None:
            return None
        target = Column(column.source, "double precision", None, "", "", (), "")
        made = convert(target, column.source, self._values(block, column)).field
        data = made.data.astype(np.float64)
        return data if made.null is None else np.where(made.null, np.nan, data)

    def _at_euclid_epoch(self, block: Block, ra: Float64, dec: Float64) -> tuple[Float64, Float64]:
        recipe = self.recipe
        if not (recipe.epoch and recipe.pmra and recipe.pmdec):
            return ra, dec
        pmra, pmdec = self._number(block, recipe.pmra), self._number(block, recipe.pmdec)
        if pmra is None or pmdec is None:
            raise SurveyError(
                self.reader.survey,
                f"proper motions were asked for, but there is no column {recipe.pmra} or "
                f"{recipe.pmdec}",
            )
        try:
            epoch = np.full(block.n_rows, float(recipe.epoch))
        except ValueError:
            found = self._number(block, recipe.epoch)
            if found is None:
                raise SurveyError(
                    self.reader.survey,
                    f"--epoch {recipe.epoch} is neither a year nor a column",
                ) from None
            epoch = found
        return move(ra, dec, pmra, pmdec, EUCLID_EPOCH - epoch)

    def _errors(self, block: Block) -> Float64:
        parts = [self._number(block, name) for name in self.recipe.errors]
        known = [part for part in parts if part is not None]
        if not known:
            return np.full(block.n_rows, np.nan)
        largest = np.fmax.reduce(known) * self.recipe.error_unit
        return np.where(largest >= 0, largest, np.nan)

    def _cut(self, block: Block) -> Bool:
        chosen = np.ones(block.n_rows, np.bool_)
        for name, wanted in self.recipe.cuts:
            column = find_column(self.columns, [name])
            if column is None:
                continue
            if isinstance(wanted, str):
                values = self._values(block, column)
                texts = np.strings.strip(values.data.astype("S"))
                chosen &= texts == wanted.encode()
                continue
            numbers = self._number(block, name)
            chosen &= numbers == wanted
        if (primary := find_column(self.columns, self.recipe.primary)) is not None:
            target = Column(primary.source, "boolean", None, "", "", (), "")
            made = convert(target, primary.source, self._values(block, primary)).field
            chosen &= made.data.astype(np.bool_)
            if made.null is not None:
                chosen &= ~made.null
        return chosen


def _take(values: Values, rows: NDArray[np.int64]) -> Values:
    return Values(values.data[rows], None if values.null is None else values.null[rows])
