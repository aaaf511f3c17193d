"""A database with encoders and vectors, for the tests of what is made from them."""

from __future__ import annotations

import numpy as np
from psycopg.types.json import Jsonb

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import copy_vectors


def add_encoder(
    database: Database, name: str, dimension: int, current: bool = False, modalities: str = "vis"
) -> EncoderRecord:
    """A row of ``astropt.encoder`` with its partition, without weights."""
    queries = named_queries()
    with connect(database) as connection:
        row = connection.execute(
            queries["encoder_insert"],
            {
                "name": name,
                "modalities": modalities,
                "dimension": dimension,
                "weights_sha256": "0" * 64,
                "source": "a test",
                "preprocessing": Jsonb({}),
                "pooling": Jsonb({"name": "paper"}),
                "card": Jsonb({}),
                "run_id": None,
            },
        ).fetchone()
        assert row is not None
        connection.execute(queries["encoder_partition"], {"id": row[0]})
        if current:
            connection.execute(queries["encoder_use_none"])
            connection.execute(queries["encoder_use"], {"id": row[0]})
        return find_encoder(connection, name)


def add_vectors(
    database: Database, encoder: EncoderRecord, ids: np.ndarray, vectors: np.ndarray
) -> None:
    """Store vectors as a run of the worker would."""
    with connect(database) as connection, connection.cursor() as cursor:
        copy_vectors(cursor, encoder, 0, ids, vectors)
