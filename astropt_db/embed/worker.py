"""One worker: claims chunks, reads, encodes and writes, all at the same time.

Three threads and the caller's: a reader claims chunks and puts batches into a short queue, the
caller's thread encodes them, a writer commits finished chunks, a fourth renews the leases. No
transaction is open while anything is read or computed. NumPy, torch and libpq release the
interpreter's lock in their long calls, so the threads really overlap.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import psycopg
import torch
from torch import Tensor

from astropt_db.astropt.encoder import Encoder
from astropt_db.astropt.pooling import Pooling
from astropt_db.database.connect import Database
from astropt_db.embed.inputs import Batch, Inputs
from astropt_db.embed.link import Link, StoppedError
from astropt_db.embed.outcome import Outcome
from astropt_db.embed.queue import Blame, Chunk, Queue
from astropt_db.errors import ConfigurationError, DatabaseError, FileError, MissingExtraError

T = TypeVar("T")
_log = logging.getLogger(__name__)
_AHEAD = 2
"""Batches, and finished chunks, that may wait between two threads."""
_TICK_S = 0.2
_POLL_S = 0.2
_FATAL = (psycopg.OperationalError, DatabaseError, MissingExtraError)


@dataclass
class WorkerCounts:
    """What a worker did: chunks and vectors committed, sources quarantined, attempts failed."""

    chunks: int = 0
    embedded: int = 0
    problems: int = 0
    failed: int = 0
    lost: int = 0


@dataclass
class _Work:
    """A chunk on its way through the threads."""

    chunk: Chunk
    outcome: Outcome
    error: Exception | None = None
    abandoned: bool = False


class Worker:
    """Works on the queue until it is empty.

    Parameters
    ----------
    database
        Where queue and vectors are.
    chunks
        The queue.
    encoder, pooling
        How images become vectors.
    inputs
        Reads the images.
    lease_s
        The queue's; renewed four times as often.
    patience_s
        How long to wait for a server that is gone.
    watch
        Wait for new chunks for ever instead of ending with the queue.
    """

    def __init__(
        self,
        database: Database,
        chunks: Queue,
        encoder: Encoder,
        pooling: Pooling,
        inputs: Inputs,
        lease_s: float,
        patience_s: float = 300.0,
        watch: bool = False,
    ) -> None:
        self._database = database
        self._chunks = chunks
        self._encoder = encoder
        self._pooling = pooling
        self._inputs = inputs
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._watch = watch
        self._stop = threading.Event()
        self._batches: queue.Queue[tuple[_Work, Batch | None] | None] = queue.Queue(_AHEAD)
        self._finished: queue.Queue[_Work | None] = queue.Queue(_AHEAD)
        self._owned: dict[int, _Work] = {}
        self._lock = threading.Lock()
        self._fatal: BaseException | None = None
        self.counts = WorkerCounts()

    def stop(self) -> None:
        """Ask the worker to end: it hands back what it has not committed."""
        self._stop.set()

    def run(self) -> WorkerCounts:
        """Work until the queue is empty, or until asked to stop.

        Raises
        ------
        DatabaseError, psycopg.OperationalError
            If the server is gone for longer than the patience.
        MissingExtraError
            If a package is missing that the files need.
        """
        beat = threading.Event()
        threads = [
            threading.Thread(target=self._guarded, args=(task,), name=name, daemon=True)
            for name, task in (
                ("reader", self._read),
                ("writer", self._write),
                ("heartbeat", lambda: self._beat(beat)),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            self._encode_all()
        except BaseException:
            self._stop.set()
            raise
        finally:
            self._put(self._finished, None)
            threads[1].join()
            beat.set()
            self._stop.set()
            for thread in threads:
                thread.join()
            self._release()
        if self._fatal is not None:
            raise self._fatal
        return self.counts

    def _guarded(self, task: Callable[[], None]) -> None:
        """Run a thread; its failure ends the worker."""
        try:
            task()
        except StoppedError:
            pass
        except BaseException as error:
            self._fatal = self._fatal or error
            self._stop.set()

    def _put(self, where: queue.Queue[T], item: T) -> bool:
        """Put into a full queue when there is room; False if the worker stops first."""
        while True:
            try:
                where.put(item, timeout=_TICK_S)
                return True
            except queue.Full:
                if self._stop.is_set():
                    return False

    def _get(self, where: queue.Queue[T]) -> T | None:
        while not self._stop.is_set():
            try:
                return where.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return None

    # -- reading ------------------------------------------------------------------------------

    def _read(self) -> None:
        with self._link() as link:
            while not self._stop.is_set():
                chunk = self._claim(link)
                if chunk is not None:
                    self._read_chunk(link, chunk)
                elif self._drained(link):
                    break
                else:
                    self._stop.wait(_POLL_S)
        self._put(self._batches, None)

    def _claim(self, link: Link) -> Chunk | None:
        tile, spread = self._inputs.tile, self._inputs.holds_tiles
        return link.run(lambda connection: self._chunks.claim(connection, tile, spread))

    def _drained(self, link: Link) -> bool:
        """Whether nothing is left, with this worker or any other that might still fail."""
        if self._watch:
            return False
        return link.run(self._chunks.open_chunks) == (0, 0)

    def _read_chunk(self, link: Link, chunk: Chunk) -> None:
        existing = link.run(lambda connection: self._chunks.existing(connection, chunk.object_id))
        wanted = chunk.object_id[~np.isin(chunk.object_id, existing)]
        work = _Work(chunk, Outcome.of(wanted, self._encoder.dim))
        with self._lock:
            self._owned[chunk.id] = work
        try:
            if len(wanted):
                for batch in self._inputs.batches(link, chunk, wanted):
                    if work.abandoned or not self._put(self._batches, (work, batch)):
                        break
        except (StoppedError, *_FATAL):
            raise
        except Exception as error:
            self._inputs.close()
            work.error = error
        self._put(self._batches, (work, None))

    # -- encoding -----------------------------------------------------------------------------

    def _encode_all(self) -> None:
        while (item := self._get(self._batches)) is not None:
            work, batch = item
            if work.abandoned or work.error is not None:
                if batch is None:
                    self._put(self._finished, work)
                continue
            if batch is None:
                self._put(self._finished, work)
                continue
            try:
                work.outcome.put(batch.index, self._vectors(batch))
                work.outcome.describe(batch.index, batch.flags, batch.missing, batch.no_sed)
            except Exception as error:
                if isinstance(error, RuntimeError) and "CUDA error" in str(error):
                    raise  # the device is in no state to go on
                work.error = error

    def _vectors(self, batch: Batch) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        images = batch.images
        if not isinstance(images, Tensor):
            return self._encoder.embed(images, batch.sed, self._pooling)
        sed = None if batch.sed is None else torch.from_numpy(batch.sed).to(images.device)
        size = 1 if self._encoder.mode == "reference" else self._encoder.batch_size
        parts = [
            self._encoder.encode(
                images[first : first + size],
                None if sed is None else sed[first : first + size],
                self._pooling,
            )
            for first in range(0, len(images), size)
        ]
        return np.asarray(torch.cat(parts).cpu().numpy(), np.float32)

    # -- writing ------------------------------------------------------------------------------

    def _write(self) -> None:
        with self._link() as link:
            while True:
                try:
                    work = self._finished.get(timeout=_TICK_S)
                except queue.Empty:
                    if self._stop.is_set():
                        return
                    continue
                if work is None:
                    return
                self._conclude(link, work)

    def _conclude(self, link: Link, work: _Work) -> None:
        """Commit a chunk's results, or say why there are none."""
        chunk = work.chunk
        if work.error is None and not work.abandoned:
            try:
                if link.run(
                    lambda connection: self._chunks.finish(connection, chunk, work.outcome)
                ):
                    good = int(work.outcome.good.sum())
                    self.counts.chunks += 1
                    self.counts.embedded += good
                    self.counts.problems += len(work.outcome.good) - good
                else:
                    self.counts.lost += 1
            except (StoppedError, *_FATAL):
                raise
            except Exception as error:
                work.error = error
        if work.error is not None and not work.abandoned:
            blame, reason = _judge(work.error, chunk)
            detail = _one_line(work.error)
            became = link.run(
                lambda connection: self._chunks.fail(connection, chunk, blame, reason, detail)
            )
            self.counts.failed += became != "lost"
            self.counts.lost += became == "lost"
            self.counts.problems += became == "quarantined"
            if became in ("dead", "quarantined"):
                _log.warning("chunk %d %s: %s", chunk.id, became, detail)
        with self._lock:
            self._owned.pop(chunk.id, None)

    # -- leases -------------------------------------------------------------------------------

    def _beat(self, end: threading.Event) -> None:
        """Renew leases; a chunk that was lost is given up at once."""
        # Not stopped with the others: the last chunk is still being written.
        with Link(self._database, self._patience_s, end, self._lease_s) as link:
            while not end.wait(self._lease_s / 4):
                with self._lock:
                    before = dict(self._owned)
                kept = link.run(self._chunks.heartbeat)
                if ended := link.run(self._chunks.end_frozen):
                    _log.warning("ended %d transactions of workers that stand still", ended)
                for number, work in before.items():
                    if number not in kept:
                        work.abandoned = True

    def _release(self) -> None:
        """Hand back what is left, unless the server is gone: then the leases run out."""
        with self._lock:
            left = bool(self._owned)
        try:
            with Link(self._database, 0.0, threading.Event(), self._lease_s) as link:
                if left or self._fatal is not None or self._stop.is_set():
                    link.run(self._chunks.release)
        except (psycopg.Error, DatabaseError) as error:
            _log.warning("chunks could not be handed back: %s", _one_line(error))

    def _link(self) -> Link:
        return Link(self._database, self._patience_s, self._stop, self._lease_s)


def _judge(error: Exception, chunk: Chunk) -> tuple[Blame, str]:
    """Whose fault an error is, and the reason to keep for a single source."""
    if isinstance(error, ConfigurationError):
        return "tile", "bad_file"
    if isinstance(error, FileError):
        return ("source" if chunk.tile is None else "tile"), "bad_file"
    return "source", "error"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FileError) else f"{type(error).__name__}: {text}"
