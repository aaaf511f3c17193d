"""The best k columns of each row, kept while a large matrix goes by in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 16
"""Columns that are looked at as one: a block's width must be a multiple of it."""


class Best:
    """For each row the k largest values seen so far, and their columns.

    Parameters
    ----------
    rows, k
        Number of rows, and of values kept for each.
    device
        Where the values live.

    Attributes
    ----------
    values
        float32 ``(rows, k)``, largest first; -inf where fewer were offered.
    columns
        int64 ``(rows, k)``; -1 where fewer were offered.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.values = torch.full((rows, k), -torch.inf, device=device)
        self.columns = torch.full((rows, k), -1, dtype=torch.int64, device=device)

    def fill(self, first_row: int, first_column: int, block: Tensor) -> None:
        """Take the best of the first block of some rows; all of it is sorted, as `offer` would.

        Parameters
        ----------
        first_row, first_column
            Place of the block in the matrix.
        block
            float32 ``(r, c)``, c at least k.
        """
        rows = slice(first_row, first_row + len(block))
        values, columns = block.topk(self.values.shape[1], dim=1)
        self.values[rows] = values
        self.columns[rows] = torch.where(values > -torch.inf, columns + first_column, -1)

    def offer(
        self, first_row: int, first_column: int, block: Tensor, *, turned: bool = False
    ) -> None:
        """Take what is good enough from a block of the matrix.

        A pass over maxima of groups finds the few places worth a closer look; a full sort of each
        block took longer than the matrix product that made it (measured: 26 against 7 ns for each
        number). A turned block is looked at along its own rows: maxima of a transposed view took as
        long as the product, too.

        Parameters
        ----------
        first_row, first_column
            Place of the block in the matrix.
        block
            float32 ``(r, c)``, c a multiple of `GROUP`.
        turned
            Whether it is the transpose of the matrix's block instead, ``(c, r)``.
        """
        grouped = torch.unflatten(block, 0 if turned else 1, (GROUP, -1))
        maxima = grouped.amax(dim=0).T if turned else grouped.amax(dim=1)
        floor = self.values[first_row : first_row + len(maxima), -1]
        row, group = (maxima > floor[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return
        near = grouped[:, group, row].T if turned else grouped[row, :, group]
        entry, place = (near > floor[row, None]).nonzero(as_tuple=True)
        column = place * maxima.shape[1] + group[entry] + first_column
        self._merge(first_row, row[entry], column, near[entry, place])

    def _merge(self, first_row: int, row: Tensor, column: Tensor, value: Tensor) -> None:
        """Join candidates, sorted by row, with what is kept."""
        touched, local, count = torch.unique_consecutive(
            row, return_inverse=True, return_counts=True
        )
        start = count.cumsum(0) - count
        place = torch.arange(len(row), device=row.device) - start[local]
        shape = (len(touched), int(count.max()))
        values = torch.full(shape, -torch.inf, device=value.device)
        columns = torch.full(shape, -1, dtype=torch.int64, device=value.device)
        values[local, place] = value
        columns[local, place] = column
        target = touched + first_row
        values = torch.cat([self.values[target], values], dim=1)
        columns = torch.cat([self.columns[target], columns], dim=1)
        kept, where = values.topk(self.values.shape[1], dim=1)
        self.values[target] = kept
        self.columns[target] = columns.gather(1, where)
