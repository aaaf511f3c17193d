"""Many catalogue files: one after another, or several at once in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

from astropt_db.database.connect import Database
from astropt_db.ingest.catalogue import FileReport, Options, ingest_file

Progress = Callable[[Path, int], None]
"""Called with a file and the number of its rows that were handled since the last call."""


def ingest_files(
    database: Database,
    paths: Iterable[Path],
    options: Options,
    run_id: int,
    *,
    jobs: int = 1,
    progress: Progress = lambda path, rows: None,
) -> Iterator[FileReport]:
    """Ingest files and yield their reports as they end; a bad file does not stop the others.

    Parameters
    ----------
    database
        Where to; it must hold the current schema.
    jobs
        Number of files that are read at the same time.
    """
    if jobs == 1:
        for path in paths:
            yield from ingest_file(database, path, options, run_id, partial(progress, path))
        return
    yield from _in_processes(database, list(paths), options, run_id, jobs, progress)


def _in_processes(
    database: Database,
    paths: list[Path],
    options: Options,
    run_id: int,
    jobs: int,
    progress: Progress,
) -> Iterator[FileReport]:
    context = multiprocessing.get_context("spawn")
    rows: Queue[tuple[Path, int] | None] = context.Queue()
    listener = threading.Thread(target=_listen, args=(rows, progress), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (rows, os.getpid()))
    try:
        waiting = {pool.submit(_work, database, path, options, run_id): path for path in paths}
        for done in as_completed(waiting):
            path = waiting[done]
            try:
                yield from done.result()
            except BrokenProcessPool:
                yield FileReport(
                    str(path),
                    state="failed",
                    message=f"{path}: the process that read it was killed. Nothing of it was "
                    "kept; run the command again, perhaps with fewer --jobs",
                )
    finally:
        # After Ctrl-C nothing is waited for: a transaction that is cut off leaves no trace.
        for process in list(getattr(pool, "_processes", {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        rows.put(None)
        listener.join()


def _listen(rows: Queue[tuple[Path, int] | None], progress: Progress) -> None:
    while (item := rows.get()) is not None:
        progress(*item)


_queue: Queue[tuple[Path, int] | None] | None = None


def _start_worker(rows: Queue[tuple[Path, int] | None], parent: int) -> None:
    """Set up a worker: Ctrl-C is the parent's affair, and no parent means no work."""
    global _queue
    _queue = rows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(database: Database, path: Path, options: Options, run_id: int) -> list[FileReport]:
    assert _queue is not None
    sender = _queue
    return ingest_file(database, path, options, run_id, lambda rows: sender.put((path, rows)))
