"""Neighbour graph, detectors and their combination, beside scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from astropt_db.errors import ConfigurationError
from astropt_db.outliers import graph as graphs
from astropt_db.outliers.find import Settings, density_percentile
from astropt_db.outliers.graph import neighbour_graph
from astropt_db.outliers.learn import weigh
from astropt_db.outliers.methods import (
    NEIGHBOURS,
    TREES,
    combine,
    knn_scores,
    local_outlier_factor,
    lof_scores,
    nested_forest_scores,
)


def vectors(n: int, d: int = 24, seed: int = 1) -> np.ndarray:
    """Curved sheet with noise far from the origin, as embeddings are."""
    random = np.random.default_rng(seed)
    sheet = np.tanh(random.normal(size=(n, 5)) @ random.normal(size=(5, d)))
    noise = 0.1 * random.normal(size=(n, d))
    return (sheet + noise + 2 * random.normal(size=d)).astype(np.float16)


def with_duplicates(n: int) -> np.ndarray:
    """Groups of 2, 7 and 80 equal vectors; the last is larger than any number of neighbours."""
    rows = vectors(n)
    rows[:2], rows[10:17], rows[100:180] = rows[0], rows[10], rows[100]
    return rows


def sklearn_lof(rows: np.ndarray, k: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LocalOutlierFactor(n_neighbors=k, metric="cosine", contamination=0.01)
        return -model.fit(rows.astype(np.float64)).negative_outlier_factor_


@pytest.mark.parametrize("block", [64, 2048])
@pytest.mark.parametrize("n", [2, 51, 900])
def test_graph_is_the_one_of_scikit_learn(
    n: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(graphs._BLOCK, "cpu", block)
    rows, k = vectors(n), min(50, n - 1)
    found = neighbour_graph(rows, 50, device="cpu")
    model = NearestNeighbors(n_neighbors=k, metric="cosine").fit(rows.astype(np.float64))
    distances, indices = model.kneighbors()
    assert (found.k, found.method, found.recall) == (k, "exact", 1.0)
    np.testing.assert_allclose(found.distances, distances, atol=1e-13)
    assert (found.indices == indices).mean() > 0.999
    assert not (found.indices == np.arange(n)[:, None]).any()


@pytest.mark.parametrize("make", [vectors, with_duplicates])
@pytest.mark.parametrize("n", [30, 600])
def test_lof_of_every_setting_equals_scikit_learn(n: int, make: object) -> None:
    assert callable(make)
    if n == 30 and make is with_duplicates:
        pytest.skip("too few rows for the groups")
    rows = make(n)
    found = neighbour_graph(rows, max(NEIGHBOURS), device="cpu")
    for k in NEIGHBOURS:
        ours, theirs = local_outlier_factor(found, k), sklearn_lof(rows, k)
        # Rounding of duplicates' zero distances meets the constant 1e-10 in the density.
        tolerance = 1e-9 if make is vectors else 1e-4
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)


def test_a_small_forest_is_the_beginning_of_a_large_one() -> None:
    rows = vectors(300, 12).astype(np.float32)
    for features in (1, 5):
        for trees, ours in zip(TREES, nested_forest_scores(rows, features), strict=True):
            model = IsolationForest(
                n_estimators=trees, max_features=features, random_state=42, contamination=0.01
            )
            np.testing.assert_array_equal(ours, -model.fit(rows).score_samples(rows))


def test_approximate_graph_measures_its_recall() -> None:
    rows = vectors(4000)
    exact = neighbour_graph(rows, 20, device="cpu")
    near = neighbour_graph(rows, 20, approximate=True, device="cpu")
    assert near.method == "approximate"
    assert near.recall_rows == 1000
    shared = (near.indices[:, :, None] == exact.indices[:, None, :]).any(axis=2).mean()
    assert near.recall >= graphs.RECALL
    assert near.recall == pytest.approx(shared, abs=0.005)


@pytest.mark.parametrize(("noise", "width"), [(0.01, 64), (3.0, 96)])
def test_as_few_components_are_compared_as_the_neighbours_allow(noise: float, width: int) -> None:
    random = torch.Generator().manual_seed(4)
    hidden = torch.randn(3000, 6, generator=random) @ torch.randn(6, 96, generator=random)
    rows = hidden + noise * torch.randn(3000, 96, generator=random)
    sample = torch.arange(200)
    truth, _ = graphs._nearest_of(rows, sample, 20)
    assert graphs._leading(rows, sample, truth, 34).shape == (3000, width)


def test_combination_is_the_papers() -> None:
    random = np.random.default_rng(3)
    scores = {"if": random.random(1000), "lof": 1 + random.exponential(size=1000)}
    made = combine(scores, 0.01)
    parts = [(s - s.min()) / (s.max() - s.min()) for s in scores.values()]
    np.testing.assert_allclose(made.score, np.mean(parts, axis=0))
    assert made.flag.sum() == 10
    assert set(made.rank[made.flag]) == set(range(1, 11))
    np.testing.assert_array_equal(made.flag, made.score >= np.percentile(made.score, 99))
    assert combine({"if": np.ones(20)}, 0.01).score.tolist() == [0.0] * 20


def test_a_lonely_source_is_odd_by_every_measure() -> None:
    rows = vectors(400)
    rows[7] = -rows[7]
    found = neighbour_graph(rows, 50, device="cpu")
    assert lof_scores(found).argmax() == 7
    assert knn_scores(found).argmax() == 7
    assert density_percentile(found)[7] == 0.0


def test_learning_follows_the_labels() -> None:
    rows = vectors(600).astype(np.float32)
    rows[:40] += np.linspace(3, 4, 24, dtype=np.float32)
    rows[40:80] -= np.linspace(4, 3, 24, dtype=np.float32)
    worth = np.full(600, np.nan)
    worth[:8], worth[40:48] = 1.0, 0.0
    predicted, interest = weigh(rows, np.full(600, 0.5), worth)
    assert predicted[8:40].min() > predicted[48:80].max()
    assert interest[8:40].mean() > 2 * interest[48:80].mean()
    with pytest.raises(ConfigurationError, match="interesting and of other sources"):
        weigh(rows, np.ones(600), np.where(worth == 1.0, 1.0, np.nan))


@pytest.mark.parametrize(
    "settings",
    [{"methods": ("if", "dbscan")}, {"methods": ()}, {"methods": ("if", "if")}]
    + [{"contamination": value} for value in (0.0, -1.0, 0.6, float("nan"))],
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Settings(**settings)
