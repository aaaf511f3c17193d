"""Networks on images learn what the pixels show."""

from __future__ import annotations

import numpy as np
import pytest

from astropt_db.predict.cnn import CnnName, CnnSettings, train_cnn
from astropt_db.predict.tasks import TASKS


def blobs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of 36 x 36 pixels whose blob is wider for larger values; two bands."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.1, 1.0, n).astype(np.float32)
    y, x = np.mgrid[:36, :36] - 17.5
    width = (2 + 6 * z)[:, None, None]
    image = np.exp(-0.5 * (x**2 + y**2) / width**2)
    noise = 0.02 * rng.normal(size=(n, 2, 36, 36))
    return (image[:, None] + noise).astype(np.float32), z[:, None]


@pytest.mark.parametrize("name", ["paper_cnn", pytest.param("resnet", marks=pytest.mark.slow)])
def test_values_are_learned_from_pixels(name: CnnName) -> None:
    images, targets = blobs(96, 1)
    new, truth = blobs(40, 2)
    settings = CnnSettings(steps=40, most_epochs=14, batch=16)
    columns = train_cnn(name, TASKS["photoz"], images, targets, new, 0, settings)
    assert np.corrcoef(columns["z_median"], truth[:, 0])[0, 1] > 0.8


def test_gaps_and_classes_have_their_columns() -> None:
    images, _ = blobs(24, 3)
    images[0, 0, :5] = np.nan
    settings = CnnSettings(paper_epochs=1, steps=2, most_epochs=1)
    classes = np.eye(4, dtype=np.float32)[np.arange(24) % 4]
    found = train_cnn("resnet", TASKS["object_class"], images, classes, images, 0, settings)
    assert sum(found.values()) == pytest.approx(np.ones(24), abs=1e-5)
    shapes = np.full((24, 8), np.nan, np.float32)
    shapes[:, 0] = np.arange(24) % 2
    found = train_cnn("paper_cnn", TASKS["morphology"], images, shapes, images, 0, settings)
    assert set(found) == set(TASKS["morphology"].outputs)
    assert np.isfinite(found["smooth"]).all()
