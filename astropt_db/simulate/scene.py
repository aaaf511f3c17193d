"""What stands where in one tile, and what it looks like: the truth before any pixel is drawn.

A source is a row of a data frame, its light a small sum of components: *old* (bulge, bar,
nuclei), *disc*, *young* (arms, clumps, tails, lensed arcs) and *dust* (negative light). Each
component has one shape and its own spectrum, so a galaxy changes its look from VIS to H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special
from scipy.special import expit

from astropt_db.simulate.population import Galaxies, draw_galaxies
from astropt_db.simulate.profiles import LANE_SHARPNESS
from astropt_db.simulate.seds import Photometry

Float64 = NDArray[np.float64]
Text = NDArray[np.str_]

COMPONENTS: tuple[str, ...] = ("old", "disc", "young", "dust")
MORPHOLOGIES: tuple[str, ...] = (
    "elliptical",
    "lenticular",
    "spiral",
    "barred_spiral",
    "edge_on",
    "ring",
    "irregular",
    "merger",
    "lens",
    "star",
    "qso",
    "artefact",
)
ARTEFACTS: tuple[str, ...] = ("cosmic_ray", "ghost", "streak")

STAR_SHARE = 0.11
QSO_SHARE = 0.015
ARTEFACT_SHARE = 0.015
"""Shares of the sources that are not galaxies."""

_COLOUR_SCATTER = 0.03
"""Scatter of each band about the templates (stellar populations differ), natural logarithm."""
_DUST_LAW_EXPONENT = 0.9
"""Dust lanes fade with wavelength as a power law of this exponent."""


_UNKNOWN_UNLESS_SET = (
    *("redshift", "log_mass", "log_sfr", "sed_type", "reddening", "weight", "temperature"),
    *("source_redshift", "pm_ra", "pm_dec"),
)
_ZERO_UNLESS_SET = (
    *("half_light_radius", "bulge_fraction", "bulge_ratio", "arm_strength", "arm_number"),
    *("pitch", "bar_length", "ring_radius", "thickness", "separation", "asymmetry"),
    "einstein_radius",
)


@dataclass(frozen=True)
class Scene:
    """The sources of a tile.

    Attributes
    ----------
    truth
        One row per source: kind, morphology, physical properties and the shape parameters
        that `astropt_db.simulate.profiles` draws from; see `docs/simulation.md`.
    flux
        Microjansky, before Galactic extinction, shape ``(n, 4, b)``: component, band. The sum
        over components is the total flux.
    """

    truth: pd.DataFrame
    flux: Float64

    @property
    def total(self) -> Float64:
        """Total flux by band, microjansky, shape ``(n, b)``."""
        return np.asarray(self.flux.sum(axis=1))


def concatenate(scenes: list[Scene]) -> Scene:
    """The sources of several tiles in one scene."""
    truth = pd.concat([scene.truth for scene in scenes], ignore_index=True)
    return Scene(truth, np.concatenate([scene.flux for scene in scenes]))


def take(scene: Scene, rows: NDArray[np.intp]) -> Scene:
    """Some rows of a scene."""
    return Scene(scene.truth.iloc[rows].reset_index(drop=True), scene.flux[rows])


def draw_scene(number: int, light: Photometry, random: np.random.Generator) -> Scene:
    """``number`` sources of all kinds, in random order, without positions."""
    counts = {
        "star": round(STAR_SHARE * number),
        "qso": round(QSO_SHARE * number),
        "artefact": round(ARTEFACT_SHARE * number),
    }
    galaxies = number - sum(counts.values())
    parts = [
        _galaxies(galaxies, light, random),
        _stars(counts["star"], light, random),
        _qsos(counts["qso"], light, random),
        _artefacts(counts["artefact"], light, random),
    ]
    scene = concatenate([part for part in parts if len(part.truth)])
    return take(scene, random.permutation(len(scene.truth)))


def _frame(number: int, kind: str, random: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """Columns that every source has, at their neutral values."""
    columns: dict[str, NDArray[np.generic]] = {
        "kind": np.full(number, kind, dtype=object),
        "morphology": np.full(number, kind, dtype=object),
    }
    columns |= {name: np.full(number, np.nan) for name in _UNKNOWN_UNLESS_SET}
    columns |= {name: np.zeros(number) for name in _ZERO_UNLESS_SET}
    columns["axis_ratio"] = np.ones(number)
    columns["sersic_index"] = np.ones(number)
    columns["position_angle"] = random.uniform(0.0, np.pi, number)
    columns["winding"] = random.choice([-1.0, 1.0], number)
    for name in ("phase", "texture_x", "texture_y", "angle_2"):
        columns[name] = random.random(number)
    return columns


def _galaxies(number: int, light: Photometry, random: np.random.Generator) -> Scene:
    galaxies = draw_galaxies(number, light, random)
    columns = _frame(number, "galaxy", random)
    for name in ("redshift", "log_mass", "log_sfr", "sed_type", "reddening", "weight"):
        columns[name] = getattr(galaxies, name)
    columns["half_light_radius"] = galaxies.half_light_radius
    face_on = random.random(number)
    morphology = _morphologies(galaxies, face_on, random)
    columns["morphology"] = morphology.astype(object)
    _shapes(columns, morphology, face_on, galaxies, random)
    truth = pd.DataFrame(columns)
    return Scene(truth, _component_flux(galaxies, truth, light, random))


def _morphologies(g: Galaxies, face_on: Float64, random: np.random.Generator) -> Text:
    """Visual classes. Mergers, rings and lenses are more common than in nature, to be learnt."""
    number = g.redshift.size
    dice, rare = random.random((2, number))
    irregular = 0.85 * expit(3.5 * (g.sed_type - 3.0 + 0.5 * (9.0 - g.log_mass)))
    active = np.select(
        [dice < irregular, face_on < 0.2, random.random(number) < 0.35],
        ["irregular", "edge_on", "barred_spiral"],
        "spiral",
    )
    active = np.where(rare < 0.035, "ring", active)
    passive = np.select(
        [(dice < 0.42) & (face_on < 0.2), dice < 0.42], ["edge_on", "lenticular"], "elliptical"
    )
    heavy = (g.log_mass > 10.8) & (g.redshift > 0.15) & (g.redshift < 1.0)
    passive = np.where(heavy & (rare < 0.20), "lens", passive)
    result = np.where(g.quiescent, passive, active)
    merging = random.random(number) < 0.06 + 0.02 * g.redshift
    return np.where(merging & (result != "lens"), "merger", result)


def _shapes(
    columns: dict[str, NDArray[np.generic]],
    morphology: Text,
    face_on: Float64,
    g: Galaxies,
    random: np.random.Generator,
) -> None:
    """Fill the shape parameters of galaxies in place."""
    number = morphology.size
    u = random.random((12, number))
    disc = np.isin(morphology, ["lenticular", "spiral", "barred_spiral", "ring"])
    inclined = np.sqrt(0.22 + 0.78 * ((face_on - 0.2) / 0.8) ** 2)
    round_ = np.where(morphology == "irregular", 0.45 + 0.5 * u[0], 0.55 + 0.45 * u[0])
    ratio = np.where(disc, np.where(face_on > 0.2, inclined, 0.55), round_)
    thickness = 0.11 + 0.13 * u[1]
    edge_on = morphology == "edge_on"
    columns["axis_ratio"] = np.where(edge_on, thickness, ratio)
    columns["thickness"] = np.where(edge_on, thickness, 0.0)
    heavy = np.clip((g.log_mass - 9.0) / 2.0, 0.0, 1.0)
    bulge = np.clip(0.03 + 0.27 * heavy + 0.10 * (u[2] - 0.5), 0.0, 0.6)
    bulge = np.where(morphology == "lenticular", 0.35 + 0.3 * u[2], bulge)
    bulge = np.where(morphology == "edge_on", bulge + 0.08, bulge)
    bulge = np.where(morphology == "irregular", 0.0, bulge)
    bulge = np.where(np.isin(morphology, ["elliptical", "lens"]), 1.0, bulge)
    columns["bulge_fraction"] = np.where(morphology == "merger", 0.35 + 0.2 * u[2], bulge)
    columns["bulge_ratio"] = np.where(morphology == "lenticular", 0.35, 0.12 + 0.14 * heavy)
    steep = np.where(morphology == "elliptical", 2.2 + 2.6 * u[3] * (0.5 + heavy), 1.5 + 1.5 * u[3])
    columns["sersic_index"] = np.clip(np.where(morphology == "lens", 4.0, steep), 1.0, 5.5)
    arms = np.where(u[4] < 0.62, 2.0, np.where(u[4] < 0.8, 3.0, np.where(u[4] < 0.9, 4.0, 1.0)))
    columns["arm_number"] = np.where(morphology == "barred_spiral", 2.0, arms)
    spiral = np.isin(morphology, ["spiral", "barred_spiral"])
    columns["arm_strength"] = np.where(spiral, 2.2 + 3.0 * u[5], 0.0)
    columns["pitch"] = np.radians(11.0 + 17.0 * u[6])
    columns["bar_length"] = np.where(morphology == "barred_spiral", 0.55 + 0.4 * u[7], 0.0)
    columns["ring_radius"] = np.where(morphology == "ring", 1.0 + 0.5 * u[7], 0.0)
    columns["asymmetry"] = np.where(morphology == "irregular", 0.15 + 0.35 * u[8], 0.08 * u[8])
    columns["separation"] = np.where(morphology == "merger", 0.9 + 1.6 * u[9], 0.0)
    lens = morphology == "lens"
    columns["einstein_radius"] = np.where(lens, 0.7 + 0.5 * (g.log_mass - 10.8) + 0.9 * u[10], 0.0)
    columns["source_redshift"] = np.where(lens, g.redshift + 0.6 + 1.2 * u[11], np.nan)


def _component_shares(truth: pd.DataFrame, random: np.random.Generator) -> Float64:
    """Share of each component in the VIS light, shape ``(n, 4)``, summing to 1."""
    morphology = truth["morphology"].to_numpy(dtype=str)
    u, v = random.random((2, len(truth)))
    old = truth["bulge_fraction"].to_numpy() + 0.5 * (truth["bar_length"].to_numpy() > 0) * 0.3
    young = np.select(
        [
            np.isin(morphology, m)
            for m in (
                ["spiral", "barred_spiral"],
                ["ring"],
                ["irregular"],
                ["merger"],
                ["edge_on"],
                ["lens"],
            )
        ],
        [
            0.32 + 0.22 * u,
            0.40 + 0.1 * u,
            0.40 + 0.2 * u,
            0.22 + 0.16 * u,
            0.05 * u,
            0.10 + 0.2 * u,
        ],
        0.0,
    )
    passive = truth["sed_type"].to_numpy() < 0.6
    young = np.where(passive & (morphology == "edge_on"), 0.0, young)
    spheroid = np.isin(morphology, ["elliptical", "lens"])
    disc = np.where(spheroid, 0.0, np.maximum(1.0 - old - young, 0.1))
    # A lane covers a known part of the disc, so the darkest place keeps some of its light.
    covered = np.where(
        morphology == "edge_on",
        0.27,
        0.6 * special.ive(0, LANE_SHARPNESS * truth["arm_strength"].to_numpy()),
    )
    depth = np.select(
        [np.isin(morphology, ["spiral", "barred_spiral"]), morphology == "edge_on"],
        [0.25 + 0.45 * v, np.where(passive, 0.1 * v, 0.5 + 0.35 * v)],
        0.0,
    )
    dust = depth * covered * disc
    shares = np.stack([old, disc, young, -dust], axis=1)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _component_flux(
    g: Galaxies, truth: pd.DataFrame, light: Photometry, random: np.random.Generator
) -> Float64:
    """Fluxes of the components in every band, microjansky, shape ``(n, 4, b)``."""
    shares = _component_shares(truth, random)
    total = light.galaxy_flux(g.redshift, g.sed_type, g.reddening)[:, 0] * g.luminosity
    kinds = (g.sed_type - 1.2, g.sed_type, g.sed_type + 0.9)
    colours = [
        light.galaxy_flux(g.redshift, np.clip(kind, 0.0, 4.0), g.reddening) for kind in kinds
    ]
    lens = (truth["morphology"] == "lens").to_numpy()
    source_z = np.where(lens, truth["source_redshift"].to_numpy(), 0.0)
    arc = light.galaxy_flux(source_z, np.full(len(truth), 3.4), np.zeros(len(truth)))
    colours[2] = np.where(lens[:, None], arc, colours[2])
    law = (light.wavelengths / light.wavelengths[0]) ** -_DUST_LAW_EXPONENT
    colours.append(colours[1] * law)
    relative = np.stack([colour / colour[:, :1] for colour in colours], axis=1)
    scatter = np.exp(_COLOUR_SCATTER * random.standard_normal((len(truth), 1, len(light.bands))))
    return np.asarray(total[:, None, None] * shares[:, :, None] * relative * scatter)


def _point_flux(total: Float64) -> Float64:
    """All light in the first component."""
    flux = np.zeros((total.shape[0], len(COMPONENTS), total.shape[1]))
    flux[:, 0] = total
    return flux


def _stars(number: int, light: Photometry, random: np.random.Generator) -> Scene:
    columns = _frame(number, "star", random)
    columns["temperature"] = np.clip(random.lognormal(np.log(4300.0), 0.28, number), 2700, 11500)
    magnitude = 24.3 - 8.3 * random.random(number) ** 1.6
    colour = light.star_flux(np.asarray(columns["temperature"], dtype=np.float64))
    scatter = np.exp(0.02 * random.standard_normal(colour.shape))
    total = 10.0 ** (-0.4 * (magnitude - 23.9))[:, None] * colour / colour[:, :1] * scatter
    # Nearer stars are brighter and move more.
    speed = 28.0 * 10.0 ** (-0.07 * (magnitude - 17.0))
    columns["pm_ra"], columns["pm_dec"] = speed * random.standard_normal((2, number))
    return Scene(pd.DataFrame(columns), _point_flux(total))


def _qsos(number: int, light: Photometry, random: np.random.Generator) -> Scene:
    columns = _frame(number, "qso", random)
    redshift = np.clip(random.gamma(4.0, 0.42, number), 0.25, 4.5)
    columns["redshift"] = redshift
    columns["reddening"] = np.zeros(number)
    magnitude = random.triangular(17.5, 22.8, 23.5, number)
    colour = light.qso_flux(redshift) * np.exp(0.06 * random.standard_normal((number, 1)))
    scatter = np.exp(0.06 * random.standard_normal(colour.shape))
    total = 10.0 ** (-0.4 * (magnitude - 23.9))[:, None] * colour / colour[:, :1] * scatter
    return Scene(pd.DataFrame(columns), _point_flux(total))


def _artefacts(number: int, light: Photometry, random: np.random.Generator) -> Scene:
    columns = _frame(number, "artefact", random)
    columns["morphology"] = random.choice(ARTEFACTS, number).astype(object)
    total = np.zeros((number, len(light.bands)))
    total[:, 0] = 10.0 ** (-0.4 * (random.uniform(20.5, 23.5, number) - 23.9))
    columns["half_light_radius"] = random.uniform(0.6, 2.2, number)
    return Scene(pd.DataFrame(columns), _point_flux(total))
