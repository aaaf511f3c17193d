"""SEDs of sources from the database, in the slots that the encoders take."""

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
"""Kind of the catalogue's photometry that SEDs are made of."""
_FLUX_COLUMNS = [
    f"{kind}_{band}_{MEASURE}"
    for bands in SED_SLOTS.values()
    for band in bands
    for kind in ("flux", "fluxerr")
]


def catalogue_seds(connection: psycopg.Connection[Any], object_id: Int64) -> Float32:
    """SEDs of sources, float32 ``(n, 8, 2)`` in microjansky, NaN where absent.

    From the fluxes of the MER catalogue; of sources that it lacks, from ``q1.sed``.
    """
    sed = np.full((len(object_id), len(SED_SLOTS), 2), np.nan, np.float32)
    values = {"ids": object_id.tolist()}
    rows = connection.execute(named_queries()["embed_seds"], values, binary=True).fetchall()
    if rows:
        place = rows_in_order(rows, object_id)
        both = np.array([row[1:] for row in rows], np.float32)
        sed[place] = np.moveaxis(both, 1, 2)
    query = sql.SQL("SELECT object_id, {} FROM q1.mer_catalogue WHERE object_id = ANY(%(ids)s)")
    listed = sql.SQL(", ").join(map(sql.Identifier, _FLUX_COLUMNS))
    rows = connection.execute(query.format(listed), values, binary=True).fetchall()
    if rows:
        place = rows_in_order(rows, object_id)
        table = np.array([row[1:] for row in rows], np.float32)
        found = sed_from_columns(dict(zip(_FLUX_COLUMNS, table.T, strict=True)), MEASURE)
        some = ~np.isnan(found[..., 0]).all(axis=1)
        sed[place[some]] = found[some]
    return sed


def rows_in_order(rows: list[Any], object_id: Int64) -> Int64:
    """Where the object of each row stands in ``object_id``."""
    ids = np.array([row[0] for row in rows], np.int64)
    by_id = np.argsort(object_id, kind="stable")
    return np.asarray(by_id[np.searchsorted(object_id, ids, sorter=by_id)], np.int64)
