"""The unusual shapes: irregulars, mergers with tails, strong lenses, image artefacts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from astropt_db.simulate.profiles import (
    EXP_SCALE,
    Batch,
    Float32,
    decay,
    edge_on,
    lenticular,
    logistic,
    normalise,
    ring,
    rotate,
    sersic,
    softening,
    spheroid,
    spiral,
    texture,
    textures,
)

_CLUMPS = 6


def irregular(batch: Batch) -> list[Float32 | None]:
    """A lopsided, patchy disc with a handful of bright clumps."""
    scale = batch["half_light_radius"]
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    deprojected = v / batch["axis_ratio"]
    tilt = 2.0 * np.pi * batch["phase"]
    shift = batch["asymmetry"]
    square = (u - shift * np.cos(tilt)) ** 2 + (deprojected - shift * np.sin(tilt)) ** 2
    power = np.exp(0.625 * np.log(square + np.float32(1e-8)))
    # One root of the profile serves two powers: smooth = root^10, wide = root^7.
    root = np.exp((-0.1 * EXP_SCALE) * power)
    cube = root * root**2
    wide = root * cube**2
    body = wide * cube * texture(textures().patches, u * 0.8, deprojected * 0.8, batch)
    grain = texture(textures().sharp_knots, u * 0.55, deprojected * 0.55, batch)
    young = wide * grain * 0.04
    for index in range(_CLUMPS):
        # Weyl sequences place the clumps: even cover of the disc without stored random numbers.
        turn = 2.0 * np.pi * ((batch["texture_x"] + 0.618034 * index) % 1.0)
        reach = 0.15 + 1.05 * ((batch["texture_y"] + 0.754878 * index) % 1.0)
        size = 0.07 + 0.09 * ((batch["angle_2"] + 0.569840 * index) % 1.0)
        bright = 0.2 + ((batch["phase"] + 0.381966 * index) % 1.0) ** 2
        du = u - reach * np.cos(turn)
        dv = deprojected - reach * np.sin(turn)
        young += bright * decay((-0.5 / size**2) * (du**2 + dv**2))
    return [None, body, young, None]


def merger(batch: Batch) -> list[Float32 | None]:
    """Two nuclei in distorted discs with a tidal tail from each, and light between them."""
    scale = batch["half_light_radius"]
    u, v = rotate(batch.x / scale, batch.y / scale, batch["position_angle"])
    half = 0.5 * batch["separation"]
    ratio = 0.35 + 0.55 * batch["phase"]
    first = _body(batch, u + half, v, batch["angle_2"] * np.pi, 0.62)
    second = _body(batch, u - half, v, batch["texture_x"] * np.pi, 0.48)
    nuclei = first[0] + ratio * second[0]
    discs = first[1] + ratio * second[1]
    handed = batch["winding"]
    tail = _tail(u + half, v * handed, batch)
    other = _tail(-(u - half), -v * handed, batch)
    grain = texture(textures().knots, u * 0.7, v * 0.7, batch)
    bridge = decay(-0.5 * (v / 0.22) ** 2) * (np.abs(u) < half) * 0.25
    young = (1.3 * tail + 1.6 * ratio * batch["texture_y"] * other + bridge) * (
        0.6 + 0.4 * grain
    ) + 0.35 * discs * grain
    shells = discs * texture(textures().patches, u * 1.2, v * 1.2, batch)
    return [nuclei, shells, young, None]


def _body(
    batch: Batch, u: Float32, v: Float32, angle: Float32, size: float
) -> tuple[Float32, Float32]:
    """Nucleus and disc of one partner, centred on zero."""
    along, across = rotate(u, v, angle)
    radius_2 = along**2 + (across / (0.5 + 0.4 * batch["texture_y"])) ** 2
    soft = softening(batch, batch["half_light_radius"] * np.float32(0.2))
    nucleus = sersic((u**2 + v**2) / np.float32(0.2 * size) ** 2, batch["phase"] * 0 + 1.6, soft)
    disc = np.exp(-EXP_SCALE * np.sqrt(radius_2) / np.float32(size))
    return normalise(nucleus), disc


def _tail(u: Float32, v: Float32, batch: Batch) -> Float32:
    """A tail that leaves its galaxy opposite to the partner and curls, widening as it fades."""
    radius = np.sqrt(u**2 + v**2) + np.float32(1e-3)
    width = 0.13 + 0.07 * radius
    # In coordinates that turn with radius, the ridge lies along the first axis.
    curl = (0.75 + 0.5 * batch["texture_x"]) * np.log(radius / 0.5) - np.float32(np.pi)
    cos, sin = np.cos(curl), np.sin(curl)
    along, across = u * cos - v * sin, u * sin + v * cos
    # Elsewhere the ridge is below 1e-6 of its height: an arc is longer than its sine.
    near = (np.abs(across) < 5.5 * width) & (along > -0.6)
    lag = np.arctan2(across, along, out=np.full_like(radius, np.inf), where=near)
    ridge = decay(-0.5 * (lag * radius / width) ** 2)
    return np.asarray(ridge * decay(radius / -1.15) * logistic(8.0 * (radius - 0.45)))


def lens(batch: Batch) -> list[Float32 | None]:
    """An elliptical with a lensed blue source behind it, ray-traced through an SIE.

    Deflection of the singular isothermal ellipsoid after Kormann, Schneider & Bartelmann
    (1994). The source lies at a third of the Einstein radius or less: arcs and rings.
    """
    light = spheroid(batch)[0]
    mass_ratio = np.maximum(0.45 + 0.5 * batch["axis_ratio"], np.float32(0.5))
    mass_ratio = np.minimum(mass_ratio, np.float32(0.97))
    einstein = batch["einstein_radius"]
    x, y = rotate(batch.x, batch.y, batch["position_angle"])
    eccentricity = np.sqrt(1.0 - mass_ratio**2)
    psi = np.sqrt(mass_ratio**2 * x**2 + y**2) + np.float32(1e-4)
    strength = einstein * np.sqrt(mass_ratio) / eccentricity
    source_x = x - strength * np.arctan(eccentricity * x / psi)
    source_y = y - strength * np.arctanh(np.clip(eccentricity * y / psi, -0.999, 0.999))
    reach = einstein * (0.08 + 0.42 * batch["texture_x"])
    turn = 2.0 * np.pi * batch["phase"]
    size = np.float32(0.16) + np.float32(0.10) * batch["texture_y"]
    du = (source_x - reach * np.cos(turn)) / size
    dv = (source_y - reach * np.sin(turn)) / size
    arcs = np.exp(-EXP_SCALE * np.sqrt(du**2 + (dv / 0.7) ** 2))
    return [light, None, arcs, None]


def cosmic_ray(batch: Batch) -> list[Float32 | None]:
    """A short straight trail, one pixel wide."""
    along, across = rotate(batch.x, batch.y, batch["position_angle"])
    length = batch["half_light_radius"]
    inside = (np.abs(along) < length).astype(np.float32) * (0.6 + 0.4 * along / length)
    return [inside * np.exp(-0.5 * (across / 0.05) ** 2), None, None, None]


def ghost(batch: Batch) -> list[Float32 | None]:
    """An out-of-focus reflection: a disc with the shadow of the secondary mirror."""
    radius = np.hypot(batch.x, batch.y) / (1.6 * batch["half_light_radius"])
    edge = logistic((1.0 - radius) * 25.0)
    hole = logistic((radius - 0.38) * 25.0)
    return [(edge * hole).astype(np.float32), None, None, None]


def streak(batch: Batch) -> list[Float32 | None]:
    """A piece of a satellite's trail that survived the stacking."""
    along, across = rotate(batch.x, batch.y, batch["position_angle"])
    inside = np.exp(-((np.abs(along) / (2.6 * batch["half_light_radius"])) ** 8))
    return [inside * np.exp(-0.5 * (across / 0.16) ** 2), None, None, None]


_PAINTERS = {
    "elliptical": spheroid,
    "lenticular": lenticular,
    "spiral": spiral,
    "barred_spiral": spiral,
    "ring": ring,
    "edge_on": edge_on,
    "irregular": irregular,
    "merger": merger,
    "lens": lens,
    "cosmic_ray": cosmic_ray,
    "ghost": ghost,
    "streak": streak,
}


def component_maps(morphology: str, batch: Batch) -> tuple[NDArray[np.intp], Float32]:
    """Unit-sum maps of the components that a morphology has.

    Parameters
    ----------
    morphology
        Any but stars and QSOs, which are points.
    batch
        Sources and coordinates.

    Returns
    -------
    components
        Which of `scene.COMPONENTS` follow, shape ``(c,)``.
    maps
        Shape ``(n, c, m, m)``, float32, each summing to 1 over the stamp.
    """
    drawn = _PAINTERS[morphology](batch)
    present = [index for index, image in enumerate(drawn) if image is not None]
    maps = [normalise(np.asarray(image, np.float32)) for image in drawn if image is not None]
    return np.array(present, dtype=np.intp), np.stack(maps, axis=1)
