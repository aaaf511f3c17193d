"""Batches for pre-training: the same at every reading, whoever reads them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from astropt_db.encoders.training_images import Part, TrainingImages, turn
from astropt_db.errors import ConfigurationError
from astropt_db.images.source import WINDOW, Cutouts, ImageSource

MEGABYTE = 1 << 20


class Numbered(ImageSource):
    """Windows whose pixels are their source's number."""

    def __init__(self) -> None:
        super().__init__(("VIS",), np.nan)
        self.read = 0

    def cutouts(self, object_id, ra, dec, out=None):
        self.read += len(object_id)
        pixels = np.empty((len(object_id), 1, WINDOW, WINDOW), np.float32)
        pixels[:] = object_id[:, None, None, None]
        zeros = np.zeros((len(object_id), 1), np.float32)
        return Cutouts(object_id, pixels, zeros, np.zeros(len(object_id), np.uint8))


def part(first: int, last: int, every: int = 1) -> Part:
    ids = np.arange(first, last)
    sed = np.broadcast_to(ids[:, None, None], (len(ids), 8, 2)).astype(np.float32)
    return Part(Numbered(), ids, ids * 1.0, ids * 1.0, sed, np.full(len(ids), every))


def numbers(source: TrainingImages, start: int, count: int) -> list[list[int]]:
    found = []
    for batch in islice(source.batches(start), count):
        assert batch.images.dtype == torch.float32
        ids = batch.images[:, 0, 0, 0].int()
        assert batch.sed is not None
        assert batch.sed[:, 0, 0].int().tolist() == ids.tolist()
        found.append(ids.tolist())
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [one for batch in batches for one in batch]


def source(**options) -> TrainingImages:
    # Room for 40 windows in a pool, so that an epoch takes several.
    options = {"size": 5, "seed": 3, "memory": 4 * MEGABYTE, **options}
    return TrainingImages([part(0, 70), part(70, 130), part(130, 130)], **options)


def test_an_epoch_sees_every_source_once_in_another_order_each_time() -> None:
    everything = numbers(source(), 0, 52)
    first, second = flat(everything[:26]), flat(everything[26:])
    assert sorted(first) == sorted(second) == list(range(130))
    assert first != second
    assert first[:5] != sorted(first[:5])


@pytest.mark.parametrize("start", [1, 7, 8, 25, 26, 40])
def test_it_continues_anywhere(start: int) -> None:
    assert numbers(source(), start, 15) == numbers(source(), 0, start + 15)[start:]
    turned = zip(source().batches(start), islice(source().batches(0), start, None), strict=False)
    one, other = next(turned)
    assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches(world: int) -> None:
    alone = numbers(source(), 0, 36)
    shares = [numbers(source(rank=rank, world=world), 0, 12) for rank in range(world)]
    together = [batch for batches in zip(*shares, strict=True) for batch in batches]
    assert together == alone[: len(together)]


def test_some_sources_take_turns() -> None:
    mixed = TrainingImages([part(0, 20), part(20, 60, every=4)], 5, seed=1)
    epochs = [flat(numbers(mixed, 6 * epoch, 6)) for epoch in range(4)]
    for epoch in epochs:
        assert sum(one < 20 for one in epoch) == 20
    assert sorted(one for epoch in epochs for one in epoch if one >= 20) == list(range(20, 60))


def test_windows_stay_in_memory_while_they_are_wanted() -> None:
    images = Numbered()
    ids = np.arange(10)
    fixed = TrainingImages(
        [Part(images, ids, ids * 1.0, ids * 1.0, None, np.ones(10, int))], 5, turned=False
    )
    for _ in range(3):
        next(fixed.batches(0))
    assert images.read == 10


def test_the_eight_orientations() -> None:
    pixels = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1)
    turned = turn(pixels, np.arange(8))
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8
    assert torch.equal(turned[0], pixels[0])
    assert (turned[:, 0, 1, 1] == 4).all()


def test_too_few_sources_are_named() -> None:
    with pytest.raises(ConfigurationError, match="3 sources have images for this; a batch needs 8"):
        TrainingImages([part(0, 3)], 4, world=2)
    with pytest.raises(ConfigurationError, match="epoch 1 has less than one batch"):
        next(TrainingImages([part(0, 8, every=4)], 4).batches(0))
