"""Which sources of the database an encoder is pre-trained on, and where their pixels are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from astropt_db.database.connect import READER, Database, connect
from astropt_db.database.filters import condition_ids
from astropt_db.database.resources import named_queries
from astropt_db.database.split import in_split
from astropt_db.encoders.seds import catalogue_seds
from astropt_db.encoders.training_images import Float64, Int64, Part
from astropt_db.images.registered import (
    open_cutouts_of,
    open_tile,
    registered_tiles,
    tile_sources,
)
from astropt_db.images.source import ImageSource

_Connection = psycopg.Connection[Any]
VALIDATION = "calibration"
"""Share of the sources that the validation loss is measured on; heads test on ``test``."""


@dataclass(frozen=True)
class Selection:
    """Which sources to train on.

    Attributes
    ----------
    where
        SQL condition on ``astropt.source``; empty for all sources with images.
    often
        SQL condition for those seen in every epoch; empty for all.
    rest_every
        The others are seen in every k-th epoch.
    """

    where: str = ""
    often: str = ""
    rest_every: int = 1


def training_parts(
    databases: Sequence[Database], bands: Sequence[str], with_sed: bool, selection: Selection
) -> tuple[list[Part], list[Part]]:
    """Find the sources of the training share and of the validation share, with their images.

    Returns
    -------
    tuple
        Parts to train on, and parts to validate on: no source is in both.
    """
    both = [_parts(database, bands, with_sed, selection) for database in databases]
    return [part for some, _ in both for part in some], [part for _, some in both for part in some]


def _parts(
    database: Database, bands: Sequence[str], with_sed: bool, selection: Selection
) -> tuple[list[Part], list[Part]]:
    allowed = condition_ids(database, selection.where) if selection.where else None
    often = condition_ids(database, selection.often) if selection.often else None
    training: list[Part] = []
    validation: list[Part] = []
    with connect(database, role=READER) as connection:
        for images, object_id, ra, dec in _places(connection, bands):
            if allowed is not None:
                keep = np.isin(object_id, allowed)
                object_id, ra, dec = object_id[keep], ra[keep], dec[keep]
            turn = np.ones(len(object_id), np.int64)
            if often is not None:
                turn[~np.isin(object_id, often)] = selection.rest_every
            sed = catalogue_seds(connection, object_id) if with_sed else None
            for share, parts in (("train", training), (VALIDATION, validation)):
                mine = in_split(object_id, share)
                some = None if sed is None else sed[mine]
                parts.append(Part(images, object_id[mine], ra[mine], dec[mine], some, turn[mine]))
    return training, validation


def fingerprint(parts: Sequence[Part]) -> str:
    """SHA-256 of the sources and their turns: a run goes on only with the very same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part.object_id).tobytes())
        digest.update(np.ascontiguousarray(part.turn).tobytes())
    return digest.hexdigest()


def _places(
    connection: _Connection, bands: Sequence[str]
) -> Iterator[tuple[ImageSource, Int64, Float64, Float64]]:
    for tile in registered_tiles(connection):
        sources = tile_sources(connection, tile)
        if len(sources[0]):
            yield open_tile(connection, tile, bands, fill=np.nan), *sources
    rows = connection.execute(named_queries()["cutouts_without_tile"]).fetchall()
    if rows:
        columns = np.array(rows, dtype="i8,f8,f8")
        images = open_cutouts_of(connection, columns["f0"], bands, fill=np.nan)
        yield images, columns["f0"], columns["f1"], columns["f2"]
