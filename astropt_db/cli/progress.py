"""Progress over files or training steps: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:  # Every verb shows progress; only ingestion waits for astropy.
    from astropt_db.ingest.catalogue import FileReport


class FileProgress:
    """Progress bar on stderr over the bytes of files, with a count of rows.

    Parameters
    ----------
    files
        All files that will be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._sizes = {str(path): path.stat().st_size for path in files if path.exists()}
        self._rows = 0
        self._finished: set[str] = set()
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("ingest"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rows]:,} rows"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=sum(self._sizes.values()), rows=0)

    def __enter__(self) -> FileProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, path: Path, rows: int) -> None:
        """Note that rows of a file were handled."""
        self._rows += rows
        self._bar.update(self._task, rows=self._rows)

    def done(self, report: FileReport, line: str) -> None:
        """Note that a file ended, and say how."""
        if report.path not in self._finished:
            self._finished.add(report.path)
            self._bar.update(self._task, advance=self._sizes.get(report.path, 0))
        if self._console.is_terminal:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)


class StepProgress:
    """Progress on stderr over the steps of a training run, with its losses.

    Parameters
    ----------
    total
        Steps of the whole run.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("pretrain"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, losses="")

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, losses: dict[str, float]) -> None:
        """Note that a step is done; a validation is also printed."""
        text = ", ".join(f"{k} {v:.4f}" for k, v in losses.items() if k != "iteration")
        step = losses["iteration"]
        self._bar.update(self._task, completed=step, losses=text)
        if len(losses) > 2:
            line = f"step {step:,.0f}: {text}"
            if self._console.is_terminal:
                self._bar.console.print(line, markup=False, highlight=False)
            else:
                click.echo(line, err=True)
