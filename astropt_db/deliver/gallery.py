"""A page of pictures of similar objects, in one file that needs no network."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from string import Template

import numpy as np

from astropt_db.database.connect import READER, Database, connect
from astropt_db.deliver.pictures import Picture, take_pictures
from astropt_db.errors import FileError
from astropt_db.search.similar import Answer

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 2em; background: #14161a; color: #dde; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1em; }
figure { margin: 0; } img, .none { width: 100%; aspect-ratio: 1; image-rendering: pixelated; }
.none { display: grid; place-items: center; background: #222630; color: #889; }
figcaption { font-size: 12px; overflow-wrap: anywhere; } .query img { outline: 3px solid #e9b44c; }
</style>
<h1>$title</h1>
<p>$note</p>
<main>
$figures
</main></html>
""")
_FIGURE = Template('<figure class="$kind">$picture<figcaption>$caption</figcaption></figure>')
_SHOWN = ("rank", "similarity", "mag_vis", "morphology_class", "z_median")


def write_gallery(database: Database, answer: Answer, path: Path) -> int:
    """Write the page; returns how many pictures it has.

    Objects without registered pixels keep their place, with their numbers.

    Raises
    ------
    FileError
        If the page cannot be written.
    """
    ids = [*answer.query_ids, *answer.object_ids]
    with connect(database, role=READER) as connection:
        pictures = take_pictures(connection, np.array(ids, np.int64))
    figures = [
        _figure(one, pictures.get(one), f"asked for: {one}", "query") for one in answer.query_ids
    ]
    names = [name for name, _ in answer.columns]
    for one, row in zip(answer.object_ids, answer.rows, strict=True):
        known = {name: row[names.index(name)] for name in _SHOWN if name in names}
        caption = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in known.items()
            if value is not None
        )
        figures.append(_figure(one, pictures.get(one), f"{one}: {caption}", "answer"))
    methods = {(row[names.index("method")], row[names.index("recall")]) for row in answer.rows}
    note = "; ".join(
        f"found by {method}, measured recall {recall:.3g}" for method, recall in methods
    )
    page = _PAGE.substitute(
        title="Similar objects", note=html.escape(note), figures="\n".join(figures)
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise FileError(path, f"cannot be written: {error.strerror}.") from error
    return len(pictures)


def _figure(object_id: int, picture: Picture | None, caption: str, kind: str) -> str:
    shown = '<div class="none">no pixels</div>'
    if picture is not None:
        data = base64.b64encode(picture.png).decode()
        shown = f'<img alt="{object_id}" src="data:image/png;base64,{data}">'
    return _FIGURE.substitute(kind=kind, picture=shown, caption=html.escape(caption))
