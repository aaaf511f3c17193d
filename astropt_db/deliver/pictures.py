"""Pictures of sources: asinh stretch, VIS in grey or VIS and NISP in colour, as PNG.

As in Lupton et al. 2004 (PASP 116, 133), one stretch of the intensity applies to all channels, so
that a bright galaxy keeps its colour instead of turning white.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from astropt_db.database.resources import named_queries
from astropt_db.images.registered import find_places, read_cutouts
from astropt_db.images.source import BANDS, PIXEL_ARCSEC, CutoutFlag

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]

COLOUR_BANDS = ("NIR_H", "NIR_Y", "VIS")
"""Bands of the red, green and blue channel."""
ZERO_POINTS = {"VIS": 24.6, "NIR_Y": 29.8, "NIR_J": 30.0, "NIR_H": 29.9}
"""AB magnitudes of one unit in the MER mosaics of Q1."""
_BALANCE = (0.62, 1.0, 2.0)
"""Flux weights that make a galaxy of average colour (z = 0.5, H = 20, VIS = 21.6) white."""
_LIGHT = (0.15, 0.15, 0.7)
"""Shares of the channels in the brightness: details come from VIS."""
_BLUR = (1.0, 1.0, 2.2)
_MOST_COLOUR = 1.7
_BRIGHTEST = 99.6
_DARKEST_SIGMA = 1.0
_FAINTEST_SIGMA = 30.0
"""A faint source does not use the whole range, or its picture would be all noise."""


@dataclass(frozen=True)
class Picture:
    """A picture of a source.

    Attributes
    ----------
    object_id
        Its source.
    pixels
        uint8 ``(height, width)`` or ``(height, width, 3)``, north up, east left.
    """

    object_id: int
    pixels: UInt8

    @property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        return encode_png(self.pixels)


def window_of(size_arcsec: float) -> int:
    """Even number of pixels that a window of that side has, at least 2."""
    return max(2, 2 * round(size_arcsec / PIXEL_ARCSEC / 2))


def zero_points(connection: psycopg.Connection[Any]) -> dict[str, float]:
    """AB magnitude of one unit of flux by band, of the registered mosaics."""
    rows = connection.execute(named_queries()["picture_zero_points"]).fetchall()
    return ZERO_POINTS | dict(rows)


def take_pictures(
    connection: psycopg.Connection[Any],
    object_id: Int64,
    size_arcsec: float = 22.4,
    colour: bool = True,
) -> dict[int, Picture]:
    """Pictures of sources by their id; those without pixels are left out.

    Parameters
    ----------
    object_id
        int64 ``(n,)``.
    size_arcsec
        Side of the pictures.
    colour
        Whether H, Y and VIS become red, green and blue; a source that lacks a band, and all of
        them otherwise, are shown in VIS alone.
    """
    places = find_places(connection, np.unique(object_id))
    known = places.object_id[(places.tile >= 0) | places.has_cutout]
    if len(known) == 0:
        return {}
    zero = zero_points(connection)
    found = read_cutouts(connection, known, BANDS, fill=np.nan, window=window_of(size_arcsec))
    pictures = {}
    for i, one in enumerate(known.tolist()):
        if found.flags[i] & CutoutFlag.ALL_MISSING:
            continue
        bands = dict(zip(BANDS, found.pixels[i], strict=True))
        pictures[one] = Picture(one, paint(bands, zero, colour))
    return pictures


def paint(bands: Mapping[str, Float32], zero: Mapping[str, float], colour: bool) -> UInt8:
    """Stretch one source's bands to a picture.

    Parameters
    ----------
    bands
        float32 ``(height, width)`` by band, rows going north; NaN where missing.
    zero
        AB magnitude of one unit by band.
    colour
        Whether to use three bands where none is missing entirely.
    """
    flux = {name: one * 10 ** (-0.4 * (zero[name] - 23.9)) for name, one in bands.items()}
    whole = {name for name, one in flux.items() if np.isfinite(one).any()}
    if colour and whole >= set(COLOUR_BANDS):
        channels = np.stack([flux[b] * w for b, w in zip(COLOUR_BANDS, _BALANCE, strict=True)])
    else:
        single = "VIS" if "VIS" in whole else next(iter(sorted(whole)), "VIS")
        channels = flux[single][None]
    painted = _stretch(channels)[:, ::-1]
    return np.ascontiguousarray(painted[0] if len(painted) == 1 else np.moveaxis(painted, 0, -1))


def _stretch(channels: Float32) -> UInt8:
    """asinh of the light; noise becomes dark grey, the centre's brightest pixels white."""
    filled = np.where(np.isfinite(channels), channels, np.float32(0))
    light = np.tensordot(_LIGHT if len(filled) > 1 else (1.0,), filled, 1)
    # From differences of neighbours: a galaxy that fills the window is no noise.
    steps = np.abs(np.diff(light, axis=1))
    sigma = 1.05 * float(np.median(steps)) or 1e-12
    height, width = light.shape
    middle = light[height // 4 : -height // 4 or None, width // 4 : -width // 4 or None]
    top = max(float(np.percentile(middle, _BRIGHTEST)), _FAINTEST_SIGMA * sigma)
    bottom = -_DARKEST_SIGMA * sigma
    softening = np.sqrt(3 * sigma * 0.1 * top)
    shown = np.arcsinh((light - bottom).clip(0) / softening)
    shown /= np.arcsinh((top - bottom) / softening)
    values = (shown * _colours(filled, 3 * sigma)).clip(0, 1)
    return np.asarray(255 * values + 0.5, np.uint8)


def _colours(filled: Float32, floor: float) -> Float32:
    """Each channel relative to their mean, at the resolution of the poorest band.

    VIS is three times as sharp as NISP: without that, every nucleus would be a blue dot in a
    red ring.
    """
    if len(filled) == 1:
        return np.ones_like(filled)
    smooth = [gaussian_filter(c, s) for c, s in zip(filled, _BLUR, strict=True)]
    level = np.maximum(np.array(smooth), 0) + np.float32(floor)
    ratio = level / level.mean(axis=0)
    return np.asarray(ratio / np.maximum(ratio.max(axis=0) / _MOST_COLOUR, 1), np.float32)


def encode_png(pixels: UInt8) -> bytes:
    """A PNG file (ISO 15948) of a grey ``(h, w)`` or RGB ``(h, w, 3)`` picture."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).astype(np.int16)
    samples = 1 if pixels.ndim == 2 else 3
    # Filter 2, the difference from the row above: smaller files at no cost.
    above = np.vstack([np.zeros((1, rows.shape[1]), np.int16), rows[:-1]])
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = (rows - above) & 255
    colour_type = 0 if samples == 1 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 7)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
