"""Questions of similarity: an object, a position, an image or sets of objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from astropt_db.database.connect import READER, Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.database.filters import TIMEOUT_S, condition_error, condition_query
from astropt_db.database.reading import reading
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError, DatabaseError, FileError
from astropt_db.sky.healpix import healpix29

RADIUS_ARCSEC = 5.0
"""How far from a given position the object may lie."""
_CELL_ORDER = 13
"""Cells of 26 arcsec: a circle of 5 arcsec lies in the 3 x 3 about its centre."""
_NUMBER = r"[+-]?\d+(?:\.\d*)?"
_POSITION = re.compile(rf"\s*({_NUMBER})\s*[, ]\s*({_NUMBER})\s*")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What to look for; exactly one of ``target``, ``images`` and ``likes`` is given.

    Attributes
    ----------
    target
        An object id, or a position ``ra,dec`` in ICRS degrees.
    images, bands
        FITS files of the user's own object, and the bands that they do not tell themselves.
    centre
        Where in these images the object is, ICRS degrees; ``None`` for their middle.
    likes, dislikes
        Object ids.
    k
        Rows wanted.
    encoder
        Its name, ``None`` for the current one.
    where
        SQL condition of the objects that are allowed.
    exact
        Whether every vector is compared even if there is an index.
    timeout_s
        Seconds that the search may take.
    """

    target: str | None = None
    images: Sequence[Path] = ()
    bands: Sequence[str] = ()
    centre: tuple[float, float] | None = None
    likes: Sequence[int] = ()
    dislikes: Sequence[int] = ()
    k: int = 10
    encoder: str | None = None
    where: str | None = None
    exact: bool = False
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class Answer:
    """Similar objects, best first.

    Attributes
    ----------
    columns
        Name and PostgreSQL type oid of each column.
    rows
        One for each object.
    query_ids
        The objects that were asked for, if they are in the database.
    """

    columns: list[tuple[str, int]]
    rows: list[tuple[Any, ...]]
    query_ids: list[int]

    @property
    def object_ids(self) -> list[int]:
        """Ids of the rows."""
        place = [name for name, _ in self.columns].index("object_id")
        return [row[place] for row in self.rows]


def find_similar(database: Database, question: Question, say: Say = lambda line: None) -> Answer:
    """Answer a question, as the reader, in a read-only transaction with a time limit.

    Parameters
    ----------
    say
        Takes what a person should know besides the rows.

    Raises
    ------
    ConfigurationError
        If the question or the encoder does not exist.
    DatabaseError
        If an object is not known or has no embedding, the condition is wrong or allows nothing,
        or the time is over.
    FileError
        If the image cannot be used.
    """
    given = [bool(question.target), bool(question.images), bool(question.likes)]
    if sum(given) != 1:
        raise ConfigurationError("give exactly one of an object id or RA,DEC, --image and --likes")
    vector = _embed(database, question, say) if question.images else None
    with reading(database, question.timeout_s) as cursor:
        cursor.connection.add_notice_handler(lambda notice: say(str(notice.message_primary)))
        try:
            # A time limit on the whole, the condition included.
            return _ask(cursor, question, vector, say)
        except psycopg.errors.QueryCanceled as error:
            raise DatabaseError(
                f"the search took longer than {question.timeout_s:g} s; allow more with --timeout"
            ) from error
        except psycopg.Error as error:
            raise _clear(error, question) from error


def _ask(
    cursor: psycopg.Cursor[Any], question: Question, vector: list[float] | None, say: Say
) -> Answer:
    where = None if question.where is None else condition_query(cursor, question.where)
    ids = [*question.likes, *question.dislikes]
    name = "search_similar_to_sets" if question.likes else "search_similar_to"
    values: dict[str, Any] = {
        "k": question.k,
        "encoder": question.encoder,
        "filter": where,
        "exact": question.exact,
        "vector": vector,
        "likes": list(question.likes),
        "dislikes": list(question.dislikes),
    }
    if question.target is not None:
        name = "search_similar"
        values["object_id"] = _object_at(cursor, question.target, question.encoder, say)
        ids = [values["object_id"]]
    rows = cursor.execute(named_queries()[name], values).fetchall()
    columns = [(column.name, column.type_code) for column in cursor.description or ()]
    if not rows and where is not None:
        raise DatabaseError(
            f"--where {question.where!r} allows no object with an embedding of this encoder"
        )
    if not rows:
        raise DatabaseError("there is no other object with an embedding of this encoder")
    return Answer(columns, rows, ids)


def _object_at(cursor: psycopg.Cursor[Any], target: str, encoder: str | None, say: Say) -> int:
    """Object id of a target: itself, or the nearest object to a position."""
    if re.fullmatch(r"\s*[+-]?\d+\s*", target):
        number = int(target)
        if not -(1 << 63) <= number < 1 << 63:
            raise ConfigurationError(f"{number} is no object id: it does not fit 64 bits")
        return number
    match = _POSITION.fullmatch(target)
    if match is None:
        raise ConfigurationError(
            f"{target!r} is neither an object id nor RA,DEC in degrees, such as 267.78,65.53"
        )
    ra, dec = float(match[1]), float(match[2])
    if not (0 <= ra < 360 and -90 <= dec <= 90):
        raise ConfigurationError(f"RA {ra:g}, Dec {dec:g} is not on the sky; expected degrees")
    found = cursor.execute(
        named_queries()["search_at"],
        {"ra": ra, "dec": dec, "encoder": encoder, "cells": _cells(ra, dec),
         "shift": 2 * (29 - _CELL_ORDER)},
    ).fetchall()  # fmt: skip
    near = [row for row in found if row[1] <= RADIUS_ARCSEC]
    with_vector = [row for row in near if row[2]]
    if not with_vector:
        raise DatabaseError(
            f"no object within {RADIUS_ARCSEC:g} arcsec of RA {ra:g}, Dec {dec:g}"
            + (f" has an embedding; {near[0][0]} at {near[0][1]:.2f} arcsec has none"
               if near else " is in the database")
        )  # fmt: skip
    say(f"object {with_vector[0][0]} lies {with_vector[0][1]:.2f} arcsec from there")
    return int(with_vector[0][0])


def _cells(ra: float, dec: float) -> list[int]:
    """HEALPix cells about a position that hold the circle of the radius."""
    step = RADIUS_ARCSEC / 3600 * np.arange(-2, 3) / 2
    decs = np.clip(dec + step, -90, 90)
    stretch = 1 / max(np.cos(np.radians(min(abs(dec) + RADIUS_ARCSEC / 3600, 90))), 1e-9)
    ras = np.linspace(0, 360, 721) if stretch > 1e4 else ra + step * stretch
    grid_ra, grid_dec = np.meshgrid(ras % 360, decs)
    cells = healpix29(grid_ra.ravel(), grid_dec.ravel()) >> (2 * (29 - _CELL_ORDER))
    return [int(one) for one in np.unique(cells)]


def _embed(database: Database, question: Question, say: Say) -> list[float]:
    """Vector of the user's own image, in the units of the registered mosaics."""
    # Only an image needs these; the questions that need none must not wait for torch.
    from astropt_db.encoders.registry import open_encoder, pooling_of
    from astropt_db.images.own_image import ZERO_POINTS, OwnImage
    from astropt_db.images.source import BANDS

    with connect(database, role=READER) as connection:
        record = find_encoder(connection, question.encoder)
        rows = connection.execute(named_queries()["search_zero_points"]).fetchall()
    if not (record.modalities in ("vis", "vis_nisp") or record.modalities.startswith("images")):
        raise ConfigurationError(
            f"encoder {record.name} sees {record.modalities}, of which an image is only a part: "
            "its vectors of images alone are of another kind. Choose one that sees images only: "
            "--encoder NAME"
        )
    encoder = open_encoder(record)
    bands = BANDS[: encoder.preprocessing.bands]
    image = OwnImage(question.images, bands, question.bands, encoder.preprocessing.image_size)
    found = image.scaled(image.read(question.centre), ZERO_POINTS | dict(rows))
    if image.smallest < encoder.preprocessing.image_size:
        say(f"the image has {image.smallest} pixels on a side; the rest of the window is missing")
    if len(bands) > 1 and len(image.zero_points) < len(bands):
        say("the image does not state MAGZERO in every band; taken to be in units of the mosaics")
    vector = encoder.embed(found.pixels, pooling=pooling_of(record))[0]
    if not np.isfinite(vector).all():
        raise FileError(question.images[0], "gives no vector: too few pixels have data.")
    return [float(value) for value in vector]


def _clear(error: psycopg.Error, question: Question) -> DatabaseError:
    """PostgreSQL's message without its context, with the hint."""
    message = error.diag.message_primary or str(error)
    if question.where is not None and message.startswith("the filter "):
        return condition_error(question.where, error, question.timeout_s)
    hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
    return DatabaseError(message + hint)
