"""Measured fluxes of a tile's sources in every band of its field.

The four Euclid bands are measured on the mosaics. Ground-based surveys have no mosaics here:
their aperture fluxes are the true flux times the light fraction of the same aperture on the
noiseless VIS image (neighbours included), with the survey's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from astropt_db.simulate.bands import EUCLID_BANDS, GROUND_BANDS, Field
from astropt_db.simulate.measure import (
    COLOUR_FWHM,
    Detections,
    Exposure,
    aperture_fluxes,
)
from astropt_db.simulate.shapes import Shapes

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_COLOUR_APERTURE = 1
"""Colours are measured in the aperture of 2 FWHM diameter."""
_ZERO_POINT_ERROR = 0.015
"""Relative error of the flux scale that ground-based bands add source by source."""


@dataclass(frozen=True)
class Fluxes:
    """Measured fluxes in microjansky, NaN where a band has no data.

    Attributes
    ----------
    bands
        Catalogue names: VIS, Y, J, H, then ground-based bands.
    aperture, aperture_error
        Shape ``(n, b, 4)``: apertures of 1 to 4 FWHM.
    total, total_error
        Colour-aperture fluxes scaled to the total VIS flux, shape ``(n, b)``.
    sersic, sersic_error
        The same with the light beyond the total aperture, from the Sersic estimate.
    """

    bands: tuple[str, ...]
    aperture: Float64
    aperture_error: Float64
    total: Float64
    total_error: Float64
    sersic: Float64
    sersic_error: Float64


def measure_fluxes(
    exposure: Exposure,
    noiseless: Float32,
    found: Detections,
    shapes: Shapes,
    true_total: Float64,
    field: Field,
    random: np.random.Generator,
) -> Fluxes:
    """Fluxes of all sources of a scene.

    Parameters
    ----------
    exposure
        Noisy images of the tile.
    noiseless
        VIS without noise, mosaic units.
    found, shapes
        Detections and shapes.
    true_total
        True flux after Galactic extinction, microjansky, shape ``(n, b)``.
    field
        Deep field: decides the ground-based bands.
    random
        Source of the ground-based noise.
    """
    flux, error = aperture_fluxes(exposure.images, exposure.rms, found.position)
    ground, ground_error = _ground(noiseless, found.position, true_total, field, random)
    flux, error = np.concatenate([flux, ground], axis=1), np.concatenate([error, ground_error], 1)
    colour, colour_error = flux[:, :, _COLOUR_APERTURE], error[:, :, _COLOUR_APERTURE]
    scale = shapes.total / colour[:, 0]
    scale = np.where(np.isfinite(scale) & (colour[:, 0] > 0), np.clip(scale, 1.0, 40.0), 1.4)
    total, total_error = colour * scale[:, None], colour_error * scale[:, None]
    beyond = _light_beyond(found.kron, shapes)
    names = (*(band.name for band in EUCLID_BANDS), *(band.name for band in GROUND_BANDS[field]))
    return Fluxes(
        bands=names,
        aperture=flux,
        aperture_error=error,
        total=total,
        total_error=total_error,
        sersic=total * beyond[:, None],
        sersic_error=total_error * beyond[:, None],
    )


def _ground(
    noiseless: Float32,
    position: Float64,
    true_total: Float64,
    field: Field,
    random: np.random.Generator,
) -> tuple[Float64, Float64]:
    """Aperture fluxes and errors of the ground-based bands, shape ``(n, g, 4)``."""
    light, _ = aperture_fluxes([noiseless], [np.ones_like(noiseless)], position)
    light *= EUCLID_BANDS[0].ujy_per_unit
    share = light[:, 0] / np.maximum(true_total[:, :1], 1e-9)
    size = COLOUR_FWHM * np.arange(1, 5) / 2.0
    sigma = np.array([band.sigma_2arcsec for band in GROUND_BANDS[field]])
    flux = true_total[:, len(EUCLID_BANDS) :, None] * share[:, None, :]
    noise = np.broadcast_to(sigma[None, :, None] * size, flux.shape)
    error = np.hypot(noise, _ZERO_POINT_ERROR * flux)
    # One draw per source and band: the apertures are nested, so their noise goes together.
    return flux + error * random.standard_normal((*flux.shape[:2], 1)), error


def _light_beyond(kron: Float64, shapes: Shapes) -> Float64:
    """Ratio of a Sersic profile's whole light to that inside the total aperture."""
    index = np.nan_to_num(shapes.index, nan=1.0)
    reach = kron / np.maximum(np.nan_to_num(shapes.r50, nan=10.0), 1.0)
    b = 2.0 * index - 0.333
    return np.asarray(1.0 / np.clip(special.gammainc(2 * index, b * reach ** (1 / index)), 0.6, 1))


def flux_columns(fluxes: Fluxes) -> dict[str, Float64]:
    """Columns of the MER catalogue that hold fluxes, float64, by column name."""
    columns: dict[str, Float64] = {}
    for index, band in enumerate(fluxes.bands):
        for aperture in range(4):
            name = f"{band}_{aperture + 1}FWHM_APER"
            columns[f"FLUX_{name}"] = fluxes.aperture[:, index, aperture]
            columns[f"FLUXERR_{name}"] = fluxes.aperture_error[:, index, aperture]
        if band != "VIS":
            covered = np.isfinite(fluxes.total[:, index])
            for kind, source in ((band, index), (f"VIS_TO_{band}", 0)):
                columns[f"FLUX_{kind}_TEMPLFIT"] = np.where(
                    covered, fluxes.total[:, source], np.nan
                )
                columns[f"FLUXERR_{kind}_TEMPLFIT"] = np.where(
                    covered, fluxes.total_error[:, source], np.nan
                )
        columns[f"FLUX_{band}_SERSIC"] = fluxes.sersic[:, index]
        columns[f"FLUXERR_{band}_SERSIC"] = fluxes.sersic_error[:, index]
    weight = 1.0 / fluxes.aperture_error[:, 1:4] ** 2
    for aperture in range(4):
        w = weight[:, :, aperture]
        mean = (fluxes.aperture[:, 1:4, aperture] * w).sum(axis=1) / w.sum(axis=1)
        columns[f"FLUX_NIR_STACK_{aperture + 1}FWHM_APER"] = mean
        columns[f"FLUXERR_NIR_STACK_{aperture + 1}FWHM_APER"] = 1.0 / np.sqrt(w.sum(axis=1))
    return columns
