"""What a head sees of a source: its embedding, its fluxes, or both, streamed from the database.

The tokens of an image have lost its brightness (each patch is standardised), so fluxes put it
back. Bands of about the same wavelength share one column, as in :mod:`astropt_db.astropt.sed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.astropt.sed import SED_SLOTS, SOFTENING_UJY
from astropt_db.database.encoders import EncoderRecord
from astropt_db.database.fixed_rows import read_fixed
from astropt_db.database.vectors import to_float32
from astropt_db.errors import ConfigurationError

Features = Literal["embedding", "embedding+flux", "flux"]
Float32 = NDArray[np.float32]

FLUXES: dict[str, tuple[str, ...]] = {
    "u": ("flux_u_ext_megacam_2fwhm_aper",),
    **{
        slot: tuple(f"flux_{band}_2fwhm_aper" for band in bands)
        for slot, bands in SED_SLOTS.items()
    },
    "total": ("flux_detection_total",),
}
"""Columns of ``q1.mer_catalogue`` by flux: u to H in 2 FWHM apertures, and the total VIS flux."""


@dataclass(frozen=True)
class Batch:
    """Some sources.

    Attributes
    ----------
    object_id
        int64 ``(n,)``.
    embedding
        float16 ``(n, d)``; d is 0 where heads see fluxes only.
    flux
        float32 ``(n, 10)``, uJy, NaN where not measured; ``(n, 0)`` where heads see none.
    """

    object_id: NDArray[np.int64]
    embedding: NDArray[np.float16]
    flux: Float32

    def __len__(self) -> int:
        return len(self.object_id)

    def take(self, rows: NDArray[Any] | slice) -> Batch:
        """Some of the sources."""
        return Batch(self.object_id[rows], self.embedding[rows], self.flux[rows])

    def vectors(self) -> Float32:
        """Embeddings, float32 ``(n, d)``."""
        return to_float32(self.embedding)

    def light(self) -> Float32:
        """Softened logarithms of the fluxes, float32 ``(n, k)``, NaN in gaps."""
        return np.asarray(np.arcsinh(self.flux / np.float32(SOFTENING_UJY)), np.float32)


def in_order(parts: Sequence[Batch]) -> Batch:
    """Batches as one, sorted by object id.

    Where a row lies in a matrix can change the last bit of its products, so predictions must not
    follow the order in which a table happens to be stored.
    """
    whole = parts[0]
    if len(parts) > 1:
        whole = Batch(
            np.concatenate([part.object_id for part in parts]),
            np.concatenate([part.embedding for part in parts]),
            np.concatenate([part.flux for part in parts]),
        )
    order = np.argsort(whole.object_id)
    return whole if (order[1:] > order[:-1]).all() else whole.take(order)


@dataclass(frozen=True)
class View:
    """Which features are seen, and of which encoder."""

    features: Features
    encoder: EncoderRecord | None

    def __post_init__(self) -> None:
        if self.features not in get_args(Features):
            raise ConfigurationError(
                f"no features {self.features!r}; there are {', '.join(get_args(Features))}"
            )
        if self.uses_embedding and self.encoder is None:
            raise ConfigurationError(
                f"the features {self.features} need an encoder: --encoder NAME"
            )

    @property
    def uses_embedding(self) -> bool:
        """Whether embeddings are seen."""
        return self.features != "flux"

    @property
    def uses_flux(self) -> bool:
        """Whether fluxes are seen."""
        return self.features != "embedding"

    @property
    def dimension(self) -> int:
        """Length of an embedding; 0 if none is seen."""
        return self.encoder.dimension if self.uses_embedding and self.encoder else 0


def source_relation(view: View) -> sql.Composed:
    """FROM clause with the sources that have all features, ``s`` with its ``object_id``."""
    catalogue = sql.SQL("q1.mer_catalogue")
    if not view.uses_embedding or view.encoder is None:
        return sql.SQL("{} AS s").format(catalogue)
    relation = sql.SQL("{} AS s").format(view.encoder.partition)
    if view.uses_flux:
        relation += sql.SQL(" JOIN {} AS m ON m.object_id = s.object_id").format(catalogue)
    return relation


def read_features(
    cursor: psycopg.Cursor[Any],
    view: View,
    condition: sql.Composable,
    batch: int = 16_384,
) -> Iterator[Batch]:
    """Stream features in batches.

    Parameters
    ----------
    condition
        SQL on ``s.object_id`` that says which sources.
    batch
        Rows of a batch.
    """
    fluxes = list(FLUXES.values()) if view.uses_flux else []
    table = "m" if view.uses_embedding else "s"
    columns = [("object_id", "bigint", 0)]
    selected: list[sql.Composable] = [sql.SQL("s.object_id")]
    if view.uses_embedding:
        columns.append(("embedding", "halfvec", view.dimension))
        selected.append(sql.SQL("s.embedding"))
    for number, names in enumerate(fluxes):
        columns.append((f"flux_{number}", "real", 0))
        choices = sql.SQL(", ").join(sql.Identifier(table, name) for name in names)
        selected.append(sql.SQL("coalesce({}, 'NaN')::real").format(choices))
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(selected), source_relation(view), condition
    )
    for rows in read_fixed(cursor, query, columns, batch):
        n = len(rows)
        empty = np.empty((n, 0), np.float16)
        flux = np.empty((n, len(fluxes)), np.float32)
        for number in range(len(fluxes)):
            flux[:, number] = rows[f"flux_{number}"]
        yield Batch(
            rows["object_id"].astype(np.int64),
            rows["embedding"].astype(np.float16) if view.uses_embedding else empty,
            flux,
        )


def load_features(
    cursor: psycopg.Cursor[Any], view: View, condition: sql.Composable, expected: int
) -> Batch:
    """All features at once, sorted by object id.

    Parameters
    ----------
    expected
        At most so many sources; their space is taken once, so that memory holds no copy.
    """
    ids = np.empty(expected, np.int64)
    embedding = np.empty((expected, view.dimension), np.float16)
    flux = np.empty((expected, len(FLUXES) if view.uses_flux else 0), np.float32)
    n = 0
    for part in read_features(cursor, view, condition + sql.SQL(" ORDER BY s.object_id")):
        place = slice(n, n + len(part))
        ids[place], embedding[place], flux[place] = part.object_id, part.embedding, part.flux
        n += len(part)
    return Batch(ids[:n], embedding[:n], flux[:n])
