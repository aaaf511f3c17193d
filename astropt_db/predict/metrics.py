"""Figures of merit: the paper's definitions (arXiv:2503.15312 and its code), and the field's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from astropt_db.predict.mixture import PROBABILITIES

Array = NDArray[np.floating[Any]]
Metrics = dict[str, float]
PAPER_NMAD = 1.48
OUTLIER_Z = 0.15
OUTLIER_MASS = 0.25


def number_metrics(truth: Array, predicted: Array, scale: Array | float, limit: float) -> Metrics:
    """Bias, scatter and outliers of ``(predicted - truth) / scale``.

    Parameters
    ----------
    truth, predicted
        ``(n,)``.
    scale
        ``1 + truth`` for redshifts (and for the paper's masses), 1 for dex.
    limit
        From which deviation on, inclusive, a source is an outlier.
    """
    deviation = (np.asarray(predicted, np.float64) - truth) / scale
    low, high = np.percentile(deviation, [15.9, 84.1])
    error = np.asarray(predicted, np.float64) - truth
    variance = float(((truth - truth.mean()) ** 2).sum())
    return {
        "bias": float(deviation.mean()),
        "nmad": float(PAPER_NMAD * np.median(np.abs(deviation - np.median(deviation)))),
        "sigma_68": float((high - low) / 2),
        "outlier_percent": float(100 * (np.abs(deviation) >= limit).mean()),
        "mse": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - (error**2).sum() / variance) if variance else float("nan"),
    }


def density_metrics(truth: Array, quantiles: Array, pit: Array) -> Metrics:
    """Coverage of the intervals, uniformity of the PIT, and the CRPS.

    Parameters
    ----------
    truth
        ``(n,)``.
    quantiles
        At :data:`~astropt_db.predict.mixture.PROBABILITIES`, ``(n, k)``.
    pit
        Cumulative probability at the truth, ``(n,)``.
    """
    at = {p: quantiles[:, PROBABILITIES.index(p)] for p in (0.025, 0.16, 0.84, 0.975)}
    levels = np.sort(pit)
    uniform = (np.arange(len(levels)) + 0.5) / len(levels)
    slope = np.polyfit(uniform - 0.5, levels - uniform, 1)[0] if len(levels) > 2 else np.nan
    probabilities = np.asarray(PROBABILITIES)
    error = truth[:, None] - quantiles
    pinball = np.maximum(probabilities * error, (probabilities - 1) * error)
    return {
        "coverage_68": float(100 * ((truth >= at[0.16]) & (truth <= at[0.84])).mean()),
        "coverage_95": float(100 * ((truth >= at[0.025]) & (truth <= at[0.975])).mean()),
        "pit_ks": float(np.abs(levels - uniform).max()),
        "pit_slope": float(slope),
        "crps": float(2 * np.trapezoid(pinball, probabilities, axis=1).mean()),
        "width_68": float(np.median(at[0.84] - at[0.16])),
    }


def binary_metrics(truth: NDArray[np.bool_], probability: Array) -> Metrics:
    """Accuracy, precision, recall, F1, FPR at one half; ROC-AUC; calibration error; Brier score."""
    called = probability >= 0.5
    tp, fp = (float((called & one).sum()) for one in (truth, ~truth))
    fn, tn = (float((~called & one).sum()) for one in (truth, ~truth))
    both = 0 < truth.sum() < len(truth)
    return {
        "accuracy": _ratio(tp + tn, len(truth)),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "fpr": _ratio(fp, fp + tn),
        "roc_auc": float(roc_auc_score(truth, probability)) if both else float("nan"),
        "brier": float(((probability - truth) ** 2).mean()),
        "calibration_error": calibration_error(truth, probability),
        "n_positive": float(truth.sum()),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def reliability(
    truth: Array | NDArray[np.bool_], probability: Array, bins: int = 10
) -> tuple[Array, Array, Array]:
    """Mean prediction, mean truth and number of sources in bins of the prediction."""
    index = np.clip((np.asarray(probability) * bins).astype(int), 0, bins - 1)
    number = np.bincount(index, minlength=bins).astype(np.float64)
    safe = np.maximum(number, 1)
    mean = np.bincount(index, probability, bins) / safe
    share = np.bincount(index, np.asarray(truth, np.float64), bins) / safe
    return mean, share, number


def calibration_error(truth: Array | NDArray[np.bool_], probability: Array) -> float:
    """Expected calibration error over ten bins."""
    mean, share, number = reliability(truth, probability)
    return float((np.abs(mean - share) * number).sum() / max(number.sum(), 1))


def share_metrics(truth: Array, predicted: Array) -> Metrics:
    """Of one vote fraction: its error, and how well half of the votes is recognised."""
    present = np.isfinite(truth)
    some, guess = truth[present], predicted[present]
    if not len(some):
        return {}
    return {
        "rmse": float(np.sqrt(((guess - some) ** 2).mean())),
        **binary_metrics(some >= 0.5, guess),
    }


def class_metrics(truth: NDArray[np.int64], probability: Array, names: tuple[str, ...]) -> Metrics:
    """Accuracy over all classes, and the binary figures of each against the rest."""
    found: Metrics = {"accuracy": float((probability.argmax(axis=1) == truth).mean())}
    for number, name in enumerate(names):
        if (truth == number).any():
            one = binary_metrics(truth == number, probability[:, number])
            found |= {f"{name}.{key}": value for key, value in one.items()}
    return found
