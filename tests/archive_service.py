"""An archive of two tiles on this machine, under the names of both services."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from tap_server import TapServer

from astropt_db.q1.archive import Service, find_service
from astropt_db.q1.identity import encode

TILE, OTHER_TILE = 102158889, 102018211
IN_TILE, ELSEWHERE, RANKS = 120, 30, 5
CANDIDATES = "spectro_zcatalog_spe_galaxy_candidates"


def q1_tables() -> dict[str, dict[str, np.ndarray]]:
    """Two tiles, one north and one south, under the names of both archives."""
    rng = np.random.default_rng(20250319)
    size = IN_TILE + ELSEWHERE
    north = np.arange(size) < IN_TILE
    ra = np.where(north, rng.uniform(269.0, 270.5, size), rng.uniform(52.5, 53.5, size))
    dec = np.where(north, rng.uniform(65.7, 66.3, size), rng.uniform(-28.5, -27.8, size))
    ids, tile = encode(ra, dec), np.where(north, TILE, OTHER_TILE)
    point_like = np.ma.masked_array(rng.integers(0, 2, size), np.arange(size) % 3 == 0)
    mer = {
        "object_id": ids,
        "segmentation_map_id": tile * 1_000_000 + np.arange(size),
        "flux_vis_psf": rng.normal(size=size).astype(np.float32),
        "point_like_flag": point_like.astype(np.int16),
    }
    phz = {"object_id": ids, "phz_pdf": rng.random((size, 601)).astype(np.float32)}
    candidates = {
        "object_id": np.repeat(ids, RANKS),
        "spe_rank": np.tile(np.arange(RANKS, dtype=np.int32), size),
        "spe_z": rng.uniform(0, 2, RANKS * size),
    }
    esa_mer = mer | {"right_ascension": ra, "declination": dec}
    irsa_mer = mer | {"ra": ra, "dec": dec, "tileid": tile}
    others = {"phz_photo_z": phz, CANDIDATES: candidates}
    return (
        {"catalogue.mer_catalogue": esa_mer, "euclid_q1_mer_catalogue": irsa_mer}
        | {f"catalogue.{name}": table for name, table in others.items()}
        | {f"euclid_q1_{name}": table for name, table in others.items()}
    )


TABLES = q1_tables()
MER = TABLES["catalogue.mer_catalogue"]
TILE_IDS = MER["object_id"][:IN_TILE]


@contextmanager
def archive() -> Iterator[TapServer]:
    """The server; whatever became of its jobs, they are deleted in the end."""
    with TapServer(TABLES) as running:
        yield running
        left = [job.id for job in running.jobs if not job.deleted]
        assert left == [], "every job is deleted, whatever became of it"


def hasty(server: TapServer) -> Service:
    """The ESA service in a hurry, with pages of 50 rows: a tile is three pages."""
    service = find_service("esa", server.url)
    return replace(service, page_rows=50, backoff=0.01, read_limit=5.0)


def read(files) -> Table:
    return vstack([Table.read(file) for file in files], metadata_conflicts="silent")


def assert_whole_tile(download) -> None:
    table = read(download.files)
    assert download.rows == IN_TILE
    assert table["object_id"].dtype == np.int64
    assert sorted(table["object_id"].tolist()) == sorted(TILE_IDS.tolist())


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")
