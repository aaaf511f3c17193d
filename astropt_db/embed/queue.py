"""The queue of chunks, as planners and workers use it; its rules stand in ``sql/``.

A worker owns a chunk while its uuid, new at each start of a process, stands in the row and the
lease has not run out by the server's clock. Everything it does to the chunk asks for both.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import analyse_table
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.encoders import EncoderRecord
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import copy_vectors
from astropt_db.embed.outcome import Outcome

Int64 = NDArray[np.int64]
_Connection = psycopg.Connection[Any]
Blame = Literal["source", "tile"]
"""Whose fault a failure is: some source's, or that of the tile's files."""

CHUNK_SIZE = 1000
LEASE_S = 120.0
MAX_ATTEMPTS = 5
_WANTED = sql.Identifier("pg_temp", "embed_wanted")


@dataclass(frozen=True)
class Plan:
    """What planning found.

    Attributes
    ----------
    chunks, sources
        Put into the queue.
    without_image
        Sources asked for that lie on no registered mosaic and have no cut-out.
    """

    chunks: int
    sources: int
    without_image: int


@dataclass(frozen=True)
class Chunk:
    """Work that a worker owns.

    Attributes
    ----------
    id
        Row of ``astropt.embed_chunk``.
    tile
        Tile with the pixels; ``None`` for ready-made cut-outs.
    object_id
        Its sources, int64 ``(n,)``, by declination.
    attempts
        Claims so far, this one included.
    """

    id: int
    tile: int | None
    object_id: Int64
    attempts: int


def plan(
    connection: _Connection,
    encoder: EncoderRecord,
    wanted: Int64 | None = None,
    size: int = CHUNK_SIZE,
) -> Plan:
    """Put into the queue what has an image and no vector, in one transaction.

    Sources that are queued already, or in quarantine, are left out, so that planning again, or in
    two places at once, changes nothing.

    Parameters
    ----------
    wanted
        Sources to choose from, int64 ``(n,)``; ``None`` for all.
    size
        Sources of a chunk.
    """
    queries = named_queries()
    values = {"encoder_id": encoder.id, "restricted": wanted is not None, "size": size}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(queries["embed_plan_lock"], values)
        cursor.execute(queries["embed_wanted_create"])
        if wanted is not None:
            copy_rows(cursor, _WANTED, [Field("object_id", "bigint", wanted)])
            cursor.execute("ANALYZE pg_temp.embed_wanted")
        chunks, sources = cursor.execute(queries["embed_plan"], values).fetchone() or (0, 0)
        (without,) = cursor.execute(queries["embed_no_image"], values).fetchone() or (0,)
    return Plan(chunks, sources, without)


class Queue:
    """The queue of one encoder, for one worker.

    Every method takes a connection and is one transaction's work.

    Parameters
    ----------
    encoder
        Whose chunks.
    run_id
        Run that the worker belongs to.
    lease_s
        Seconds after which a worker that does not renew its claims has lost them.
    max_attempts
        Claims after which a chunk whose workers vanish is split, or whose files fail is given up.
    """

    def __init__(
        self,
        encoder: EncoderRecord,
        run_id: int,
        lease_s: float = LEASE_S,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self.encoder = encoder
        self.worker = uuid.uuid4()
        self.run_id = run_id
        self._values = {
            "encoder_id": encoder.id,
            "worker": self.worker,
            "run_id": run_id,
            "lease": timedelta(seconds=lease_s),
            "max_attempts": max_attempts,
        }

    def claim(
        self, connection: _Connection, tile: int | None = None, spread: bool = False
    ) -> Chunk | None:
        """Claim a chunk, or ``None`` if there is none now.

        Parameters
        ----------
        tile
            Preferred: the one that is open already.
        spread
            Else prefer tiles that no worker has open.
        """
        values = self._values | {"preferred_tile": tile, "spread": spread}
        row = connection.execute(named_queries()["embed_claim"], values).fetchone()
        if row is None:
            return None
        return Chunk(row[0], row[1], np.array(row[2], np.int64), row[3])

    def heartbeat(self, connection: _Connection) -> set[int]:
        """Renew all leases; the chunks that this worker still owns."""
        rows = connection.execute(named_queries()["embed_heartbeat"], self._values).fetchall()
        return {row[0] for row in rows}

    def end_frozen(self, connection: _Connection) -> int:
        """End transactions of workers that have waited for their process longer than a lease.

        No transaction of a worker is open while anything is read or computed, so such a process
        stands still, and what it has locked or written stands in the way of all others. The server
        ends it by itself between two statements; in a COPY it waits for data without limit.

        Returns
        -------
        int
            How many. Those of other accounts are left to the server.
        """
        with connection.transaction():
            connection.execute("SET LOCAL ROLE NONE")  # no role may end what an account began
            row = connection.execute(named_queries()["embed_end_frozen"], self._values).fetchone()
        return 0 if row is None else int(row[0])

    def existing(self, connection: _Connection, object_id: Int64) -> Int64:
        """Those of the sources that have a vector already."""
        values = self._values | {"ids": object_id.tolist()}
        rows = connection.execute(named_queries()["embed_existing"], values).fetchall()
        return np.array([row[0] for row in rows], np.int64)

    def finish(self, connection: _Connection, chunk: Chunk, outcome: Outcome) -> bool:
        """Write a chunk's results; False, and nothing is written, if it is no longer owned.

        The last statement carries the fence: whoever lost the chunk rolls everything back.
        """
        queries = named_queries()
        try:
            with connection.transaction(), connection.cursor() as cursor:
                # Vectors and the chunk's state are one transaction: if the server crashes before
                # it is on disk both are gone, and the chunk is computed again.
                cursor.execute("SET LOCAL synchronous_commit = off")
                good = outcome.good
                copy_vectors(
                    cursor,
                    self.encoder,
                    self.run_id,
                    outcome.object_id[good],
                    outcome.vectors[good],
                    outcome.flags[good],
                    outcome.missing[good],
                )
                problems = [] if good.all() else outcome.problems()
                if problems:
                    shared = self._values | {"tile": chunk.tile}
                    cursor.executemany(
                        queries["embed_problem_insert"], [shared | one for one in problems]
                    )
                counts = {"n_embedded": int(good.sum()), "n_problems": len(problems)}
                values = self._values | counts | {"id": chunk.id}
                if cursor.execute(queries["embed_finish"], values).rowcount == 0:
                    raise _LostError
        except (_LostError, psycopg.errors.UniqueViolation):
            # Somebody else has written these vectors meanwhile.
            return False
        return True

    def fail(
        self, connection: _Connection, chunk: Chunk, blame: Blame, reason: str, detail: str
    ) -> str:
        """End a failed attempt; what became of the chunk.

        Returns
        -------
        str
            ``retry``, ``split``, ``quarantined``, ``dead``, or ``lost`` if it is no longer owned.
        """
        values = {"id": chunk.id, "kind": blame, "reason": reason, "detail": detail[:2000]}
        row = connection.execute(named_queries()["embed_fail"], self._values | values).fetchone()
        assert row is not None
        return str(row[0])

    def release(self, connection: _Connection) -> int:
        """Hand back everything that this worker owns."""
        return connection.execute(named_queries()["embed_release"], self._values).rowcount

    def open_chunks(self, connection: _Connection) -> tuple[int, int]:
        """Chunks that wait, and chunks that some worker has."""
        row = connection.execute(named_queries()["embed_open"], self._values).fetchone()
        assert row is not None
        return row[0], row[1]


class _LostError(Exception):
    """The fence held: another worker owns the chunk."""


def analyse(connection: _Connection, encoder: EncoderRecord) -> None:
    """Tell the planner about new vectors: without it, it sorted 20,000 rows for one neighbour."""
    analyse_table(connection, encoder.partition)


def retry(connection: _Connection, encoder_id: int | None, reason: str | None) -> tuple[int, int]:
    """Try again what was given up: sources in dead chunks, and sources in quarantine."""
    queries = named_queries()
    values = {"encoder_id": encoder_id, "reason": reason}
    with connection.transaction():
        rows: Sequence[tuple[int]] = []
        if reason is None:
            rows = connection.execute(queries["embed_retry_chunks"], values).fetchall()
        problems = connection.execute(queries["embed_retry_problems"], values).rowcount
    return sum(row[0] for row in rows), problems


def cancel(connection: _Connection, encoder_id: int | None) -> int:
    """Take everything out of the queue that is not done; how many sources.

    Workers that have such chunks lose them, and write nothing.
    """
    with connection.transaction():
        query = named_queries()["embed_cancel"]
        rows = connection.execute(query, {"encoder_id": encoder_id}).fetchall()
    return sum(row[0] for row in rows)
