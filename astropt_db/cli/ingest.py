"""``astropt-db ingest``: files and archive queries into tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path

import click

from astropt_db.cli.options import database_option
from astropt_db.cli.progress import FileProgress
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.errors import FileError
from astropt_db.ingest.batch import ingest_files, refresh_statistics
from astropt_db.ingest.catalogue import FileReport, Options, storable
from astropt_db.ingest.merge import Counts
from astropt_db.q1.readers import catalogue_files


@click.group()
def ingest() -> None:
    """Load Euclid Q1 products, images and labels."""


@ingest.command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Files to read at the same time.",
)
@click.option("--product", help="Product table, if it cannot be recognised.")
@click.option("--release", default="Q1", show_default=True, help="Data release of the files.")
@click.option(
    "--replace", is_flag=True, help="Let a file take the place of another one for the same tile."
)
@click.option(
    "--repair-ids",
    is_flag=True,
    help="Rebuild destroyed object ids from positions that are precise enough.",
)
@database_option
def catalogue(
    paths: tuple[str, ...],
    jobs: int,
    product: str | None,
    release: str,
    replace: bool,
    repair_ids: bool,
    database: Database,
) -> None:
    """Load catalogues: files, folders or globs of FITS, Parquet, HATS, VOTable, ECSV, CSV.

    Each file is one transaction. Run the same command again after any interruption: files that
    are in already cost only their checksum. Ends with exit code 0 only when every row is in.
    """
    options = Options(release, product, replace, repair_ids)
    reports = ingest_paths(database, paths, options, jobs)
    raise SystemExit(0 if all(report.complete for report in reports) else 1)


def ingest_paths(
    database: Database, paths: Sequence[str], options: Options, jobs: int
) -> list[FileReport]:
    """Ingest what the paths stand for, with progress and a last line of counts."""
    reports = []
    files = []
    for path in paths:
        try:
            files += _expand(path)
        except FileError as error:
            click.echo(f"error: {error}", err=True)
            reports.append(FileReport(path, state="failed", message=str(error)))
    files = list(dict.fromkeys(files))
    started = time.monotonic()
    arguments = vars(options) | {"paths": [storable(path) for path in paths], "jobs": jobs}
    with recorded_run(database, "ingest catalogue", arguments) as run:
        with FileProgress(files) as progress:
            for report in ingest_files(
                database, files, options, run.id, jobs=jobs, progress=progress.advance
            ):
                reports.append(report)
                progress.done(report, _line(report))
        refresh_statistics(database, reports)
        total = _total(reports)
        run.counts = vars(total)
        run.failed = not all(report.complete for report in reports)
    _summary(reports, total, time.monotonic() - started)
    return reports


def _expand(path: str) -> list[Path]:
    """Files that an argument stands for: a file, a folder, or a pattern."""
    if not has_magic(path) or Path(path).exists():
        return catalogue_files(Path(path))
    # The pattern is the user's and may be absolute or hold **; pathlib's glob takes neither as is.
    matches = sorted(glob(path, recursive=True))  # noqa: PTH207
    if not matches:
        raise FileError(path, "matches no file.", "Check the pattern.")
    return [file for match in matches for file in catalogue_files(Path(match))]


def _line(report: FileReport) -> str:
    """What one file brought, in a line."""
    name = Path(report.path).name
    if report.state == "failed":
        return f"failed   {report.message}"
    counts = report.counts
    parts = [f"{report.state:<8} {name}: {report.product}, {counts.read:,} rows"]
    for label, number in (
        ("updated", counts.updated),
        ("removed", counts.removed),
        ("repaired ids", counts.repaired),
        ("in quarantine", counts.rejected),
    ):
        if number:
            parts.append(f"{number:,} {label}")
    if report.message:
        parts.append(report.message)
    if report.unknown:
        parts.append(f"{len(report.unknown)} unknown columns kept in extra")
    if report.missing:
        parts.append(f"{len(report.missing)} listed columns missing")
    if report.skipped:
        parts.append(f"{len(report.skipped)} columns of products without a table here not loaded")
    return ", ".join(parts)


def _total(reports: Iterable[FileReport]) -> Counts:
    total = Counts()
    for report in reports:
        total.add(report.counts)
    return total


def _summary(reports: Sequence[FileReport], total: Counts, seconds: float) -> None:
    failed = len({report.path for report in reports if report.state == "failed"})
    if failed:
        click.echo(f"{failed} of {len({r.path for r in reports})} files failed", err=True)
    if total.rejected:
        click.echo(
            f"{total.rejected:,} rows are in quarantine; see: astropt-db quarantine list", err=True
        )
    loaded = sum(r.counts.read for r in reports if r.state == "done")
    click.echo(
        f"read {total.read:,} / inserted {total.inserted:,} / updated {total.updated:,} / "
        f"unchanged {total.unchanged:,} / rejected {total.rejected:,}; "
        f"{loaded / max(seconds, 1e-9):,.0f} rows/s"
    )
