"""Batches of windows for pre-training: shuffled, the same at every reading, in bounded memory.

Sources of one tile are read in the tile's own order and in bulk, because single windows of a
mosaic of 1.5 GB would each cost a seek. So an epoch is a shuffled list of small runs of sources;
as many runs as fit into memory make a pool; batches are drawn across the pool. Everything is a
function of the seed and of the batch's number, so that a run continues anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astropt_db.astropt.pretrain import Batch
from astropt_db.errors import ConfigurationError
from astropt_db.images.source import WINDOW, ImageSource

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_RUN = 256
"""Sources read together, neighbours in their mosaic."""
_READ = 64


@dataclass(frozen=True)
class Part:
    """Sources that one image source (a tile, a folder of cut-outs) has windows of.

    Attributes
    ----------
    images
        Where the windows are; made with ``fill=nan``, so that missing pixels leave the loss.
    object_id, ra, dec
        int64 and float64 ``(n,)``, degrees.
    sed
        float32 ``(n, 8, 2)``, or None for encoders without SEDs.
    turn
        int64 ``(n,)``: the source is in every k-th epoch only; 1 for all. Sources that are mostly
        noise teach little, and most sources of a survey are.
    """

    images: ImageSource
    object_id: Int64
    ra: Float64
    dec: Float64
    sed: Float32 | None
    turn: Int64

    def __len__(self) -> int:
        return len(self.object_id)


@dataclass(frozen=True)
class _Pool:
    """Windows in memory, bfloat16 ``(n, bands, 224, 224)``, which training's noise hides."""

    pixels: Tensor
    sed: Tensor | None


class TrainingImages:
    """A :class:`~astropt_db.astropt.pretrain.Source` of windows.

    Parameters
    ----------
    parts
        The sources, at least a batch of them.
    size
        Sources in a batch.
    seed
        Of order and orientation.
    memory
        Bytes that the windows of one pool may take, over all processes together.
    turned
        Turn and mirror every window at random: a galaxy has no up.
    rank, world
        This process and the number of processes that share the batches among them.

    Raises
    ------
    ConfigurationError
        If an epoch has less than one batch for every process.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        size: int,
        seed: int = 0,
        memory: int = 4 << 30,
        turned: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.parts = [part for part in parts if len(part)]
        self.size, self.seed, self.turned = size, seed, turned
        self.rank, self.world = rank, world
        sources = sum(len(part) for part in self.parts)
        if not self.parts or sources < size * world:
            raise ConfigurationError(
                f"{sources:,} sources have images for this; a batch needs {size * world:,}. "
                "Register mosaics or cut-outs, loosen the condition, or make batches smaller."
            )
        bands = len(self.parts[0].images.bands)
        fitting = memory // (bands * WINDOW * WINDOW * 2)
        # Whole batches, and at least one for each process.
        self._pool_size = max(fitting // size, world) * size
        self._loaded: tuple[bytes, _Pool] | None = None

    def __len__(self) -> int:
        """Sources in all epochs together."""
        return sum(len(part) for part in self.parts)

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield this process's batch number `start` and all later ones."""
        number = start * self.world + self.rank
        passed, epoch = 0, 0
        while True:
            pools = self._pools(epoch)
            counts = [len(pool) // self.size for pool in pools]
            if not sum(counts):
                raise ConfigurationError(f"epoch {epoch + 1} has less than one batch of sources.")
            for pool, count in zip(pools, counts, strict=True):
                if number < passed + count:
                    yield from self._of_pool(pool, number - passed, passed)
                    # The next batch of this process, counted from the end of the pool.
                    number += -(-(passed + count - number) // self.world) * self.world
                passed += count
            epoch += 1

    def _pools(self, epoch: int) -> list[Int64]:
        """Split an epoch's sources, ``(part, source)`` ``(n, 2)``, into pools."""
        rng = np.random.default_rng([self.seed, 1, epoch])
        runs = [
            np.stack([np.full(len(some), index), some], axis=1)
            for index, part in enumerate(self.parts)
            for some in _runs(part, epoch)
        ]
        order = np.concatenate([runs[k] for k in rng.permutation(len(runs))])
        pools = [
            order[first : first + self._pool_size]
            for first in range(0, len(order), self._pool_size)
        ]
        return [pool[rng.permutation(len(pool))] for pool in pools]

    def _of_pool(self, pool: Int64, first: int, passed: int) -> Iterator[Batch]:
        count = len(pool) // self.size
        numbers = range(first % self.world, count, self.world)
        mine = pool[: count * self.size].reshape(count, self.size, 2)[numbers]
        windows = self._load(mine.reshape(-1, 2))
        for place in range(first // self.world, len(numbers)):
            rows = slice(place * self.size, (place + 1) * self.size)
            pixels = windows.pixels[rows].float()
            if self.turned:
                rng = np.random.default_rng([self.seed, 2, passed + numbers[place]])
                pixels = turn(pixels, rng.integers(0, 8, self.size))
            yield Batch(pixels, None if windows.sed is None else windows.sed[rows])

    def _load(self, wanted: Int64) -> _Pool:
        """Windows of ``(part, source)``, in this order."""
        key = wanted.tobytes()
        if self._loaded is not None and self._loaded[0] == key:
            return self._loaded[1]
        self._loaded = None  # before the next takes its place in memory
        bands = self.parts[0].images.bands
        pixels = torch.empty((len(wanted), len(bands), WINDOW, WINDOW), dtype=torch.bfloat16)
        first = self.parts[0].sed
        sed = None if first is None else torch.empty((len(wanted), *first.shape[1:]))
        for index in np.unique(wanted[:, 0]):
            part, rows = self.parts[index], np.flatnonzero(wanted[:, 0] == index)
            some = wanted[rows, 1]
            chosen = part.object_id[some], part.ra[some], part.dec[some]
            for places, cutouts in part.images.batches(*chosen, _READ):
                pixels[rows[places]] = torch.from_numpy(cutouts.pixels).to(torch.bfloat16)
            if sed is not None and part.sed is not None:
                sed[rows] = torch.from_numpy(part.sed[some])
        self._loaded = (key, _Pool(pixels, sed))
        return self._loaded[1]


def turn(pixels: Tensor, how: Int64) -> Tensor:
    """Turn images ``(n, bands, side, side)`` by ``how % 4`` right angles, mirrored from 4 on."""
    result = torch.empty_like(pixels)
    for kind in np.unique(how):
        chosen = torch.from_numpy(np.flatnonzero(how == kind))
        some = torch.rot90(pixels[chosen], int(kind) % 4, (2, 3))
        result[chosen] = some.flip(3) if kind >= 4 else some
    return result


def _runs(part: Part, epoch: int) -> list[Int64]:
    """The part's sources of an epoch, in reading order, in runs of neighbours."""
    order = part.images.reading_order(part.object_id, part.ra, part.dec)
    place = np.arange(len(order))
    order = order[(place + epoch) % part.turn[order] == 0]
    return [order[first : first + _RUN] for first in range(0, len(order), _RUN)]
