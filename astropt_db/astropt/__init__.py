"""The AstroPT transformer: tokens, checkpoints, and vectors from images.

This package knows nothing of the database. ``load_encoder`` is its door.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astropt_db.astropt.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
    from astropt_db.astropt.encoder import Encoder, bundled_encoders, load_encoder
    from astropt_db.astropt.pooling import POOLINGS, Pooling
    from astropt_db.astropt.sed import SED_SLOTS, sed_from_columns
    from astropt_db.astropt.tokens import missing_fraction

__all__ = [
    "POOLINGS",
    "SED_SLOTS",
    "Checkpoint",
    "Encoder",
    "Pooling",
    "bundled_encoders",
    "load_encoder",
    "missing_fraction",
    "read_checkpoint",
    "save_checkpoint",
    "sed_from_columns",
]

_HOMES = {
    "POOLINGS": "pooling",
    "SED_SLOTS": "sed",
    "Checkpoint": "checkpoint",
    "Encoder": "encoder",
    "Pooling": "pooling",
    "bundled_encoders": "encoder",
    "load_encoder": "encoder",
    "missing_fraction": "tokens",
    "read_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "sed_from_columns": "sed",
}
"""Module of each public name; imported at first use, so that band names do not bring torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
