"""Small encoders and their vectors, for the tests of the embedding worker."""

from __future__ import annotations

from pathlib import Path

import torch
from commands import select
from psycopg import sql

from astropt_db.astropt import save_checkpoint
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import AstroPT, Modality, ModelConfig
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord
from astropt_db.encoders.registry import add_encoder

DIMENSION = 16


def tiny_weights(folder: Path, bands: int = 1, with_sed: bool = False) -> Path:
    """Random weights of a real layout: real windows, but little to compute."""
    modalities = [Modality("images", 256 * bands)]
    if with_sed:
        modalities.append(Modality("sed", 3))
    config = ModelConfig(
        tuple(modalities),
        n_layer=2,
        n_head=2,
        n_embd=DIMENSION,
        block_size=256,
        tokeniser="affine",
        lead=64 if with_sed else 0,
    )
    torch.manual_seed(7)
    name = f"tiny{bands}{'-sed' * with_sed}"
    state = AstroPT(config).state_dict()
    return save_checkpoint(folder / name, config, Preprocessing(bands), state, {"data": "none"})


def tiny_encoder(
    database: Database, folder: Path, bands: int = 1, with_sed: bool = False
) -> EncoderRecord:
    """A small encoder in the database."""
    return add_encoder(database, str(tiny_weights(folder, bands, with_sed))).record


def vectors(database: Database, encoder: EncoderRecord) -> dict[int, tuple[str, int, float]]:
    """Everything that an encoder's partition holds but the run: by object id."""
    query = sql.SQL("SELECT object_id, embedding::text, flags, missing_fraction FROM {}").format(
        encoder.partition
    )
    with connect(database) as connection:
        rows = connection.execute(query).fetchall()
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def states(database: Database) -> dict[str, tuple[int, int]]:
    """Chunks and sources in the queue, by state."""
    rows = select(
        database,
        "SELECT state, count(*), sum(n_sources) FROM astropt.embed_chunk GROUP BY state",
    )
    return {state: (chunks, sources) for state, chunks, sources in rows}


def problems(database: Database) -> dict[int, str]:
    """Sources in quarantine, with their reasons."""
    return dict(select(database, "SELECT object_id, reason FROM astropt.embed_problem"))
