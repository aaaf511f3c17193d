"""An embedding job: one worker in this process, or several in processes of their own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import psycopg
import torch

from astropt_db.astropt.encoder import Encoder, Mode
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.embed.inputs import Inputs
from astropt_db.embed.queue import LEASE_S, MAX_ATTEMPTS, Queue, analyse
from astropt_db.embed.worker import Worker, WorkerCounts
from astropt_db.encoders.registry import open_encoder, pooling_of
from astropt_db.errors import AstroptDbError, DatabaseError

_log = logging.getLogger(__name__)
_TICK_S = 0.2
_DEATHS_WITHOUT_PROGRESS = 20


@dataclass(frozen=True)
class Settings:
    """How to embed.

    Attributes
    ----------
    encoder
        Name in the database.
    device
        ``cpu``, ``cuda``, ``cuda:1``; ``None`` takes a GPU if there is one. With several workers
        and ``cuda``, each takes the next GPU.
    mode
        ``fast``, or ``reference``, whose vectors repeat bit for bit.
    threads
        Of torch in each worker on a CPU; ``None`` shares the cores among the workers.
    watch
        Wait for new chunks for ever.
    lease_s, max_attempts
        As in :class:`~astropt_db.embed.queue.Queue`.
    patience_s
        How long to wait for a server that is gone.
    """

    encoder: str
    device: str | None = None
    mode: Mode = "fast"
    threads: int | None = None
    watch: bool = False
    lease_s: float = LEASE_S
    max_attempts: int = MAX_ATTEMPTS
    patience_s: float = 300.0

    def described(self, encoder: Encoder | None = None) -> dict[str, Any]:
        """Plain values for ``astropt.run``, with the versions and devices that decide a vector."""
        facts: dict[str, Any] = {"torch": torch.__version__}
        if encoder is not None:
            facts |= {"device": str(encoder.device), "dtype": str(encoder.dtype).split(".")[-1]}
            if encoder.device.type == "cuda":
                facts["gpu"] = torch.cuda.get_device_name(encoder.device)
        return asdict(self) | facts


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_worker(database: Database, settings: Settings, run_id: int) -> Worker:
    """Load the encoder and make a worker for its queue.

    Raises
    ------
    ConfigurationError
        If there is no such encoder or device, or its weights have changed.
    """
    with connect(database) as connection:
        record = find_encoder(connection, settings.encoder)
    encoder = open_encoder(record, settings.device, settings.mode)
    pooling = pooling_of(record)
    chunks = Queue(record, run_id, settings.lease_s, settings.max_attempts)
    return Worker(
        database,
        chunks,
        encoder,
        pooling,
        Inputs(encoder, pooling),
        settings.lease_s,
        settings.patience_s,
        settings.watch,
    )


def run_here(database: Database, settings: Settings, run_id: int) -> WorkerCounts:
    """Work in this process until the queue is empty; SIGTERM and Ctrl-C hand everything back."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    worker = make_worker(database, settings, run_id)
    with _stopped_by_sigterm(worker):
        return worker.run()


@contextmanager
def _stopped_by_sigterm(worker: Worker) -> Iterator[None]:
    """SIGTERM, which batch systems send before they kill, ends the worker in good order."""

    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_processes(
    database: Database,
    settings: Settings,
    run_id: int,
    workers: int,
    progress: Callable[[], int],
) -> None:
    """Work in several processes until the queue is empty.

    A process that is killed is replaced; what it had is done by another once its lease is over.

    Parameters
    ----------
    progress
        Called now and then; gives the number of sources done so far.

    Raises
    ------
    DatabaseError
        If workers die again and again, or end with an error.
    """
    context = multiprocessing.get_context("spawn")

    def start(number: int) -> BaseProcess:
        arguments = (database, _for_process(settings, number, workers), run_id, os.getpid())
        process = context.Process(target=_work, args=arguments, name=f"embed-{number}")
        with _interrupts_held():
            process.start()
        return process

    running = {number: start(number) for number in range(workers)}
    deaths, done, failed = 0, progress(), 0
    try:
        while running:
            time.sleep(_TICK_S)
            now = progress()
            deaths, done = (0, now) if now > done else (deaths, done)
            for number, process in list(running.items()):
                if process.is_alive():
                    continue
                del running[number]
                code = process.exitcode or 0
                failed += code > 0
                if code < 0:
                    deaths += 1
                    _log.warning("worker %d died (signal %d)", number, -code)
                    if deaths <= _DEATHS_WITHOUT_PROGRESS:
                        running[number] = start(number)
    finally:
        _end(list(running.values()))
    if deaths > _DEATHS_WITHOUT_PROGRESS:
        raise DatabaseError("the workers are killed again and again, perhaps for want of memory")
    if failed:
        raise DatabaseError(f"{failed} of {workers} workers ended with an error; see above")


def _for_process(settings: Settings, number: int, workers: int) -> Settings:
    """Settings of one of several workers: its share of the cores, its own GPU."""
    values = asdict(settings)
    if settings.threads is None:
        values["threads"] = max(1, cores() // workers)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus > 1 and settings.device in (None, "cuda"):
        values["device"] = f"cuda:{number % gpus}"
    return Settings(**values)


def _work(database: Database, settings: Settings, run_id: int, parent: int) -> None:
    """A worker process; without its parent it hands everything back and ends."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(settings.threads or 1)
    try:
        worker = make_worker(database, settings, run_id)
        threading.Thread(target=_follow, args=(parent, worker), daemon=True).start()
        with _stopped_by_sigterm(worker):
            worker.run()
    except (AstroptDbError, psycopg.Error) as error:
        _log.error("%s", str(error).strip())
        raise SystemExit(1) from error


def _follow(parent: int, worker: Worker) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    worker.stop()


def _end(processes: list[BaseProcess]) -> None:
    """End processes that still run: first a request, then no mercy."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes here: they inherit a mask that leaves Ctrl-C to their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def refresh_statistics(database: Database, encoder: EncoderRecord) -> None:
    """Tell the planner about the new vectors, where we may."""
    with suppress(DatabaseError, psycopg.Error), connect(database, autocommit=True) as connection:
        analyse(connection, encoder)
