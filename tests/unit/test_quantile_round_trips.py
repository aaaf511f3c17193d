"""Stored quantiles tell the whole distribution: to a density, to its integral, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from astropt_db.predict.mixture import (
    GRID,
    PROBABILITIES,
    Mixture,
    summarise,
    target_grid,
)
from astropt_db.predict.recalibration import Recalibration, fit_recalibration

LEVELS = np.asarray(PROBABILITIES)
COMPONENTS = 3
TRAINED_ON = np.array([0.0, 3.0])
STEP = np.ptp(target_grid(TRAINED_ON)) / (GRID - 1)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Some sources, with components anywhere in the range of the training set."""
    shape = (draw(st.integers(1, 5)), COMPONENTS)
    weight = draw(arrays.arrays(np.float32, shape, elements=st.floats(1 / 64, 1, width=32)))
    centre = draw(arrays.arrays(np.float32, shape, elements=st.floats(0, 3, width=32)))
    scale = draw(arrays.arrays(np.float32, shape, elements=st.floats(1 / 64, 0.5, width=32)))
    return Mixture(weight / weight.sum(axis=1, keepdims=True), centre, scale)


@st.composite
def calibrations(draw: st.DrawFn) -> Recalibration:
    """From too few sources to calibrate on to some hundred, of heads that are wrong."""
    size = draw(st.integers(0, 300))
    power = draw(st.floats(0.3, 3))
    return fit_recalibration(np.random.default_rng(size).random(size) ** power)


@given(mixtures(), calibrations())
@settings(max_examples=100, deadline=None)
def test_quantiles_to_density_to_quantiles(mixture: Mixture, calibration: Recalibration) -> None:
    stored = summarise(mixture, target_grid(TRAINED_ON), calibration).quantiles
    assert stored.dtype == np.float32
    assert (np.diff(stored, axis=1) >= 0).all()
    for quantiles in stored.astype(np.float64):
        # Where two coincide, more probability lies at one value than a density can say.
        rising = np.concatenate([[True], np.diff(quantiles) > 1e-6])
        values, levels = quantiles[rising], LEVELS[rising]
        density = np.diff(levels) / np.diff(values)
        assert (density > 0).all()
        integral = levels[0] + np.concatenate([[0.0], np.cumsum(density * np.diff(values))])
        np.testing.assert_allclose(integral, levels, atol=1e-9)
        between = np.linspace(values[0], values[-1], 50)
        there = np.interp(between, values, integral)
        np.testing.assert_allclose(np.interp(there, levels, values), between, atol=1e-6)
        np.testing.assert_allclose(np.interp(levels, integral, values), values, atol=1e-6)


@given(mixtures(), calibrations())
@settings(max_examples=100, deadline=None)
def test_the_distribution_at_its_quantiles_has_their_probabilities(
    mixture: Mixture, calibration: Recalibration
) -> None:
    grid = target_grid(TRAINED_ON)
    stored = summarise(mixture, grid, calibration).quantiles
    wanted = calibration.to_predicted(LEVELS)
    for k, probability in enumerate(wanted):
        # Linear between points of the grid: never off by more than a step.
        below = mixture.cdf(stored[:, k] - np.float32(1.01 * STEP))
        above = mixture.cdf(stored[:, k] + np.float32(1.01 * STEP))
        inside = (stored[:, k] > grid[0] + STEP) & (stored[:, k] < grid[-1] - STEP)
        assert (below[inside] <= probability + 1e-5).all()
        assert (above[inside] >= probability - 1e-5).all()
