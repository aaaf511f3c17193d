"""One graph of nearest neighbours for all that asks for neighbours.

Distances are cosine distances. Vectors are brought to length one and their mean is taken away:
Euclidean distances of the result order neighbours as cosine does, and its small numbers keep
float32 exact enough to choose candidates. The distances of the candidates are then computed in
float64 from the vectors as stored, so the result equals scikit-learn's float64 path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astropt_db.outliers.best import GROUP, Best
from astropt_db.outliers.cells import Cells, make_cells

RECALL = 0.98
"""Least recall of an approximate graph."""
_AIM = 0.99
_WIDTHS = (64, 128, 256)
_WIDTH_RECALL = 0.998
"""An approximate search looks at the fewest leading principal components that keep this share of
the true neighbours among the candidates: products are what takes the time."""
_COVARIANCE_ROWS = 20_000
_SPARE = 14
"""Candidates beyond k: float32 may swap neighbours whose distances differ by its rounding."""
_BLOCK = {"cpu": 2048, "cuda": 16_384}
_QUERIES = 512
_SAMPLE = 1000
_CHUNK = {"cpu": 8, "cuda": 128}
"""Rows whose candidates are compared at once: those of 8 stay in a core's cache."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Graph:
    """The k nearest neighbours of every vector, itself left out.

    Attributes
    ----------
    indices
        int32 ``(n, k)``, nearest first.
    distances
        float64 ``(n, k)``, cosine distances, 0 to 2.
    method
        ``exact`` or ``approximate``.
    recall
        Share of true neighbours, measured on `recall_rows` rows; 1 for an exact graph.
    recall_rows
        How many rows it was measured on; 0 for an exact graph.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float64]
    method: str
    recall: float
    recall_rows: int

    @property
    def k(self) -> int:
        """Neighbours of each vector."""
        return int(self.indices.shape[1])


def neighbour_graph(
    vectors: NDArray[np.floating[Any]],
    k: int,
    *,
    approximate: bool = False,
    device: str | torch.device | None = None,
    seed: int = 42,
    progress: Progress | None = None,
) -> Graph:
    """Find the nearest neighbours of all vectors among themselves.

    Parameters
    ----------
    vectors
        float16 or float32 ``(n, d)``, n at least 2, finite and not zero.
    k
        Neighbours of each; n - 1 if there are fewer.
    approximate
        Search near cells only, as many as a sample needs for a recall of 0.99, and choose
        candidates by leading principal components if a sample loses next to nothing by that.
    device
        ``cpu`` or ``cuda``; None takes a GPU if there is one.
    seed
        Of the cells and the samples.
    progress
        Called with the fraction that is done.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stored = torch.from_numpy(np.ascontiguousarray(vectors)).to(place)
    n = len(stored)
    k = min(k, n - 1)
    wanted = min(k + _SPARE, n - 1)
    rows = _centred(stored)
    cells = make_cells(rows, seed)
    rows = rows[cells.order]
    with torch.inference_mode():
        if approximate:
            sample = _draw(n, seed).to(place)
            truth, _ = _nearest_of(rows, sample, k)
            leading = _leading(rows, sample, truth, wanted)
            found = _search_cells(leading, cells, wanted, sample, truth, progress)
            del leading
        else:
            found = _search_all(rows, wanted, progress)
        candidates = torch.empty_like(found)
        candidates[cells.order] = torch.where(found < 0, -1, cells.order[found])
        del rows, found
        indices, distances = refine(stored, candidates, k)
        recall, asked = 1.0, 0
        if approximate:
            recall, asked = _measure_recall(stored, distances, seed + 1)
    return Graph(
        indices.cpu().numpy().astype(np.int32),
        distances.cpu().numpy(),
        "approximate" if approximate else "exact",
        recall,
        asked,
    )


def _centred(stored: Tensor) -> Tensor:
    """Vectors of length one less their mean, float32."""
    rows = torch.empty(stored.shape, dtype=torch.float32, device=stored.device)
    mean = torch.zeros(stored.shape[1], dtype=torch.float64, device=stored.device)
    for part in _parts(len(stored), 16_384):
        unit = torch.nn.functional.normalize(stored[part].float(), dim=1)
        rows[part] = unit
        mean += unit.sum(dim=0, dtype=torch.float64)
    return rows.sub_((mean / len(stored)).float())


def _search_all(rows: Tensor, k: int, progress: Progress | None) -> Tensor:
    """Columns of the k nearest rows of each row: every pair once, for both its ends."""
    n, d = rows.shape
    block = min(_BLOCK[rows.device.type], -(-n // GROUP) * GROUP)
    count = -(-n // block)
    # Rows that fill the last block lie infinitely far away.
    half = torch.full((count * block,), torch.inf, device=rows.device)
    half[:n] = rows.square().sum(dim=1) / 2
    best = Best(count * block, k, rows.device)
    scores = torch.empty(block, block, device=rows.device)
    tail = torch.zeros(block, d, device=rows.device)
    tail[: n - (count - 1) * block] = rows[(count - 1) * block :]

    def part(number: int) -> Tensor:
        return tail if number == count - 1 else rows[number * block : (number + 1) * block]

    total = count * (count + 1) // 2
    # The diagonal first: rows are sorted by cell, so it holds most neighbours, and little of
    # what follows passes the floor that they set.
    for done, (i, j) in enumerate(_block_pairs(count), 1):
        mine, theirs = i * block, j * block
        torch.addmm(-half[theirs : theirs + block], part(i), part(j).T, out=scores)
        scores -= half[mine : mine + block, None]
        if i == j:
            best.fill(mine, theirs, scores.fill_diagonal_(-torch.inf))
        else:
            best.offer(mine, theirs, scores)
            best.offer(theirs, mine, scores, turned=True)
        if progress is not None:
            progress(done / total)
    return best.columns[:n]


def _block_pairs(count: int) -> Iterator[tuple[int, int]]:
    yield from ((i, i) for i in range(count))
    for i in range(count):
        yield from ((i, j) for j in range(i + 1, count))


def _leading(rows: Tensor, sample: Tensor, truth: Tensor, wanted: int) -> Tensor:
    """Rows in as few principal components as the sample's neighbours allow; else as they are."""
    some = rows[:: max(1, len(rows) // _COVARIANCE_ROWS)]
    axes = torch.linalg.eigh(some.T @ some).eigenvectors.flip(1)
    for width in _WIDTHS:
        if width >= rows.shape[1]:
            break
        narrow: Tensor = rows @ axes[:, :width]
        found, _ = _nearest_of(narrow, sample, wanted)
        kept = (truth[:, :, None] == found[:, None, :]).any(dim=2)
        if float(kept.double().mean()) >= _WIDTH_RECALL:
            return narrow
    return rows


def _search_cells(
    rows: Tensor,
    cells: Cells,
    wanted: int,
    sample: Tensor,
    truth: Tensor,
    progress: Progress | None,
) -> Tensor:
    """Columns of the nearest rows of each row among those of near cells; -1 where too few."""
    nearest = cells.nearest()
    probes = _needed_probes(cells, nearest, sample, truth)
    half = rows.square().sum(dim=1) / 2
    columns = torch.full((len(rows), wanted), -1, dtype=torch.int64, device=rows.device)
    start = cells.start.tolist()
    for cell in range(len(cells)):
        chosen = [range(start[c], start[c + 1]) for c in nearest[cell, :probes].tolist()]
        base = torch.cat([torch.arange(r.start, r.stop, device=rows.device) for r in chosen])
        # Cells are contiguous: copied whole, faster than row by row.
        others, bias = torch.cat([rows[r.start : r.stop] for r in chosen]), -half[base]
        for first in range(start[cell], start[cell + 1], _QUERIES):
            last = min(first + _QUERIES, start[cell + 1])
            scores = torch.addmm(bias, rows[first:last], others.T)
            # A cell comes first in its own list.
            own = torch.arange(first, last, device=rows.device)
            scores[own - first, own - start[cell]] = -torch.inf
            kept = min(wanted, len(base) - 1)
            columns[first:last, :kept] = base[scores.topk(kept, dim=1).indices]
        if progress is not None:
            progress((cell + 1) / len(cells))
    return columns


def _needed_probes(cells: Cells, nearest: Tensor, sample: Tensor, truth: Tensor) -> int:
    """How many cells hold enough of the true neighbours of a sample, and k rows at least."""
    device, rows = nearest.device, int(cells.start[-1])
    cell_of = torch.bucketize(torch.arange(rows, device=device), cells.start[1:], right=True)
    rank = torch.empty_like(nearest)
    rank.scatter_(1, nearest, torch.arange(len(cells), device=device).expand_as(nearest))
    needed = rank[cell_of[sample][:, None], cell_of[truth]].flatten().sort().values
    probes = int(needed[int(_AIM * (len(needed) - 1))]) + 1
    sizes = cells.start.diff()[nearest].cumsum(dim=1)
    enough = int((sizes <= truth.shape[1]).sum(dim=1).max()) + 1
    return min(len(cells), max(probes, enough))


def _nearest_of(rows: Tensor, chosen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of some rows by brute force: columns and -distance²/2 + a constant."""
    half = rows.square().sum(dim=1) / 2
    columns, values = [], []
    for part in torch.split(chosen, _QUERIES // 4):
        scores = torch.addmm(-half, rows[part], rows.T)
        scores[torch.arange(len(part), device=rows.device), part] = -torch.inf
        top = scores.topk(k, dim=1)
        columns.append(top.indices)
        values.append(top.values)
    return torch.cat(columns), torch.cat(values)


def _measure_recall(stored: Tensor, distances: Tensor, seed: int) -> tuple[float, int]:
    """Share of true neighbours in a graph, on rows drawn anew; equal distances are equal."""
    n, k = distances.shape
    sample = _draw(n, seed).to(stored.device)
    units = _centred(stored)
    truth, _ = _nearest_of(units, sample, min(k + _SPARE, n - 1))
    del units
    _, exact = refine(stored, truth, k, sample)
    found = distances[sample] <= exact[:, -1:] * (1 + 1e-9) + 1e-12
    return float(found.double().mean()), len(sample)


def _draw(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:_SAMPLE]


def refine(
    stored: Tensor, candidates: Tensor, k: int, chosen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Order candidates by their cosine distance in float64 and keep the nearest k.

    Parameters
    ----------
    stored
        ``(n, d)``, vectors as stored.
    candidates
        int64 ``(m, c)``; -1 is no candidate.
    k
        At most c.
    chosen
        int64 ``(m,)``: the row that each line belongs to; None if they are all rows in order.

    Returns
    -------
    tuple
        Columns int64 ``(m, k)`` and distances float64 ``(m, k)``; distance 2 and column -1 where
        there are too few candidates.
    """
    count = len(candidates)
    indices = torch.empty((count, k), dtype=torch.int64, device=stored.device)
    distances = torch.empty((count, k), dtype=torch.float64, device=stored.device)
    norms = torch.cat(
        [torch.linalg.vector_norm(stored[p].double(), dim=1) for p in _parts(len(stored), 8192)]
    )
    every = torch.arange(count, device=stored.device) if chosen is None else chosen
    for part in _parts(count, _CHUNK[stored.device.type]):
        own, other = every[part], candidates[part]
        # By way of float32: from half precision straight to float64 takes twice as long.
        near = stored.index_select(0, other.clamp(min=0).flatten()).float().double()
        near = near.view(*other.shape, -1)
        products = torch.bmm(near, stored[own].double()[:, :, None])[:, :, 0]
        distance = 1 - products / (norms[own][:, None] * norms[other])
        distance = distance.clamp_(min=0).masked_fill_(other < 0, 2.0)
        nearest = distance.sort(dim=1, stable=True)
        distances[part] = nearest.values[:, :k]
        indices[part] = other.gather(1, nearest.indices[:, :k])
    return indices, distances


def _parts(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
