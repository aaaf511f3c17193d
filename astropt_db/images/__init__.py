"""Pixels: registered mosaics and ready-made cut-outs, as windows for the encoders."""

from astropt_db.images.cutout_files import open_cutouts
from astropt_db.images.mosaic import Mosaic, read_header
from astropt_db.images.source import BANDS, WINDOW, CutoutFlag, Cutouts, ImageSource
from astropt_db.images.tiles import TileSource

__all__ = [
    "BANDS",
    "WINDOW",
    "CutoutFlag",
    "Cutouts",
    "ImageSource",
    "Mosaic",
    "TileSource",
    "open_cutouts",
    "read_header",
]
