"""``astropt-db ingest mosaics|cutouts|seds``: images and SEDs for the encoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import click

from astropt_db.cli.ingest import ingest
from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database, connect
from astropt_db.database.provenance import recorded_run
from astropt_db.errors import ConfigurationError, FileError
from astropt_db.images.cutout_names import band_of
from astropt_db.ingest.catalogue import storable
from astropt_db.ingest.images import (
    ImageReport,
    analyse,
    find_mosaics,
    register_cutouts,
    register_mosaics,
)
from astropt_db.ingest.seds import register_seds


@ingest.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--tile", type=int, metavar="N", help="Tile of files whose names do not tell.")
@click.option("--release", default="Q1", show_default=True, help="Data release of the files.")
@click.option(
    "--replace", is_flag=True, help="Let a file take the place of another one for the same tile."
)
@database_option
def mosaics(
    paths: tuple[str, ...], tile: int | None, release: str, replace: bool, database: Database
) -> None:
    """Register mosaics: files, folders, globs, or addresses (s3://, https://).

    Only headers are read; pixels stay where they are. Run it again after any interruption, or
    when files have moved.
    """
    arguments = {"paths": [storable(one) for one in paths], "tile": tile, "release": release}
    with recorded_run(database, "ingest mosaics", arguments) as run:
        reports, uris = [], []
        for path in paths:
            try:
                uris += find_mosaics(path)
            except FileError as error:
                reports.append(ImageReport(path, "failed", str(error)))
                click.echo(f"failed    {error}", err=True)
        with connect(database, autocommit=True) as connection:
            found = register_mosaics(
                connection,
                list(dict.fromkeys(uris)),
                run.id,
                release=release,
                tile=tile,
                replace=replace,
            )
            reports += _show(found)
            analyse(connection, ["mosaic"])
        run.counts = _count(reports)
        run.failed = run.counts["failed"] > 0
    _finish("mosaics", run.counts)


@ingest.command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--cube-bands",
    metavar="B,B,…",
    help="Bands of the planes of FITS cubes whose headers do not tell, e.g. VIS,NIR_Y,NIR_J,NIR_H.",
)
@database_option
def cutouts(paths: tuple[str, ...], cube_bands: str | None, database: Database) -> None:
    """Register ready-made cut-outs: FITS named by object id, FITS cubes, or Parquet.

    A file's name holds the id (NEG or a minus before a negative one); a Parquet file has the
    columns object_id and VIS_image, NISP_Y_image, NISP_J_image, NISP_H_image, and may have
    sed_data.
    """
    planes = None if cube_bands is None else _bands(cube_bands)
    arguments = {"paths": [storable(one) for one in paths], "cube_bands": cube_bands}
    with recorded_run(database, "ingest cutouts", arguments) as run:
        with connect(database, autocommit=True) as connection:
            reports = [
                report
                for path in paths
                for report in _show(register_cutouts(connection, path, run.id, planes))
            ]
            analyse(connection, ["cutout_file", "cutout"])
        run.counts = _count(reports) | {"objects": sum(one.n_objects for one in reports)}
        run.failed = run.counts["failed"] > 0
    _finish("cut-outs", run.counts)


@ingest.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@database_option
def seds(paths: tuple[str, ...], database: Database) -> None:
    """Load SEDs from HDF5 files in the layout of euclidQ1_SEDs.hdf5.

    Sources of the MER catalogue need none: their SEDs come from its fluxes.
    """
    arguments = {"paths": [storable(one) for one in paths]}
    with recorded_run(database, "ingest seds", arguments) as run:
        with connect(database, autocommit=True) as connection:
            reports = [
                report
                for path in paths
                for report in _show(register_seds(connection, path, run.id))
            ]
        run.counts = _count(reports) | {"objects": sum(one.n_objects for one in reports)}
        run.failed = run.counts["failed"] > 0
    _finish("SEDs", run.counts)


def _bands(text: str) -> list[str]:
    bands = [band_of(one) for one in text.split(",")]
    if None in bands:
        raise ConfigurationError(
            f"--cube-bands {text!r}: expected names such as VIS,NIR_Y,NIR_J,NIR_H"
        )
    return [band for band in bands if band is not None]


def _show(reports: Iterable[ImageReport]) -> list[ImageReport]:
    """Say what became of each file that is new or failed, as it happens."""
    seen = []
    for report in reports:
        seen.append(report)
        if report.state == "failed":
            click.echo(f"failed    {report.message}", err=True)
        elif report.state != "unchanged":
            click.echo(f"{report.state:<9} {report.path}: {report.message}", err=True)
    return seen


def _count(reports: Iterable[ImageReport]) -> dict[str, int]:
    counts = Counter(report.state for report in reports)
    return {state: counts[state] for state in ("new", "updated", "unchanged", "failed")}


def _finish(what: str, counts: dict[str, int]) -> None:
    objects = f"; {counts['objects']:,} objects" if "objects" in counts else ""
    click.echo(
        f"{what}: new {counts['new']:,} / updated {counts['updated']:,} / "
        f"unchanged {counts['unchanged']:,} / failed {counts['failed']:,}{objects}"
    )
    raise SystemExit(1 if counts["failed"] else 0)
