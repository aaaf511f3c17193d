"""Vectors in and out of PostgreSQL in bulk: binary COPY in both directions, no loop over rows.

A vector's row has a fixed width in COPY's binary format, so a stream of them is one array.
Layouts: PostgreSQL documentation, COPY, "Binary Format"; ``halfvec_send`` of pgvector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.encoders import EncoderRecord
from astropt_db.database.fixed_rows import read_fixed
from astropt_db.errors import DatabaseError

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class VectorBatch:
    """Some vectors.

    Attributes
    ----------
    object_id
        int64 ``(n,)``.
    vectors
        float16 ``(n, d)``, as stored; native byte order.
    """

    object_id: Int64
    vectors: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.object_id)


def vector_query(encoder: EncoderRecord, objects: sql.Composable | None = None) -> sql.Composed:
    """Query of ``object_id, embedding`` of an encoder.

    Parameters
    ----------
    encoder
        Whose vectors.
    objects
        A query with a column ``object_id`` that says which sources; ``None`` for all.
    """
    query = sql.SQL("SELECT e.object_id, e.embedding FROM {} AS e").format(encoder.partition)
    if objects is None:
        return query
    return query + sql.SQL(" WHERE e.object_id IN (SELECT o.object_id FROM ({}) AS o)").format(
        objects
    )


def read_vectors(
    cursor: psycopg.Cursor[Any],
    encoder: EncoderRecord,
    objects: sql.Composable | None = None,
    batch: int = 16_384,
) -> Iterator[VectorBatch]:
    """Stream an encoder's vectors in batches; memory does not grow with their number.

    Parameters
    ----------
    cursor
        Its connection is busy until the stream is read or closed.
    encoder, objects
        As for :func:`vector_query`. The order is the server's; add ``ORDER BY`` by sorting ids.
    batch
        Rows of a batch; the last one may be shorter.

    Raises
    ------
    DatabaseError
        If the rows are not those of the encoder's dimension.
    """
    columns = (("object_id", "bigint", 0), ("embedding", "halfvec", encoder.dimension))
    for rows in read_fixed(cursor, vector_query(encoder, objects), columns, batch):
        yield VectorBatch(rows["object_id"].astype(np.int64), rows["embedding"].astype(np.float16))


def load_vectors(
    cursor: psycopg.Cursor[Any],
    encoder: EncoderRecord,
    objects: sql.Composable | None = None,
) -> VectorBatch:
    """All vectors at once, sorted by object id: 2 bytes for each number."""
    parts = list(read_vectors(cursor, encoder, objects))
    if not parts:
        empty = np.empty((0, encoder.dimension), np.float16)
        return VectorBatch(np.empty(0, np.int64), empty)
    ids = np.concatenate([part.object_id for part in parts])
    order = np.argsort(ids, kind="stable")
    vectors = np.concatenate([part.vectors for part in parts])
    del parts
    return VectorBatch(ids[order], vectors[order])


def copy_vectors(
    cursor: psycopg.Cursor[Any],
    encoder: EncoderRecord,
    run_id: int,
    object_id: Int64,
    vectors: NDArray[np.floating[Any]],
    flags: NDArray[np.integer[Any]] | None = None,
    missing_fraction: NDArray[np.floating[Any]] | None = None,
) -> int:
    """Append vectors to the encoder's partition, inside the cursor's transaction.

    Parameters
    ----------
    object_id
        int64 ``(n,)``.
    vectors
        ``(n, d)``; rounded to float16.
    flags, missing_fraction
        ``(n,)``; zeros if not given.

    Returns
    -------
    int
        How many.

    Raises
    ------
    DatabaseError
        If the vectors are not of the encoder's dimension.
    """
    n = len(object_id)
    if vectors.shape != (n, encoder.dimension):
        raise DatabaseError(
            f"vectors of encoder {encoder.name} have shape {vectors.shape}; "
            f"expected ({n}, {encoder.dimension})"
        )
    zeros = np.zeros(n, np.int16)
    fields = [
        Field("object_id", "bigint", object_id),
        Field("encoder_id", "integer", np.full(n, encoder.id, np.int32)),
        Field("run_id", "bigint", np.full(n, run_id, np.int64)),
        Field("flags", "smallint", zeros if flags is None else flags),
        Field("missing_fraction", "real", zeros if missing_fraction is None else missing_fraction),
        Field("embedding", "halfvec", vectors),
    ]
    return copy_rows(cursor, encoder.partition, fields)


def to_float32(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Half precision as float32, exactly; the numbers must be finite, as pgvector's are.

    NumPy converts number by number. Here sign, exponent and fraction move to their places in
    whole arrays, three times as fast, and 2^112 is the difference of the exponents' biases.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    # Sign, five bits of exponent, ten of fraction; the extended sign fills the bits between.
    bits &= np.int32(0x8FFFE000 - (1 << 32))
    found = bits.view(np.float32)
    found *= np.float32(2.0**112)
    return found
