"""Distributions: quantiles, recalibration, and what qp reads back."""

from __future__ import annotations

import numpy as np
import pytest
import qp
from scipy.stats import logistic

from astropt_db.predict import metrics
from astropt_db.predict.mixture import (
    PROBABILITIES,
    Mixture,
    probability_between,
    summarise,
    target_grid,
)
from astropt_db.predict.recalibration import Recalibration, fit_recalibration

IDENTITY = Recalibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def one_component(centre: np.ndarray, scale: np.ndarray) -> Mixture:
    return Mixture(
        np.ones((len(centre), 1), np.float32),
        centre[:, None].astype(np.float32),
        scale[:, None].astype(np.float32),
    )


def test_quantiles_of_one_component_are_the_logistic_ones() -> None:
    centre, scale = np.linspace(-1, 1, 50), np.full(50, 0.1)
    summary = summarise(one_component(centre, scale), target_grid(np.array([-2.0, 2.0])), IDENTITY)
    expected = logistic.ppf(np.asarray(PROBABILITIES), centre[:, None], scale[:, None])
    np.testing.assert_allclose(summary.quantiles, expected, atol=0.01)
    np.testing.assert_allclose(summary.mode, centre, atol=0.02)
    assert (np.diff(summary.quantiles, axis=1) >= 0).all()


def test_a_mixture_of_two_has_the_mode_of_its_higher_peak() -> None:
    weight = np.array([[0.7, 0.3]], np.float32)
    both = Mixture(weight, np.array([[-1, 1]], np.float32), np.full((1, 2), 0.05, np.float32))
    summary = summarise(both, target_grid(np.array([-2.0, 2.0])), IDENTITY)
    assert summary.mode[0] == pytest.approx(-1, abs=0.03)
    low, high = np.array([0.5], np.float32), np.array([1.5], np.float32)
    assert probability_between(both, low, high, IDENTITY)[0] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_recalibration_mends_widths_that_are_wrong(factor: float) -> None:
    """Errors are logistic with scale 0.1; the head says ``factor`` times that."""
    rng = np.random.default_rng(1)
    centre = rng.normal(size=4000)
    truth = logistic.rvs(centre, 0.1, random_state=rng)
    found = one_component(centre, np.full(4000, 0.1 * factor))
    known, new = slice(0, 2000), slice(2000, None)
    calibration = fit_recalibration(found.take(known).cdf(truth[known].astype(np.float32)))
    summary = summarise(found.take(new), target_grid(truth), calibration)
    pit = calibration.to_true(found.take(new).cdf(truth[new].astype(np.float32)))
    figures = metrics.density_metrics(truth[new], summary.quantiles, pit)
    assert figures["coverage_68"] == pytest.approx(68, abs=3)
    assert figures["coverage_95"] == pytest.approx(95, abs=2)
    assert figures["pit_ks"] < 0.05
    assert abs(figures["pit_slope"]) < 0.05


def test_crps_is_that_of_the_known_distribution() -> None:
    """Of a standard logistic forecast, 2 * integral of the pinball loss over all levels."""
    rng = np.random.default_rng(2)
    truth = logistic.rvs(size=20_000, random_state=rng)
    quantiles = np.tile(logistic.ppf(np.asarray(PROBABILITIES)), (len(truth), 1))
    found = metrics.density_metrics(truth, quantiles, logistic.cdf(truth))
    assert found["crps"] == pytest.approx(1.0, abs=0.03)  # E|X - X'|/2 of the standard logistic


def test_too_few_to_calibrate_on_change_nothing() -> None:
    calibration = fit_recalibration(np.array([0.2, 0.4]))
    np.testing.assert_array_equal(calibration.to_true(np.array([0.1, 0.9])), [0.1, 0.9])


def test_qp_reads_the_quantiles_back() -> None:
    centre, scale = np.array([0.5, 1.0]), np.array([0.03, 0.06])
    summary = summarise(one_component(centre, scale), target_grid(np.array([0.0, 2.0])), IDENTITY)
    ensemble = qp.Ensemble(
        qp.quant, data={"quants": np.asarray(PROBABILITIES), "locs": summary.quantiles}
    )
    np.testing.assert_allclose(ensemble.median().ravel(), centre, atol=0.01)
    np.testing.assert_allclose(
        ensemble.ppf(0.84).ravel(), logistic.ppf(0.84, centre, scale), atol=0.01
    )


def test_metrics_are_the_papers() -> None:
    truth = np.array([0.5, 1.0, 1.5, 0.2])
    predicted = np.array([0.53, 0.9, 1.5, 0.5])
    deviation = np.array([0.03 / 1.5, -0.05, 0.0, 0.25])
    found = metrics.number_metrics(truth, predicted, 1 + truth, 0.15)
    assert found["bias"] == pytest.approx(deviation.mean())
    median = np.median(deviation)
    assert found["nmad"] == pytest.approx(1.48 * np.median(np.abs(deviation - median)))
    assert found["outlier_percent"] == 25.0
    exactly = metrics.number_metrics(np.zeros(2), np.array([0.15, 0.1]), 1.0, 0.15)
    assert exactly["outlier_percent"] == 50.0
    binary = metrics.binary_metrics(np.array([1, 1, 0, 0], bool), np.array([0.9, 0.2, 0.6, 0.1]))
    assert (binary["accuracy"], binary["precision"], binary["fpr"]) == (0.5, 0.5, 0.5)
    assert binary["roc_auc"] == 0.75
