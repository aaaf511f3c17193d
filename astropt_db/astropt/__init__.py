"""The AstroPT transformer: tokens, checkpoints, and vectors from images.

This package knows nothing of the database. ``load_encoder`` is its door.
"""

from astropt_db.astropt.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from astropt_db.astropt.convert import convert
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
    "convert",
    "load_encoder",
    "missing_fraction",
    "read_checkpoint",
    "save_checkpoint",
    "sed_from_columns",
]
