"""Which galaxies exist: redshift, stellar mass, star formation, spectrum, size.

A galaxy is drawn from two Schechter mass functions (star-forming and quiescent, close to
Davidzon et al. 2017) over comoving volume in a flat cosmology (H0 = 70, Omega_m = 0.3). Mass,
redshift and activity then give everything else, each with its own scatter: the spectral type,
the dust, the mass-to-light ratio, hence brightness in every band; the size after van der Wel
et al. (2014); the star-formation rate from the main sequence of Speagle et al. (2014).

Bright galaxies are rare on the sky. The sample is tilted towards them by a factor
``10**(-TILT (m - 20))``; `Galaxies.weight` is the number of real galaxies per square degree
that each one stands for, so true counts can be had by weighting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import integrate

from astropt_db.simulate.seds import Photometry

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

BRIGHT_LIMIT = 16.5
FAINT_LIMIT = 24.5
"""Range of VIS magnitudes of simulated galaxies."""
TILT = 0.23
"""Strength of the preference for bright galaxies, dex per magnitude."""

_POOL = 60
"""Candidates per galaxy. With fewer, the brightest would be the same candidate repeated."""
_SUN_V = 4.81
"""Absolute AB magnitude of the Sun at 5500 Angstrom."""
_MASS_TO_LIGHT = np.array([0.42, 0.15, -0.08, -0.40, -0.75])
"""log10 of M/L at 5500 Angstrom, solar units, of types 0 to 4 at redshift 0 without dust."""
_HUBBLE_DISTANCE = 299_792.458 / 70.0
"""c / H0 in Mpc."""
_HUBBLE_TIME = 977.792 / 70.0
"""1 / H0 in Gyr."""
_MATTER = 0.3
_Z_GRID = np.linspace(0.0, 6.0, 1201)


@dataclass(frozen=True)
class Galaxies:
    """Physical properties of galaxies, every array of shape ``(n,)``.

    Attributes
    ----------
    redshift
        True redshift.
    log_mass
        log10 of stellar mass in solar masses.
    log_sfr
        log10 of the star-formation rate in solar masses per year.
    quiescent
        Whether it stopped forming stars.
    sed_type
        Spectral type, 0 (E) to 4 (starburst), see `astropt_db.simulate.seds`.
    reddening
        Internal E(B-V), magnitudes.
    luminosity
        Flux density at rest-frame 5500 Angstrom as seen from here, microjansky; the unit in
        which the photometry tables count.
    half_light_radius
        Semi-major axis that holds half the light, arcsec.
    weight
        Galaxies per square degree that this one stands for.
    """

    redshift: Float64
    log_mass: Float64
    log_sfr: Float64
    quiescent: Bool
    sed_type: Float64
    reddening: Float64
    luminosity: Float64
    half_light_radius: Float64
    weight: Float64

    def take(self, rows: NDArray[np.intp]) -> Galaxies:
        """The galaxies of the given rows."""
        return Galaxies(**{name: value[rows] for name, value in vars(self).items()})


def draw_galaxies(number: int, light: Photometry, random: np.random.Generator) -> Galaxies:
    """Exactly ``number`` galaxies between `BRIGHT_LIMIT` and `FAINT_LIMIT` in VIS."""
    pool, density = _candidates(max(_POOL * number, 40_000), random)
    flux = light.galaxy_flux(pool.redshift, pool.sed_type, pool.reddening)[:, 0]
    magnitude = 23.9 - 2.5 * np.log10(np.maximum(pool.luminosity * flux, 1e-12))
    visible = (magnitude > BRIGHT_LIMIT) & (magnitude < FAINT_LIMIT)
    wanted = np.where(visible, density * 10.0 ** (-TILT * (magnitude - 20.0)), 0.0)
    rows, probability = _systematic_sample(wanted, number, random)
    chosen = pool.take(rows)
    weight = density[rows] / probability
    return Galaxies(**{**vars(chosen), "weight": weight})


def star_formation_rate(log_mass: Float64, redshift: Float64) -> Float64:
    """log10 SFR of the main sequence, Speagle et al. (2014) equation 28."""
    gyr = age_of_universe(redshift)
    return np.asarray((0.84 - 0.026 * gyr) * log_mass - (6.51 - 0.11 * gyr))


def mass_to_light(sed_type: Float64, reddening: Float64, redshift: Float64) -> Float64:
    """log10 M/L at 5500 Angstrom of the light that arrives: age and dust included."""
    young = np.interp(sed_type, np.arange(5.0), _MASS_TO_LIGHT)
    fading = np.interp(sed_type, [0.0, 1.0, 4.0], [0.36, 0.28, 0.22]) * redshift
    return np.asarray(young - np.minimum(fading, 0.8) + 0.4 * 4.05 * reddening)


def _expansion(redshift: Float64) -> Float64:
    """H(z) / H0."""
    return np.sqrt(_MATTER * (1.0 + redshift) ** 3 + 1.0 - _MATTER)


def comoving_distance(redshift: Float64) -> Float64:
    """Comoving distance in Mpc, for redshifts up to 6."""
    grid = integrate.cumulative_simpson(1.0 / _expansion(_Z_GRID), x=_Z_GRID, initial=0.0)
    return np.asarray(np.interp(redshift, _Z_GRID, _HUBBLE_DISTANCE * grid))


def luminosity_distance(redshift: Float64) -> Float64:
    """Luminosity distance in Mpc, for redshifts up to 6."""
    return comoving_distance(redshift) * (1.0 + redshift)


def age_of_universe(redshift: Float64) -> Float64:
    """Age of the Universe in Gyr: closed form of a flat universe without radiation."""
    ratio = np.sqrt((1.0 - _MATTER) / _MATTER) * (1.0 + redshift) ** -1.5
    return np.asarray(_HUBBLE_TIME * 2.0 / (3.0 * np.sqrt(1.0 - _MATTER)) * np.arcsinh(ratio))


def _candidates(number: int, random: np.random.Generator) -> tuple[Galaxies, Float64]:
    """Candidates uniform in redshift and log mass, and how many of each a square degree has."""
    redshift = random.uniform(0.02, 3.0, number)
    log_mass = random.uniform(7.3, 12.0, number)
    quiescent = random.random(number) < 0.4
    area = np.radians(1.0) ** 2
    volume = area * _HUBBLE_DISTANCE * comoving_distance(redshift) ** 2 / _expansion(redshift)
    abundance = np.where(
        quiescent,
        _schechter(log_mass, 10.75, 2.6e-3 * (1 + redshift) ** -1.9, -0.35),
        _schechter(log_mass, 10.65, 2.9e-3 * _activity(redshift), -1.30),
    )
    share = np.where(quiescent, 0.4, 0.6)
    density = abundance * volume * (2.98 * 4.7) / (number * share)
    return _properties(redshift, log_mass, quiescent, random), density


def _activity(redshift: Float64) -> Float64:
    """Abundance of star-forming galaxies relative to today: flat to redshift 1, then falling."""
    return np.asarray((1.0 + redshift) ** -0.3 * np.exp(-np.maximum(redshift - 1.0, 0.0) / 1.1))


def _schechter(log_mass: Float64, knee: float, norm: Float64, slope: float) -> Float64:
    """Galaxies per cubic megaparsec and dex of mass."""
    x = 10.0 ** (log_mass - knee)
    return np.asarray(np.log(10.0) * norm * x ** (slope + 1.0) * np.exp(-x))


def _properties(
    redshift: Float64, log_mass: Float64, quiescent: Bool, random: np.random.Generator
) -> Galaxies:
    """Everything that follows from redshift, mass and activity, with scatter."""
    normal = random.standard_normal((6, redshift.size))
    active_type = 1.95 - 0.95 * (log_mass - 10.0) + 0.35 * redshift + 0.40 * normal[0]
    sed_type = np.where(quiescent, np.abs(0.22 * normal[0]), np.clip(active_type, 0.7, 4.0))
    dust = 0.14 + 0.09 * (log_mass - 9.5) + 0.07 * normal[1]
    reddening = np.where(quiescent, 0.02 * np.abs(normal[1]), np.clip(dust, 0.0, 0.5))
    ratio = mass_to_light(sed_type, reddening, redshift) + 0.08 * normal[2]
    absolute = _SUN_V - 2.5 * (log_mass - ratio)
    distance = luminosity_distance(redshift)
    luminosity = 10.0 ** (-0.4 * (absolute + 5.0 * np.log10(distance * 1e5) - 23.9))
    size = np.where(
        quiescent,
        np.log10(5.6 * (1 + redshift) ** -1.48) + _early_slope(log_mass) + 0.12 * normal[3],
        np.log10(8.9 * (1 + redshift) ** -0.75) + 0.22 * (log_mass - 10.7) + 0.17 * normal[3],
    )
    arcsec_per_kpc = 206.265 * (1 + redshift) ** 2 / distance
    rate = star_formation_rate(log_mass, redshift) + 0.25 * normal[4]
    rate = np.where(quiescent, rate - 1.7 + 0.3 * normal[5], rate)
    return Galaxies(
        redshift=redshift,
        log_mass=log_mass,
        log_sfr=rate,
        quiescent=quiescent,
        sed_type=sed_type,
        reddening=reddening,
        luminosity=luminosity,
        half_light_radius=10.0**size * arcsec_per_kpc,
        weight=np.ones_like(redshift),
    )


def _early_slope(log_mass: Float64) -> Float64:
    """Mass term of log size of quiescent galaxies: steep above 2e10 Msun, flat below."""
    return 0.75 * np.maximum(log_mass - 10.7, -0.4) + 0.12 * np.minimum(log_mass - 10.3, 0.0)


def _systematic_sample(
    wanted: Float64, number: int, random: np.random.Generator
) -> tuple[NDArray[np.intp], Float64]:
    """Rows drawn with given relative probabilities, and their inclusion probability.

    Systematic sampling gives exactly ``number`` rows. A candidate whose probability would pass
    1 is taken once; capping is repeated because it raises everybody else's.
    """
    probability = wanted * number / wanted.sum()
    for _ in range(8):
        capped = probability >= 1.0
        free = np.where(capped, 0.0, wanted)
        probability = np.where(capped, 1.0, free * (number - capped.sum()) / free.sum())
    order = random.permutation(wanted.size)
    edges = np.cumsum(probability[order])
    marks = (np.arange(number) + random.random()) * (edges[-1] / number)
    rows = order[np.minimum(np.searchsorted(edges, marks, side="right"), wanted.size - 1)]
    return rows, np.minimum(probability[rows], 1.0)
