"""Progress over all workers of a queue: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType

import click
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord
from astropt_db.database.resources import named_queries
from astropt_db.errors import DatabaseError

_TERMINAL_S = 0.5
_LOG_S = 10.0
_WINDOW_S = 60.0
"""The rate is that of the last minute."""


class EmbedProgress:
    """Progress of the queue of one encoder, whoever works on it, read from the database.

    Parameters
    ----------
    database, encoder
        Whose queue.
    interval_s
        Seconds between two looks; by default often on a terminal, seldom in a log.
    """

    def __init__(
        self, database: Database, encoder: EncoderRecord, interval_s: float | None = None
    ) -> None:
        self._database = database
        self._encoder = encoder
        self._console = Console(stderr=True)
        terminal = self._console.is_terminal
        self._interval_s = interval_s or (_TERMINAL_S if terminal else _LOG_S)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._bar = Progress(
            TextColumn("embed"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not terminal,
        )
        self._task = self._bar.add_task("", total=None, said="")
        self._seen: list[tuple[float, int]] = []
        self._first: int | None = None
        self.done = 0

    def __enter__(self) -> EmbedProgress:
        self._look(show=False)
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self._look(show=True)
        self._bar.stop()

    def _watch(self) -> None:
        while not self._end.wait(self._interval_s):
            self._look(show=True)

    def _look(self, show: bool) -> None:
        """Read the counts; a server that is away for a moment is no reason to stop."""
        with suppress(DatabaseError, psycopg.Error), connect(self._database) as connection:
            values = {"encoder_id": self._encoder.id}
            row = connection.execute(named_queries()["embed_progress"], values).fetchone()
            if row is not None:
                self._update(row[0], row[1], row[2], row[3], row[4], show)

    def _update(
        self, embedded: int, problems: int, waiting: int, dead: int, workers: int, show: bool
    ) -> None:
        if self._first is None:
            self._first = embedded + problems
        self.done = embedded + problems - self._first
        total = self.done + waiting
        rate = self._rate()
        said = f"{rate:,.0f} sources/s, {workers} workers, {problems:,} without a vector"
        if dead:
            said += f", {dead:,} given up"
        self._bar.update(self._task, completed=self.done, total=total, said=said)
        if show and not self._console.is_terminal:
            left = f", {waiting / rate:,.0f} s left" if rate and waiting else ""
            share = 100 * self.done / total if total else 100
            click.echo(
                f"embed {self._encoder.name}: {self.done:,} of {total:,} ({share:.0f} %), "
                f"{said}{left}",
                err=True,
            )

    def _rate(self) -> float:
        """Sources per second over the last minute."""
        now = time.monotonic()
        self._seen = [one for one in self._seen if now - one[0] < _WINDOW_S]
        self._seen.append((now, self.done))
        (then, before), span = self._seen[0], now - self._seen[0][0]
        return (self.done - before) / span if span > 0 and now > then else 0.0
