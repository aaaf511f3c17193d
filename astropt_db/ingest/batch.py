"""Many catalogue files: one after another, or several at once in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from astropt_db.database.connect import Database, analyse_table, connect
from astropt_db.errors import DatabaseError
from astropt_db.ingest.catalogue import FileReport, Options, ingest_file
from astropt_db.q1.products import BY_TABLE

_REFRESH = 0.2  # seconds between two looks at the progress of workers

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


def refresh_statistics(database: Database, reports: Iterable[FileReport]) -> None:
    """Tell the planner about freshly loaded tables.

    Only the columns that joins use are analysed: all 469 would take seconds, and the server's
    autovacuum comes to them by itself. For the same reason a server that has just gone away is
    no error here: what was loaded is loaded.
    """
    loaded = {report.product for report in reports if report.counts.inserted}
    with suppress(DatabaseError, psycopg.Error), connect(database, autocommit=True) as connection:
        for product in (BY_TABLE[name] for name in sorted(loaded)):
            names = [*product.key, "ingest_file_id", *(["healpix29"] * product.has_position)]
            analyse_table(connection, sql.Identifier("q1", product.table), names)


def _in_processes(
    database: Database,
    paths: list[Path],
    options: Options,
    run_id: int,
    jobs: int,
    progress: Progress,
) -> Iterator[FileReport]:
    context = multiprocessing.get_context("spawn")
    # Each file's rows so far. Without a lock or a pipe, which a killed worker would leave blocked.
    rows = context.RawArray("q", len(paths))
    shown = [0] * len(paths)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (rows, os.getpid()))
    try:
        with _interrupts_held():
            waiting = {
                pool.submit(_work, i, database, path, options, run_id): path
                for i, path in enumerate(paths)
            }
        while waiting:
            done, _ = wait(waiting, _REFRESH, FIRST_COMPLETED)
            for i, count in enumerate(rows):
                if count != shown[i]:
                    progress(paths[i], count - shown[i])
                    shown[i] = count
            for future in done:
                yield from _result(future, waiting.pop(future))
    except BaseException:
        # After Ctrl-C nothing is waited for: a transaction that is cut off leaves no trace.
        for process in list(getattr(pool, "_processes", {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes here: they inherit a mask that leaves Ctrl-C to their parent.

    A terminal sends it to all of them, and one that is still importing would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(future: Future[list[FileReport]], path: Path) -> list[FileReport]:
    try:
        return future.result()
    except BrokenProcessPool:
        message = (
            f"{path}: a process was killed before this file was in, perhaps for want of memory. "
            "Nothing of it was kept; run the command again, perhaps with fewer --jobs"
        )
        return [FileReport(str(path), state="failed", message=message)]


_rows: MutableSequence[int] = []
"""In a worker: rows so far of every file, shared with the parent."""


def _start_worker(rows: MutableSequence[int], parent: int) -> None:
    """Set up a worker; without its parent it stops working."""
    global _rows
    _rows = rows
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(
    index: int, database: Database, path: Path, options: Options, run_id: int
) -> list[FileReport]:
    def advance(rows: int) -> None:
        _rows[index] += rows

    return ingest_file(database, path, options, run_id, advance)
