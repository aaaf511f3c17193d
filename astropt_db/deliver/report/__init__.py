"""``astropt-db report``: one page that shows what is in the database, without server or network."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from astropt_db import __version__
from astropt_db.database.connect import Database
from astropt_db.deliver.files import check_target, new_file
from astropt_db.deliver.report.facts import Facts, gather
from astropt_db.deliver.report.html import page, text, tiles
from astropt_db.deliver.report.sections import SECTIONS


def write_report(
    database: Database, target: Path, overwrite: bool = False, title: str | None = None
) -> list[str]:
    """Write the report; returns the titles of the sections for which there is nothing yet.

    Parameters
    ----------
    target
        HTML file, which is whole or not there.
    overwrite
        Whether an existing file may be replaced.
    title
        Headline.

    Raises
    ------
    ConfigurationError
        If the file exists.
    FileError
        If it cannot be written.
    """
    check_target(target, overwrite)
    facts = gather(database)
    sections = [make(facts) for make in SECTIONS]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    foot = f"<p>Made by astropt-db {text(__version__)} on {made} from {text(facts.database)}.</p>"
    document = page(
        title or "Euclid galaxies and their AstroPT embeddings", _lead(facts), sections, foot
    )
    with new_file(target, overwrite) as stream:
        stream.write(document.encode())
    return [section.title for section in sections if section.missing]


def _lead(facts: Facts) -> str:
    if not facts.rows["overview"]:
        return ""
    n, tile_count, in_vis, fields, releases = facts.rows["overview"][0]
    words = f"<p>{text(releases or 'No release')} · {text(fields or 'no field yet')}</p>"
    numbers = [(f"{n:,}", "sources"), (f"{in_vis:,}", "seen in VIS"), (f"{tile_count:,}", "tiles")]
    for name, count in facts.rows["vector_counts"]:
        if count:
            numbers.append((f"{count:,}", f"vectors, {name}"))
    if facts.rows["predictors"]:
        numbers.append((str(len(facts.rows["predictors"])), "predicted properties"))
    return words + tiles(numbers)
