"""What predicted probabilities are worth, from sources that the head has not learned from.

The cumulative distribution of each source at its true value (the probability integral transform,
PIT) would be uniform if a head knew how uncertain it is; the distribution of the PIT that is found
instead corrects every predicted probability (Bordoloi, Lilly & Amara 2010, MNRAS 406, 881;
Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263). Of few sources it is too noisy to be followed, so
they give a smooth curve of three numbers instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LEAST = 20
"""Sources below which nothing is corrected."""
MANY = 1000
"""Sources from which on the measured distribution is followed."""
_KNOTS = 24
_PRIOR = 30.0
"""Inverse variance of the three numbers about those that change nothing."""
_LEAST_PROBABILITY = 1e-5


@dataclass(frozen=True)
class Recalibration:
    """Map between predicted and true cumulative probabilities.

    Attributes
    ----------
    predicted, true
        Knots from 0 to 1, float64 ``(k,)``, both rising.
    """

    predicted: Float64
    true: Float64

    def to_predicted(self, true: Float64) -> Float64:
        """Which predicted probability stands for a true one."""
        return np.interp(true, self.true, self.predicted)

    def to_true(self, predicted: Float64 | Float32) -> Float64:
        """Which true probability a predicted one stands for."""
        return np.interp(predicted, self.predicted, self.true)


def fit_recalibration(pit: Float64) -> Recalibration:
    """The map from the PIT of sources with known truth; the identity if they are too few.

    Parameters
    ----------
    pit
        Predicted cumulative probabilities at the true values, ``(n,)``; NaN is left out.
    """
    pit = pit[np.isfinite(pit)]
    predicted = true = np.empty(0)
    if len(pit) >= LEAST:
        predicted, true = _smooth(pit) if len(pit) < MANY else _measured(pit)
    return Recalibration(
        np.concatenate([[0.0], predicted, [1.0]]), np.concatenate([[0.0], true, [1.0]])
    )


def _measured(pit: Float64) -> tuple[Float64, Float64]:
    """Quantiles of the PIT, and their levels, ``(k,)``."""
    # Closer knots in the tails, where the ends of the 95 % interval are.
    true = (1 - np.cos(np.pi * (np.arange(_KNOTS) + 0.5) / _KNOTS)) / 2
    predicted = np.quantile(np.clip(pit, 1e-6, 1 - 1e-6), true, method="weibull")
    rising = np.concatenate([[True], np.diff(predicted) > 1e-9])
    return predicted[rising], true[rising]


def _smooth(pit: Float64) -> tuple[Float64, Float64]:
    """Points on the most likely curve of beta calibration, ``(k,)``.

    logit T = a ln p - b ln(1 - p) + c (Kull, Silva Filho & Flach 2017, AISTATS) holds the identity
    (1, 1, 0), shifts, and widths that are wrong on either side. ln a, ln b and c have the prior.
    """
    p = np.clip(pit, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    below, above = np.log(p), -np.log1p(-p)

    def minus_log_posterior(numbers: Float64) -> float:
        (a, b), c = np.exp(numbers[:2]), numbers[2]
        logit = a * below + b * above + c
        density = np.log(a / p + b / (1 - p)) - np.logaddexp(0, logit) - np.logaddexp(0, -logit)
        return float(0.5 * _PRIOR * (numbers**2).sum() - density.sum())

    found = minimize(minus_log_posterior, np.zeros(3)).x
    (a, b), c = np.exp(found[:2]), found[2]
    predicted = expit(np.linspace(-8.0, 8.0, 2 * _KNOTS + 1))
    true = expit(a * np.log(predicted) - b * np.log1p(-predicted) + c)
    return predicted, true
