"""``astropt-db similar``: galaxies that look alike."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from astropt_db.cli.options import database_option, format_option
from astropt_db.cli.output import ResultColumn, write_rows
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.search.evaluate import evaluate
from astropt_db.search.similar import Question, find_similar


class _Position(click.ParamType):  # type: ignore[type-arg]
    name = "RA,DEC"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        try:
            ra, dec = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not RA,DEC in degrees", param, ctx)
        return ra, dec


class _Ids(click.ParamType):  # type: ignore[type-arg]
    name = "ID[,ID...]"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        try:
            return [int(one) for one in value.replace(",", " ").split()]
        except ValueError:
            self.fail(f"{value!r} is not a list of object ids", param, ctx)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("target", metavar="[ID|RA,DEC]", required=False)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.fits",
    help="Your own image of the object; once more for each band in a file of its own.",
)
@click.option(
    "--band",
    "bands",
    multiple=True,
    help="Band of the image, or of the planes of a cube in order, if the file does not say.",
)
@click.option("--centre", type=_Position(), help="Where the object is in the image [middle].")
@click.option("--likes", multiple=True, type=_Ids(), help="Objects to resemble.")
@click.option("--dislikes", multiple=True, type=_Ids(), help="Objects not to resemble.")
@click.option(
    "--top", "k", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="Rows."
)
@click.option(
    "--where",
    metavar="SQL",
    help="Only objects that meet this condition, e.g. 'photoz.z_median BETWEEN 0.3 AND 0.6'.",
)
@click.option("--encoder", metavar="NAME", help="Encoder [default: the current one].")
@click.option("--exact", is_flag=True, help="Compare every vector even if there is an index.")
@click.option(
    "--gallery",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Also write a page with pictures.",
)
@click.option(
    "--evaluate",
    "labels",
    metavar="LABELS",
    help="Instead, score the encoder: precision at 10 and at --top by class of 'zoobot', or of a "
    "Parquet file with object_id and morphology.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    help="Seconds after which the server gives up; 0 means never.",
)
@format_option
@database_option
def similar(
    target: str | None,
    images: tuple[Path, ...],
    bands: tuple[str, ...],
    centre: tuple[float, float] | None,
    likes: tuple[list[int], ...],
    dislikes: tuple[list[int], ...],
    k: int,
    where: str | None,
    encoder: str | None,
    exact: bool,
    gallery: Path | None,
    labels: str | None,
    timeout: float,
    output_format: str,
    database: Database,
) -> None:
    """Find the objects most similar to an object, a position or an image.

    Or to some objects and unlike others (--likes, --dislikes). Short names of views and tables
    may be used in --where, which runs read-only, with the rights of a reader and within the time
    limit.

    \b
    astropt-db similar 2678123456789012345 --where "photoz.z_median > 0.5" --gallery out.html
    astropt-db similar 267.78,65.53 --top 50 --format csv
    astropt-db similar --image mine.fits --band VIS --encoder mini-vis
    """
    if labels is not None:
        _evaluate(database, encoder, labels, sorted({10, k}), output_format)
        return
    question = Question(
        target=target,
        images=images,
        bands=bands,
        centre=centre,
        likes=list(chain.from_iterable(likes)),
        dislikes=list(chain.from_iterable(dislikes)),
        k=k,
        encoder=encoder,
        where=where,
        exact=exact,
        timeout_s=timeout,
    )
    answer = find_similar(database, question, lambda line: click.echo(line, err=True))
    write_rows([ResultColumn(*column) for column in answer.columns], answer.rows, output_format)
    if gallery is not None:
        from astropt_db.deliver.gallery import write_gallery

        shown = write_gallery(database, answer, gallery)
        click.echo(f"{gallery}: {shown} pictures", err=True)


def _evaluate(
    database: Database, encoder: str | None, labels: str, ks: list[int], output_format: str
) -> None:
    """Score the encoder and show the scores."""
    with recorded_run(database, "similar evaluate", {"encoder": encoder, "labels": labels}) as run:
        scores = evaluate(database, encoder, labels, ks, run)
        run.counts = {"scores": len(scores)}
    names = ("class", "k", "objects", "members", "precision", "error", "chance", "enrichment")
    rows = [[getattr(one, "name" if name == "class" else name) for name in names] for one in scores]
    write_rows([ResultColumn(name) for name in names], rows, output_format)
