"""SEDs that come in files of their own: the layout of ``euclidQ1_SEDs.hdf5``.

That file of the AstroPT authors has one group for each object below ``euclidQ1``, with
``object_id``, ``filtnames``, ``sed`` and ``sederr`` (fluxes in microjansky). One of its filter
names is misspelt ``z_decam2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.astropt.sed import SED_SLOTS
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.resources import named_queries
from astropt_db.errors import FileError, MissingExtraError
from astropt_db.ingest.images import ImageReport
from astropt_db.q1.identity import decodes_to_sky

ROOT = "euclidQ1"
_BATCH = 20_000
_NAMES = {
    re.sub("_ext", "", band): slot
    for slot, bands in enumerate(SED_SLOTS.values())
    for band in bands
}
"""``g_hsc``, ``vis``, ``y``, ... and the slot that each fills."""
_STAGE = sql.Identifier("pg_temp", "sed_stage")


def register_seds(
    connection: psycopg.Connection[Any], path: str, run_id: int
) -> Iterator[ImageReport]:
    """Load the SEDs of an HDF5 file into ``q1.sed``, in one transaction.

    Raises
    ------
    MissingExtraError
        If h5py is not installed.
    """
    try:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(
                "CREATE TEMPORARY TABLE sed_stage (object_id bigint, flux real[], "
                "flux_error real[]) ON COMMIT DROP"
            )
            n_read = 0
            for ids, sed in read_seds(path):
                fields = [
                    Field("object_id", "bigint", ids),
                    Field("flux", "real[]", sed[..., 0]),
                    Field("flux_error", "real[]", sed[..., 1]),
                ]
                n_read += copy_rows(cursor, _STAGE, fields)
            values = {"origin": path, "run_id": run_id}
            changed = cursor.execute(named_queries()["sed_merge"], values).rowcount
    except FileError as error:
        yield ImageReport(path, "failed", str(error))
        return
    state = "new" if changed else "unchanged"
    yield ImageReport(path, state, f"{n_read:,} SEDs, {changed:,} new or changed", changed)


def read_seds(path: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Read SEDs in batches.

    Yields
    ------
    tuple
        Ids, int64 ``(n,)``; flux and error in microjansky by slot of
        :data:`~astropt_db.astropt.sed.SED_SLOTS`, float32 ``(n, 8, 2)``, NaN where absent.

    Raises
    ------
    FileError
        If the file is not of that layout, or an id is not one.
    MissingExtraError
        If h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "hdf5", "reading SEDs from HDF5") from error

    try:
        with h5py.File(path, "r") as file:
            if ROOT not in file or not isinstance(file[ROOT], h5py.Group):
                found = ", ".join(list(file)[:10]) or "nothing"
                raise FileError(path, f"expected a group {ROOT!r}, found {found}.")
            groups = file[ROOT]
            names = list(groups)
            for first in range(0, len(names), _BATCH):
                # Each object is a group of its own in that layout: there is nothing to do in bulk.
                some = [_read_group(path, groups[name]) for name in names[first : first + _BATCH]]
                ids = np.array([one[0] for one in some], np.int64)
                _check_ids(path, ids)
                yield ids, np.stack([one[1] for one in some])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise FileError(path, f"cannot be read as SEDs in HDF5: {error}.") from error


def _read_group(path: str, group: Any) -> tuple[int, NDArray[np.float32]]:
    number = np.asarray(group["object_id"][()])
    if number.size != 1 or number.dtype.kind not in "iuSO":
        raise FileError(
            path,
            f"group {group.name}: expected object_id as one 64-bit integer, found "
            f"{number.size} of {number.dtype}.",
            "Ids do not survive in floating point.",
        )
    filters = [_text(one) for one in np.atleast_1d(group["filtnames"][()])]
    flux = np.atleast_1d(np.asarray(group["sed"][()], np.float32))
    error = np.atleast_1d(np.asarray(group["sederr"][()], np.float32))
    if not len(filters) == len(flux) == len(error):
        raise FileError(
            path,
            f"group {group.name}: {len(filters)} filters, {len(flux)} fluxes and {len(error)} "
            "errors; expected as many of each.",
        )
    sed = np.full((len(SED_SLOTS), 2), np.nan, np.float32)
    for name, one, its_error in zip(filters, flux, error, strict=True):
        slot = _NAMES.get(name)
        if slot is not None and np.isfinite(one):
            sed[slot] = one, its_error
    return int(number.reshape(-1)[0]), sed


def _text(value: Any) -> str:
    name = value.decode() if isinstance(value, bytes) else str(value)
    name = name.strip().lower().removeprefix("flux_").replace("_ext_", "_")
    return re.sub(r"\d+$", "", name)


def _check_ids(path: str, ids: NDArray[np.int64]) -> None:
    good = decodes_to_sky(ids)
    if not good.all():
        raise FileError(path, f"object_id {int(ids[~good][0])} is no Euclid source identifier.")
