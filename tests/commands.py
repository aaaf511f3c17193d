"""The command line as a user meets it, and what a database holds after it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from astropt_db.cli.main import main
from astropt_db.database.connect import Database

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def run(database: Database, *arguments: object) -> Outcome:
    """Run ``astropt-db`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = [*map(str, arguments), "--db", database.url]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(argv)
        except SystemExit as end:
            return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main always exits")


def ingest(database: Database, *arguments: object) -> Outcome:
    """Run ``astropt-db ingest catalogue`` in this process."""
    return run(database, "ingest", "catalogue", *arguments)


@contextlib.contextmanager
def process(
    database: Database, *arguments: object, user: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run ``astropt-db`` in a process group of its own, which is gone at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "astropt_db", *map(str, arguments), "--db", database.url],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        user=user,
    ) as running:
        try:
            yield running
        finally:
            kill_group(running.pid)


def kill_group(pid: int) -> None:
    """Send SIGKILL to a process and its children, if they still run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def select(database: Database, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with psycopg.connect(database.url) as connection:
        return connection.execute(query, values).fetchall()


def content(database: Database) -> dict[str, tuple[int, int]]:
    """Number of rows and an order-independent checksum of every product table.

    Which file a row came from is left out, and so are tables without rows; ``quarantine`` stands
    for the open rows of the quarantine, each with its file's path.
    """
    with psycopg.connect(database.url) as connection:
        tables = connection.execute(
            "SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) "
            "FROM information_schema.columns WHERE table_schema = 'q1' AND column_name NOT IN "
            "('ingest_file_id') GROUP BY table_name"
        ).fetchall()
        sources = {
            name: sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("q1", name)
            )
            for name, columns in tables
        }
        sources["quarantine"] = sql.SQL(
            "SELECT f.path, q.product, row_number, object_id, reason, detail, row "
            "FROM astropt.quarantine AS q JOIN astropt.ingest_file AS f ON f.id = ingest_file_id "
            "WHERE q.state = 'open'"
        )
        found = {}
        for name, source in sources.items():
            query = sql.SQL("SELECT count(*), sum(hash_record_extended(t.*, 0)) FROM ({}) AS t")
            row = connection.execute(query.format(source)).fetchone()
            assert row is not None
            if row[0]:
                found[name] = (row[0], int(row[1]))
        return found


def done_files(database: Database) -> int:
    """Number of files that are completely in."""
    ((count,),) = select(database, "SELECT count(*) FROM astropt.ingest_file WHERE state = 'done'")
    return int(count)
