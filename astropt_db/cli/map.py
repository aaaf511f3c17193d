"""``astropt-db map``: an embedding in two dimensions."""

from __future__ import annotations

from pathlib import Path

import click

from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database


@click.command("map")
@click.option("--encoder", help="Name of the encoder [default: the current one].")
@click.option(
    "--method",
    type=click.Choice(["auto", "umap", "pca"]),
    default="auto",
    show_default=True,
    help="UMAP as in the paper (extra [umap]), or PCA; auto takes UMAP where installed.",
)
@click.option(
    "--colour",
    "expressions",
    multiple=True,
    help="SQL expression on astropt.catalogue whose median colours the cells; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("maps"),
    show_default=True,
    help="Folder of the figures.",
)
@database_option
def map_embedding(
    encoder: str | None,
    method: str,
    expressions: tuple[str, ...],
    out: Path,
    database: Database,
) -> None:
    """Map an embedding: coordinates to astropt.map_coordinate, hexbin figures to a folder."""
    from astropt_db.outliers import maps

    # A wrong expression must not cost the minutes that a map takes.
    wanted = {text: maps.colours(database, text) for text in expressions}
    made = maps.make_map(database, encoder, method)
    click.echo(maps.draw(made, out, None, "sources"))
    for text, values in wanted.items():
        click.echo(maps.draw(made, out, values, text))
    if made.method == "pca" and method == "auto":
        click.echo(
            "UMAP is not installed, so this is a PCA: pip install 'astropt-db[umap]'", err=True
        )
    if made.leak is not None:
        leak = made.leak
        click.echo(
            f"field leakage: a linear classifier tells {', '.join(leak.fields)} apart with a "
            f"balanced accuracy of {leak.balanced_accuracy:.3f} (chance {leak.chance:.3f}, "
            f"{leak.sources} sources)",
            err=True,
        )
