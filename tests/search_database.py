"""A database with vectors to search among, and the plain answer to each search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from conftest import temporary_database
from vector_database import add_encoder, add_vectors

from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import EncoderRecord

N = 1500
DIMENSION = 48


@dataclass(frozen=True)
class Searchable:
    """Vectors of an encoder in a database, float32 as stored, beside their ids."""

    database: Database
    encoder: EncoderRecord
    ids: np.ndarray
    vectors: np.ndarray

    def nearest(
        self, query: np.ndarray, k: int, excluded: tuple[int, ...] = (), allowed: object = None
    ) -> list[int]:
        """Ids by brute force."""
        unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        similarity = unit @ (query / np.linalg.norm(query))
        similarity[np.isin(self.ids, list(excluded))] = -np.inf
        if allowed is not None:
            similarity[~np.isin(self.ids, allowed)] = -np.inf
        best = np.argsort(-similarity, kind="stable")
        return self.ids[best[: min(k, int(np.isfinite(similarity).sum()))]].tolist()

    def vector(self, object_id: int) -> np.ndarray:
        return self.vectors[np.flatnonzero(self.ids == object_id)[0]]


def clustered(n: int, dimension: int, seed: int = 1) -> np.ndarray:
    """Clusters of low rank about a common mean, and noise: float32, exact in half precision."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, 8))
    latent = centres[rng.integers(30, size=n)] + 0.5 * rng.normal(size=(n, 8))
    vectors = latent @ rng.normal(size=(8, dimension)) + 3 + 0.2 * rng.normal(size=(n, dimension))
    return vectors.astype(np.float16).astype(np.float32)


@contextmanager
def searchable_database(server: EmbeddedServer, template: str) -> Iterator[Searchable]:
    """A database with one current encoder and one without vectors."""
    with temporary_database(server, template) as url:
        database = Database(url)
        encoder = add_encoder(database, "one", DIMENSION, current=True)
        add_encoder(database, "two", DIMENSION)
        ids = -570_040_238_507_000_000 - np.random.default_rng(2).permutation(N).astype(np.int64)
        vectors = clustered(N, DIMENSION)
        add_vectors(database, encoder, ids, vectors)
        yield Searchable(database, encoder, ids, vectors)
