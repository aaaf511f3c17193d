"""The paper's detectors and their combination (arXiv:2503.15312 and its public scripts).

Each method's score is the mean over its grid, higher is odder. Methods are brought to 0 to 1 and
averaged; the top fraction is flagged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from astropt_db.outliers.graph import Graph

Float64 = NDArray[np.float64]

METHODS = ("if", "lof", "knn")
TREES = (50, 100, 150, 200)
FEATURES = (1, 5, 10, 20)
NEIGHBOURS = (5, 10, 15, 20, 35, 50)
SEED = 42


def local_outlier_factor(graph: Graph, n_neighbors: int) -> Float64:
    """``-negative_outlier_factor_`` of scikit-learn's LocalOutlierFactor, from the graph.

    Parameters
    ----------
    graph
        With at least `n_neighbors` neighbours, or all others.
    n_neighbors
        Lowered to the graph's k if there are fewer vectors, as scikit-learn does.

    Returns
    -------
    ndarray
        float64 ``(n,)``, about 1 for inliers.
    """
    k = min(n_neighbors, graph.k)
    near = graph.indices[:, :k]
    radius = np.ascontiguousarray(graph.distances[:, k - 1])
    reach = np.maximum(graph.distances[:, :k], radius[near])
    # The constant is scikit-learn's; it keeps duplicates finite.
    density = 1.0 / (reach.mean(axis=1) + 1e-10)
    factor: Float64 = density[near].mean(axis=1) / density
    return factor


def lof_scores(graph: Graph) -> Float64:
    """Mean over the grid of :func:`local_outlier_factor`."""
    factors = [local_outlier_factor(graph, k) for k in NEIGHBOURS]
    return _mean(factors)


def knn_scores(graph: Graph) -> Float64:
    """Mean over the grid of the distance of the k-th neighbour."""
    columns = [min(k, graph.k) - 1 for k in NEIGHBOURS]
    scores: Float64 = graph.distances[:, columns].mean(axis=1)
    return scores


def forest_scores(vectors: NDArray[np.float32]) -> Float64:
    """Mean over the grid of ``-score_samples`` of scikit-learn's IsolationForest.

    A forest of 200 trees begins with the trees of the smaller ones of the same seed (a test
    compares the scores bit by bit), so four forests serve all sixteen settings.

    Parameters
    ----------
    vectors
        float32 ``(n, d)``.
    """
    settings = [
        scores
        for features in FEATURES
        for scores in nested_forest_scores(vectors, min(features, vectors.shape[1]))
    ]
    return _mean(settings)


def nested_forest_scores(
    vectors: NDArray[np.float32], features: int, trees: tuple[int, ...] = TREES
) -> list[Float64]:
    """``-score_samples`` of forests of growing size that share their trees.

    Parameters
    ----------
    vectors
        float32 ``(n, d)``.
    features
        ``max_features``.
    trees
        ``n_estimators`` of each forest, ascending.
    """
    forest = IsolationForest(n_estimators=trees[-1], max_features=features, random_state=SEED)
    forest.fit(vectors)
    n = len(vectors)
    usual = path_length(np.array([min(256, n)]))[0]
    depth, found = np.zeros(n), []
    pairs = zip(forest.estimators_, forest.estimators_features_, strict=True)
    for number, (tree, chosen) in enumerate(pairs, 1):
        inner = tree.tree_
        length = inner.compute_node_depths() + path_length(inner.n_node_samples) - 1.0
        columns = vectors[:, chosen] if len(chosen) < vectors.shape[1] else vectors
        depth += length[inner.apply(np.ascontiguousarray(columns))]
        if number in trees:
            found.append(2.0 ** -(depth / (number * usual)) if usual else np.ones(n))
    return found


def path_length(samples: NDArray[np.integer]) -> Float64:
    """Mean depth of a random tree over so many samples (Liu, Ting & Zhou 2008, equation 1)."""
    size = np.asarray(samples, dtype=np.float64)
    large = np.maximum(size, 3.0)
    length = 2.0 * (np.log(large - 1.0) + np.euler_gamma) - 2.0 * (large - 1.0) / large
    return np.where(size <= 1, 0.0, np.where(size == 2, 1.0, length))


@dataclass(frozen=True)
class Combined:
    """Scores of all sources.

    Attributes
    ----------
    score
        float64 ``(n,)``, mean of the methods' scores.
    rank
        int32 ``(n,)``, 1 is the oddest; equal scores by their order.
    flag
        bool ``(n,)``.
    threshold
        Smallest flagged score: the quantile at 1 - contamination.
    methods
        Scores of each method, 0 to 1.
    """

    score: Float64
    rank: NDArray[np.int32]
    flag: NDArray[np.bool_]
    threshold: float
    methods: dict[str, Float64]


def combine(scores: Mapping[str, Float64], contamination: float) -> Combined:
    """Min-max each method, average, flag the top fraction."""
    scaled = {name: _min_max(values) for name, values in scores.items()}
    score = _mean(list(scaled.values()))
    threshold = float(np.quantile(score, 1 - contamination))
    rank = np.empty(len(score), np.int32)
    rank[np.argsort(-score, kind="stable")] = np.arange(1, len(score) + 1)
    return Combined(score, rank, score >= threshold, threshold, scaled)


def _min_max(values: Float64) -> Float64:
    low, high = values.min(), values.max()
    scaled: Float64 = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return scaled


def _mean(settings: list[Float64]) -> Float64:
    mean: Float64 = np.asarray(settings).mean(axis=0)
    return mean
