"""``astropt-db simulate``: write a small Q1-like release with known truth."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--sources",
    type=click.IntRange(min=10),
    default=600,
    show_default=True,
    help="Sources drawn on all tiles together.",
)
@click.option(
    "--tiles", type=click.IntRange(min=1), default=2, show_default=True, help="Number of tiles."
)
@click.option(
    "--field",
    type=click.Choice(["EDF-N", "EDF-S", "EDF-F"]),
    default="EDF-N",
    show_default=True,
    help="Deep field: decides positions, ground-based bands and reddening.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Same seed, same bytes.",
)
@click.option(
    "--tile-size",
    type=int,
    default=None,
    help="Pixels on a side of a mosaic (19200 is a real tile). "
    "[default: about 46 sources per square arcminute]",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processes, one tile each.",
)
def simulate(
    directory: Path,
    sources: int,
    tiles: int,
    field: str,
    seed: int,
    tile_size: int | None,
    jobs: int,
) -> None:
    """Write a small Q1-like release with known truth to DIRECTORY.

    Mosaics, catalogues and other surveys are laid out and named as in the archive;
    truth.parquet says what was drawn.
    """
    from astropt_db.simulate import simulate as run

    def say(line: str) -> None:
        click.echo(line, err=True)

    summary = run(directory, sources, tiles, field, seed, tile_size, jobs, say)
    click.echo(
        f"{summary.directory}: {len(summary.files)} files, {summary.detected} catalogued of "
        f"{summary.sources} drawn sources in {summary.seconds:.1f} s"
    )
