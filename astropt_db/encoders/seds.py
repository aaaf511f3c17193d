"""SEDs of sources from the catalogue, in the slots that the encoders take."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.astropt.sed import SED_SLOTS, sed_from_columns
from astropt_db.database.resources import named_queries

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

MEASURE = "2fwhm_aper"
_FLUXES = [
    f"{kind}_{band}_{MEASURE}"
    for bands in SED_SLOTS.values()
    for band in bands
    for kind in ("flux", "fluxerr")
]


def read_seds(connection: psycopg.Connection[Any], object_id: Int64) -> Float32:
    """SEDs of sources, in the order asked for.

    The fluxes of ``q1.mer_catalogue`` in apertures of two FWHM; for a source of which it has none,
    the SED that came in a file of its own (``q1.sed``).

    Returns
    -------
    ndarray
        float32 ``(n, 8, 2)``: flux and error in microjansky, NaN where absent.
    """
    ids = object_id.tolist()
    query = sql.SQL("SELECT object_id, {} FROM q1.mer_catalogue WHERE object_id = ANY(%s)").format(
        sql.SQL(", ").join(map(sql.Identifier, _FLUXES))
    )
    rows = connection.execute(query, [ids]).fetchall()
    seds = np.full((len(object_id), len(SED_SLOTS), 2), np.nan, np.float32)
    if rows:
        numbers = np.array([row[1:] for row in rows], dtype=np.float32)
        found = sed_from_columns(dict(zip(_FLUXES, numbers.T, strict=True)))
        _place(seds, object_id, np.array([row[0] for row in rows], np.int64), found)
    rows = connection.execute(named_queries()["seds_of"], {"ids": ids}).fetchall()
    if rows:
        apart = np.array([row[1:] for row in rows], np.float32).transpose(0, 2, 1)
        given = np.array([row[0] for row in rows], np.int64)
        bare = np.isnan(seds[..., 0]).all(axis=1)
        use = np.isin(given, object_id[bare])
        _place(seds, object_id, given[use], apart[use])
    return seds


def _place(seds: Float32, object_id: Int64, found_id: Int64, found: Float32) -> None:
    order = np.argsort(found_id)
    sorted_id = found_id[order]
    place = np.minimum(np.searchsorted(sorted_id, object_id), len(sorted_id) - 1)
    known = sorted_id[place] == object_id if len(sorted_id) else np.zeros(len(object_id), bool)
    seds[known] = found[order][place[known]]
