"""Heads without a database: members weighted by CRPS, cross-fitting, few labels, folded scales."""

from __future__ import annotations

import numpy as np
import pytest

from astropt_db.predict.directions import find_directions
from astropt_db.predict.features import Batch
from astropt_db.predict.fitting import Labelled, fit
from astropt_db.predict.mixture import Mixture
from astropt_db.predict.mlp import Settings
from astropt_db.predict.models import raw_output
from astropt_db.predict.pooling import choose_weights
from astropt_db.predict.predictor import from_bytes, to_bytes
from astropt_db.predict.scaling import fit_scaler
from astropt_db.predict.tasks import TASKS

QUICK = Settings(epochs=3, widths=(16, 8), members=2)


def draw(n: int, noise_only: bool = False) -> Labelled:
    """Redshifts that fluxes tell; embeddings tell of them too, or nothing at all."""
    rng = np.random.default_rng(4)
    z = rng.uniform(0.1, 1.5, n)
    vectors = rng.normal(size=(n, 24)) + 3
    if not noise_only:
        vectors += z[:, None] * rng.normal(size=24)
    flux = 10 ** (z[:, None] * np.linspace(-1, 1, 10)) + rng.normal(0, 0.05, (n, 10))
    flux[rng.random(flux.shape) < 0.05] = np.nan
    batch = Batch(np.arange(n), vectors.astype(np.float16), flux.astype(np.float32))
    return Labelled(batch, z[:, None].astype(np.float32))


def some(labelled: Labelled, first: int, last: int) -> Labelled:
    return labelled.take(slice(first, last))


@pytest.mark.parametrize("head", ["linear", "mlp", "knn"])
@pytest.mark.parametrize("calibration", [0, 5])
def test_few_labels_are_all_learned_from(head: str, calibration: int) -> None:
    data = draw(60)
    fitted = fit(
        TASKS["photoz"], head, some(data, 0, 30), some(data, 30, 30 + calibration), 0, QUICK
    )
    columns = fitted.predictor.predict(data.batch)
    assert np.isfinite(columns["z_quantiles"]).all()
    joined = fit(TASKS["photoz"], head, some(data, 0, 30 + calibration), some(data, 0, 0), 0, QUICK)
    again = joined.predictor.predict(data.batch)
    np.testing.assert_array_equal(columns["z_median"], again["z_median"])


def test_scales_folded_into_the_first_product_change_nothing() -> None:
    data = draw(400)
    for head in ("linear", "mlp", "knn"):
        predictor = fit(
            TASKS["photoz"], head, some(data, 0, 250), some(data, 250, 400), 0, QUICK
        ).predictor
        slow = raw_output(predictor.model, predictor.scaler(data.batch))
        np.testing.assert_allclose(predictor.raw(data.batch), slow, rtol=1e-3, atol=1e-3)
        copy = from_bytes(predictor.task, to_bytes(predictor))
        for name, column in predictor.predict(data.batch).items():
            np.testing.assert_array_equal(copy.predict(data.batch)[name], column)


def test_blocks_of_any_size_give_the_same_rows() -> None:
    data = draw(2500)
    predictor = fit(
        TASKS["photoz"], "linear", some(data, 0, 300), some(data, 300, 500), 0
    ).predictor
    whole = predictor.predict(data.batch)
    for rows in (slice(0, 1), slice(1023, 1025), slice(2000, 2500)):
        part = predictor.predict(data.batch.take(rows))
        np.testing.assert_allclose(part["z_median"], whole["z_median"][rows], rtol=1e-4)


def one(centre: np.ndarray, scale: float) -> Mixture:
    n = len(centre)
    return Mixture(
        np.ones((n, 1), np.float32),
        centre[:, None].astype(np.float32),
        np.full((n, 1), scale, np.float32),
    )


def test_members_that_know_more_count_more() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=600)
    good, bad = truth + rng.normal(0, 0.1, 600), truth + rng.normal(0, 1.0, 600)
    grid = np.linspace(-6, 6, 128, dtype=np.float32)
    weights = choose_weights([one(bad, 0.5), one(good, 0.06), one(np.zeros(600), 0.5)], truth, grid)
    assert weights[1] > 0.9
    assert weights.sum() == pytest.approx(1)
    alike = choose_weights([one(good, 0.06)] * 3, truth, grid)
    np.testing.assert_allclose(alike, 1 / 3, atol=0.01)


def test_values_of_directions_are_those_of_a_regression_that_has_not_seen_them() -> None:
    """Noise explains nothing by cross-fitting, whereas a plain regression flatters itself."""
    for noise_only, least, most in ((True, -0.2, 0.2), (False, 0.8, 1.0)):
        data = draw(150, noise_only)
        scaler, z = fit_scaler(data.batch), data.targets[:, 0]
        target = ((z - z.mean()) / z.std()).astype(np.float32)
        found = find_directions(data.batch, scaler, target, np.random.default_rng(0))
        assert found.weight.shape == (scaler.width, 2)
        assert (found.weight[24:] == 0).all()
        assert least < np.corrcoef(found.values[:, 0], target)[0, 1] < most
