"""From a scene to noiseless mosaics: stamps in batches, one convolution per band, pasted.

Components are drawn on stamps grouped by morphology and size, twice oversampled where galaxies
are small, transformed once, and convolved with each band's PSF in Fourier space. Point sources
are images of the PSF.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, special

from astropt_db.simulate.bands import EUCLID_BANDS, PIXEL_ARCSEC
from astropt_db.simulate.profiles import make_batch, shape_table
from astropt_db.simulate.psf import PSF_SAMPLING, point_stamps, transfer
from astropt_db.simulate.scene import Scene
from astropt_db.simulate.special import component_maps

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]

STAMP_SIZES: tuple[int, ...] = (
    *(32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
)
_OVERSAMPLED_UP_TO = 96
_BATCH_PIXELS = 2**16
"""Oversampled pixels per batch: a few of its working arrays fit in a core's own cache."""
_POINT = "point"
_POINT_LIKE = ("star", "qso")
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
    point = truth["kind"].isin(_POINT_LIKE).to_numpy()
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
    shapes = shape_table(scene.truth)
    for rows, morphology, size in _batches(scene.truth, sizes):
        centre = np.rint(position[rows]).astype(np.int64)
        offset = (position[rows] - centre) * PIXEL_ARCSEC
        if morphology == _POINT:
            stamps = point_stamps(flux[rows, 0], offset, size, _oversampling(size))
        else:
            stamps = _stamps(shapes[:, rows], offset, flux[rows], morphology, size)
        _paste(canvas, stamps, centre, rows)
    return canvas


def _batches(
    truth: pd.DataFrame, sizes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.intp], str, int]]:
    """Rows of one morphology and one stamp size, a bounded number at a time."""
    kind = truth["morphology"].replace(dict.fromkeys(_POINT_LIKE, _POINT)).to_numpy(dtype=str)
    for name, size in sorted(set(zip(kind.tolist(), sizes.tolist(), strict=True))):
        rows = np.flatnonzero((kind == name) & (sizes == size))
        pixels = (size * _oversampling(size)) ** 2
        count = max(1, _BATCH_PIXELS // pixels)
        for start in range(0, rows.size, count):
            yield rows[start : start + count], name, size


def _oversampling(size: int) -> int:
    return PSF_SAMPLING if size <= _OVERSAMPLED_UP_TO else 1


def _stamps(shapes: Float32, offset: Float64, flux: Float32, morphology: str, size: int) -> Float32:
    """Convolved stamps in mosaic units, shape ``(n, 4, size, size)``."""
    over = _oversampling(size)
    batch = make_batch(shapes, offset, size * over, PIXEL_ARCSEC / over)
    components, maps = component_maps(morphology, batch)
    spectra = fft.rfft2(maps)
    # NISP's PSF has no power beyond the mosaic's own frequencies: the rest need not be mixed.
    coarse = _low_frequencies(spectra, size) if over > 1 else spectra
    out = np.empty((len(offset), len(EUCLID_BANDS), size, size), dtype=np.float32)
    for index in range(len(EUCLID_BANDS)):
        weights = flux[:, components, index]
        response = transfer(index, size * over, over)
        if over == 1:
            mixed = _mix(weights, spectra) * response
        elif index == 0:
            mixed = _fold(_mix(weights, spectra) * response, size)
        else:
            mixed = _mix(weights, coarse) * _low_frequencies(response, size)
        out[:, index] = fft.irfft2(mixed, s=(size, size), overwrite_x=True)
    return out


def _fold(spectrum: Complex64, size: int) -> Complex64:
    """Half-spectrum of every second pixel in both directions, times 4.

    Parameters
    ----------
    spectrum
        Half-spectra of images of ``2 size`` pixels on a side, ``(n, 2 size, size + 1)``.
    size
        Side of the smaller images: even.
    """
    half = size // 2
    rows = spectrum[:, :size] + spectrum[:, size:]
    # Frequencies beyond the half-spectrum are the conjugates of those opposite.
    opposite = rows[:, -np.arange(size) % size, size : half - 1 : -1]
    return np.asarray(rows[:, :, : half + 1] + np.conj(opposite), dtype=np.complex64)


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
        mine, dominance = signal[index][inside], canvas.dominance[window]
        wins = (mine > dominance) & (mine > np.float32(0.05))
        np.copyto(dominance, mine, where=wins)
        np.copyto(canvas.owner[window], np.int32(rows[index]), where=wins)
