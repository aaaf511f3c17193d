"""Total fluxes and shapes measured on VIS pixels: radii, Sersic estimates, CAS, Gini, M20.

Definitions: concentration, asymmetry and smoothness after Conselice (2003), Gini and M20 after
Lotz, Primack & Madau (2004). Sersic index and radius are read from the growth of light (index
from r80 / r20, radius corrected for the PSF in quadrature), not from a two-dimensional fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from astropt_db.simulate.bands import PIXEL_ARCSEC
from astropt_db.simulate.measure import Detections, gather, offsets, window_sides

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_BATCH_PIXELS = 2**16
"""Pixels of the windows that are measured at once: some of their arrays fit in a core's cache."""
_BINS = 96
_PSF_HALF_LIGHT = 0.95
"""Half-light radius of the VIS PSF, pixels."""
_INDEX_GRID = np.linspace(0.3, 6.0, 115)


@dataclass(frozen=True)
class Shapes:
    """Measured shapes, float64, one value per source; NaN where nothing could be measured.

    Attributes
    ----------
    total, total_error
        Flux in the total aperture, microjansky.
    r20, r50, r80
        Semi-major axes that hold these percentages of the total, pixels.
    concentration, asymmetry, smoothness, gini, moment_20
        Non-parametric indices, dimensionless.
    radius
        Estimated half-light semi-major axis, arcsec, PSF removed.
    index
        Estimated Sersic index.
    axis_ratio
        Estimated axis ratio, PSF removed.
    """

    total: Float64
    total_error: Float64
    r20: Float64
    r50: Float64
    r80: Float64
    concentration: Float64
    asymmetry: Float64
    smoothness: Float64
    gini: Float64
    moment_20: Float64
    radius: Float64
    index: Float64
    axis_ratio: Float64


def measure_shapes(image: Float32, rms: Float32, found: Detections) -> Shapes:
    """Measure every source of the scene; rows of undetected sources hold NaN.

    Parameters
    ----------
    image, rms
        VIS in microjansky per pixel; RMS is infinite without coverage.
    found
        Result of detection.
    """
    number = found.detected.size
    out = {field.name: np.full(number, np.nan) for field in fields(Shapes)}
    error = np.where(np.isfinite(rms), rms, np.float32(0.0))
    detected = np.flatnonzero(found.detected)
    sides = window_sides(found.kron[detected])
    for side in np.unique(sides).tolist():
        rows = detected[sides == side]
        boxcar = int(2 * np.rint(np.median(found.kron[rows]) / 10.0) + 3)
        count = max(1, _BATCH_PIXELS // side**2)
        for start in range(0, rows.size, count):
            batch = rows[start : start + count]
            window = _Window.cut(image, error, found, batch, side)
            for name, value in window.measure(boxcar).items():
                out[name][batch] = value
    out["total"] = np.where(found.in_vis, out["total"], np.nan)
    out["index"] = _sersic_index(out["r80"] / out["r20"])
    sharp = np.sqrt(np.maximum(out["r50"] ** 2 - _PSF_HALF_LIGHT**2, 0.05))
    out["radius"] = sharp * PIXEL_ARCSEC
    minor = (found.semi_major * found.axis_ratio) ** 2 - 0.9
    major = np.maximum(found.semi_major**2 - 0.9, 0.2)
    out["axis_ratio"] = np.sqrt(np.clip(np.maximum(minor, 0.02) / major, 0.01, 1.0))
    return Shapes(**out)


def _sersic_index(ratio: Float64) -> Float64:
    """Sersic index of a profile with r80 / r20 of the given value, within 0.3 to 5.5."""
    inner, outer = special.gammaincinv(2.0 * _INDEX_GRID, np.array([[0.2], [0.8]]))
    table = (outer / inner) ** _INDEX_GRID
    index = np.interp(ratio, table, _INDEX_GRID)
    return np.where(np.isfinite(ratio), np.clip(index, 0.3, 5.5), np.nan)


@dataclass(frozen=True)
class _Window:
    """Pixels about some sources, and which of them count; arrays of shape ``(n, s, s)``."""

    image: Float32
    error: Float32
    own: Bool
    foreign: Bool
    radius: Float32
    square: Float32
    kron: Float64

    @classmethod
    def cut(
        cls, image: Float32, error: Float32, found: Detections, rows: NDArray[np.intp], side: int
    ) -> _Window:
        position = found.position[rows]
        owner = gather(found.mask, position, side)
        x, y = offsets(position, side)
        angle = np.radians(found.angle[rows]).astype(np.float32)[:, None, None]
        flat = np.maximum(found.axis_ratio[rows], 0.2).astype(np.float32)[:, None, None]
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        own = owner == rows[:, None, None]
        return cls(
            image=np.asarray(gather(image, position, side), np.float32),
            error=np.asarray(gather(error, position, side), np.float32),
            own=own,
            foreign=(owner >= 0) & ~own,
            radius=np.hypot(along, across / flat),
            square=x**2 + y**2,
            kron=found.kron[rows],
        )

    def measure(self, boxcar: int) -> dict[str, Float64]:
        """All that the pixels say; ``boxcar`` is the width of smoothing for `smoothness`."""
        aperture = (self.radius < self.kron[:, None, None]) & ~self.foreign
        row, place = np.nonzero(aperture.reshape(len(self.image), -1))
        place += row * self.image[0].size
        light = self.image.ravel()[place]
        total = np.bincount(row, light, len(self.image))
        variance = np.bincount(row, self.error.ravel()[place] ** 2, len(self.image))
        r20, r50, r80 = self._growth(row, self.radius.ravel()[place], light)
        asymmetry, smoothness = self._residuals(aperture, boxcar)
        gini, moment_20 = self._inequality()
        return {
            "total": total,
            "total_error": np.sqrt(variance),
            "r20": r20,
            "r50": r50,
            "r80": r80,
            "concentration": 5.0 * np.log10(r80 / r20),
            "asymmetry": asymmetry,
            "smoothness": smoothness,
            "gini": gini,
            "moment_20": moment_20,
        }

    def _growth(
        self, row: NDArray[np.intp], radius: Float32, light: Float32
    ) -> tuple[Float64, Float64, Float64]:
        """Radii of 20, 50 and 80 per cent of the light, from a histogram over radius.

        The arguments describe the pixels of the total apertures: window, radius and light.
        """
        number = len(self.image)
        step = self.kron / _BINS
        bins = np.minimum((radius / step[row]).astype(np.intp), _BINS - 1) + row * _BINS
        ringed = np.bincount(bins, light, number * _BINS)
        curve = np.cumsum(ringed.reshape(number, _BINS), axis=1)
        curve = np.maximum.accumulate(curve, axis=1)
        share = curve / np.maximum(curve[:, -1:], 1e-12)
        radii = []
        for wanted in (0.2, 0.5, 0.8):
            upper = np.minimum((share < wanted).sum(axis=1), _BINS - 1)
            rows = np.arange(number)
            low = np.where(upper > 0, share[rows, upper - 1], 0.0)
            high = share[rows, upper]
            part = np.clip((wanted - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
            radii.append(np.maximum((upper + part) * step, 0.3))
        return radii[0], radii[1], radii[2]

    def _residuals(self, aperture: Bool, boxcar: int) -> tuple[Float64, Float64]:
        """Asymmetry under a half turn, and smoothness against a boxcar, noise subtracted."""
        both = aperture & aperture[:, ::-1, ::-1]
        light = np.maximum(_sums(both, self.image), 1e-9)
        turned = np.abs(self.image - self.image[:, ::-1, ::-1])
        # A ninth of the pixels tells the typical noise of a window.
        noise = np.median(self.error[:, ::3, ::3], axis=(1, 2))
        # Mean of |difference| of two Gaussian pixels, lowered by the mosaics' correlation.
        expected = 0.71 * 1.128 * noise * both.sum(axis=(1, 2))
        asymmetry = (_sums(both, turned) - expected) / light
        smooth = ndimage.uniform_filter(self.image, (0, boxcar, boxcar))
        ragged = np.maximum(self.image - smooth, 0.0)
        outside = both & (self.radius > self.kron[:, None, None].astype(np.float32) / 12.0)
        beyond = np.maximum(_sums(outside, self.image), 1e-9)
        chance = 0.71 * 0.40 * noise * outside.sum(axis=(1, 2))
        smoothness = (_sums(outside, ragged) - chance) / beyond
        return np.clip(asymmetry, -0.2, 2.0), np.clip(smoothness, -0.1, 1.0)

    def _inequality(self) -> tuple[Float64, Float64]:
        """Gini coefficient and M20 of the pixels inside the isophote."""
        number = len(self.image)
        row, place = np.nonzero(self.own.reshape(number, -1))
        place += row * self.image[0].size
        light = self.image.ravel()[place].astype(np.float64)
        # One sort for all windows: each has a range of its own.
        order = np.argsort(light + row * (2.0 * np.abs(light).max(initial=0.0) + 1.0))
        light, square = light[order], self.square.ravel()[place[order]]
        count = np.bincount(row, minlength=number)
        first = np.cumsum(count) - count
        rank = np.arange(row.size) - first[row] + 1

        def total(values: Float64) -> Float64:
            return np.asarray(np.bincount(row, values, number), np.float64)

        mean = total(np.abs(light)) / np.maximum(count, 1)
        pairs = np.maximum(mean * count * (count - 1), 1e-12)
        gini = total((2.0 * rank - count[row] - 1.0) * np.maximum(light, 0.0)) / pairs
        whole_light = total(light)
        growing = np.cumsum(light)
        brighter = np.append(growing, 0.0)[(first + count - 1)[row]] - growing + light
        reached = brighter <= 0.2 * np.maximum(whole_light, 1e-12)[row]
        whole = np.maximum(total(light * square), 1e-12)
        core = np.maximum(total(light * square * reached), 1e-6 * whole)
        small = count < 12
        return np.where(small, np.nan, gini), np.where(small, np.nan, np.log10(core / whole))


def _sums(chosen: Bool, values: Float32) -> Float64:
    """Sum of the chosen pixels of each window."""
    return np.asarray((values * chosen).sum(axis=(1, 2)), dtype=np.float64)
