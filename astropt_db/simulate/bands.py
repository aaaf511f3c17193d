"""The bands of a Q1-like sky: zero points, noise, PSF and transmission.

Noise levels, gains and zero points of the four Euclid bands were read off the RMS maps, pixels
and headers of a real Q1 cut-out. Euclid transmissions follow the half-maximum wavelengths of
Schirmer et al. (2022) for NISP and of Euclid Collaboration: Cropper et al. (2024) for VIS, with
logistic edges; ground-based bands use the LSST curves that GalSim ships, moved to the mean
wavelength of the real filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Field = Literal["EDF-N", "EDF-S", "EDF-F"]

PIXEL_ARCSEC = 0.1
UJY_ZERO_POINT = 23.9
"""AB magnitude of one microjansky."""


@dataclass(frozen=True)
class EuclidBand:
    """A band with a mosaic.

    Attributes
    ----------
    name
        Name inside catalogue columns (``VIS``, ``Y``, ``J``, ``H``).
    mosaic
        Name inside mosaic file names.
    filter
        Value of the FITS keyword FILTER.
    zero_point
        AB magnitude of one mosaic unit (keyword MAGZERO).
    rms
        Noise of the empty sky per 0.1 arcsec pixel, as the RMS map gives it: of white noise
        with the same power on large scales, mosaic units.
    gain
        Mosaic units of flux per unit of variance that the source's own light adds.
    saturation
        Pixel value at which a star's core stops growing, mosaic units.
    noise_pixel
        Size of the detector pixel in mosaic pixels: the grid on which noise is independent.
    psf_wavelength
        Wavelength of the diffraction pattern, nm.
    psf_spread
        Wavelengths of the pattern that are averaged, in units of ``psf_wavelength``.
    psf_pixel
        Side of the square that detector and resampling blur the light over, arcsec.
    psf_jitter
        Gaussian sigma of what else blurs it, arcsec.
    edges
        Wavelengths of half transmission, Angstrom.
    edge_width
        Width of the logistic edges, Angstrom.
    """

    name: str
    mosaic: str
    filter: str
    zero_point: float
    rms: float
    gain: float
    saturation: float
    noise_pixel: int
    psf_wavelength: float
    psf_spread: tuple[float, ...]
    psf_pixel: float
    psf_jitter: float
    edges: tuple[float, float]
    edge_width: float

    @property
    def ujy_per_unit(self) -> float:
        """Microjansky per mosaic unit."""
        return float(10.0 ** (-0.4 * (self.zero_point - UJY_ZERO_POINT)))


def _nisp(
    name: str,
    zero_point: float,
    rms: float,
    wavelength: float,
    saturation: float,
    edges: tuple[float, float],
) -> EuclidBand:
    return EuclidBand(
        name=name,
        mosaic=f"NIR-{name}",
        filter=f"NIR_{name}",
        zero_point=zero_point,
        rms=rms,
        gain=2.0,
        saturation=saturation,
        noise_pixel=3,
        psf_wavelength=wavelength,
        psf_spread=(1.0,),
        psf_pixel=0.26,
        psf_jitter=0.12,
        edges=edges,
        edge_width=70.0,
    )


EUCLID_BANDS: tuple[EuclidBand, ...] = (
    EuclidBand(
        name="VIS",
        mosaic="VIS",
        filter="VIS",
        zero_point=24.6,
        rms=0.0040,
        gain=6700.0,
        saturation=105.0,
        noise_pixel=1,
        psf_wavelength=720.0,
        psf_spread=(0.86, 1.0, 1.14),
        psf_pixel=0.1,
        psf_jitter=0.045,
        edges=(5350.0, 9160.0),
        edge_width=90.0,
    ),
    _nisp("Y", 29.8, 2.36, 1081.0, 9.0e3, (9496.0, 12123.0)),
    _nisp("J", 30.0, 2.39, 1367.0, 1.1e4, (11676.0, 15670.0)),
    _nisp("H", 29.9, 2.23, 1771.0, 1.0e4, (15215.0, 20214.0)),
)


@dataclass(frozen=True)
class GroundBand:
    """A ground-based band: catalogue fluxes only, no mosaic.

    Attributes
    ----------
    name
        Name inside catalogue columns (``G_EXT_DECAM``).
    curve
        Letter of the LSST curve that stands in for the filter.
    mean_wavelength
        Mean wavelength of the real filter, Angstrom; the curve is stretched to it.
    depth
        AB magnitude of 5 sigma in an aperture of 2 arcsec diameter.
    """

    name: str
    curve: str
    mean_wavelength: float
    depth: float

    @property
    def sigma_2arcsec(self) -> float:
        """Noise in an aperture of 2 arcsec diameter, microjansky."""
        return float(10.0 ** (-0.4 * (self.depth - UJY_ZERO_POINT)) / 5.0)


_NORTH = (
    GroundBand("U_EXT_MEGACAM", "u", 3682.0, 23.9),
    GroundBand("G_EXT_HSC", "g", 4816.0, 25.2),
    GroundBand("R_EXT_MEGACAM", "r", 6410.0, 24.6),
    GroundBand("I_EXT_PANSTARRS", "i", 7521.0, 24.1),
    GroundBand("Z_EXT_HSC", "z", 8913.0, 23.8),
)
_SOUTH = (
    GroundBand("G_EXT_DECAM", "g", 4826.0, 24.9),
    GroundBand("R_EXT_DECAM", "r", 6432.0, 24.6),
    GroundBand("I_EXT_DECAM", "i", 7826.0, 24.1),
    GroundBand("Z_EXT_DECAM", "z", 9178.0, 23.4),
)
GROUND_BANDS: dict[Field, tuple[GroundBand, ...]] = {
    "EDF-N": _NORTH,
    "EDF-S": _SOUTH,
    "EDF-F": _SOUTH,
}

FIELD_CENTRES: dict[Field, tuple[float, float]] = {
    "EDF-N": (269.733, 66.018),
    "EDF-S": (61.241, -48.423),
    "EDF-F": (52.932, -28.088),
}
"""Right ascension and declination of the fields' centres, degrees ICRS."""

FIRST_TILE: dict[Field, int] = {
    "EDF-N": 102158586,
    "EDF-S": 102018665,
    "EDF-F": 102042285,
}
"""Tile index of the first simulated tile of a field, in the range of its real tiles."""

FIELD_EBV: dict[Field, float] = {"EDF-N": 0.036, "EDF-S": 0.011, "EDF-F": 0.010}
"""Mean Galactic reddening E(B-V) of the fields, magnitudes."""


def euclid_transmission(band: EuclidBand, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative photon transmission of a Euclid band at ``wavelength`` (Angstrom, ascending)."""
    low, high = band.edges
    rising = 1.0 / (1.0 + np.exp(-np.clip((wavelength - low) / band.edge_width, -60, 60)))
    falling = 1.0 / (1.0 + np.exp(np.clip((wavelength - high) / band.edge_width, -60, 60)))
    return rising * falling
