"""``astropt-db cutout``: pictures of sources."""

from __future__ import annotations

from pathlib import Path

import click

from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database
from astropt_db.errors import ConfigurationError


# An id may be negative, and must not be taken for an option.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID…")
@click.option(
    "--size",
    type=click.FloatRange(0.2, 300),
    default=22.4,
    show_default=True,
    help="Side of the window in arcsec; the encoders see 22.4.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["png", "fits"]),
    default="png",
    show_default=True,
    help="A picture (asinh stretch), or the bands in their own units.",
)
@click.option("--vis", is_flag=True, help="VIS in grey instead of VIS, Y and H in colour (PNG).")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the files [default: here].",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@database_option
def cutout(
    ids: tuple[int, ...],
    size: float,
    file_format: str,
    vis: bool,
    folder: Path,
    overwrite: bool,
    database: Database,
) -> None:
    """Write pictures or FITS cut-outs of sources.

    Pixels come from the registered mosaics or cut-outs. A FITS file holds the bands in their own
    units with WCS and zero point.

    \b
    astropt-db cutout 2698077979660116846 -532257415282400330 --size 10 -o pictures/
    """
    from astropt_db.deliver.cutouts import write_cutouts

    bare = [
        one
        for one, path in write_cutouts(database, ids, folder, size, file_format, not vis, overwrite)
        if not _tell(path)
    ]
    if bare:
        raise ConfigurationError(
            f"no pixels of {', '.join(map(str, bare))}: not in the database, or on no registered "
            "image; see: astropt-db ingest mosaics, astropt-db ingest cutouts"
        )


def _tell(path: Path | None) -> bool:
    if path is not None:
        click.echo(path)
    return path is not None
