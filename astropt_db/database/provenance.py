"""The ``run`` row of every job: which code did what, when, and how it ended."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg.types.json import Jsonb

from astropt_db import __version__
from astropt_db.database.connect import Database, connect
from astropt_db.database.resources import named_queries
from astropt_db.errors import DatabaseError
from astropt_db.logs import current_run, without_passwords

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A job that is going on.

    Attributes
    ----------
    id
        Its row in ``astropt.run``.
    counts
        What it did; stored when it ends.
    failed
        Set to True if something was not done.
    """

    id: int
    counts: dict[str, int] = field(default_factory=dict)
    failed: bool = False


@contextmanager
def recorded_run(
    database: Database, command: str, arguments: Mapping[str, object]
) -> Iterator[Run]:
    """Record a job from here to the end of the block, in transactions of its own.

    A killed job leaves its row in state ``running`` without an end.
    """
    queries = named_queries()
    with connect(database) as connection:
        row = connection.execute(
            queries["run_insert"],
            {
                "command": command,
                "arguments": Jsonb(_readable(arguments)),
                "code_version": __version__,
                "host": socket.gethostname(),
                "pid": os.getpid(),
            },
        ).fetchone()
    assert row is not None
    run = Run(row[0])
    outer = current_run.set(run.id)
    logger.info("%s begins", command)
    try:
        yield run
    except BaseException:
        run.failed = True
        raise
    finally:
        logger.info("%s %s %s", command, "failed" if run.failed else "is done", run.counts)
        current_run.reset(outer)
        # The server may be gone; the original error then matters more than this row.
        with suppress(DatabaseError, psycopg.Error), connect(database) as connection:
            connection.execute(
                queries["run_end"],
                {
                    "id": run.id,
                    "state": "failed" if run.failed else "done",
                    "counts": Jsonb(run.counts),
                },
            )


def _readable(arguments: Mapping[str, object]) -> object:
    """The arguments as everybody may read them: addresses lose their passwords."""
    return json.loads(without_passwords(json.dumps(dict(arguments), default=str)))
