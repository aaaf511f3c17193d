"""Galaxy light on pixels: the shapes of the components, vectorised over a batch of stamps.

Every function takes `Batch` (coordinates about the sources' centres) and returns surface
brightness up to a factor, float32, shape ``(n, m, m)``; `component_maps` puts them together
and makes each component's sum 1. Mergers, lenses and irregulars are in ``special``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_TEXTURE_SIZE = 512
_TEXTURE_SEED = 20240214
LANE_SHARPNESS = 1.6
"""Dust lanes are narrower than the arms that they border by this factor in concentration."""
EXP_SCALE = 1.678
"""Half-light radius of an exponential disc in scale lengths."""


@dataclass(frozen=True)
class Batch:
    """Sources of one kind drawn on stamps of one size.

    Attributes
    ----------
    x, y
        Position of the stamp's pixels from the source's centre, arcsec east-west (to the
        right) and north-south (up), shape ``(n, m, m)``.
    step
        Distance of neighbouring pixels, arcsec.
    parameters
        Columns of the truth as float32 of shape ``(n, 1, 1)``.
    """

    x: Float32
    y: Float32
    step: float
    parameters: dict[str, Float32]

    def __getitem__(self, name: str) -> Float32:
        return self.parameters[name]


SHAPE_PARAMETERS: tuple[str, ...] = (
    "half_light_radius",
    "bulge_fraction",
    "bulge_ratio",
    "arm_strength",
    "arm_number",
    "pitch",
    "bar_length",
    "ring_radius",
    "thickness",
    "separation",
    "asymmetry",
    "axis_ratio",
    "sersic_index",
    "position_angle",
    "winding",
    "phase",
    "texture_x",
    "texture_y",
    "angle_2",
    "einstein_radius",
)


def make_batch(truth: pd.DataFrame, offset: Float64, size: int, step: float) -> Batch:
    """Coordinates of stamps of ``size`` pixels of ``step`` arcsec.

    Parameters
    ----------
    truth
        Rows of a scene's truth.
    offset
        Position of the source from the centre of the stamp's middle pixel ``size // 2``,
        arcsec, shape ``(n, 2)`` in x and y.
    size
        Pixels on a side.
    step
        Pixel size, arcsec.
    """
    axis = (np.arange(size, dtype=np.float32) - size // 2) * np.float32(step)
    shift = offset.astype(np.float32)
    x = axis[None, None, :] - shift[:, 0, None, None]
    y = axis[None, :, None] - shift[:, 1, None, None]
    x, y = np.broadcast_arrays(x, y[:, :, :])
    columns = {
        name: truth[name].to_numpy(dtype=np.float32)[:, None, None] for name in SHAPE_PARAMETERS
    }
    return Batch(x, y, step, columns)


def rotate(x: Float32, y: Float32, angle: Float32) -> tuple[Float32, Float32]:
    """Coordinates along and across an axis at ``angle`` radians from x."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def sersic(radius_2: Float32, index: Float32, softening: Float32) -> Float32:
    """Sersic profile of the squared radius in half-light radii.

    The core is softened over a fraction of a pixel, where sampling at pixel centres would put
    too much light into the central one (b after Ciotti & Bertin 1999).
    """
    b = 2.0 * index - np.float32(0.3333) + np.float32(0.009876) / index
    power = (radius_2 + softening**2) ** (0.5 / index)
    return np.asarray(np.exp(-b * (power - 1.0)), dtype=np.float32)


def normalise(image: Float32) -> Float32:
    """Stamps scaled to a sum of 1; a stamp without light stays empty."""
    total = image.sum(axis=(1, 2), keepdims=True)
    return np.asarray(image / np.where(total > 0, total, 1.0), dtype=np.float32)


@cache
def textures() -> tuple[Float32, Float32]:
    """Periodic fields of unit mean: knots (a few pixels wide) and patches (ten times as wide)."""
    random = np.random.default_rng(_TEXTURE_SEED)
    white = random.standard_normal((3, _TEXTURE_SIZE, _TEXTURE_SIZE))
    fine, coarse, broad = (
        field / field.std()
        for field in (
            ndimage.gaussian_filter(plane, sigma, mode="wrap")
            for plane, sigma in zip(white, (2.2, 6.0, 22.0), strict=True)
        )
    )
    knots = np.exp(0.75 * fine + 0.5 * coarse)
    patches = np.exp(0.7 * broad + 0.35 * coarse)
    return (knots / knots.mean()).astype(np.float32), (patches / patches.mean()).astype(np.float32)


def texture(field: Float32, u: Float32, v: Float32, batch: Batch) -> Float32:
    """A texture at coordinates in units of the disc's size; each source sees another part."""
    scale = np.float32(70.0)
    column = (u * scale + batch["texture_x"] * _TEXTURE_SIZE).astype(np.int32)
    row = (v * scale + batch["texture_y"] * _TEXTURE_SIZE).astype(np.int32)
    mask = _TEXTURE_SIZE - 1
    values: Float32 = field.ravel()[(row & mask) * _TEXTURE_SIZE + (column & mask)]
    return values


def softening(batch: Batch, scale: Float32) -> Float32:
    """A third of a pixel in units of ``scale`` (arcsec)."""
    size: Float32 = np.maximum(scale, np.float32(1e-3))
    return np.float32(0.35 * batch.step) / size


def spheroid(batch: Batch) -> list[Float32 | None]:
    """Elliptical galaxy: one Sersic profile, slightly disky or boxy."""
    scale = batch["half_light_radius"]
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    radius_2 = u**2 + (v / batch["axis_ratio"]) ** 2
    return [sersic(radius_2, batch["sersic_index"], softening(batch, scale)), None, None, None]


def disc_galaxy(batch: Batch) -> list[Float32 | None]:
    """Bulge, bar, disc, arms or ring, dust: lenticulars, spirals and ring galaxies."""
    # The bulge draws the half-light radius inwards: the disc alone must be larger.
    shrink = np.float32(1.0) - np.float32(0.75) * batch["bulge_fraction"]
    scale: Float32 = batch["half_light_radius"] / shrink
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    deprojected = v / batch["axis_ratio"]
    radius = np.sqrt(u**2 + deprojected**2) + np.float32(1e-4)
    smooth = np.exp(-EXP_SCALE * radius) * expit(4.5 * (3.2 - radius))
    old = _bulge_and_bar(batch, u, v, deprojected)
    knots, patches = textures()
    grain = texture(knots, u, deprojected, batch)
    log_radius = np.log(np.maximum(radius, np.float32(0.04)))
    angle = np.arctan2(deprojected, u) * batch["winding"]
    wave = angle - log_radius / np.tan(batch["pitch"]) + 2.0 * np.pi * batch["phase"]
    wobble = np.log(texture(patches, u * 0.5, deprojected * 0.5, batch))
    wave = batch["arm_number"] * (wave + 0.22 * wobble)
    strength = batch["arm_strength"]
    crest = np.exp(strength * (np.cos(wave) - 1.0))
    # Weak arms dissolve into many short pieces that share the arms' pitch.
    pieces = texture(patches, 0.9 * log_radius + 0.35 * np.cos(angle), 0.9 * np.sin(wave), batch)
    flocculent = 0.13 * np.maximum(3.6 - strength, 0.15) * np.minimum(pieces, 4.0)
    inner = np.maximum(batch["bar_length"] * 0.9, np.float32(0.22))
    start = expit(10.0 * (radius - inner) / inner)
    ring = np.exp(-0.5 * ((radius - batch["ring_radius"]) / np.float32(0.14)) ** 2)
    is_ring = batch["ring_radius"] > 0
    young = np.where(is_ring, ring * grain**0.7, smooth**0.9 * (crest + flocculent) * start * grain)
    lane = np.exp(LANE_SHARPNESS * strength * (np.cos(wave - 0.75) - 1.0))
    dust = (
        smooth * lane * start * (0.35 + 0.65 * texture(patches, u * 2.0, deprojected * 2.0, batch))
    )
    return [old, smooth * (0.85 + 0.15 * grain), young, dust]


def _bulge_and_bar(batch: Batch, u: Float32, v: Float32, deprojected: Float32) -> Float32:
    """Old light of a disc galaxy: a round bulge, and a bar where the truth has one."""
    size = batch["bulge_ratio"]
    # A bulge is thicker than the disc: it keeps most of its roundness when inclined.
    flat = 0.45 + 0.55 * batch["axis_ratio"]
    soft = softening(batch, batch["half_light_radius"] * size)
    bulge = normalise(sersic((u**2 + (v / flat) ** 2) / size**2, batch["sersic_index"], soft))
    length = batch["bar_length"]
    if not (length > 0).any():
        return bulge
    spin = np.pi * batch["angle_2"]
    along, across = rotate(u, deprojected, spin)
    long = np.maximum(length, np.float32(0.1))
    boxy = np.abs(along / long) ** 2.6 + np.abs(across / (0.24 * long)) ** 2.6
    bar = normalise(np.exp(-1.6 * boxy))
    share = np.where(length > 0, np.float32(0.15), np.float32(0.0))
    return bulge * batch["bulge_fraction"] + bar * share


def edge_on(batch: Batch) -> list[Float32 | None]:
    """Edge-on disc: exponential along, sech^2 across, a bulge, a thin young disc, a dust lane."""
    scale = batch["half_light_radius"]
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    height = batch["thickness"]
    along = np.abs(u) * EXP_SCALE
    # Integrated along the line of sight, an exponential disc falls as x K1(x).
    column = np.sqrt(1.0 + 1.57 * along) * np.exp(-along)
    column = column * expit(3.5 * (3.0 - np.abs(u)))
    smooth = column / np.cosh(np.minimum(np.abs(v) / height, 30.0)) ** 2
    size = batch["bulge_ratio"] * np.float32(1.6)
    soft = softening(batch, scale * size)
    old = sersic((u**2 + (v / 0.7) ** 2) / size**2, batch["sersic_index"] * 0 + 1.8, soft)
    knots, patches = textures()
    thin = np.exp(-0.5 * (v / (0.5 * height)) ** 2)
    young = column * thin * texture(knots, u, v * 0.3, batch)
    shift = (batch["phase"] - 0.5) * 0.5 * height
    lane = np.exp(-0.5 * ((v - shift) / (0.27 * height)) ** 2)
    grain = np.minimum(texture(patches, u * 2.0, v, batch), np.float32(1.4))
    dust = column * lane * (0.5 + 0.5 * grain)
    return [old, smooth, young, dust]


def point(batch: Batch) -> list[Float32 | None]:
    """A point source, spread over the four nearest pixels."""
    spread = np.float32(batch.step)
    weight = np.maximum(1.0 - np.abs(batch.x) / spread, np.float32(0.0))
    weight = weight * np.maximum(1.0 - np.abs(batch.y) / spread, 0.0)
    return [weight.astype(np.float32), None, None, None]
