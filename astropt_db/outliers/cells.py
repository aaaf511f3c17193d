"""Cells of like vectors: k-means in large steps, for locality and for approximate search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CELL_SIZE = 400
_TRAINING_ROWS = 64
_ITERATIONS = 8
_BLOCK = 8192


@dataclass(frozen=True)
class Cells:
    """A partition of vectors.

    Attributes
    ----------
    centres
        float32 ``(m, d)``.
    order
        int64 ``(n,)``: rows sorted by cell.
    start
        int64 ``(m + 1,)``: where each cell begins in that order; the last is n.
    """

    centres: Tensor
    order: Tensor
    start: Tensor

    def __len__(self) -> int:
        return len(self.centres)

    def nearest(self) -> Tensor:
        """All cells by the distance of their centres, int64 ``(m, m)``, itself first."""
        distances = torch.cdist(self.centres, self.centres)
        distances.fill_diagonal_(-1.0)
        return distances.argsort(dim=1)


def make_cells(rows: Tensor, seed: int, size: int = CELL_SIZE) -> Cells:
    """Divide vectors into cells of about `size`.

    Parameters
    ----------
    rows
        float32 ``(n, d)``.
    seed
        Of the choice of training rows and first centres.
    """
    n = len(rows)
    count = max(1, n // size)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(n, generator=generator)[: count * _TRAINING_ROWS].to(rows.device)
    sample = rows[chosen]
    centres = sample[:count].clone()
    for _ in range(_ITERATIONS if count > 1 else 0):
        cell = torch.cat(list(_assign(sample, centres)))
        sums = torch.zeros_like(centres).index_add_(0, cell, sample)
        sizes = torch.bincount(cell, minlength=count)
        full = sizes > 0
        centres[full] = sums[full] / sizes[full, None]
    cell = torch.cat(list(_assign(rows, centres)))
    order = torch.argsort(cell, stable=True)
    sizes = torch.bincount(cell, minlength=count)
    keep = sizes > 0
    start = torch.cat([sizes.new_zeros(1), sizes[keep].cumsum(0)])
    return Cells(centres[keep], order, start)


def _assign(rows: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """Nearest centre of each row, block by block."""
    bias = -centres.square().sum(dim=1) / 2
    for block in torch.split(rows, _BLOCK):
        yield torch.addmm(bias, block, centres.T).argmax(dim=1)
