"""Photometric redshifts and physical parameters from a template fit, as the PHZ pipeline does.

Every galaxy's noisy fluxes are compared with a coarse set of the templates over redshift, with a
free scale, a floor on the relative error and a broad magnitude prior. The sky was drawn from a
continuous family with scatter, bulges and arms of different ages, so the fit is honest: its
templates are close to the truth but never equal to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astropt_db.simulate.population import (
    luminosity_distance,
    mass_to_light,
    star_formation_rate,
)
from astropt_db.simulate.seds import REDDENINGS, REDSHIFTS, TYPES, Photometry

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_FIT_TYPES = np.array([0, 2, 4, 6, 8, 10, 12, 14, 16])
_FIT_REDDENINGS = np.array([0, 2, 3])
_ERROR_FLOOR = 0.04
_ROWS = 16
"""Sources that are compared with all templates at once: a megabyte per working array."""
_SUN_V = 4.81
POSTERIOR_DRAWS = 64


@dataclass(frozen=True)
class TemplateFit:
    """Result of the fit; arrays have one row per source.

    Attributes
    ----------
    pdf
        Redshift probability density on the grid 0 to 6 in steps of 0.01, float32, integral 1;
        shape ``(n, 601)``.
    best_chi2
        Chi-squared of the best galaxy template.
    star_chi2, qso_chi2
        Chi-squared of the best star and the best QSO.
    samples
        Draws from the posterior: redshift, type, reddening and log10 luminosity (microjansky
        at rest-frame 5500 Angstrom), shape ``(n, 4, 64)``.
    """

    pdf: Float32
    best_chi2: Float64
    star_chi2: Float64
    qso_chi2: Float64
    samples: Float64


def fit(
    flux: Float64, error: Float64, light: Photometry, random: np.random.Generator
) -> TemplateFit:
    """Fit templates to fluxes.

    Parameters
    ----------
    flux, error
        Microjansky, corrected for Galactic extinction, shape ``(n, b)``; NaN where a band is
        missing, which then counts for nothing.
    light
        Photometry of the templates in the same bands.
    random
        Source of the posterior draws.
    """
    number = len(flux)
    galaxy = light.galaxy[:, _FIT_TYPES][:, :, _FIT_REDDENINGS]
    models = galaxy.reshape(-1, galaxy.shape[-1]).astype(np.float32)
    out = TemplateFit(
        pdf=np.empty((number, REDSHIFTS.size), dtype=np.float32),
        best_chi2=np.empty(number),
        star_chi2=np.empty(number),
        qso_chi2=np.empty(number),
        samples=np.empty((number, 4, POSTERIOR_DRAWS)),
    )
    for start in range(0, number, _ROWS):
        rows = slice(start, min(start + _ROWS, number))
        seen, weight, size = _weights(flux[rows], error[rows])
        chi2, scale = _chi2(seen, weight, models)
        out.star_chi2[rows] = _chi2(seen, weight, light.star.astype(np.float32))[0].min(axis=1)
        out.qso_chi2[rows] = _chi2(seen, weight, light.qso[:451].astype(np.float32))[0].min(axis=1)
        out.best_chi2[rows] = chi2.min(axis=1)
        shape = (-1, REDSHIFTS.size, _FIT_TYPES.size, _FIT_REDDENINGS.size)
        log_p = -0.5 * (chi2 - chi2.min(axis=1, keepdims=True)).reshape(shape)
        log_p += _log_prior(flux[rows, 0])
        probability = np.exp(log_p - log_p.max(axis=(1, 2, 3), keepdims=True))
        pdf = _smooth(probability.sum(axis=(2, 3)))
        out.pdf[rows] = pdf / (pdf.sum(axis=1, keepdims=True) * 0.01)
        out.samples[rows] = _draw(probability, scale * size, random)
    return out


def _weights(flux: Float64, error: Float64) -> tuple[Float32, Float32, Float32]:
    """Fluxes with zeros for missing bands, inverse variances, and the unit of both per source."""
    seen = np.isfinite(flux) & np.isfinite(error)
    clean = np.where(seen, flux, 0.0)
    size = np.maximum(np.abs(clean).max(axis=1, keepdims=True), 1e-6)
    variance = np.where(seen, error, 1.0) ** 2 + (_ERROR_FLOOR * clean) ** 2
    weight = np.where(seen, size**2 / variance, 0.0)
    return (clean / size).astype(np.float32), weight.astype(np.float32), size.astype(np.float32)


def _chi2(flux: Float32, weight: Float32, models: Float32) -> tuple[Float32, Float32]:
    """Chi-squared at the best positive scale of each model, and the scale: ``(n, models)``."""
    cross = (flux * weight) @ models.T
    power = np.maximum(weight @ (models.T**2), 1e-20)
    scale = np.maximum(cross / power, 0.0)
    own = (flux**2 * weight).sum(axis=1, keepdims=True)
    return own - scale * cross, scale


def _log_prior(vis_flux: Float64) -> Float64:
    """Broad prior on redshift given VIS magnitude, shape ``(n, 601, 1, 1)``."""
    magnitude = 23.9 - 2.5 * np.log10(np.maximum(np.nan_to_num(vis_flux, nan=0.1), 0.05))
    middle = np.clip(0.12 + 0.11 * (magnitude - 19.0), 0.08, 1.1)[:, None]
    z = np.maximum(REDSHIFTS, 0.005)[None]
    prior = 1.4 * np.log(z / middle) - (z / middle) ** 1.1 * 0.9
    return np.asarray(np.maximum(prior, -12.0)[:, :, None, None])


def _smooth(pdf: Float64) -> Float64:
    """Convolve with a narrow kernel: the grid of templates is finer than what it can tell."""
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    padded = np.pad(pdf, ((0, 0), (4, 4)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 9, axis=1)
    return np.asarray(windows @ (kernel / kernel.sum()))


def _draw(probability: Float64, scale: Float32, random: np.random.Generator) -> Float64:
    """Posterior draws of redshift, type, reddening and log luminosity."""
    number = len(probability)
    cumulative = np.cumsum(probability.reshape(number, -1), axis=1, dtype=np.float64)
    cumulative /= cumulative[:, -1:]
    # One search for all rows: row r lives between r and r + 1.
    marks = random.random((number, POSTERIOR_DRAWS)) + np.arange(number)[:, None]
    lifted = (cumulative + np.arange(number)[:, None]).ravel()
    cell = np.searchsorted(lifted, marks) - np.arange(number)[:, None] * cumulative.shape[1]
    cell = np.clip(cell, 0, cumulative.shape[1] - 1)
    z_index, type_index, dust_index = np.unravel_index(cell, probability.shape[1:])
    redshift = np.maximum(REDSHIFTS[z_index] + random.uniform(-0.005, 0.005, cell.shape), 0.002)
    kind, dust = TYPES[_FIT_TYPES[type_index]], REDDENINGS[_FIT_REDDENINGS[dust_index]]
    luminosity = np.take_along_axis(scale, cell, axis=1)
    log_light = np.log10(np.maximum(luminosity, 1e-9))
    return np.stack([redshift, kind, dust, log_light], axis=1)


def physical_parameters(
    samples: Float64, light: Photometry, random: np.random.Generator
) -> dict[str, Float64]:
    """Posterior draws of physical quantities, each of shape ``(n, 64)``.

    Parameters
    ----------
    samples
        `TemplateFit.samples`.
    light
        Photometry tables.
    random
        Source of the intrinsic scatter of mass-to-light and star-formation rate.
    """
    redshift, kind, dust, log_light = samples.transpose(1, 0, 2)
    distance = luminosity_distance(redshift)
    absolute = 23.9 - 2.5 * log_light - 5.0 * np.log10(distance * 1e5)
    ratio = mass_to_light(kind, dust, redshift) + random.normal(0.0, 0.08, kind.shape)
    mass = ratio - 0.4 * (absolute - _SUN_V)
    active = np.interp(kind, [0.0, 0.6, 1.0, 4.0], [-1.7, -1.0, 0.0, 0.2])
    rate = star_formation_rate(mass, redshift) + active
    rate = rate + random.normal(0.0, 0.25, kind.shape)
    rest = light.rest_flux(kind.ravel(), dust.ravel()).reshape(*kind.shape, -1)
    magnitudes = absolute[..., None] - 2.5 * np.log10(np.maximum(rest, 1e-9))
    age = np.interp(kind, [0.0, 1.0, 2.0, 4.0], [7.0, 5.0, 3.0, 0.8])
    timescale = np.interp(kind, [0.0, 1.0, 2.0, 4.0], [0.6, 2.0, 4.0, 4.6])
    return {
        "REDSHIFT": redshift,
        "STELLARMASS": mass,
        "SFR": rate,
        "SFHAGE": age * np.exp(random.normal(0.0, 0.2, kind.shape)) / (1.0 + 0.6 * redshift),
        "SFHTIMESCALE": timescale * np.exp(random.normal(0.0, 0.2, kind.shape)),
        "STELLARMETALLICITY": np.clip(1.1 - 0.2 * kind, 0.2, 1.2),
        "MASSFORMED": mass + 0.2,
        "MU": magnitudes[..., 0],
        "MV": magnitudes[..., 1],
        "MR": magnitudes[..., 2],
        "MJ": magnitudes[..., 3],
        "MVIS": magnitudes[..., 4],
    }
