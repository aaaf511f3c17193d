"""How fast windows come out of mosaics, beside astropy's Cutout2D per source and band.

    python benchmarks/images.py
    python benchmarks/images.py --size 19200 --bands 1      one band of a real tile, 1.5 GB on disk

Every row gets the same local mosaics, which lie in the page cache, and the same sources in random
order; the rows take turns and each one's best turn is shown. "sky positions" is what a user writes
from the documentation of Cutout2D; "pixel positions" gives it the projection for free. Both
collect float32 windows in one array, as ours does. Ours counts and fills the missing pixels too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.typing import NDArray

from astropt_db.images import BANDS, WINDOW, Mosaic, TileSource, read_header

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

STRIP = 512


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096, help="pixels on a side of the tile")
    parser.add_argument("--sources", type=int, default=1000)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bands = BANDS[: options.bands]
        mosaics = [write_mosaic(Path(folder), band, options.size) for band in bands]
        x, y = np.random.default_rng(1).uniform(0, options.size - 1, (2, options.sources))
        ra, dec = mosaics[0].wcs.to_sky(x, y)
        ids = np.arange(options.sources, dtype=np.int64)
        source = TileSource(mosaics, bands)
        out = np.zeros((len(ids), len(bands), WINDOW, WINDOW), dtype=np.float32)
        rows: dict[str, Callable[[], Float32]] = {
            "ours": lambda: source.cutouts(ids, ra, dec).pixels,
            "ours, memory used again": lambda: source.cutouts(ids, ra, dec, out).pixels,
            "ours, batches of 100": lambda: by_batches(source, ra, dec, out),
            "Cutout2D, sky positions": lambda: by_sky(mosaics, ra, dec),
            "Cutout2D, pixel positions": lambda: by_pixel(mosaics, ra, dec),
        }
        check(rows)
        best = fastest(rows, options.repeats)
    windows = options.sources * len(bands)
    print(f"{options.sources} sources x {len(bands)} bands of {WINDOW} x {WINDOW} pixels from a "
          f"tile of {options.size} x {options.size}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print(f"{'':32}{'seconds':>9}{'windows/s':>12}{'sources/s':>12}{'ours is':>10}")
    for name, seconds in best.items():
        ratio = "" if name.startswith("ours") else f"{seconds / best['ours']:.1f} x"
        print(f"{name:32}{seconds:9.3f}{windows / seconds:12,.0f}"
              f"{options.sources / seconds:12,.0f}{ratio:>10}")  # fmt: skip


def write_mosaic(folder: Path, band: str, size: int) -> Mosaic:
    """A mosaic of noise, written strip by strip."""
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2)])
    header.extend([("NAXIS1", size), ("NAXIS2", size), ("MAGZERO", 24.6), ("FILTER", band)])
    for axis, kind, value in ((1, "RA---TAN", 269.733), (2, "DEC--TAN", 66.018)):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"] = kind, value
        header[f"CRPIX{axis}"] = size / 2.0
        header[f"CD{axis}_{axis}"] = (1.5 - axis) * -2.0 / 36000.0
    name = f"EUC_MER_BGSUB-MOSAIC-{band.replace('_', '-')}_TILE102158889-000000_0_00.00.fits"
    random = np.random.default_rng(BANDS.index(band))
    with (folder / name).open("wb") as handle:
        handle.write(header.tostring(padding=True).encode())
        for row in range(0, size, STRIP):
            rows = min(STRIP, size - row)
            handle.write(random.standard_normal((rows, size), np.float32).astype(">f4").tobytes())
        handle.write(b"\0" * (-handle.tell() % 2880))
    return read_header(str(folder / name))


def by_batches(source: TileSource, ra: Float64, dec: Float64, out: Float32) -> Float32:
    """As a worker does it: the tile from bottom to top, a batch at a time."""
    for index, cutouts in source.batches(np.arange(len(ra)), ra, dec, 100):
        out[index] = cutouts.pixels
    return out


def by_sky(mosaics: Sequence[Mosaic], ra: Float64, dec: Float64) -> Float32:
    """Cutout2D as documented: a mapped image, its WCS and a sky position."""
    out = np.empty((len(ra), len(mosaics), WINDOW, WINDOW), dtype=np.float32)
    places = SkyCoord(ra * u.deg, dec * u.deg)
    for band, mosaic in enumerate(mosaics):
        with fits.open(mosaic.uri, memmap=True) as hdus:
            wcs = WCS(hdus[0].header)
            for number, place in enumerate(places):
                cutout = Cutout2D(
                    hdus[0].data, place, WINDOW, wcs=wcs, mode="partial", fill_value=0.0
                )
                out[number, band] = cutout.data
    return out


def by_pixel(mosaics: Sequence[Mosaic], ra: Float64, dec: Float64) -> Float32:
    """Cutout2D without its WCS, at positions that were projected in one go."""
    out = np.empty((len(ra), len(mosaics), WINDOW, WINDOW), dtype=np.float32)
    for band, mosaic in enumerate(mosaics):
        with fits.open(mosaic.uri, memmap=True) as hdus:
            x, y = WCS(hdus[0].header).world_to_pixel_values(ra, dec)
            for number, place in enumerate(zip(x, y, strict=True)):
                cutout = Cutout2D(hdus[0].data, place, WINDOW, mode="partial", fill_value=0.0)
                out[number, band] = cutout.data
    return out


def check(rows: dict[str, Callable[[], Float32]]) -> None:
    """Refuse to compare what is not the same."""
    ours, *others = (action() for action in rows.values())
    for other in others:
        # Exact zeros of the noise are missing pixels to us, and 0 to both.
        np.testing.assert_array_equal(ours, other)


def fastest(rows: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each row's best turn."""
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(repeats):
        for name, action in rows.items():
            start = time.perf_counter()
            action()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
