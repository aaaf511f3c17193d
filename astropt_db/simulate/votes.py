"""Zoobot answers: Dirichlet concentrations of the Galaxy Zoo questions for bright galaxies.

Q1 holds concentrations, not fractions: per question they sum to about 50-120. Here the expected
fractions follow from the true shape; the concentrations scatter about them as votes would, and
a network's doubt is added for small galaxies. Eleven of 128 real rows hold zeros throughout,
so a few do here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

BRIGHT_MAGNITUDE = 20.5
LARGE_AREA = 1200
"""Answers exist for sources brighter than this in VIS, or larger than this in pixels."""

_EMPTY_SHARE = 0.04
_BULGE_SIZES = ("NONE", "SMALL", "MODERATE", "LARGE", "DOMINANT")
_MEAN_SUMS = {
    "SMOOTH_OR_FEATURED": 85.0,
    "DISK_EDGE_ON": 94.0,
    "HAS_SPIRAL_ARMS": 93.0,
    "BAR": 53.0,
    "BULGE_SIZE": 110.0,
    "HOW_ROUNDED": 62.0,
    "EDGE_ON_BULGE": 105.0,
    "SPIRAL_WINDING": 74.0,
    "SPIRAL_ARM_COUNT": 106.0,
    "MERGING": 112.0,
}
"""Median sum of the concentrations of each question, over 117 real galaxies of EDF-F."""


def draw_votes(
    truth: pd.DataFrame, radius: Float64, asked: Bool, random: np.random.Generator
) -> dict[str, Float64]:
    """Columns of the morphology catalogue, NaN where a source was not asked about.

    Parameters
    ----------
    truth
        Rows of a scene's truth, ``n``.
    radius
        Measured half-light radius, arcsec, shape ``(n,)``; small ones are harder to see.
    asked
        Which sources have answers, shape ``(n,)``.
    random
        Source of the scatter.
    """
    blur = 1.0 / (1.0 + (np.nan_to_num(radius, nan=0.2) / 0.45) ** 2)
    empty = random.random(len(truth)) < _EMPTY_SHARE
    columns: dict[str, Float64] = {}
    for question, answers in _expected(truth, blur).items():
        fractions = np.stack(list(answers.values()), axis=1)
        fractions = np.maximum(fractions, 0.004)
        fractions /= fractions.sum(axis=1, keepdims=True)
        shares = random.gamma(14.0 * fractions + 0.05)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
        total = _MEAN_SUMS[question] * np.exp(0.10 * random.standard_normal((len(truth), 1)))
        # A network's concentration per answer does not fall below one.
        values = 1.0 + shares * total
        values = np.where(empty[:, None], 0.0, values)
        for index, answer in enumerate(answers):
            columns[f"{question}_{answer}"] = np.where(asked, values[:, index], np.nan)
    return columns


def _expected(truth: pd.DataFrame, blur: Float64) -> dict[str, dict[str, Float64]]:
    """Expected fraction of each answer by question."""
    return _overall(truth, blur) | _details(truth, 1.0 - 0.75 * blur)


def _is(truth: pd.DataFrame, *names: str) -> Float64:
    """1 for the named morphologies, else 0."""
    return truth["morphology"].isin(names).to_numpy().astype(np.float64)


def _overall(truth: pd.DataFrame, blur: Float64) -> dict[str, dict[str, Float64]]:
    """Questions that are asked of every galaxy."""
    visible = 0.92 * _is(truth, "spiral", "barred_spiral") + 0.9 * _is(truth, "edge_on", "ring")
    visible = visible + 0.75 * _is(truth, "irregular", "merger")
    featured = 0.06 + (1.0 - 0.75 * blur) * visible + 0.2 * _is(truth, "lenticular")
    featured = np.where(truth["kind"] != "galaxy", 0.05, np.clip(featured, 0.02, 0.97))
    edge = np.clip(0.03 + 0.9 * _is(truth, "edge_on") * (1.0 - 0.4 * blur), 0.0, 0.97)
    merging = np.clip(0.04 + 0.72 * _is(truth, "merger") * (1.0 - 0.6 * blur), 0.0, 0.95)
    ratio = truth["axis_ratio"].to_numpy()
    odd = _is(truth, "irregular", "ring")
    return {
        "SMOOTH_OR_FEATURED": {"SMOOTH": 1.0 - featured, "FEATURED_OR_DISK": featured},
        "DISK_EDGE_ON": {"YES": edge, "NO": 1.0 - edge},
        "HOW_ROUNDED": {
            "IN_BETWEEN": np.clip(0.2 + ratio, 0.05, 0.95),
            "CIGAR_SHAPED": np.clip(0.9 - 1.6 * ratio, 0.03, 0.9),
        },
        "MERGING": {
            "NONE": 0.9 * (1.0 - merging) - 0.1 * odd,
            "MINOR_DISTURBANCE": 0.1 + 0.15 * (odd + _is(truth, "merger")),
            "MAJOR_DISTURBANCE": 0.02 + 0.35 * merging,
            "MERGER": 0.01 + merging,
        },
    }


def _details(truth: pd.DataFrame, clarity: Float64) -> dict[str, dict[str, Float64]]:
    """Questions about bulge, bar and arms."""
    spiral = _is(truth, "spiral", "barred_spiral") * clarity
    arms = np.clip(0.05 + 0.9 * spiral, 0.0, 0.97)
    bar = np.clip(0.10 + 0.75 * (truth["bar_length"].to_numpy() > 0) * clarity, 0.0, 0.95)
    bulge = truth["bulge_fraction"].to_numpy()
    steps = np.array([0.02, 0.10, 0.22, 0.45, 0.75])
    sizes = np.exp(-0.5 * ((bulge[:, None] - steps) / 0.11) ** 2) + 0.02
    pitch = np.degrees(truth["pitch"].to_numpy())
    windings = np.exp(-0.5 * ((pitch[:, None] - [12.0, 19.0, 26.0]) / 4.5) ** 2) + 0.03
    number = truth["arm_number"].to_numpy()
    few = np.full(len(truth), 0.03)
    return {
        "HAS_SPIRAL_ARMS": {"YES": arms, "NO": 1.0 - arms},
        "BAR": {"STRONG": 0.6 * bar, "WEAK": 0.4 * bar, "NO": 1.0 - bar},
        "BULGE_SIZE": dict(zip(_BULGE_SIZES, sizes.T, strict=True)),
        "EDGE_ON_BULGE": {
            "ROUNDED": 0.3 + 2.0 * bulge,
            "NONE": np.clip(0.6 - 2.0 * bulge, 0.03, 1.0),
            "BOXY": few + 0.05,
        },
        "SPIRAL_WINDING": dict(zip(("TIGHT", "MEDIUM", "LOOSE"), windings.T, strict=True)),
        "SPIRAL_ARM_COUNT": {
            **{str(count): 0.05 + 0.7 * spiral * (number == count) for count in (1, 2, 3, 4)},
            "MORE_THAN_4": few,
            "CANT_TELL": 0.08 + 0.8 * (1.0 - spiral),
        },
    }
