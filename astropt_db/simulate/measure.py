"""Measuring a tile: detection, positions, moments, apertures, shapes.

Everything here sees noisy pixels. Truth enters in one place only: which pixels belong to which
source where two overlap (`Canvas.owner`), in place of a deblender.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astropt_db.simulate.bands import EUCLID_BANDS, PIXEL_ARCSEC
from astropt_db.simulate.mosaics import NO_COVERAGE_RMS

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Pixel = TypeVar("Pixel", bound=np.generic)

COLOUR_FWHM = 0.55
"""FWHM in arcsec of the matched images on which colours are measured."""
MINIMUM_AREA = 7
WINDOWS: tuple[int, ...] = (41, 61, 81, 121, 161, 241, 321)
"""Odd sides of measuring windows in pixels."""

_THRESHOLD = 1.8
_INFRARED_THRESHOLD = 4.0
_APERTURE_SIDE = 41
_PROFILE_STEPS = 50
_APERTURE_ROWS = 32
_STRIP_PIXELS = 2**15
"""Pixels that are smoothed at once: a strip's arrays stay in a core's own cache."""
_MATCHING_SIGMA = (2.7, 1.85, 1.6, 0.0)
"""Gaussian sigmas in pixels after which the aperture of 2 FWHM holds as much of a point source in
VIS, Y and J as in H (found numerically, to 2 per cent)."""


@dataclass(frozen=True)
class Exposure:
    """Noisy images of a tile in microjansky per pixel.

    Attributes
    ----------
    images, rms
        One array of shape ``(height, width)`` per band; a pixel without coverage is 0 with
        infinite RMS.
    """

    images: Sequence[Float32]
    rms: Sequence[Float32]


@dataclass(frozen=True)
class Detections:
    """What detection finds; every array has one row per *source of the scene*.

    Attributes
    ----------
    detected, in_vis
        Whether the source is in the catalogue, and whether VIS saw it.
    position
        Measured centre, pixels from 0, shape ``(n, 2)``.
    area
        Isophotal area in pixels.
    flux, flux_error
        Flux inside the isophote, microjansky.
    semi_major, axis_ratio, angle
        Second moments inside the isophote: pixels, ratio, degrees from x towards y.
    peak
        Brightest pixel, microjansky per pixel.
    blended
        Whether the isophote touches another source's.
    kron
        Semi-major axis of the total aperture, pixels.
    mask
        Row of the source whose isophote holds the pixel, -1 elsewhere; shape of the tile.
    """

    detected: Bool
    in_vis: Bool
    position: Float64
    area: Int64
    flux: Float64
    flux_error: Float64
    semi_major: Float64
    axis_ratio: Float64
    angle: Float64
    peak: Float64
    blended: Bool
    kron: Float64
    mask: NDArray[np.int32]


def to_microjansky(images: Iterable[Float32], rms: Iterable[Float32]) -> Exposure:
    """Convert four mosaics and their RMS maps in place."""
    exposure = Exposure(list(images), list(rms))
    for image, noise, band in zip(exposure.images, exposure.rms, EUCLID_BANDS, strict=True):
        image *= np.float32(band.ujy_per_unit)
        if noise.max() >= NO_COVERAGE_RMS:
            np.copyto(noise, np.float32(np.inf), where=noise >= NO_COVERAGE_RMS)
        noise *= np.float32(band.ujy_per_unit)
    return exposure


def detect(
    exposure: Exposure, owner: NDArray[np.int32], truth: Float64, random: np.random.Generator
) -> Detections:
    """Threshold the smoothed VIS image, then look for the rest in the NIR stack.

    Parameters
    ----------
    exposure
        Noisy images.
    owner
        Row of the source that each pixel belongs to, -1 for none: `Canvas.owner`.
    truth
        True positions in pixels, shape ``(n, 2)``: where to look.
    random
        Source of the position errors of NIR-only detections.
    """
    number = truth.shape[0]
    vis = exposure.images[0]
    mask, place = _isophotes(vis, exposure.rms[0], owner, truth)
    row, column = np.divmod(place, mask.shape[1])
    source = mask.ravel()[place].astype(np.intp)
    light = vis.ravel()[place].astype(np.float64)
    error = exposure.rms[0].ravel()[place].astype(np.float64)

    def total(values: Float64) -> Float64:
        return np.bincount(source, weights=values, minlength=number).astype(np.float64)

    area = np.bincount(source, minlength=number)
    flux = total(light)
    moments = _moments(source, np.maximum(light, 0.0), column, row, number)
    in_vis = (area >= MINIMUM_AREA) & (flux > 0)
    infrared = _infrared_signal(exposure, truth) > _INFRARED_THRESHOLD
    blur = random.normal(0.0, 0.7, (number, 2))
    position = np.where(in_vis[:, None], moments.centre, truth + blur)
    peak = np.zeros(number)
    np.maximum.at(peak, source, light)
    return Detections(
        detected=in_vis | infrared,
        in_vis=in_vis,
        position=position,
        area=area,
        flux=flux,
        flux_error=np.sqrt(total(np.where(np.isfinite(error), error, 0.0) ** 2)),
        semi_major=moments.semi_major,
        axis_ratio=moments.axis_ratio,
        angle=moments.angle,
        peak=peak,
        blended=_touching(mask, place, number),
        kron=np.clip(3.2 * moments.first, 7.0, WINDOWS[-1] / 2 - 1),
        mask=mask,
    )


@dataclass(frozen=True)
class _Moments:
    """Centroids ``(n, 2)``, ellipses, and first moments of the elliptical radius, pixels."""

    centre: Float64
    semi_major: Float64
    axis_ratio: Float64
    angle: Float64
    first: Float64


def _moments(
    source: NDArray[np.intp],
    weight: Float64,
    column: NDArray[np.intp],
    row: NDArray[np.intp],
    number: int,
) -> _Moments:
    """Moments of the light of each of ``number`` sources, given pixel by pixel."""

    def mean(values: Float64 | NDArray[np.intp]) -> Float64:
        return np.bincount(source, weights=weight * values, minlength=number) / norm

    norm = np.maximum(np.bincount(source, weights=weight, minlength=number), 1e-12)
    x, y = mean(column), mean(row)
    dx, dy = column - x[source], row - y[source]
    semi_major, axis_ratio, angle = _ellipse(mean(dx * dx), mean(dy * dy), mean(dx * dy))
    elliptic = np.hypot(dx, dy) * np.sqrt(1.0 / np.maximum(axis_ratio[source], 0.3))
    return _Moments(np.stack([x, y], axis=1), semi_major, axis_ratio, angle, mean(elliptic))


def _isophotes(
    vis: Float32, rms: Float32, owner: NDArray[np.int32], truth: Float64
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Pixels above threshold that hang together with their owner's centre, by owner; else -1.

    Also the places of those pixels in the flattened image, in its order.
    """
    smooth = _smoothed(vis, rms)
    sample = smooth[::7, ::7]
    scatter = 1.4826 * np.median(np.abs(sample - np.median(sample)))
    bright = smooth > _THRESHOLD * scatter
    del smooth, sample
    islands, _ = ndimage.label(bright)
    height, width = vis.shape
    x = np.clip(np.rint(truth[:, 0]), 0, width - 1).astype(np.intp)
    y = np.clip(np.rint(truth[:, 1]), 0, height - 1).astype(np.intp)
    own_island = islands[y, x]
    # Row -1 looks up the last entry, which is replaced by an island that does not exist.
    wanted = np.append(np.where(own_island > 0, own_island, -1), -2)
    place = np.flatnonzero(bright)
    owners = owner.ravel()[place]
    kept = islands.ravel()[place] == wanted[owners]
    mask = np.full(vis.shape, -1, np.int32)
    mask.ravel()[place[kept]] = owners[kept]
    return mask, place[kept]


def _smoothed(image: Float32, rms: Float32) -> Float32:
    """Signal over noise, convolved with a Gaussian of 1 pixel out to 4 sigma.

    Edges are reflected. No other array of the image's size is made: a real tile has 1.5 GB.
    """
    weights = np.exp(-0.5 * np.arange(5.0) ** 2)
    weights /= 2.0 * weights.sum() - weights[0]
    reach = weights.size - 1
    out = np.empty_like(image)
    rows = max(1, _STRIP_PIXELS // image.shape[1])
    for low in range(0, len(image), rows):
        index = np.arange(low - reach, min(low + rows, len(image)) + reach)
        index = np.where(index < 0, -1 - index, index)
        index = np.where(index >= len(image), 2 * len(image) - 1 - index, index)
        strip = np.pad(image[index] / rms[index], ((0, 0), (reach, reach)), mode="symmetric")
        out[low : low + rows] = _weighted(_weighted(strip, weights).T, weights).T
    return out


def _weighted(image: Float32, weights: Float64) -> Float32:
    """Sum of rows about each row by distance, where there are as many on either side."""
    reach = weights.size - 1
    number = len(image) - 2 * reach
    total = np.float32(weights[0]) * image[reach : reach + number]
    for step, weight in enumerate(weights[1:].astype(np.float32), 1):
        above, below = reach - step, reach + step
        total += weight * (image[above : above + number] + image[below : below + number])
    return np.asarray(total, dtype=np.float32)


def _ellipse(xx: Float64, yy: Float64, xy: Float64) -> tuple[Float64, Float64, Float64]:
    """Semi-major axis (rms), axis ratio and angle in degrees of second moments."""
    root = np.sqrt(((xx - yy) / 2.0) ** 2 + xy**2)
    large = np.maximum((xx + yy) / 2.0 + root, 1.0 / 12.0)
    small = np.maximum((xx + yy) / 2.0 - root, 1.0 / 12.0)
    angle = np.degrees(0.5 * np.arctan2(2.0 * xy, xx - yy))
    return np.sqrt(large), np.sqrt(small / large), angle


def _infrared_signal(exposure: Exposure, truth: Float64) -> Float64:
    """Signal-to-noise ratio of sources in the stack of Y, J and H, 0 outside the tile."""
    height, width = exposure.images[0].shape
    grid = np.stack(np.meshgrid(np.arange(20, width, 60), np.arange(20, height, 60)), axis=-1)
    sky = _filtered_stack(exposure, grid.reshape(-1, 2).astype(np.float64))
    sky = sky[sky != 0.0]
    if sky.size == 0:
        return np.zeros(len(truth))
    scatter = 1.4826 * np.median(np.abs(sky - np.median(sky)))
    inside = ((truth >= 0) & (truth < [width, height])).all(axis=1)
    return np.where(inside, _filtered_stack(exposure, truth) / max(float(scatter), 1e-9), 0.0)


def _filtered_stack(exposure: Exposure, position: Float64) -> Float64:
    """Sum of Y, J and H in units of their noise under a Gaussian of 2 pixels at positions."""
    axis = np.arange(-6, 7) / 2.0
    kernel = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    total = np.zeros(len(position))
    for image, rms in zip(exposure.images[1:], exposure.rms[1:], strict=True):
        ratio = gather(image, position, kernel.shape[0]) / gather(rms, position, kernel.shape[0])
        total += np.einsum("nyx,yx->n", ratio, kernel)
    return total


def _touching(mask: NDArray[np.int32], place: NDArray[np.intp], number: int) -> Bool:
    """Sources whose isophote has a neighbouring pixel in another source's.

    ``place`` holds the isophotes' pixels in the flattened ``mask``.
    """
    touched = np.zeros(number, dtype=np.bool_)
    flat, width = mask.ravel(), mask.shape[1]
    for step, inside in ((1, place % width < width - 1), (width, place < flat.size - width)):
        first, second = flat[place[inside]], flat[place[inside] + step]
        border = (second >= 0) & (first != second)
        touched[first[border]] = True
        touched[second[border]] = True
    return touched


def gather(image: NDArray[Pixel], position: Float64, side: int) -> NDArray[Pixel]:
    """Windows of ``side`` (odd) pixels centred on the pixels nearest to positions.

    Parameters
    ----------
    image
        Shape ``(height, width)``; beyond its edge the edge's pixels repeat.
    position
        Pixels x, y from 0, shape ``(n, 2)``.

    Returns
    -------
    Array of shape ``(n, side, side)``.
    """
    axis = np.arange(side) - side // 2
    centre = np.rint(position).astype(np.intp)
    inside = ((centre >= side // 2) & (centre < np.array(image.shape[::-1]) - side // 2)).all(
        axis=1
    )
    windows = np.empty((len(centre), side, side), image.dtype)
    if inside.any():
        # Whole rows of a window are copied at once.
        corner = centre[inside] - side // 2
        every = np.lib.stride_tricks.sliding_window_view(image, (side, side))
        windows[inside] = every[corner[:, 1], corner[:, 0]]
    columns = np.clip(centre[~inside, :1] + axis, 0, image.shape[1] - 1)
    rows = np.clip(centre[~inside, 1:] + axis, 0, image.shape[0] - 1)
    windows[~inside] = image[rows[:, :, None], columns[:, None, :]]
    return windows


def offsets(position: Float64, side: int) -> tuple[Float32, Float32]:
    """Pixel offsets x, y of a window's pixels from the exact position, ``(n, side, side)``."""
    axis = (np.arange(side) - side // 2).astype(np.float32)
    part = (position - np.rint(position)).astype(np.float32)
    x = axis[None, None, :] - part[:, 0, None, None]
    y = axis[None, :, None] - part[:, 1, None, None]
    return np.broadcast_to(x, (len(position), side, side)), np.broadcast_to(
        y, (len(position), side, side)
    )


def window_sides(reach: Float64) -> Int64:
    """Side of the windows that hold ``reach`` pixels about the centre, one of `WINDOWS`."""
    sides = np.array(WINDOWS)
    return sides[np.minimum(np.searchsorted(sides // 2, reach), sides.size - 1)]


def aperture_fluxes(
    images: Sequence[Float32], rms: Sequence[Float32], position: Float64
) -> tuple[Float64, Float64]:
    """Fluxes in circular apertures of 1 to 4 FWHM diameter on images matched to H's PSF.

    Smoothing an image and summing it under an aperture is summing the image under a smoothed
    aperture. The latter is done, so no image is smoothed.

    Parameters
    ----------
    images, rms
        First ``k`` of the four Euclid bands, microjansky per pixel, each ``(height, width)``.
    position
        Pixels from 0, shape ``(n, 2)``.

    Returns
    -------
    flux, error
        Microjansky, shape ``(n, k, 4)``; NaN where a band has no coverage.
    """
    flux = np.empty((len(position), len(images), 4))
    error = np.empty_like(flux)
    for start in range(0, len(position), _APERTURE_ROWS):
        rows = slice(start, start + _APERTURE_ROWS)
        x, y = offsets(position[rows], _APERTURE_SIDE)
        step = np.rint(np.hypot(x, y) * _PROFILE_STEPS).astype(np.intp)
        for band in range(len(images)):
            pixels = gather(images[band], position[rows], _APERTURE_SIDE)
            variance = gather(rms[band], position[rows], _APERTURE_SIDE) ** 2
            missing = ~np.isfinite(variance)
            variance[missing] = 0.0
            for aperture in range(4):
                weight = _aperture_profile(band, aperture).take(step, mode="clip")
                flux[rows, band, aperture] = np.einsum("nyx,nyx->n", weight, pixels)
                power = np.einsum("nyx,nyx->n", weight * weight, variance)
                error[rows, band, aperture] = np.sqrt(power)
                if missing.any():
                    lost = (weight * missing).sum(axis=(1, 2)) > 0.2 * weight.sum(axis=(1, 2))
                    flux[rows, band, aperture][lost] = np.nan
                    error[rows, band, aperture][lost] = np.nan
    return flux, error


@cache
def _aperture_profile(band: int, aperture: int) -> Float32:
    """Weight of a round aperture smoothed to the PSF of H, by radius in 1/50 pixel."""
    fine = 5
    half = _APERTURE_SIDE // 2 * fine
    axis = np.arange(-half, half + 1) / fine
    inside = np.hypot(axis[:, None], axis) < COLOUR_FWHM / PIXEL_ARCSEC * (aperture + 1) / 2.0
    # The pixel itself adds a little smoothing, as partial pixels at the rim would.
    sigma = np.hypot(_MATCHING_SIGMA[band], 0.3) * fine
    smooth = ndimage.gaussian_filter(inside.astype(np.float64), sigma, mode="constant")
    # A corner of the window, plus the half pixel by which a source misses its centre.
    farthest = np.sqrt(2.0) * (_APERTURE_SIDE // 2 + 1)
    radius = np.arange(int(farthest * _PROFILE_STEPS) + 1) / _PROFILE_STEPS
    profile = np.interp(radius, axis[half:], smooth[half, half:], right=0.0)
    return np.asarray(profile, dtype=np.float32)
