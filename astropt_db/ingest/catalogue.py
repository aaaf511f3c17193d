"""Catalogue files into the product tables: one transaction per file, safe to repeat.

A file is known by its SHA-256: the same content again is not read again. A file for a product
and tile that were loaded from other content is refused unless it is meant to replace it. If
anything goes wrong in a file nothing of it stays, and the other files go on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import psycopg

from astropt_db.database.connect import Database, connect
from astropt_db.database.resources import named_queries
from astropt_db.errors import AstroptDbError, DatabaseError, FileError
from astropt_db.ingest import quarantine
from astropt_db.ingest.identify import Identities, identify
from astropt_db.ingest.match import Target, targets, tile_of, unclaimed
from astropt_db.ingest.merge import Counts, merge
from astropt_db.q1.readers import Table, open_tables

_ATTEMPTS = 6
_HASH_BLOCK = 1 << 22
# Another process inserted the same object, or the server went away: the file is tried again.
_RETRY = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
)


@dataclass(frozen=True)
class Options:
    """How files are ingested.

    Attributes
    ----------
    release
        Data release that the files belong to.
    product
        Product table, if the user named it; else it is recognised.
    replace
        Take a file in place of what was loaded before for the same product and tile.
    repair_ids
        Rebuild destroyed object ids from the positions where these leave no doubt.
    """

    release: str = "Q1"
    product: str | None = None
    replace: bool = False
    repair_ids: bool = False

    @property
    def tries_again(self) -> bool:
        """Whether rows that were rejected before may be taken this time."""
        return self.replace or self.repair_ids


@dataclass
class FileReport:
    """What became of one file, for one product.

    Attributes
    ----------
    path
        The file.
    product
        Product table; empty if the file failed before it was recognised.
    state
        ``done``, ``known`` (the same content was loaded before) or ``failed``.
    counts
        Its rows.
    message
        Why it failed, or what else is worth saying.
    unknown, missing, skipped
        Columns kept in ``extra``, columns that are NULL, and columns without a table here.
    """

    path: str
    product: str = ""
    state: str = "done"
    counts: Counts = field(default_factory=Counts)
    message: str = ""
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    open_rows: int = 0

    @property
    def complete(self) -> bool:
        """Whether every row of the file is in the database."""
        return self.state != "failed" and self.counts.rejected == 0 and self.open_rows == 0


@dataclass(frozen=True)
class _File:
    """A file, opened and judged, before the database is touched."""

    path: Path
    digest: Future[str]
    size: int
    items: list[tuple[Table, Target, Identities]]
    skipped: tuple[str, ...]


def ingest_file(
    database: Database,
    path: Path,
    options: Options,
    run_id: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[FileReport]:
    """Load one catalogue file; one report per product that it holds.

    Never raises for a bad file: the report says ``failed`` and why, and so does
    ``astropt.ingest_file``.
    """
    size = path.stat().st_size if path.exists() else 0
    digest: Future[str] = Future()
    try:
        known, sha256 = _loaded_before(database, path, size, options)
        if known:
            progress(sum(report.counts.read for report in known))
            return known
        with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
            # Hashing releases the interpreter lock; beside reading and COPY it costs no time.
            if sha256 is None:
                digest = thread.submit(hash_file, path)
            else:
                digest.set_result(sha256)
            items, skipped = _prepare(path, options, stack)
            file = _File(path, digest, size, items, skipped)
            return _load(database, file, options, run_id, progress)
    except (AstroptDbError, psycopg.Error) as error:
        reason = _explain(path, error)
        hashed = digest.done() and digest.exception() is None
        sha256 = digest.result() if hashed else None
        _record_failure(database, run_id, path, sha256, size, options.release, reason)
        return [FileReport(str(path), state="failed", message=reason)]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises
    ------
    FileError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as handle:
            while chunk := handle.read(_HASH_BLOCK):
                digest.update(chunk)
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _loaded_before(
    database: Database, path: Path, size: int, options: Options
) -> tuple[list[FileReport], str | None]:
    """Reports of a file whose content is in already, and its hash if that had to be known.

    Only a file of the same size can have the same content, so others are not hashed here.
    """
    with connect(database) as connection:
        rows = connection.execute(
            named_queries()["ingest_same_size"],
            {"size_bytes": size, "release": options.release, "product": options.product},
        ).fetchall()
    if not rows:
        return [], None
    sha256 = hash_file(path)
    same = [(product, n_read, n_open) for sha, product, n_read, n_open in rows if sha == sha256]
    if options.tries_again and any(n_open for _, _, n_open in same):
        return [], sha256
    return [_known_report(path, *one) for one in same], sha256


def _known_report(path: Path, product: str, n_read: int, n_open: int) -> FileReport:
    counts = Counts(read=n_read, unchanged=n_read - n_open, rejected=n_open)
    note = f"; {n_open} of its rows are in quarantine" if n_open else ""
    message = f"same content as before{note}"
    return FileReport(str(path), product, "known", counts, message, open_rows=n_open)


def _prepare(
    path: Path, options: Options, stack: ExitStack
) -> tuple[list[tuple[Table, Target, Identities]], tuple[str, ...]]:
    """Open a file, recognise its products and read its identifiers; and the columns left out."""
    tables = [stack.enter_context(table) for table in open_tables(path)]
    pairs = targets(tables, options.product)
    items = [
        (table, target, identify(table, target, repair=options.repair_ids))
        for table, target in pairs
    ]
    skipped = [
        name
        for table in tables
        for name in unclaimed(table, [target for one, target in pairs if one is table])
    ]
    return items, tuple(skipped)


def _load(
    database: Database,
    file: _File,
    options: Options,
    run_id: int,
    progress: Callable[[int], None],
) -> list[FileReport]:
    for attempt in range(_ATTEMPTS):
        shown = 0

        def advance(rows: int) -> None:
            nonlocal shown
            shown += rows
            progress(rows)

        try:
            with connect(database) as connection, connection.cursor() as cursor:
                return list(_load_products(cursor, file, options, run_id, advance))
        except (psycopg.OperationalError, DatabaseError, *_RETRY) as error:
            if attempt == _ATTEMPTS - 1 or not _worth_another_try(error):
                raise
            progress(-shown)
            time.sleep(0.25 * 2**attempt)
            if database.embedded is not None:
                database.embedded.start()
    raise AssertionError("the loop returns or raises")


def _worth_another_try(error: Exception) -> bool:
    if isinstance(error, _RETRY):
        return True
    # A connection that broke has no SQLSTATE; everything else (disk full, …) has one.
    broken = error.__cause__ if isinstance(error, DatabaseError) else error
    return isinstance(broken, psycopg.OperationalError) and broken.sqlstate is None


def _load_products(
    cursor: psycopg.Cursor,
    file: _File,
    options: Options,
    run_id: int,
    progress: Callable[[int], None],
) -> Iterator[FileReport]:
    """Load each product of a file, all in the cursor's one transaction."""
    for product, group in groupby(file.items, key=lambda item: item[1].product):
        yield _load_product(cursor, file, product.table, list(group), options, run_id, progress)


def _load_product(
    cursor: psycopg.Cursor,
    file: _File,
    product: str,
    items: list[tuple[Table, Target, Identities]],
    options: Options,
    run_id: int,
    progress: Callable[[int], None],
) -> FileReport:
    queries = named_queries()
    tile = tile_of(file.path, items[0][0])
    key: dict[str, object] = {
        "product": product,
        "release": options.release,
        "size_bytes": file.size,
        "tile": tile,
    }
    if tile is not None:
        cursor.execute(queries["ingest_lock"], {"key": f"{product}/{options.release}/{tile}"})
    before = _loaded_meanwhile(cursor, file, key)
    if before is not None and not (before[2] and options.tries_again):
        # Another process was faster.
        progress(before[1])
        return _known_report(file.path, product, before[1], before[2])
    replaced = [before[0]] if before is not None else _earlier_files(cursor, file, key, options)
    cursor.execute(queries["ingest_file_replaced"], {"ids": replaced})
    cursor.execute(queries["quarantine_resolve_files"], {"ids": replaced})
    report = FileReport(
        str(file.path),
        product,
        unknown=tuple(dict.fromkeys(name for _, target, _ in items for name in target.extra)),
        missing=tuple(dict.fromkeys(name for _, target, _ in items for name in target.missing)),
        skipped=file.skipped,
    )
    row = cursor.execute(
        queries["ingest_file_insert"],
        key
        | {"run_id": run_id, "path": storable(file.path)}
        | {"unknown_columns": list(report.unknown), "missing_columns": list(report.missing)},
    ).fetchone()
    assert row is not None
    replacing = replaced if options.replace or before is not None else None
    for table, target, identities in items:
        counts, rejections = merge(
            cursor,
            table,
            target,
            identities,
            row[0],
            replaced_files=replacing,
            overwrite=options.replace,
            progress=progress,
        )
        quarantine.store(cursor, table, target, row[0], rejections)
        report.counts.add(counts)
    # Two processes may have loaded the same content at once: its hash is unique, so the second
    # one fails here, is tried again, and finds the first one's rows.
    cursor.execute(
        queries["ingest_file_counts"],
        {"id": row[0], "sha256": file.digest.result()} | vars(report.counts),
    )
    return report


def _loaded_meanwhile(
    cursor: psycopg.Cursor, file: _File, key: dict[str, object]
) -> tuple[int, int, int] | None:
    """Number, rows and open rows of the file with this content, if it is in.

    Only a file of the same size can have the same content, so the hash is seldom waited for.
    """
    queries = named_queries()
    if not cursor.execute(queries["ingest_same_size"], key).fetchall():
        return None
    return cursor.execute(queries["ingest_done"], key | {"sha256": file.digest.result()}).fetchone()


def _earlier_files(
    cursor: psycopg.Cursor, file: _File, key: dict[str, object], options: Options
) -> list[int]:
    """Files that this one replaces: same product, release and tile, other content."""
    if key["tile"] is None:
        return []
    rows = cursor.execute(named_queries()["ingest_tile_done"], key).fetchall()
    if rows and not options.replace:
        raise FileError(
            file.path,
            f"brings tile {key['tile']} of {key['product']}, which was already loaded from "
            f"{rows[0][1]} with other content.",
            "If this file is the better one, run again with --replace.",
        )
    return [row[0] for row in rows]


def _explain(path: Path, error: Exception) -> str:
    """One line for people about what stopped a file."""
    if isinstance(error, psycopg.errors.DiskFull):
        return (
            f"{path}: the database server's disk is full ({_first_line(error)}). "
            "Nothing of this file was kept; free space on the server and run the command again"
        )
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return (
            f"{path}: the connection to the database was lost ({_first_line(error)}). "
            "Nothing of this file was kept; run the command again"
        )
    if isinstance(error, psycopg.Error):
        return f"{path}: the database refused it: {_first_line(error)}. Nothing of it was kept"
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def storable(text: object) -> str:
    """Text as PostgreSQL takes it: bytes of a file name that are no UTF-8 are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _record_failure(
    database: Database,
    run_id: int,
    path: Path,
    sha256: str | None,
    size: int,
    release: str,
    reason: str,
) -> None:
    try:
        with connect(database) as connection:
            connection.execute(
                named_queries()["ingest_file_failed"],
                {
                    "run_id": run_id,
                    "path": storable(path),
                    "sha256": sha256,
                    "size_bytes": size,
                    "release": release,
                    "error": storable(reason),
                },
            )
    except (DatabaseError, psycopg.Error):
        # The database itself is what failed; the report carries the reason.
        return
