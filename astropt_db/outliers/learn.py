"""An order of outliers that follows people's labels: active learning as in Astronomaly.

Lochner & Bassett (2021, A&C 36, 100481): a random forest learns the labels; where a source lies
far from all labelled ones its prediction counts less and its raw score more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import NearestNeighbors

from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.encoders import find_encoder
from astropt_db.database.provenance import recorded_run
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import load_vectors
from astropt_db.errors import ConfigurationError

Float64 = NDArray[np.float64]

WORTH = {"interesting": 1.0, "dull": 0.0, "artefact": 0.0}
_COMPONENTS = 20
_ALPHA = 1.0
_LEAST = 0.01


def learn_order(database: Database, encoder_name: str | None = None) -> tuple[int, int]:
    """Re-rank the current run of an encoder by the labels; returns labels used and sources ranked.

    Raises
    ------
    ConfigurationError
        If there is no run, or the labels do not hold both interesting and other sources.
    """
    queries = named_queries()
    with recorded_run(database, "outliers rank", {"encoder": encoder_name}) as run:
        with connect(database) as connection, connection.cursor() as cursor:
            number, ids, scores = current_scores(cursor, encoder_name)
            batch = load_vectors(cursor, find_encoder(connection, encoder_name))
            labels: dict[int, str] = dict(cursor.execute(queries["outlier_label_all"]).fetchall())
            both, at, rows = np.intersect1d(ids, batch.object_id, return_indices=True)
            worth = np.array([WORTH.get(labels.get(one, ""), np.nan) for one in both.tolist()])
            predicted, interest = weigh(batch.vectors[rows].astype(np.float32), scores[at], worth)
            _store(cursor, number, both, predicted, interest)
        used = int(np.isfinite(worth).sum())
        run.counts = {"labels": used, "objects": len(both)}
    return used, len(both)


def current_scores(
    cursor: psycopg.Cursor[Any], encoder_name: str | None
) -> tuple[int, NDArray[np.int64], Float64]:
    """Number, ids and scores of an encoder's current run.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    queries = named_queries()
    encoder = find_encoder(cursor.connection, encoder_name)
    row = cursor.execute(queries["outlier_current_run"], {"encoder_id": encoder.id}).fetchone()
    if row is None:
        raise ConfigurationError(
            f"no outliers were searched with encoder {encoder.name}; "
            f"run: astropt-db outliers find --encoder {encoder.name}"
        )
    found = cursor.execute(queries["outlier_scores"], {"id": row[0]}).fetchall()
    ids = np.array([one[0] for one in found], np.int64)
    return int(row[0]), ids, np.array([one[1] for one in found], np.float64)


def weigh(vectors: NDArray[np.float32], score: Float64, worth: Float64) -> tuple[Float64, Float64]:
    """Predicted labels and re-weighted scores.

    Parameters
    ----------
    vectors
        float32 ``(n, d)``.
    score
        ``(n,)``.
    worth
        ``(n,)``: 1 interesting, 0 not, NaN without label.

    Raises
    ------
    ConfigurationError
        If the labels are all of one kind.
    """
    labelled = np.isfinite(worth)
    if not labelled.any() or np.ptp(worth[labelled]) == 0:
        raise ConfigurationError(
            "learning needs labels of interesting and of other sources; "
            "label some: astropt-db outliers label ID interesting|artefact|dull"
        )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    parts = min(_COMPONENTS, *unit.shape)
    features = PCA(parts, random_state=0).fit_transform(unit)
    features = np.column_stack([features, score * features.std() / max(score.std(), 1e-12)])
    forest = RandomForestRegressor(100, random_state=0, min_samples_leaf=1)
    predicted = forest.fit(features[labelled], worth[labelled]).predict(features)
    finder = NearestNeighbors(n_neighbors=1).fit(features[labelled])
    distance = finder.kneighbors(features)[0][:, 0]
    nearness = np.exp(_ALPHA * distance / max(distance.mean(), 1e-12))
    # Equations 3 and 4 of the paper; the floor keeps arctanh finite and dull sources in order.
    worthy = np.arctanh(np.clip(predicted, _LEAST, 1 - _LEAST))
    return predicted, score * np.tanh(nearness - 1 + worthy)


def _store(
    cursor: psycopg.Cursor[Any],
    number: int,
    ids: NDArray[np.int64],
    predicted: Float64,
    interest: Float64,
) -> None:
    rank = np.empty(len(ids), np.int32)
    rank[np.argsort(-interest, kind="stable")] = np.arange(1, len(ids) + 1)
    cursor.execute(named_queries()["outlier_interest_clear"], {"id": number})
    fields = [
        Field("outlier_run_id", "bigint", np.full(len(ids), number)),
        Field("object_id", "bigint", ids),
        Field("interest", "real", interest),
        Field("interest_rank", "integer", rank),
        Field("predicted_label", "real", predicted),
    ]
    copy_rows(cursor, sql.Identifier("astropt", "outlier_interest"), fields)


def put_label(database: Database, object_id: int, label: str, note: str | None, by: str) -> None:
    """Store what a person thinks of a source.

    Raises
    ------
    ConfigurationError
        If no such source was ingested or scored; the message names the nearest ids.
    """
    queries = named_queries()
    with connect(database) as connection:
        row = connection.execute(queries["outlier_source_exists"], {"id": object_id}).fetchone()
        if row is not None and not any(row):
            near = connection.execute(queries["outlier_source_near"], {"id": object_id}).fetchall()
            raise ConfigurationError(
                f"no source {object_id}; the nearest ids are "
                + (", ".join(str(one[0]) for one in near) or "none: nothing was ingested")
            )
        values = {"object_id": object_id, "label": label, "note": note, "by": by}
        connection.execute(queries["outlier_label_put"], values)
