"""Predicted probabilities are put right by sources whose truth is known, few or many."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import kstest, logistic

from astropt_db.predict.features import Batch
from astropt_db.predict.linear import fit_regression
from astropt_db.predict.models import Neighbours
from astropt_db.predict.recalibration import LEAST, MANY, fit_recalibration
from astropt_db.predict.scaling import fit_scaler


def pit_of_a_wrong_head(rng: np.random.Generator, n: int, width: float, shift: float) -> np.ndarray:
    """Errors are logistic with scale 1; the head says `width`, and is off by `shift`."""
    return logistic.cdf(logistic.rvs(size=n, random_state=rng) + shift, scale=width)


@pytest.mark.parametrize("n", [300, 3 * MANY])
@pytest.mark.parametrize(("width", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.7), (0.7, -0.5)])
def test_widths_and_shifts_that_are_wrong_are_mended(n: int, width: float, shift: float) -> None:
    rng = np.random.default_rng(n)
    new = pit_of_a_wrong_head(rng, 20_000, width, shift)
    mended = fit_recalibration(pit_of_a_wrong_head(rng, n, width, shift)).to_true(new)
    assert kstest(new, "uniform").statistic > 0.1
    assert kstest(mended, "uniform").statistic < (0.07 if n < MANY else 0.025)


def test_few_sources_of_a_good_head_hardly_change_it() -> None:
    """The measured distribution of 150 sources is 0.06 away from the true one, this is nearer."""
    changes, measured = [], []
    for seed in range(40):
        pit = np.random.default_rng(seed).random(150)
        found = fit_recalibration(pit).to_true(np.linspace(0, 1, 501))
        changes.append(np.abs(found - np.linspace(0, 1, 501)).max())
        measured.append(kstest(pit, "uniform").statistic)
    assert np.mean(changes) < 0.8 * np.mean(measured)


@pytest.mark.parametrize("n", [0, 1, LEAST - 1, LEAST, 500, MANY, MANY + 1])
def test_maps_rise_from_0_to_1_and_back(n: int) -> None:
    pit = np.random.default_rng(n).random(n) ** 3
    found = fit_recalibration(np.append(pit, np.nan))
    levels = np.linspace(0, 1, 1001)
    there = found.to_true(levels)
    assert there[0] == 0.0
    assert there[-1] == 1.0
    assert (np.diff(there) >= 0).all()
    np.testing.assert_allclose(found.to_true(found.to_predicted(levels)), levels, atol=1e-9)
    if n < LEAST:
        np.testing.assert_array_equal(there, levels)


def test_the_ends_of_the_scale_do_no_harm() -> None:
    found = fit_recalibration(np.repeat([0.0, 0.5, 1.0], 100))
    assert np.isfinite(found.to_true(np.linspace(0, 1, 11))).all()
    assert found.to_true(np.array([0.5]))[0] == pytest.approx(0.5, abs=0.02)
    assert found.to_true(np.array([0.1]))[0] > 0.2  # a third of the truth lies at either end


@pytest.mark.parametrize("n", [60, 600])
def test_fits_to_all_others_judge_a_linear_head_rightly(n: int) -> None:
    """Its own residuals would call it too sure: 40 features fit 60 labels closely."""
    rng = np.random.default_rng(n)
    vectors = rng.standard_normal((n, 40)).astype(np.float16)
    target = vectors[:, 0] + 0.5 * logistic.rvs(size=n, random_state=rng)
    batch = Batch(np.arange(n, dtype=np.int64), vectors, np.empty((n, 0), np.float32))
    scaler = fit_scaler(batch)
    head, others, _ = fit_regression(batch, scaler, target, rng)
    assert others is not None
    by_others = expit((target - others[:, 1]) / np.exp(others[:, 2]))
    inside = np.abs(by_others - 0.5) < 0.34
    assert inside.mean() == pytest.approx(0.68, abs=0.08 if n < 100 else 0.04)
    raw = scaler(batch) @ head.weight + head.bias
    own = expit((target - raw[:, 1]) / np.exp(raw[:, 2]))
    assert np.abs(logit(own)).mean() < np.abs(logit(by_others)).mean()


def test_neighbours_judge_examples_without_themselves() -> None:
    """An example that counted itself among its neighbours would seem foreseen too well."""
    rng = np.random.default_rng(3)
    n = 400
    values = rng.standard_normal((n, 3)).astype(np.float32)
    places = rng.standard_normal((n, 4)).astype(np.float32)
    head = Neighbours(np.eye(4, dtype=np.float32), places, values, 5, keep=True)
    rows = np.array([7, 0, 399])
    found = head.others(rows).reshape(3, 5, 3)
    for row, mine in zip(rows, found, strict=True):
        distance = np.linalg.norm(places - places[row], axis=1)
        nearest = np.argsort(distance)[1:6]
        np.testing.assert_array_equal(np.sort(mine, axis=0), np.sort(values[nearest], axis=0))
