"""Maps of an embedding: UMAP as in the paper, PCA where UMAP is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.provenance import recorded_run
from astropt_db.database.reading import run_query
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import VectorBatch, load_vectors
from astropt_db.errors import ConfigurationError, DatabaseError, MissingExtraError

UMAP_SETTINGS: dict[str, Any] = {
    "n_neighbors": 15,
    "min_dist": 0.1,
    "n_components": 2,
    "random_state": 42,
}
GRID = 100
_LEAST = 20
_FIELD_ROWS = 20_000
_FIELD_COMPONENTS = 50


@dataclass(frozen=True)
class FieldLeak:
    """Can a classifier tell the fields apart from the embedding?

    Attributes
    ----------
    fields
        Their names.
    balanced_accuracy
        Of a logistic regression, five-fold; `chance` if the embedding knows nothing of the field.
    chance
        One over the number of fields.
    sources
        How many it was measured on.
    """

    fields: tuple[str, ...]
    balanced_accuracy: float
    chance: float
    sources: int


@dataclass(frozen=True)
class Map:
    """A stored map.

    Attributes
    ----------
    encoder, method
        Whose vectors; ``umap`` or ``pca``.
    object_id
        int64 ``(n,)``.
    positions
        float32 ``(n, 2)``.
    leak
        None where the sources lie in one field.
    """

    encoder: str
    method: str
    object_id: NDArray[np.int64]
    positions: NDArray[np.float32]
    leak: FieldLeak | None


def make_map(database: Database, encoder_name: str | None = None, method: str = "auto") -> Map:
    """Compute and store the map of an encoder's vectors; it becomes the encoder's current one.

    Parameters
    ----------
    method
        ``umap``, ``pca``, or ``auto`` for UMAP where it is installed.

    Raises
    ------
    ConfigurationError
        If the encoder does not exist or has too few vectors.
    MissingExtraError
        If ``umap`` is asked for and not installed.
    """
    how = _method(method)
    with connect(database) as connection:
        encoder = find_encoder(connection, encoder_name)
    arguments = {"encoder": encoder.name, "method": how}
    with recorded_run(database, "map", arguments) as run:
        with connect(database) as connection, connection.cursor() as cursor:
            batch = load_vectors(cursor, encoder)
            fields: dict[int, str] = dict(cursor.execute(named_queries()["map_fields"]).fetchall())
        if len(batch) < _LEAST:
            raise ConfigurationError(
                f"encoder {encoder.name} has {len(batch)} vectors, a map needs {_LEAST}; "
                f"run: astropt-db embed --encoder {encoder.name}"
            )
        positions, parameters = place(batch.vectors.astype(np.float32), how)
        leak = field_leak(batch, fields)
        if leak is not None:
            parameters |= {"field_leakage": asdict(leak)}
        with connect(database) as connection, connection.cursor() as cursor:
            _store(cursor, run.id, encoder, how, parameters, batch, positions)
        run.counts = {"objects": len(batch)}
    return Map(encoder.name, how, batch.object_id, positions, leak)


def _method(method: str) -> str:
    installed = importlib.util.find_spec("umap") is not None
    if method == "umap" and not installed:
        raise MissingExtraError("umap-learn", "umap", "a UMAP map")
    return ("umap" if installed else "pca") if method == "auto" else method


def place(vectors: NDArray[np.float32], method: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Coordinates ``(n, 2)`` and the settings that made them."""
    if method == "umap":
        import umap

        settings = UMAP_SETTINGS | {"n_neighbors": min(15, len(vectors) - 1)}
        # One job, said aloud: with a seed UMAP takes no more anyway, and warns.
        positions = umap.UMAP(**settings, n_jobs=1).fit_transform(vectors)
        return np.asarray(positions, np.float32), settings
    model = PCA(2, random_state=42)
    positions = model.fit_transform(vectors)
    shares = [round(float(one), 6) for one in model.explained_variance_ratio_]
    return positions.astype(np.float32), {"n_components": 2, "explained_variance_ratio": shares}


def field_leak(batch: VectorBatch, fields: dict[int, str]) -> FieldLeak | None:
    """Measure how well a linear classifier finds the field of a source in its vector."""
    known = np.array([fields.get(one, "") for one in batch.object_id.tolist()])
    rows = np.flatnonzero(known != "")
    names, counts = np.unique(known[rows], return_counts=True)
    names = names[counts >= _LEAST]
    rows = rows[np.isin(known[rows], names)]
    if len(names) < 2:
        return None
    rows = np.random.default_rng(42).permutation(rows)[:_FIELD_ROWS]
    vectors = batch.vectors[rows].astype(np.float32)
    model = make_pipeline(
        StandardScaler(),
        PCA(min(_FIELD_COMPONENTS, *vectors.shape), random_state=0),
        LogisticRegression(max_iter=500, class_weight="balanced"),
    )
    guess = cross_val_predict(model, vectors, known[rows], cv=5)
    accuracy = float(balanced_accuracy_score(known[rows], guess))
    return FieldLeak(tuple(names.tolist()), accuracy, 1 / len(names), len(rows))


def _store(
    cursor: psycopg.Cursor[Any],
    run: int,
    encoder: EncoderRecord,
    method: str,
    parameters: dict[str, Any],
    batch: VectorBatch,
    positions: NDArray[np.float32],
) -> None:
    queries = named_queries()
    cursor.execute(queries["map_retire"], {"encoder_id": encoder.id})
    values = {
        "run_id": run,
        "encoder_id": encoder.id,
        "method": method,
        "parameters": Jsonb(parameters),
        "objects": len(batch),
    }
    row = cursor.execute(queries["map_insert"], values).fetchone()
    assert row is not None
    fields = [
        Field("map_run_id", "bigint", np.full(len(batch), row[0])),
        Field("object_id", "bigint", batch.object_id),
        Field("x", "real", positions[:, 0]),
        Field("y", "real", positions[:, 1]),
    ]
    copy_rows(cursor, sql.Identifier("astropt", "map_position"), fields)


def colours(database: Database, expression: str) -> dict[int, float]:
    """Value of the user's SQL expression on ``astropt.catalogue`` by object id.

    The expression is the user's own text: it runs read-only, in the least role, with a limit.

    Raises
    ------
    DatabaseError
        If it is wrong or gives no numbers.
    """
    query = sql.SQL("SELECT object_id, (\n{}\n)::double precision FROM astropt.catalogue")
    with run_query(database, query.format(sql.SQL(expression)).as_string(), 600) as result:
        values = {
            int(str(one)): float(str(value)) for one, value in result.rows if value is not None
        }
    if not values:
        raise DatabaseError(f"the colour {expression!r} is NULL for every source")
    return values


def draw(made: Map, folder: Path, colour: dict[int, float] | None, label: str) -> Path:
    """Draw the paper's hexbin figure; returns the PNG's path.

    Parameters
    ----------
    colour
        Value by object id, of which each cell shows the median; None for counts.
    label
        Of the colour bar.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    positions, reduce, values = made.positions, None, None
    if colour is not None:
        every = np.array([colour.get(one, np.nan) for one in made.object_id.tolist()])
        shown = np.isfinite(every)
        positions, values = positions[shown], every[shown]
        reduce = _median()
    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    cells = axes.hexbin(
        positions[:, 0],
        positions[:, 1],
        C=values,
        gridsize=GRID,
        mincnt=1,
        cmap="viridis",
        **({"reduce_C_function": reduce} if reduce else {"bins": "log"}),
    )
    figure.colorbar(cells, ax=axes, label=label if colour is not None else "sources")
    axes.set(title=f"{made.encoder}, {made.method.upper()}, {len(positions):,} sources")
    axes.set(xlabel="x", ylabel="y")
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in label).strip("_") or "sources"
    path = folder / f"map_{made.encoder}_{made.method}_{name[:40]}.png"
    figure.savefig(path, dpi=150)
    return path


def _median() -> Callable[[NDArray[np.float64]], float]:
    return lambda values: float(np.median(values))
