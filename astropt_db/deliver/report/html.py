"""Pieces of the page. Everything that comes from the database passes through :func:`text`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib import resources


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    anchor, title
        Name in the address and headline.
    body
        HTML.
    missing
        Whether it says only how to make what it would show.
    """

    anchor: str
    title: str
    body: str
    missing: bool = False


def text(value: object) -> str:
    """A value as HTML text: escaped, numbers short, nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return escape(str(value), quote=True)


def missing(anchor: str, title: str, what: str, commands: Sequence[str]) -> Section:
    """A section that says which commands would fill it."""
    shown = "\n".join(commands)
    body = f"<p class='missing'>{text(what)}</p><pre>{text(shown)}</pre>"
    return Section(anchor, title, body, missing=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table; numbers stand right, ids are in one width."""
    kept = [list(row) for row in rows]
    numeric = [any(map(_is_number, column)) for column in zip(*kept, strict=True)]
    numeric = numeric or [False] * len(headings)
    head = "".join(
        f"<th{' class=number' if right else ''}>{text(h)}</th>"
        for h, right in zip(headings, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in kept)
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll'><table>{title}<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, int | float) and _is_number(value):
        shown = f"{value:,}" if isinstance(value, int) and abs(value) < 10**12 else text(value)
        return f"<td class='number'>{shown}</td>"
    return f"<td>{text(value)}</td>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Large numbers with what they count."""
    items = "".join(f"<div><b>{text(n)}</b><span>{text(what)}</span></div>" for n, what in facts)
    return f"<div class='tiles'>{items}</div>"


def figure(png: bytes | None, alt: str, lines: Sequence[str], kind: str = "") -> str:
    """A picture with lines below it; a grey field where there is no picture."""
    if png is None:
        picture = "<div class='nothing'>no pixels</div>"
    else:
        data = base64.b64encode(png).decode()
        picture = f"<img alt='{text(alt)}' loading='lazy' src='data:image/png;base64,{data}'>"
    words = "<br>".join(text(line) for line in lines)
    return f"<figure class='{text(kind)}'>{picture}<figcaption>{words}</figcaption></figure>"


def gallery(figures: Iterable[str]) -> str:
    """Pictures side by side."""
    return f"<div class='gallery'>{''.join(figures)}</div>"


def page(title: str, lead: str, sections: Sequence[Section], foot: str) -> str:
    """The whole document.

    Parameters
    ----------
    title
        Plain text.
    lead, foot
        HTML.
    """
    style = resources.files("astropt_db.deliver.report").joinpath("style.css").read_text()
    links = "".join(
        f"<a href='#{s.anchor}'{' class=empty' if s.missing else ''}>{text(s.title)}</a>"
        for s in sections
    )
    body = "".join(
        f"<section id='{s.anchor}'><h2>{text(s.title)}</h2>{s.body}</section>" for s in sections
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='generator' content='astropt-db'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{text(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{text(title)}</h1>{lead}</header><nav>{links}</nav>"
        f"<main>{body}</main><footer>{foot}</footer></body></html>\n"
    )
