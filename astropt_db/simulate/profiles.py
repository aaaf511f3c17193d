"""Galaxy light on pixels: the shapes of the components, vectorised over a batch of stamps.

Every function takes `Batch` (coordinates about the sources' centres) and returns surface
brightness up to a factor, float32, shape ``(n, m, m)``; `component_maps` puts them together
and makes each component's sum 1. Mergers, lenses and irregulars are in ``special``.

An exponential costs as much as fifteen products here, a power or an arctangent three to eight
times more, so powers share logarithms, angles stay sines and cosines, and functions are not
evaluated where they vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Real = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
Complex64 = NDArray[np.complex64]

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
        right) and north-south (up), shapes ``(n, 1, m)`` and ``(n, m, 1)``.
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


def shape_table(truth: pd.DataFrame) -> Float32:
    """`SHAPE_PARAMETERS` of the rows of a scene's truth, shape ``(parameters, n)``."""
    return np.stack([truth[name].to_numpy(dtype=np.float32) for name in SHAPE_PARAMETERS])


def make_batch(table: Float32, offset: Float64, size: int, step: float) -> Batch:
    """Coordinates of stamps of ``size`` pixels of ``step`` arcsec.

    Parameters
    ----------
    table
        Columns of a `shape_table`, shape ``(parameters, n)``.
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
    columns = dict(zip(SHAPE_PARAMETERS, table[:, :, None, None], strict=True))
    return Batch(x, y, step, columns)


def rotate(x: Float32, y: Float32, angle: Float32) -> tuple[Float32, Float32]:
    """Coordinates along and across an axis at ``angle`` radians from x."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def logistic(x: Real) -> Float32:
    """1 / (1 + exp(-x)); arguments below -80 count as -80."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.maximum(x, np.float32(-80.0)))), dtype=np.float32)


def decay(exponent: Real, least: float = -18.0) -> Float32:
    """exp(exponent), and 0 without the cost of it where the exponent is below ``least``."""
    out = np.zeros_like(exponent, dtype=np.float32)
    return np.exp(exponent, out=out, where=exponent > least)


def sersic(radius_2: Float32, index: Float32, softening: Float32) -> Float32:
    """Sersic profile of the squared radius in half-light radii.

    The core is softened over a fraction of a pixel, where sampling at pixel centres would put
    too much light into the central one (b after Ciotti & Bertin 1999).
    """
    b = 2.0 * index - np.float32(0.3333) + np.float32(0.009876) / index
    power = np.exp(np.log(radius_2 + softening**2) * (0.5 / index))
    return decay(b - b * power)


def normalise(image: Float32) -> Float32:
    """Stamps scaled to a sum of 1; a stamp without light stays empty."""
    total = image.sum(axis=(1, 2), keepdims=True)
    return np.asarray(image * (1.0 / np.where(total > 0, total, 1.0)), dtype=np.float32)


@dataclass(frozen=True)
class Textures:
    """Periodic fields of unit mean, float32, and what is made of them, flattened.

    Attributes
    ----------
    knots, patches
        Lognormal fields: knots are a few pixels wide, patches ten times as wide.
    log_patches
        Natural logarithm of the patches.
    soft_knots, sharp_knots
        Knots to the powers 0.7 and 1.2.
    """

    knots: Float32
    patches: Float32
    log_patches: Float32
    soft_knots: Float32
    sharp_knots: Float32


@cache
def textures() -> Textures:
    """The fields, the same for every simulation."""
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
    knots /= knots.mean()
    patches /= patches.mean()
    fields = (knots, patches, np.log(patches), knots**0.7, knots**1.2)
    return Textures(*(field.astype(np.float32).ravel() for field in fields))


def texture(field: Float32, u: Real, v: Real, batch: Batch) -> Float32:
    """A texture at coordinates in units of the disc's size; each source sees another part."""
    scale = np.float32(70.0)
    column = (u * scale + batch["texture_x"] * _TEXTURE_SIZE).astype(np.int32)
    row = (v * scale + batch["texture_y"] * _TEXTURE_SIZE).astype(np.int32)
    mask = np.int32(_TEXTURE_SIZE - 1)
    row &= mask
    row *= np.int32(_TEXTURE_SIZE)
    column &= mask
    row += column
    # Indices are in range; the mode spares their check.
    return np.asarray(field.take(row, mode="wrap"), dtype=np.float32)


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


@dataclass(frozen=True)
class _Disc:
    """An exponential disc seen from an angle; arrays of shape ``(n, m, m)``.

    Attributes
    ----------
    u, v
        Coordinates in the plane of the disc, along its line of nodes and across, in units of
        its half-light radius.
    radius
        Distance from the centre, never 0.
    lit
        Pixels where the disc is brighter than a millionth of its centre.
    smooth, wide
        Surface brightness where lit: exponential with an end near radius 3.2, and its power
        0.9; 0 elsewhere.
    old
        Bulge and bar.
    """

    u: Float32
    v: Float32
    radius: Float32
    lit: Bool
    smooth: Float32
    wide: Float32
    old: Float32


def _lit(function: np.ufunc, x: Real, lit: Bool) -> Float32:
    """A costly function where the disc is lit, 0 elsewhere."""
    return np.asarray(function(x, out=np.zeros_like(x), where=lit), dtype=np.float32)


def _disc(batch: Batch) -> _Disc:
    # The bulge draws the half-light radius inwards: the disc alone must be larger.
    shrink = np.float32(1.0) - np.float32(0.75) * batch["bulge_fraction"]
    scale: Float32 = batch["half_light_radius"] / shrink
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    deprojected = v / batch["axis_ratio"]
    radius = np.sqrt(u**2 + deprojected**2) + np.float32(1e-4)
    # With its end, the profile is below a millionth everywhere beyond 4.4.
    lit = radius < np.float32(4.4)
    end = _lit(np.log, 1.0 + _lit(np.exp, 4.5 * (radius - 3.2), lit), lit)
    # One root of the profile serves two powers: smooth = root^10, wide = root^9.
    root = _lit(np.exp, -0.1 * (EXP_SCALE * radius + end), lit)
    wide = root * ((root**2) ** 2) ** 2
    old = _bulge_and_bar(batch, u, v, deprojected)
    return _Disc(u, deprojected, radius, lit, wide * root, wide, old)


def _whole_power(z: Complex64, exponent: NDArray[np.int32]) -> Complex64:
    """``z`` to powers of 1 to 7, by squares; ``exponent`` is one number per stamp."""
    out = np.where(exponent & 1, z, np.complex64(1.0))
    for bit in (2, 4):
        z = z * z
        chosen = (exponent & bit).ravel() > 0
        out[chosen] *= z[chosen]
    return out


def lenticular(batch: Batch) -> list[Float32 | None]:
    """Bulge and a smooth disc."""
    disc = _disc(batch)
    grain = texture(textures().knots, disc.u, disc.v, batch)
    return [disc.old, disc.smooth * (0.85 + 0.15 * grain), None, None]


def ring(batch: Batch) -> list[Float32 | None]:
    """Bulge, disc, and a ring of young stars."""
    disc = _disc(batch)
    grain = texture(textures().knots, disc.u, disc.v, batch)
    young = decay(-0.5 * ((disc.radius - batch["ring_radius"]) / np.float32(0.14)) ** 2)
    young = young * texture(textures().soft_knots, disc.u, disc.v, batch)
    return [disc.old, disc.smooth * (0.85 + 0.15 * grain), young, None]


def spiral(batch: Batch) -> list[Float32 | None]:
    """Bulge, bar, disc, arms and the dust along them."""
    disc, fields = _disc(batch), textures()
    u, v, radius = disc.u, disc.v, disc.radius
    grain = texture(fields.knots, u, v, batch)
    log_radius = _lit(np.log, np.maximum(radius, np.float32(0.04)), disc.lit)
    wobble = texture(fields.log_patches, u * 0.5, v * 0.5, batch)
    lag = 2.0 * np.pi * batch["phase"] - log_radius / np.tan(batch["pitch"]) + 0.22 * wobble
    arms = batch["arm_number"]
    cos_angle, sin_angle = u / radius, v * batch["winding"] / radius
    turn = _whole_power(cos_angle + 1j * sin_angle, arms.astype(np.int32))
    lag = arms * lag
    cos_lag, sin_lag = _lit(np.cos, lag, disc.lit), _lit(np.sin, lag, disc.lit)
    cos_wave = turn.real * cos_lag - turn.imag * sin_lag
    sin_wave = turn.real * sin_lag + turn.imag * cos_lag
    strength = batch["arm_strength"]
    crest = _lit(np.exp, strength * (cos_wave - 1.0), disc.lit)
    # Weak arms dissolve into many short pieces that share the arms' pitch.
    pieces = texture(fields.patches, 0.9 * log_radius + 0.35 * cos_angle, 0.9 * sin_wave, batch)
    flocculent = 0.13 * np.maximum(3.6 - strength, 0.15) * np.minimum(pieces, 4.0)
    inner = np.maximum(batch["bar_length"] * 0.9, np.float32(0.22))
    start = 1.0 / (1.0 + _lit(np.exp, 10.0 - 10.0 / inner * radius, disc.lit))
    young = disc.wide * (crest + flocculent) * start * grain
    behind = np.cos(0.75) * cos_wave + np.sin(0.75) * sin_wave
    lane = _lit(np.exp, LANE_SHARPNESS * strength * (behind - 1.0), disc.lit)
    cover = 0.35 + 0.65 * texture(fields.patches, u * 2.0, v * 2.0, batch)
    dust = disc.smooth * lane * start * cover
    return [disc.old, disc.smooth * (0.85 + 0.15 * grain), young, dust]


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
    boxy = _power(along / long, 1.3) + _power(across / (0.24 * long), 1.3)
    bar = normalise(decay(-1.6 * boxy))
    share = np.where(length > 0, np.float32(0.15), np.float32(0.0))
    return bulge * batch["bulge_fraction"] + bar * share


def _power(x: Real, half: float) -> Float32:
    """|x| to the power ``2 half`` for bodies that end near 1: 0 to tiny |x|, capped far out."""
    square = np.minimum(x**2, np.float32(100.0)) + np.float32(1e-12)
    return np.asarray(np.exp(half * np.log(square)), dtype=np.float32)


def edge_on(batch: Batch) -> list[Float32 | None]:
    """Edge-on disc: exponential along, sech^2 across, a bulge, a thin young disc, a dust lane."""
    scale = batch["half_light_radius"]
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    height = batch["thickness"]
    along = np.abs(u) * EXP_SCALE
    # Integrated along the line of sight, an exponential disc falls as x K1(x).
    column = np.asarray(np.sqrt(1.0 + 1.57 * along) * np.exp(-along), dtype=np.float32)
    column *= logistic(3.5 * (3.0 - np.abs(u)))
    # sech^2 by one exponential.
    fall = np.exp(-2.0 * np.abs(v) / height)
    smooth = np.asarray(column * (4.0 * fall / (1.0 + fall) ** 2), dtype=np.float32)
    size = batch["bulge_ratio"] * np.float32(1.6)
    soft = softening(batch, scale * size)
    old = sersic((u**2 + (v / 0.7) ** 2) / size**2, batch["sersic_index"] * 0 + 1.8, soft)
    thin = decay(-0.5 * (v / (0.5 * height)) ** 2)
    young = column * thin * texture(textures().knots, u, v * 0.3, batch)
    shift = (batch["phase"] - 0.5) * 0.5 * height
    lane = decay(-0.5 * ((v - shift) / (0.27 * height)) ** 2)
    grain = np.minimum(texture(textures().patches, u * 2.0, v, batch), np.float32(1.4))
    dust = np.asarray(column * lane * (0.5 + 0.5 * grain), dtype=np.float32)
    return [old, smooth, young, dust]
