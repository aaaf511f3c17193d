"""``astropt-db ingest archive``: queries to the ESA and IRSA archives, straight into tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import platformdirs

from astropt_db.cli.ingest import ingest, ingest_paths
from astropt_db.cli.options import database_option
from astropt_db.database.connect import Database
from astropt_db.ingest.catalogue import Options
from astropt_db.q1.archive import ADQL_LABEL, Adql, Selection, Tile, fetch, find_service, parse_cone


@ingest.command()
@click.option("--service", type=click.Choice(["esa", "irsa"]), required=True, help="Archive.")
@click.option("--cone", metavar="RA,DEC,R", help="Degrees; the radius may be 5m or 30s.")
@click.option("--tile", type=int, metavar="N", help="MER tile, 9 digits.")
@click.option("--adql", metavar="SELECT", help="Your own query.")
@click.option(
    "--product",
    "products",
    multiple=True,
    help="Product table; may be repeated [default: mer_catalogue].",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where downloads are kept [default: your cache folder].",
)
@click.option("--url", "tap_url", metavar="URL", help="Another TAP endpoint of the same kind.")
@click.option("--release", default="Q1", show_default=True, help="Data release.")
@click.option("--replace", "replace_rows", is_flag=True, help="Take new values of known objects.")
@database_option
def archive(
    service: str,
    cone: str | None,
    tile: int | None,
    adql: str | None,
    products: tuple[str, ...],
    folder: Path | None,
    tap_url: str | None,
    release: str,
    replace_rows: bool,
    database: Database,
) -> None:
    """Query an archive by TAP and load the answer.

    The rows are counted first and compared with what arrives, so an archive that cuts its
    answer short is noticed. Interrupted downloads continue where they stopped.

    \b
    astropt-db ingest archive --service esa --cone 267.78,65.53,2m
    astropt-db ingest archive --service irsa --tile 102158889 --product mer_morphology
    """
    selection = _selection(cone, tile, adql)
    if not products:
        products = () if isinstance(selection, Adql) else ("mer_catalogue",)
    downloads = fetch(
        find_service(service, tap_url),
        selection,
        products,
        folder or Path(platformdirs.user_cache_path("astropt-db")) / "archive",
        progress=_show,
    )
    options = Options(release=release, replace=replace_rows)
    complete = True
    for download in downloads:
        if not download.files:
            click.echo(
                f"{download.product}: the selection is empty at {download.service}", err=True
            )
            continue
        named = None if download.product == ADQL_LABEL else download.product
        paths = [str(path) for path in download.files]
        reports = ingest_paths(database, paths, replace(options, product=named), jobs=1)
        complete &= all(report.complete for report in reports)
    raise SystemExit(0 if complete else 1)


def _selection(cone: str | None, tile: int | None, adql: str | None) -> Selection:
    given = [
        name for name, value in (("--cone", cone), ("--tile", tile), ("--adql", adql)) if value
    ]
    if len(given) != 1:
        raise click.UsageError("Give exactly one of --cone, --tile and --adql.")
    if cone:
        return parse_cone(cone)
    return Tile(tile) if tile is not None else Adql(adql or "")


def _show(done: int, total: int | None) -> None:
    of = "" if total is None else f" of {total:,}"
    click.echo(f"received {done:,}{of} rows", err=True)
