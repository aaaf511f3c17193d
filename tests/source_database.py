"""A database with sources, for the tests of labels and of what is learned from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from psycopg import sql

from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.q1 import identity
from astropt_db.sky.healpix import healpix29

FLUX_BANDS = ("g_ext_hsc", "r_ext_megacam", "vis", "i_ext_panstarrs", "z_ext_hsc", "y", "j", "h")


@dataclass(frozen=True)
class Sources:
    """Ids and positions in degrees, ``(n,)`` each."""

    object_id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray


def draw_sources(n: int, seed: int = 1) -> Sources:
    """Positions in EDF-N, some 10 arcsec apart."""
    rng = np.random.default_rng(seed)
    side = np.sqrt(n) * 10 / 3600
    ra = np.round(269.7 + side * (rng.random(n) - 0.5) / np.cos(np.radians(66)), 7)
    dec = np.round(66.0 + side * (rng.random(n) - 0.5), 7)
    return Sources(identity.encode(ra, dec), ra, dec)


def add_sources(database: Database, sources: Sources, magnitudes: np.ndarray | None = None) -> None:
    """Rows of ``q1.mer_catalogue`` with fluxes of the given AB magnitudes ``(n, 8)``."""
    n = len(sources.object_id)
    fields = [
        Field("object_id", "bigint", sources.object_id),
        Field("right_ascension", "double precision", sources.ra),
        Field("declination", "double precision", sources.dec),
        Field("healpix29", "bigint", healpix29(sources.ra, sources.dec)),
        Field("segmentation_map_id", "bigint", 102158889 * 1_000_000 + np.arange(n)),
        Field("vis_det", "smallint", np.ones(n, np.int16)),
        Field("spurious_flag", "smallint", np.zeros(n, np.int16)),
    ]
    if magnitudes is not None:
        flux = 10 ** (0.4 * (23.9 - magnitudes))
        fields.append(Field("flux_detection_total", "real", 1.3 * flux[:, 2]))
        for band, name in enumerate(FLUX_BANDS):
            fields.append(Field(f"flux_{name}_2fwhm_aper", "real", flux[:, band]))
            error = np.full(n, 0.05)
            fields.append(Field(f"fluxerr_{name}_2fwhm_aper", "real", error))
    with connect(database) as connection, connection.cursor() as cursor:
        row = cursor.execute(
            "INSERT INTO astropt.run (command, arguments, code_version, host, pid, state) "
            "VALUES ('test', '{}', '0', 'here', 1, 'done') RETURNING id"
        ).fetchone()
        assert row is not None
        row = cursor.execute(
            "INSERT INTO astropt.ingest_file (run_id, path, release, state) "
            "VALUES (%s, 'a test', 'Q1', 'done') RETURNING id",
            row,
        ).fetchone()
        assert row is not None
        fields.append(Field("ingest_file_id", "bigint", np.full(n, row[0])))
        copy_rows(cursor, sql.Identifier("q1", "mer_catalogue"), fields)


def write_csv(path: Path, **columns: np.ndarray | list[object]) -> Path:
    """A CSV file with the columns; NaN stays empty."""
    lines = [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append(",".join("" if str(one) == "nan" else str(one) for one in row))
    path.write_text("\n".join(lines) + "\n")
    return path
