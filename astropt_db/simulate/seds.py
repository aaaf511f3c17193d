"""Spectral templates seen through the bands: photometry as a look-up in (redshift, type, dust).

Galaxies are the Coleman, Wu & Weedman (1980) templates E, Sbc, Scd and Im that GalSim ships
(extended by Bolzonella et al. 2000), with a fifth, bluer starburst made from Im. A type is a
real number: 0 E, 1 Sbc, 2 Scd, 3 Im, 4 starburst; between them spectra are mixed in the
logarithm. Dust follows Calzetti et al. (2000), the intergalactic medium a mean Lyman-alpha
opacity after Madau (1995). QSOs are a broken power law with broad lines, stars are black bodies
with line blanketing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from astropt_db.errors import MissingExtraError
from astropt_db.simulate.bands import EUCLID_BANDS, GROUND_BANDS, Field, euclid_transmission

Float64 = NDArray[np.float64]

REDSHIFTS: Float64 = np.round(np.arange(601) * 0.01, 2)
TYPES: Float64 = np.linspace(0.0, 4.0, 17)
REDDENINGS: Float64 = np.array([0.0, 0.1, 0.2, 0.35, 0.5])
TEMPERATURES: Float64 = np.geomspace(2600.0, 12000.0, 25)

_LN_WAVELENGTH: Float64 = np.linspace(np.log(700.0), np.log(23500.0), 2400)
_WAVELENGTH: Float64 = np.exp(_LN_WAVELENGTH)
_REFERENCE = 5500.0
_QSO_LINES = (
    (1216.0, 60.0, 1.6),
    (1549.0, 55.0, 0.9),
    (1909.0, 60.0, 0.45),
    (2798.0, 60.0, 0.55),
    (4861.0, 90.0, 0.5),
    (6563.0, 130.0, 2.2),
)
"""Centre (Angstrom), width (Angstrom) and height relative to the continuum."""

REST_BANDS: tuple[str, ...] = ("u", "V", "r", "J", "VIS")
"""Bands of rest-frame magnitudes, in the order of `Photometry.rest`."""


def require_galsim() -> ModuleType:
    """The module ``galsim``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import galsim
    except ImportError as error:
        raise MissingExtraError("galsim", "sim", "The simulation of a sky") from error
    module: ModuleType = galsim
    return module


@dataclass(frozen=True)
class Photometry:
    """Fluxes of templates of unit flux in VIS, for one field's bands.

    Attributes
    ----------
    bands
        Catalogue names of the bands: VIS, Y, J, H, then the field's ground-based ones.
    wavelengths
        Mean wavelengths of the bands, Angstrom, shape ``(b,)``.
    galaxy
        Flux relative to rest-frame flux density at 5500 Angstrom of a source at unit
        luminosity and unit distance modulus term, shape ``(601, 17, 5, b)``: redshift, type,
        reddening, band. Includes the bandwidth factor (1 + z).
    qso
        The same of QSOs, shape ``(601, b)``.
    star
        The same of stars by temperature, shape ``(25, b)``.
    rest
        Rest-frame flux densities of galaxies in u, V, r, J and VIS on the same scale, shape
        ``(17, 5, 5)``: type, reddening, band.
    extinction
        Galactic extinction per E(B-V) of each band, magnitudes, shape ``(b,)``.
    """

    bands: tuple[str, ...]
    wavelengths: Float64
    galaxy: Float64
    qso: Float64
    star: Float64
    rest: Float64
    extinction: Float64

    def galaxy_flux(self, redshift: Float64, kind: Float64, reddening: Float64) -> Float64:
        """Relative fluxes of galaxies, shape ``(n, b)``; arguments of shape ``(n,)``."""
        return _trilinear(self.galaxy, redshift, kind, reddening)

    def qso_flux(self, redshift: Float64) -> Float64:
        """Relative fluxes of QSOs, shape ``(n, b)``."""
        low, part = _position(REDSHIFTS, redshift)
        return self.qso[low] * (1 - part)[:, None] + self.qso[low + 1] * part[:, None]

    def star_flux(self, temperature: Float64) -> Float64:
        """Relative fluxes of stars of an effective temperature in kelvin, shape ``(n, b)``."""
        low, part = _position(TEMPERATURES, temperature)
        return self.star[low] * (1 - part)[:, None] + self.star[low + 1] * part[:, None]

    def rest_flux(self, kind: Float64, reddening: Float64) -> Float64:
        """Rest-frame flux densities in `REST_BANDS`, shape ``(n, 5)``."""
        table = self.rest[None]
        return _trilinear(table, np.zeros_like(kind), kind, reddening)


@cache
def photometry(field: Field) -> Photometry:
    """The look-up tables of a field; computed once per process (about 0.3 s).

    Raises
    ------
    MissingExtraError
        If GalSim is not installed.
    """
    names, curves = _transmissions(field)
    dusty = _galaxy_templates()[:, None, :] * 10.0 ** (
        -0.4 * REDDENINGS[:, None] * _calzetti(_WAVELENGTH)
    )
    weights = _redshifted_weights(curves)
    spectra = np.concatenate([dusty.reshape(-1, _WAVELENGTH.size), _qso_template()[None]])
    seen = np.stack([weight @ spectra.T for weight in weights], axis=-1)
    galaxy = seen[:, :-1].reshape(REDSHIFTS.size, TYPES.size, REDDENINGS.size, len(names))
    at_rest = weights[:, 0].T
    mean = (curves * _WAVELENGTH).sum(axis=1) / curves.sum(axis=1)
    rest = dusty @ _rest_weights(_lsst_curves())
    return Photometry(
        bands=names,
        wavelengths=mean,
        galaxy=np.ascontiguousarray(galaxy),
        qso=np.ascontiguousarray(seen[:, -1]),
        star=_star_templates() @ at_rest,
        rest=rest,
        extinction=_galactic_extinction(mean),
    )


def _position(grid: Float64, value: Float64) -> tuple[NDArray[np.intp], Float64]:
    """Lower grid index and fractional part of values, clipped to the grid."""
    inside = np.clip(value, grid[0], grid[-1])
    low = np.clip(np.searchsorted(grid, inside, side="right") - 1, 0, grid.size - 2)
    return low, (inside - grid[low]) / (grid[low + 1] - grid[low])


def _trilinear(table: Float64, redshift: Float64, kind: Float64, reddening: Float64) -> Float64:
    """Linear interpolation in a table of (redshift, type, reddening, band)."""
    if table.shape[0] == 1:
        zs, zf, step = np.zeros(kind.size, dtype=np.intp), np.zeros(kind.size), 0
    else:
        (zs, zf), step = _position(REDSHIFTS, redshift), 1
    ts, tf = _position(TYPES, kind)
    rs, rf = _position(REDDENINGS, reddening)
    out = np.zeros((kind.size, table.shape[-1]))
    for dz, wz in ((0, 1 - zf), (step, zf)):
        for dt, wt in ((0, 1 - tf), (1, tf)):
            for dr, wr in ((0, 1 - rf), (1, rf)):
                out += (wz * wt * wr)[:, None] * table[zs + dz, ts + dt, rs + dr]
    return out


def _lsst_curves() -> dict[str, tuple[Float64, Float64]]:
    """Wavelength (Angstrom) and photon transmission of LSST u, g, r, i and z."""
    folder = Path(require_galsim().meta_data.share_dir) / "bandpasses"
    tables = {letter: np.loadtxt(folder / f"LSST_{letter}.dat") for letter in "ugriz"}
    return {letter: (table[:, 0] * 10.0, table[:, 1]) for letter, table in tables.items()}


def _transmissions(field: Field) -> tuple[tuple[str, ...], Float64]:
    """Names and photon transmissions, shape ``(b, wavelengths)``, of a field's bands."""
    lsst = _lsst_curves()
    curves = [euclid_transmission(band, _WAVELENGTH) for band in EUCLID_BANDS]
    for ground in GROUND_BANDS[field]:
        wavelength, transmission = lsst[ground.curve]
        mean = (wavelength * transmission).sum() / transmission.sum()
        moved = wavelength * ground.mean_wavelength / mean
        curves.append(np.interp(_WAVELENGTH, moved, transmission, left=0.0, right=0.0))
    names = tuple([band.name for band in EUCLID_BANDS] + [g.name for g in GROUND_BANDS[field]])
    # The grid is logarithmic: integrals over wavelength need the extra factor of wavelength.
    return names, np.array(curves)


def _redshifted_weights(curves: Float64) -> Float64:
    """Weights that turn a rest-frame F_lambda into band-averaged F_nu, shape ``(b, 601, w)``.

    F_nu of a band is int F_lambda T lambda dlambda / int T c / lambda dlambda. The observed
    spectrum is F_lambda(lambda / (1 + z)) / (1 + z).
    """
    # On the logarithmic grid, a redshift shifts all wavelengths by the same number of steps.
    shift = np.log1p(REDSHIFTS)[:, None] / (_LN_WAVELENGTH[1] - _LN_WAVELENGTH[0])
    whole = shift.astype(np.intp)
    part = shift - whole
    place = np.minimum(np.arange(_WAVELENGTH.size) + whole, _WAVELENGTH.size)
    common = _intergalactic(REDSHIFTS[:, None]) * (1.0 + REDSHIFTS[:, None])
    common *= (_WAVELENGTH / _REFERENCE) ** 2
    weights = np.empty((len(curves), *common.shape))
    for weight, curve in zip(weights, curves, strict=True):
        beyond = np.append(curve / curve.sum(), [0.0, 0.0])
        np.multiply((1.0 - part) * beyond[place] + part * beyond[place + 1], common, out=weight)
    return weights


def _rest_weights(lsst: dict[str, tuple[Float64, Float64]]) -> Float64:
    """Weights of the rest-frame bands u, V, r, J and VIS, shape ``(w, 5)``."""
    curves = [
        np.interp(_WAVELENGTH, *lsst["u"], left=0.0, right=0.0),
        np.exp(-0.5 * ((_WAVELENGTH - 5510.0) / 380.0) ** 2),
        np.interp(_WAVELENGTH, *lsst["r"], left=0.0, right=0.0),
        np.exp(-0.5 * ((_WAVELENGTH - 12350.0) / 700.0) ** 2),
        euclid_transmission(EUCLID_BANDS[0], _WAVELENGTH),
    ]
    weights = [curve * (_WAVELENGTH / _REFERENCE) ** 2 / curve.sum() for curve in curves]
    return np.array(weights).T


def _galaxy_templates() -> Float64:
    """F_lambda of the 17 galaxy types, 1 at 5500 Angstrom, shape ``(17, wavelengths)``."""
    folder = Path(require_galsim().meta_data.share_dir) / "SEDs"
    basis = []
    for name in ("E", "Sbc", "Scd", "Im"):
        table = np.loadtxt(folder / f"CWW_{name}_ext_more.sed")
        wavelength, flux = table[:, 0], np.maximum(table[:, 1], 1e-6)
        edge = wavelength[-1]
        basis.append(np.interp(_LN_WAVELENGTH, np.log(wavelength), np.log(flux)))
        # The Rayleigh-Jeans side of cool stars continues the templates beyond their red end.
        beyond = edge < _WAVELENGTH
        basis[-1][beyond] = np.log(flux[-1]) - 3.5 * np.log(_WAVELENGTH[beyond] / edge)
    basis.append(basis[-1] - 0.7 * (_LN_WAVELENGTH - np.log(_REFERENCE)))
    log_flux = np.array(basis)
    reference = np.array([np.interp(np.log(_REFERENCE), _LN_WAVELENGTH, row) for row in log_flux])
    log_flux -= reference[:, None]
    low = np.minimum(TYPES.astype(int), 3)
    part = (TYPES - low)[:, None]
    return np.asarray(np.exp(log_flux[low] * (1.0 - part) + log_flux[low + 1] * part))


def _qso_template() -> Float64:
    """F_lambda of a QSO, 1 at 5500 Angstrom before lines, shape ``(wavelengths,)``."""
    ratio = _WAVELENGTH / _REFERENCE
    continuum = np.where(ratio < 1.0, ratio**-1.5, ratio**-0.7)
    lines = np.zeros_like(ratio)
    for centre, width, height in _QSO_LINES:
        lines += height * np.exp(-0.5 * ((_WAVELENGTH - centre) / width) ** 2)
    return np.asarray(continuum * (1.0 + lines))


def _star_templates() -> Float64:
    """F_lambda of stars by temperature, 1 at 5500 Angstrom, shape ``(25, wavelengths)``."""
    x = 1.4388e8 / (_WAVELENGTH[None] * TEMPERATURES[:, None])
    planck = _WAVELENGTH[None] ** -5.0 / np.expm1(np.minimum(x, 200.0))
    cool = np.clip((7000.0 - TEMPERATURES) / 3000.0, 0.0, 1.3)[:, None]
    blanketing = np.exp(-1.1 * cool * np.clip((4500.0 - _WAVELENGTH) / 800.0, 0.0, 2.0))
    molecular = np.clip((4000.0 - TEMPERATURES) / 1200.0, 0.0, 1.0)[:, None]
    bands = np.exp(-0.5 * ((_WAVELENGTH[:, None] - [6200.0, 7100.0, 7700.0, 8500.0]) / 170.0) ** 2)
    titanium = 1.0 - 0.65 * molecular * np.minimum(bands.sum(axis=1), 1.0)
    hot = np.clip((TEMPERATURES - 6500.0) / 3000.0, 0.0, 1.0)[:, None]
    balmer = 1.0 - 0.5 * hot / (1.0 + np.exp((_WAVELENGTH - 3750.0) / 60.0))
    spectra = planck * blanketing * titanium * balmer
    reference = np.array([np.interp(_REFERENCE, _WAVELENGTH, row) for row in spectra])
    return np.asarray(spectra / reference[:, None])


def _calzetti(wavelength: Float64) -> Float64:
    """Calzetti et al. (2000) k(lambda), extinction in magnitudes per E(B-V)."""
    micron = np.clip(wavelength / 1e4, 0.12, 2.2)
    blue = -2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3
    red = -1.857 + 1.040 / micron
    return np.maximum(2.659 * np.where(micron < 0.63, blue, red) + 4.05, 0.0)


def _galactic_extinction(wavelength: Float64) -> Float64:
    """Galactic extinction per E(B-V) in magnitudes, a power law through R_V = 3.1."""
    return np.asarray(3.1 * (wavelength / 5500.0) ** -1.35)


def _intergalactic(redshift: Float64) -> Float64:
    """Mean transmission of the intergalactic medium on the rest-frame grid, ``(n, w)``.

    ``redshift`` has shape ``(n, 1)``.
    """
    opacity = 0.0036 * (1.0 + redshift) ** 3.46
    forest = np.where(_WAVELENGTH < 1216.0, np.exp(-opacity), 1.0)
    return np.where(_WAVELENGTH < 912.0, forest * np.exp(-3.0 * opacity - 0.5), forest)
