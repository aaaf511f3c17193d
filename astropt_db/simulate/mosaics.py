"""Tiles: where they lie, their noise and defects, and their mosaic files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from astropt_db.simulate.bands import (
    EUCLID_BANDS,
    FIELD_CENTRES,
    FIRST_TILE,
    PIXEL_ARCSEC,
    EuclidBand,
    Field,
)

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

NO_COVERAGE_RMS = 1e16
MARGIN = 128
"""Least width of the outer frame in pixels: a window of 224 pixels about a core source fits."""
RELEASE = "Q1_R1"

_VIS_SHIFT = 0.177
"""Sub-pixel shift of bilinear resampling that gives the noise correlation of a real mosaic."""
_STRIP_PIXELS = 2**15
"""Pixels that are exposed or written at once: a strip's arrays stay in a core's own cache."""


@dataclass(frozen=True)
class Tile:
    """A tile of the sky.

    Attributes
    ----------
    index
        Tile index, nine digits.
    field
        Deep field.
    number
        Place in the simulated set, from 0.
    ra, dec
        Centre, degrees ICRS.
    size
        Pixels on a side.
    core
        Pixels on a side of the core, whose sources are this tile's own.
    """

    index: int
    field: Field
    number: int
    ra: float
    dec: float
    size: int
    core: int

    @property
    def wcs(self) -> WCS:
        """Tangent-plane projection about the centre, 0.1 arcsec per pixel."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [self.ra, self.dec]
        wcs.wcs.crpix = [self.size / 2.0, self.size / 2.0]
        wcs.wcs.cd = np.array([[-1.0, 0.0], [0.0, 1.0]]) * PIXEL_ARCSEC / 3600.0
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.equinox = 2000.0
        wcs.wcs.set()
        return wcs

    def in_core(self, position: Float64) -> Bool:
        """Whether pixel positions, shape ``(n, 2)`` from 0, lie in the core."""
        margin = (self.size - self.core) / 2.0
        inside = (position >= margin - 0.5) & (position < self.size - margin - 0.5)
        return np.asarray(inside.all(axis=1))


def lay_out(field: Field, tiles: int, size: int) -> list[Tile]:
    """A block of ``tiles`` tiles about a field's centre, cores side by side.

    Parameters
    ----------
    field
        Deep field.
    tiles
        Number of tiles.
    size
        Pixels on a side, frame included.
    """
    # The real frame is 1' about a core of 30', 600 of 19,200 pixels on each side.
    core = size - 2 * max(MARGIN, round(size / 32))
    columns = int(np.ceil(np.sqrt(tiles)))
    step = core * PIXEL_ARCSEC / 3600.0
    ra, dec = FIELD_CENTRES[field]
    out = []
    for number in range(tiles):
        row, column = divmod(number, columns)
        tile_dec = round(dec + (row - (tiles // columns - 1) / 2.0) * step, 7)
        east = (column - (columns - 1) / 2.0) * step / np.cos(np.radians(tile_dec))
        tile_ra = round(ra + east, 7)
        out.append(Tile(FIRST_TILE[field] + number, field, number, tile_ra, tile_dec, size, core))
    return out


def stamp(seed: int, *parts: object) -> tuple[str, datetime]:
    """Hexadecimal tag and creation time of a product: both follow from the seed alone."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    seconds = int.from_bytes(digest[:4], "big") % (30 * 86400)
    microseconds = int.from_bytes(digest[4:8], "big") % 1_000_000
    start = datetime(2024, 10, 1, tzinfo=UTC)
    when = start + timedelta(seconds=seconds, microseconds=microseconds)
    return digest[8:11].hex().upper(), when


def product_name(kind: str, tile: Tile, seed: int) -> str:
    """File name of a MER product, as ``EUC_MER_{kind}_TILE102018665-8A3F1C_..._00.00.fits``."""
    tag, when = stamp(seed, kind, tile.index)
    return f"EUC_MER_{kind}_TILE{tile.index}-{tag}_{when:%Y%m%dT%H%M%S.%fZ}_00.00.fits"


def noise(band: EuclidBand, shape: tuple[int, int], random: np.random.Generator) -> Float32:
    """Noise whose power on large scales is that of unit white noise, float32.

    It is drawn on the detector's pixels and resampled bilinearly to 0.1 arcsec, as the mosaics
    are, which correlates neighbours and lowers the scatter of single pixels.
    """
    return np.concatenate(list(_noise_strips(band, shape, random)))


def _noise_strips(
    band: EuclidBand, shape: tuple[int, int], random: np.random.Generator
) -> Iterator[Float32]:
    """`noise` from top to bottom, a few rows at a time; the size of a strip changes nothing."""
    height, width = shape
    factor = band.noise_pixel
    parts = [_VIS_SHIFT] if factor == 1 else [phase / factor for phase in range(factor)]

    def detector_rows(number: int) -> Float32:
        field = random.standard_normal((number, width // factor + 2), dtype=np.float32)
        # A detector pixel holds factor^2 mosaic pixels: its flux has factor times their noise,
        # and is spread over factor^2 of them.
        field *= np.float32(1.0 / factor)
        return _resample(field, parts, axis=1)[:, :width]

    number = max(1, _STRIP_PIXELS // (factor * width))
    last = detector_rows(1)
    for low in range(0, height, number * factor):
        rows = np.concatenate([last, detector_rows(number)])
        last = rows[-1:]
        yield _resample(rows, parts, axis=0)[: height - low]


def _resample(values: Float32, parts: list[float], axis: int) -> Float32:
    """Linear interpolation along an axis at some parts of every interval."""
    before = values[:-1] if axis == 0 else values[:, :-1]
    step = np.diff(values, axis=axis)
    points = [before + np.float32(part) * step for part in parts]
    if len(points) == 1:
        return points[0]
    shape = [len(parts) * n if i == axis else n for i, n in enumerate(step.shape)]
    return np.stack(points, axis=axis + 1).reshape(shape)


@dataclass(frozen=True)
class Defects:
    """Pixels that carry no signal, by band: True where a mosaic has no coverage."""

    missing: dict[str, Bool]


def draw_defects(tile: Tile, random: np.random.Generator) -> Defects:
    """Bad columns in VIS, and a strip without NISP data in every third tile."""
    side = tile.size
    vis = np.zeros((side, side), dtype=np.bool_)
    for _ in range(1 + side // 2000):
        column, start = random.integers(0, side, 2)
        vis[start : start + side // 6, column] = True
    infrared = np.zeros((side, side), dtype=np.bool_)
    if tile.number % 3 == 1:
        y, x = np.ogrid[:side, :side]
        slope = random.uniform(-0.08, 0.08)
        infrared = (x + slope * y) > side * (0.93 - abs(slope))
    names = [band.name for band in EUCLID_BANDS]
    return Defects({name: vis if name == "VIS" else infrared for name in names})


def expose(image: Float32, band: EuclidBand, missing: Bool, random: np.random.Generator) -> Float32:
    """Make a noiseless image a noisy mosaic, in place, and return its RMS map.

    All are in mosaic units. Light is cut off at saturation. Pixels without coverage are 0 with
    an RMS of 1e16.
    """
    rms = np.empty_like(image)
    low = 0
    for grain in _noise_strips(band, (image.shape[0], image.shape[1]), random):
        strip = slice(low, low + len(grain))
        low = strip.stop
        light, scatter, hole = image[strip], rms[strip], missing[strip]
        np.minimum(light, np.float32(band.saturation), out=light)
        variance = np.maximum(light, np.float32(0.0))
        variance *= np.float32(1.0 / band.gain)
        variance += np.float32(band.rms**2)
        np.sqrt(variance, out=scatter)
        grain *= scatter
        light += grain
        if hole.any():
            np.copyto(light, np.float32(0.0), where=hole)
            np.copyto(scatter, np.float32(NO_COVERAGE_RMS), where=hole)
    return rms


def add_trails(model: Float32, tile: Tile, random: np.random.Generator) -> None:
    """Add leftovers of cosmic rays everywhere, and in every second tile a satellite, to VIS."""
    side = model.shape[0]
    hits = random.poisson(2.0e-6 * side**2)
    start = random.uniform(0, side, (hits, 2))
    angle = random.uniform(0.0, 2.0 * np.pi, hits)
    length = random.exponential(7.0, hits) + 2.0
    steps = np.linspace(0.0, 1.0, 24)
    x = start[:, :1] + np.cos(angle)[:, None] * length[:, None] * steps
    y = start[:, 1:] + np.sin(angle)[:, None] * length[:, None] * steps
    column = np.clip(np.rint(x), 0, side - 1).astype(np.intp)
    row = np.clip(np.rint(y), 0, side - 1).astype(np.intp)
    height = random.exponential(0.05, (hits, 1)) * np.ones_like(x)
    model[row, column] = np.maximum(model[row, column], height.astype(np.float32))
    if tile.number % 2 == 0:
        slope, middle = random.uniform(-1.0, 1.0), random.uniform(0.3, 0.7) * side
        column = np.arange(side)[:, None]
        line = middle + slope * (column - side / 2)
        row = np.rint(line).astype(np.intp) + np.arange(-10, 11)
        distance = (row - line) / np.hypot(1.0, slope)
        light = np.float32(0.006) * np.exp(-0.5 * (distance / 1.8) ** 2).astype(np.float32)
        inside = (row >= 0) & (row < side)
        model[row[inside], np.broadcast_to(column, row.shape)[inside]] += light[inside]


def mosaic_header(tile: Tile, band: EuclidBand, when: datetime) -> fits.Header:
    """Header of a mosaic, with the keywords of a real one and no others."""
    header = fits.Header()
    header["EQUINOX"] = (2000.0, "Mean equinox")
    header["RADESYS"] = ("ICRS", "Astrometric system")
    half = tile.size / 2.0
    scale = PIXEL_ARCSEC / 3600.0
    for axis, name, value in ((1, "RA---TAN", tile.ra), (2, "DEC--TAN", tile.dec)):
        header[f"CTYPE{axis}"] = (name, "WCS projection type for this axis")
        header[f"CUNIT{axis}"] = ("deg", "Axis unit")
        header[f"CRVAL{axis}"] = (value, "World coordinate on this axis")
        header[f"CRPIX{axis}"] = (half, "Reference pixel on this axis")
        header[f"CD{axis}_1"] = (-scale if axis == 1 else 0.0, "Linear projection matrix")
        header[f"CD{axis}_2"] = (scale if axis == 2 else 0.0, "Linear projection matrix")
    header["SOFTNAME"] = ("astropt-db simulate", "The software that made those data")
    header["DATE"] = (f"{when:%Y-%m-%dT%H:%M:%S}", "When it was started (GMT)")
    header["MAGZERO"] = (band.zero_point, "AB zeropoint")
    header["FILTER"] = (band.filter, "the filter name")
    header["DATASETR"] = (RELEASE, "pipeline DATASETRELEASE")
    header["PIPDEFID"] = ("MER_ProcessTile_EUCLID_2.0.2", "the pipeline definition ID")
    header["PSWNAME"] = ("MER_ProcessTile", "the pipeline software name")
    header["PSWREL"] = ("11.0.1", "the pipeline software release")
    return header


def write_mosaics(
    folder: Path, tile: Tile, band: EuclidBand, image: Float32, rms: Float32, seed: int
) -> list[Path]:
    """Write a mosaic and its RMS map under ``folder/MER/{tile}/{VIS or NISP}``."""
    place = folder / "MER" / str(tile.index) / ("VIS" if band.name == "VIS" else "NISP")
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    kinds = (f"BGSUB-MOSAIC-{band.mosaic}", image), (f"MOSAIC-{band.mosaic}-RMS", rms)
    for kind, data in kinds:
        _, when = stamp(seed, kind, tile.index)
        path = place / product_name(kind, tile, seed)
        _write_image(path, data, mosaic_header(tile, band, when))
        paths.append(path)
    return paths


def _write_image(path: Path, data: Float32, header: fits.Header) -> None:
    """Write a FITS image strip by strip: swapping the bytes of all of it at once is slower."""
    complete = fits.PrimaryHDU(data, header).header
    rows = max(1, _STRIP_PIXELS // data.shape[1])
    with fits.StreamingHDU(path, complete) as stream:
        for low in range(0, len(data), rows):
            stream.write(data[low : low + rows])
