"""A connection that outlives restarts of the server."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import psycopg

from astropt_db.database.connect import Database, connect
from astropt_db.database.resources import named_queries
from astropt_db.errors import DatabaseError

T = TypeVar("T")
_SERVER_FAILED = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class StoppedError(Exception):
    """The worker was asked to end while it waited for the server."""


class _AwayError(Exception):
    """No connection can be made now."""


class Link:
    """Runs transactions, and runs them again where the server failed.

    Lost connections, restarts, a full disk and deadlocks are no fault of the work: the whole
    transaction is repeated, with growing pauses, until it succeeds or patience ends. What is run
    must therefore be right when it runs twice; fenced statements are.

    Parameters
    ----------
    database
        Where; a private server that has died is started again.
    patience_s
        Seconds after which the server's error is final.
    stop
        Set to end the waiting.
    hold_s
        Seconds after which the server ends a transaction that waits for this process. A frozen
        process would keep its rows locked, and claims skip locked rows whatever their lease.
        See also :meth:`~.queue.Queue.end_frozen`.
    """

    def __init__(
        self,
        database: Database,
        patience_s: float,
        stop: threading.Event,
        hold_s: float,
    ) -> None:
        self._database = database
        self._patience_s = patience_s
        self._stop = stop
        self._hold_s = hold_s
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run a function in one transaction.

        Raises
        ------
        DatabaseError, psycopg.OperationalError
            If the server still fails after ``patience_s``.
        StoppedError
            If the worker is asked to end meanwhile.
        """
        started, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                connection = self._open()
                with connection.transaction():
                    return work(connection)
            except (*_SERVER_FAILED, _AwayError) as error:
                self._close()
                if time.monotonic() - started > self._patience_s:
                    raise error.__cause__ or error from None
                _log.warning("the server failed, trying again: %s", str(error).strip())
            if self._stop.wait(pause):
                raise StoppedError
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            try:
                self._connection = self._connect()
            except DatabaseError as error:
                raise _AwayError(str(error)) from error
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        if self._database.embedded is not None:
            with suppress(DatabaseError, OSError):
                self._database.embedded.start()
        connection = connect(self._database, autocommit=True)
        limit = {"limit": f"{math.ceil(1000 * self._hold_s)}ms"}
        connection.execute(named_queries()["embed_link"], limit)
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
