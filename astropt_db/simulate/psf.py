"""The PSFs of the four bands: images, Fourier transforms, and point sources made of them.

GalSim draws the diffraction of a 1.2 m mirror with three struts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from astropt_db.simulate.bands import EUCLID_BANDS, PIXEL_ARCSEC, EuclidBand
from astropt_db.simulate.seds import require_galsim

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]

PSF_SAMPLING = 2
"""Pixels of the PSF's images per mosaic pixel."""
_SIZE = 1024
"""Side of the PSF's images: twice the largest stamp."""
_WAVELENGTH = 1000.0
"""Wavelength in nm at which the diffraction pattern is computed."""


def point_stamps(flux: Float32, offset: Float64, size: int, over: int) -> Float32:
    """Stamps of point sources: the PSF's image, interpolated linearly.

    Light of a point, spread over the nearest pixels and convolved with the PSF, is the weighted
    sum of the PSF's image shifted by those pixels.

    Parameters
    ----------
    flux
        Mosaic units, shape ``(n, 4)``: band.
    offset
        Position of the source from the centre of the stamp's middle pixel, arcsec, shape
        ``(n, 2)`` in x and y, at most half a mosaic pixel.
    size
        Side of the stamps, mosaic pixels.
    over
        Pixels of the interpolated grid per mosaic pixel, 1 or 2.

    Returns
    -------
    Mosaic units, shape ``(n, 4, size, size)``.
    """
    shift = np.arange(-1, 2)
    distance = np.abs(offset[:, :, None] * (over / PIXEL_ARCSEC) - shift)
    along = np.maximum(1.0 - distance, 0.0).astype(np.float32)
    weights = (along[:, 1, :, None] * along[:, 0, None, :]).reshape(-1, shift.size**2)
    out = np.empty((len(offset), len(EUCLID_BANDS), size, size), dtype=np.float32)
    for band in range(len(EUCLID_BANDS)):
        shifted = _shifted(band, size, over).reshape(shift.size**2, -1)
        out[:, band] = ((weights * flux[:, band, None]) @ shifted).reshape(-1, size, size)
    return out


@cache
def _shifted(band: int, size: int, over: int) -> Float32:
    """PSF on mosaic pixels, moved by -1, 0 and 1 pixels of the grid: ``(3, 3, size, size)``."""
    image = _on_grid(band, over)
    low = len(image) // 2 - over * (size // 2)
    padded = np.pad(image, 1)
    parts = [
        [
            padded[low + 1 - y :: over, low + 1 - x :: over][:size, :size] * over**2
            for x in (-1, 0, 1)
        ]
        for y in (-1, 0, 1)
    ]
    return np.array(parts, dtype=np.float32)


@cache
def transfer(band: int, size: int, over: int) -> Complex64:
    """Fourier transform of a band's PSF, sampled at ``0.1 / over`` arcsec on ``size`` pixels."""
    image = _on_grid(band, over)
    cut = (len(image) - size) // 2
    centred = image[cut : cut + size, cut : cut + size]
    return np.asarray(fft.rfft2(fft.ifftshift(centred)), dtype=np.complex64)


def _on_grid(band: int, over: int) -> Float32:
    """PSF of unit sum at ``0.1 / over`` arcsec, centred on pixel ``n // 2``."""
    image = _psf(EUCLID_BANDS[band])
    return image if over == PSF_SAMPLING else image[::2, ::2] * np.float32(PSF_SAMPLING**2)


@cache
def _psf(band: EuclidBand) -> Float32:
    """PSF including the detector pixel on pixels of 0.05 arcsec, of unit total flux.

    Its centre is pixel ``n // 2``. Blur and pixel are products with their analytic transforms.
    """
    size, step = _SIZE, PIXEL_ARCSEC / PSF_SAMPLING
    image = np.zeros((size, size))
    for factor in band.psf_spread:
        # The pattern of a mirror without aberrations grows with wavelength and keeps its shape.
        optics = _diffraction().dilate(band.psf_wavelength * factor / _WAVELENGTH)
        drawn = optics.drawImage(nx=size, ny=size, scale=step, method="no_pixel", offset=(0.5, 0.5))
        image += drawn.array / len(band.psf_spread)
    frequency_x = fft.rfftfreq(size, step)[None, :]
    frequency_y = fft.fftfreq(size, step)[:, None]
    square = frequency_x**2 + frequency_y**2
    blur = np.exp(-2.0 * np.pi**2 * band.psf_jitter**2 * square)
    pixel = np.sinc(frequency_x * band.psf_pixel) * np.sinc(frequency_y * band.psf_pixel)
    return np.asarray(fft.irfft2(fft.rfft2(image) * blur * pixel), dtype=np.float32)


@cache
def _diffraction() -> Any:
    """GalSim's diffraction pattern of the telescope at `_WAVELENGTH`."""
    return require_galsim().OpticalPSF(
        lam=_WAVELENGTH, diam=1.2, obscuration=0.33, nstruts=3, strut_thick=0.025
    )


def psf_image(band: EuclidBand, size: int) -> Float64:
    """PSF on mosaic pixels, centred on pixel ``size // 2``, shape ``(size, size)``."""
    image = _psf(band)[::PSF_SAMPLING, ::PSF_SAMPLING].astype(np.float64) * PSF_SAMPLING**2
    low = len(image) // 2 - size // 2
    return image[low : low + size, low : low + size]
