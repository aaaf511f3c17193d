"""From a scene to noiseless mosaics: stamps in batches, one convolution per band, pasted.

Components are drawn on stamps grouped by family and size, twice oversampled where galaxies are
small, transformed once, and convolved with each band's PSF in Fourier space. GalSim draws the
PSFs (diffraction of a 1.2 m mirror with three struts), once per process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, special

from astropt_db.simulate.bands import EUCLID_BANDS, PIXEL_ARCSEC, EuclidBand
from astropt_db.simulate.profiles import make_batch
from astropt_db.simulate.scene import Scene
from astropt_db.simulate.seds import require_galsim
from astropt_db.simulate.special import FAMILY, component_maps

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]

STAMP_SIZES: tuple[int, ...] = (32, 48, 64, 96, 128, 192, 256, 384, 512)
_OVERSAMPLED_UP_TO = 96
_PSF_SAMPLING = 2
_BATCH_PIXELS = 2**18
"""Oversampled pixels per batch: each working array of a batch stays near a megabyte."""
_FAINTEST_SURFACE_BRIGHTNESS = 0.2
"""Stamps end where a profile falls below this share of the VIS noise."""


@dataclass(frozen=True)
class Canvas:
    """Noiseless images of a tile.

    Attributes
    ----------
    images
        Mosaic units, one per Euclid band, shape ``(4, height, width)``, float32.
    owner
        Row of the source that is brightest in each pixel, -1 where there is none, int32.
    dominance
        Signal of that source in units of the noise, float32.
    """

    images: Float32
    owner: NDArray[np.int32]
    dominance: Float32


def stamp_sizes(truth: pd.DataFrame, vis_flux: Float64) -> NDArray[np.int64]:
    """Stamp side of each source in pixels, one of `STAMP_SIZES`.

    The stamp holds the source out to where its Sersic profile sinks into the noise.

    Parameters
    ----------
    truth
        Rows of a scene's truth.
    vis_flux
        Flux in VIS, microjansky, shape ``(n,)``.
    """
    noise = EUCLID_BANDS[0].rms * EUCLID_BANDS[0].ujy_per_unit * _FAINTEST_SURFACE_BRIGHTNESS
    spheroid = truth["morphology"].isin(["elliptical", "lens", "lenticular"]).to_numpy()
    index = np.where(spheroid, truth["sersic_index"].to_numpy(), 1.0)
    scale = np.maximum(truth["half_light_radius"].to_numpy() / PIXEL_ARCSEC, 0.3)
    b = 2.0 * index - 0.333
    area = 2.0 * np.pi * index * scale**2 * truth["axis_ratio"].to_numpy()
    central = vis_flux / (area * np.exp(b) * b ** (-2.0 * index) * special.gamma(2.0 * index))
    reach = scale * np.maximum(1.0 + np.log(np.maximum(central / noise, 1e-9)) / b, 1.5) ** index
    reach = np.where(truth["morphology"] == "merger", 2.2 * reach, reach)
    reach = np.maximum(reach, 25.0 * truth["einstein_radius"].to_numpy())
    artefact = (truth["kind"] == "artefact").to_numpy()
    reach = np.where(artefact, 40.0 * truth["half_light_radius"].to_numpy(), reach)
    point = truth["kind"].isin(["star", "qso"]).to_numpy()
    # Diffraction rings fall as 0.12 F / r^3; spikes reach some two and a half times as far.
    halo = 2.5 * (0.12 * np.maximum(vis_flux, 1e-6) / noise) ** (1.0 / 3.0)
    reach = np.where(point, np.maximum(halo, 14.0), reach) + 8.0
    sizes = np.array(STAMP_SIZES)
    return sizes[np.minimum(np.searchsorted(sizes / 2.0, reach), sizes.size - 1)]


def draw(scene: Scene, position: Float64, shape: tuple[int, int]) -> Canvas:
    """Draw all sources of a scene that touch a tile.

    Parameters
    ----------
    scene
        The sources; fluxes with Galactic extinction applied.
    position
        Pixel coordinates x, y counted from 0, shape ``(n, 2)``.
    shape
        Height and width of the tile in pixels.
    """
    images = np.zeros((len(EUCLID_BANDS), *shape), dtype=np.float32)
    canvas = Canvas(images, np.full(shape, -1, np.int32), np.zeros(shape, np.float32))
    sizes = stamp_sizes(scene.truth, scene.total[:, 0])
    scale = np.array([1.0 / band.ujy_per_unit for band in EUCLID_BANDS])
    flux = (scene.flux[:, :, : len(EUCLID_BANDS)] * scale).astype(np.float32)
    for rows, family, size in _batches(scene.truth, sizes):
        centre = np.rint(position[rows]).astype(np.int64)
        offset = (position[rows] - centre) * PIXEL_ARCSEC
        stamps = _stamps(scene.truth.iloc[rows], offset, flux[rows], family, size)
        _paste(canvas, stamps, centre, rows)
    return canvas


def _batches(
    truth: pd.DataFrame, sizes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.intp], str, int]]:
    """Rows of one family and one stamp size, a bounded number at a time."""
    family = truth["morphology"].map(FAMILY).to_numpy(dtype=str)
    for name, size in sorted(set(zip(family.tolist(), sizes.tolist(), strict=True))):
        rows = np.flatnonzero((family == name) & (sizes == size))
        pixels = (size * _oversampling(size)) ** 2
        count = max(1, _BATCH_PIXELS // pixels)
        for start in range(0, rows.size, count):
            yield rows[start : start + count], name, size


def _oversampling(size: int) -> int:
    return _PSF_SAMPLING if size <= _OVERSAMPLED_UP_TO else 1


def _stamps(truth: pd.DataFrame, offset: Float64, flux: Float32, family: str, size: int) -> Float32:
    """Convolved stamps in mosaic units, shape ``(n, 4, size, size)``."""
    over = _oversampling(size)
    batch = make_batch(truth, offset, size * over, PIXEL_ARCSEC / over)
    components, maps = component_maps(family, batch)
    spectra = fft.rfft2(maps)
    # NISP's PSF has no power beyond the mosaic's own frequencies: the rest need not be mixed.
    coarse = _low_frequencies(spectra, size) if over > 1 else spectra
    out = np.empty((len(truth), len(EUCLID_BANDS), size, size), dtype=np.float32)
    for index in range(len(EUCLID_BANDS)):
        weights = flux[:, components, index]
        if index == 0:
            mixed = _mix(weights, spectra) * _transfer(index, size * over, over)
            out[:, index] = fft.irfft2(mixed)[:, ::over, ::over] * over**2
        else:
            transfer = _transfer(index, size * over, over)
            kept = _low_frequencies(transfer, size) if over > 1 else transfer
            out[:, index] = fft.irfft2(_mix(weights, coarse) * kept, s=(size, size))
    return out


def _low_frequencies(spectrum: Complex64, size: int) -> Complex64:
    """The part of a half-spectrum that an image of ``size`` pixels on a side can hold."""
    half = size // 2
    parts = [spectrum[..., :half, : half + 1], spectrum[..., -half:, : half + 1]]
    return np.concatenate(parts, axis=-2)


def _mix(weights: Float32, spectra: Complex64) -> Complex64:
    """Weighted sum over components: ``(n, c)`` and ``(n, c, h, w)`` to ``(n, h, w)``."""
    number, components, height, width = spectra.shape
    pairs = spectra.reshape(number, components, -1).view(np.float32)
    mixed = np.matmul(weights[:, None, :], pairs)
    return np.asarray(mixed.view(np.complex64).reshape(number, height, width))


def _paste(
    canvas: Canvas, stamps: Float32, centre: NDArray[np.int64], rows: NDArray[np.intp]
) -> None:
    """Add stamps to the canvas in place; parts beyond the tile are cut off."""
    height, width = canvas.owner.shape
    half = stamps.shape[-1] // 2
    noise = np.array([band.rms for band in EUCLID_BANDS], dtype=np.float32)
    signal = stamps[:, 0] / noise[0] + stamps[:, 1:].sum(axis=1) / (6.0 * noise[1:].mean())
    # Windows overlap, so stamps are added one after another; each addition is one slice.
    for index, (x, y) in enumerate(centre):
        low_x, high_x = max(0, x - half), min(width, x + half)
        low_y, high_y = max(0, y - half), min(height, y + half)
        if low_x >= high_x or low_y >= high_y:
            continue
        inside = np.s_[low_y - y + half : high_y - y + half, low_x - x + half : high_x - x + half]
        window = np.s_[low_y:high_y, low_x:high_x]
        canvas.images[:, *window] += stamps[index][:, *inside]
        mine = signal[index][inside]
        wins = mine > np.maximum(canvas.dominance[window], 0.05)
        canvas.dominance[window][wins] = mine[wins]
        canvas.owner[window][wins] = rows[index]


@cache
def _transfer(band: int, size: int, over: int) -> Complex64:
    """Fourier transform of a band's PSF, sampled at ``0.1 / over`` arcsec on ``size`` pixels."""
    image = _psf(EUCLID_BANDS[band])
    sampled = image if over == _PSF_SAMPLING else image[::2, ::2] * _PSF_SAMPLING**2
    cut = (len(sampled) - size) // 2
    centred = sampled[cut : cut + size, cut : cut + size]
    return np.asarray(fft.rfft2(fft.ifftshift(centred)), dtype=np.complex64)


@cache
def _psf(band: EuclidBand) -> Float32:
    """PSF including the detector pixel on pixels of 0.05 arcsec, of unit total flux.

    Its centre is pixel ``n // 2``. Diffraction comes from GalSim at each of the band's
    wavelengths; blur and pixel are products with their analytic transforms.
    """
    galsim = require_galsim()
    size, step = STAMP_SIZES[-1] * _PSF_SAMPLING, PIXEL_ARCSEC / _PSF_SAMPLING
    image = np.zeros((size, size))
    for factor in band.psf_spread:
        optics = galsim.OpticalPSF(
            lam=band.psf_wavelength * factor,
            diam=1.2,
            obscuration=0.33,
            nstruts=3,
            strut_thick=0.025,
        )
        drawn = optics.drawImage(nx=size, ny=size, scale=step, method="no_pixel", offset=(0.5, 0.5))
        image += drawn.array / len(band.psf_spread)
    frequency_x = fft.rfftfreq(size, step)[None, :]
    frequency_y = fft.fftfreq(size, step)[:, None]
    square = frequency_x**2 + frequency_y**2
    blur = np.exp(-2.0 * np.pi**2 * band.psf_jitter**2 * square)
    pixel = np.sinc(frequency_x * band.psf_pixel) * np.sinc(frequency_y * band.psf_pixel)
    return np.asarray(fft.irfft2(fft.rfft2(image) * blur * pixel), dtype=np.float32)


def psf_image(band: EuclidBand, size: int) -> Float64:
    """PSF on mosaic pixels, centred on pixel ``size // 2``, shape ``(size, size)``."""
    image = _psf(band)[::_PSF_SAMPLING, ::_PSF_SAMPLING].astype(np.float64) * _PSF_SAMPLING**2
    low = len(image) // 2 - size // 2
    return image[low : low + size, low : low + size]
