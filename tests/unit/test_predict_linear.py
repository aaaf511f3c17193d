"""Ridge regression of few labels: each source judged by a fit to all others."""

from __future__ import annotations

import numpy as np
import pytest

from astropt_db.predict.linear import PENALTIES, OneLeftOut


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights and constant, the penalty times the number of all sources."""
    mean, offset = x.mean(axis=0), y.mean()
    gram = (x - mean).T @ (x - mean) + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - mean).T @ (y - offset))
    return weights, float(offset - mean @ weights)


@pytest.mark.parametrize(("n", "p"), [(40, 6), (15, 30)])
def test_residuals_are_those_of_fits_without_the_source(n: int, p: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, p)) + 3.0
    y = x[:, 0] - 0.5 * x[:, 1] + 0.3 * rng.standard_normal(n) + 7.0
    weights, constant, residual, penalty = OneLeftOut(x).fit(y)
    assert penalty in PENALTIES
    whole = ridge(x, y, penalty * n)
    np.testing.assert_allclose(weights, whole[0], atol=1e-8)
    assert constant == pytest.approx(whole[1])
    for row in range(n):
        others = np.arange(n) != row
        # The same penalty, not the same per source: closed forms leave it as it is.
        own, offset = ridge(x[others], y[others], penalty * n)
        assert residual[row] == pytest.approx(y[row] - x[row] @ own - offset, rel=1e-6)


def test_a_penalty_that_is_not_worse_by_more_than_chance_is_preferred() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((30, 60))
    noise = rng.standard_normal(30)
    *_, of_noise = OneLeftOut(x).fit(noise)
    *_, of_signal = OneLeftOut(x[:, :4]).fit(x[:, 0] + 0.01 * noise)
    assert of_noise == PENALTIES[-1]
    assert of_signal < 0.01
    y = x[:, 0] + 0.5 * noise
    *_, residual, chosen = OneLeftOut(x).fit(y)
    sizes = {}
    for penalty in PENALTIES:
        left = []
        for row in range(30):
            others = np.arange(30) != row
            own, offset = ridge(x[others], y[others], penalty * 30)
            left.append(abs(y[row] - x[row] @ own - offset))
        sizes[penalty] = np.array(left)
    np.testing.assert_allclose(sizes[chosen], np.abs(residual), rtol=1e-6)
    least = min(sizes.values(), key=np.mean)
    worse = {penalty: size - least for penalty, size in sizes.items()}
    as_good = [k for k, one in worse.items() if one.mean() <= one.std() / np.sqrt(30)]
    assert chosen == max(as_good)
    assert sizes[chosen].mean() > least.mean(), "the case tells both rules apart"
