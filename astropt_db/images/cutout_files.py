"""Ready-made cut-outs in FITS files: extensions by band, one file per band, or cubes."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from astropt_db.errors import FileError
from astropt_db.images.cutout_names import band_of, image_band_of, object_id_of
from astropt_db.images.cutout_parquet import ParquetCutouts
from astropt_db.images.cutout_source import Canvas, CutoutSource, Floats
from astropt_db.images.source import (
    BANDS,
    PIXEL_ARCSEC,
    SCALE_TOLERANCE,
    WINDOW,
    Cutouts,
    Float32,
    Float64,
    Int64,
)
from astropt_db.images.wcs import TanWcs, WcsError

_FITS = (".fits", ".fit", ".fits.gz")
_PARQUET = (".parquet", ".pq")
_BAD_FILE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError),
    *(Warning, zlib.error, fits.VerifyError),
)
_NO_IDS = np.empty(0, dtype=np.int64)


def open_cutouts(
    paths: Iterable[str | Path],
    bands: Sequence[str] = BANDS,
    fill: float = 0.0,
    cube_bands: Sequence[str] | None = None,
    window: int = WINDOW,
) -> CutoutSource:
    """Open ready-made cut-outs: FITS files named by object id, or Parquet files.

    Parameters
    ----------
    paths
        Local files and folders; folders are searched to the bottom.
    bands, fill, window
        As in :class:`~astropt_db.images.source.ImageSource`.
    cube_bands
        Bands of the planes of FITS cubes whose headers do not tell.

    Raises
    ------
    FileError
        If there is no cut-out, or both FITS and Parquet files.
    """
    files = _find(paths)
    parquet = [path for path in files if path.name.lower().endswith(_PARQUET)]
    if parquet and len(parquet) < len(files):
        other = next(path for path in files if path not in parquet)
        raise FileError(
            other, f"lies beside Parquet files such as {parquet[0]}.", "Open one kind at a time."
        )
    if parquet:
        return ParquetCutouts(parquet, bands, fill, window)
    return FitsCutouts(files, bands, fill, cube_bands, window)


@dataclass(frozen=True)
class _Image:
    pixels: Floats
    header: fits.Header


class FitsCutouts(CutoutSource):
    """Cut-outs in FITS files whose names hold the object id.

    A file holds one image per extension (``VIS_BGSUB``, ``NIR_Y_BGSUB``, ...; other bands, PSF
    and RMS are passed over), one image of one band (named in the file's name, its FILTER card or
    its folder), or a cube (bands in the cards BANDS, BAND1... or FILTER1..., or as given).

    Parameters
    ----------
    files
        FITS files, packed with gzip or not.
    bands, fill, window
        As in :class:`~astropt_db.images.source.ImageSource`.
    cube_bands
        Bands of the planes of cubes whose headers do not tell.

    Raises
    ------
    FileError
        If no file's name holds an object id.
    """

    def __init__(
        self,
        files: Sequence[Path],
        bands: Sequence[str] = BANDS,
        fill: float = 0.0,
        cube_bands: Sequence[str] | None = None,
        window: int = WINDOW,
    ) -> None:
        super().__init__(bands, fill, window)
        self.cube_bands = None if cube_bands is None else tuple(cube_bands)
        self._files: dict[int, list[Path]] = {}
        problems = []
        for path in files:
            try:
                self._files.setdefault(object_id_of(str(path)), []).append(path)
            except FileError as error:
                problems.append(error)
        if not self._files:
            raise problems[0] if problems else FileError("(cut-outs)", "there is no file.")
        self.object_ids = np.array(sorted(self._files), dtype=np.int64)
        self.duplicates = _NO_IDS
        self.problems = tuple(problems)

    def files_by_object(self) -> tuple[list[Path], Int64, Int64]:
        """Which files hold which objects; see :meth:`CutoutSource.files_by_object`."""
        pairs = [(path, one) for one, paths in self._files.items() for path in paths]
        ids = np.array([one for _, one in pairs], np.int64)
        return [path for path, _ in pairs], ids, np.arange(len(pairs))

    def cutouts(
        self, object_id: Int64, ra: Float64, dec: Float64, out: Float32 | None = None
    ) -> Cutouts:
        """Windows around objects; see :meth:`ImageSource.cutouts`.

        Raises
        ------
        FileError
            If a file is damaged, if its bands cannot be told, if an object has two images in a
            band, lies outside of its image, or has pixels of another size than 0.1 arcsec.
        """
        canvas = Canvas(object_id, self.bands, out, self.window)
        # One file per object: opening it is the work, there is nothing to do in bulk.
        for number, one in enumerate(object_id.tolist()):
            painted: dict[str, Path] = {}
            for path in self._files.get(one, ()):
                for band, image in self._read(path).items():
                    if band in painted:
                        raise FileError(
                            path, f"holds {band} of object {one}, and so does {painted[band]}."
                        )
                    painted[band] = path
                    if band in canvas.bands:
                        where = _position(path, image, float(ra[number]), float(dec[number]))
                        index = np.array([number])
                        canvas.paint(index, band, image.pixels[None], where)
        return canvas.finish(self.fill)

    def _read(self, path: Path) -> dict[str, _Image]:
        try:
            with warnings.catch_warnings():
                # Odd cards do no harm, but astropy only warns of a truncated file, too.
                warnings.simplefilter("ignore", fits.verify.VerifyWarning)
                warnings.filterwarnings("error", message="File may have been truncated")
                with fits.open(path, memmap=False) as hdus:
                    return self._images(path, [hdu for hdu in hdus if _is_image(hdu)])
        except _BAD_FILE as error:
            raise FileError(path, f"cannot be read as FITS: {error}.") from error

    def _images(self, path: Path, hdus: list[Any]) -> dict[str, _Image]:
        cubes = [hdu for hdu in hdus if len(hdu.shape) == 3]
        if cubes:
            return self._planes(path, cubes)
        named = [(image_band_of(hdu.name), hdu) for hdu in hdus]
        found = [(band, hdu) for band, hdu in named if band is not None]
        if not found and len(hdus) == 1:
            found = [(_band_of_file(path, hdus[0].header), hdus[0])]
        if not found or len({band for band, _ in found}) < len(found):
            names = ", ".join(hdu.name or "(no name)" for hdu in hdus) or "none"
            raise FileError(
                path, f"expected one image in each of {', '.join(BANDS)}, found {names}."
            )
        return {band: _Image(_floats(path, hdu.data), hdu.header) for band, hdu in found}

    def _planes(self, path: Path, cubes: list[Any]) -> dict[str, _Image]:
        header, planes = cubes[0].header, _floats(path, cubes[0].data)
        told = _cube_bands(path, header)
        if told and self.cube_bands and told != self.cube_bands:
            raise FileError(
                path,
                f"is a cube of {', '.join(told)} by its header, not of "
                f"{', '.join(self.cube_bands)}.",
            )
        bands = told or self.cube_bands
        if bands is None:
            raise FileError(
                path,
                "is a cube whose header does not tell the order of its bands.",
                "Give it: both VIS,NIR_Y,NIR_J,NIR_H and VIS,NIR_H,NIR_J,NIR_Y are in use.",
            )
        if len(cubes) > 1 or len(planes) != len(bands):
            raise FileError(
                path,
                f"expected one cube of {len(bands)} planes ({', '.join(bands)}), found "
                f"{len(cubes)} of {len(planes)}.",
            )
        return {band: _Image(planes[number], header) for number, band in enumerate(bands)}


def _find(paths: Iterable[str | Path]) -> list[Path]:
    """FITS and Parquet files under paths, sorted; FileError where there is none."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileError(path, "does not exist.")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [one for one in inside if one.name.lower().endswith(_FITS + _PARQUET)]
        if not files:
            raise FileError(path, "expected FITS or Parquet files, found none.")
        found += files
    return list(dict.fromkeys(found))


def _is_image(hdu: Any) -> bool:
    return bool(hdu.is_image and len(hdu.shape) >= 2 and 0 not in hdu.shape)


def _floats(path: Path, data: Any) -> Floats:
    if data.dtype.kind != "f":
        raise FileError(
            path, f"expected float32 or float64 pixels (BITPIX -32, -64), found {data.dtype.name}."
        )
    return np.asarray(data)


def _band_of_file(path: Path, header: fits.Header) -> str:
    told = band_of(path.name), band_of(str(header.get("FILTER", ""))), band_of(path.parent.name)
    band = next((one for one in told if one is not None), None)
    if band is None or (told[0] and told[1] and told[0] != told[1]):
        found = f"{told[0]} and FILTER {told[1]}" if band else "none"
        raise FileError(
            path,
            f"expected one band in the name, the FILTER card or the folder, found {found}.",
            f"Name one of {', '.join(BANDS)}.",
        )
    return band


def _cube_bands(path: Path, header: fits.Header) -> tuple[str, ...] | None:
    """Bands of a cube's planes in the cards BANDS, BAND1... or FILTER1..., if there are any."""
    listed = str(header["BANDS"]).replace(";", ",").split(",") if "BANDS" in header else []
    for card in ("BAND", "FILTER"):
        numbered = [f"{card}{plane}" for plane in range(1, int(header["NAXIS3"]) + 1)]
        if not listed and all(name in header for name in numbered):
            listed = [str(header[name]) for name in numbered]
    bands = tuple(band_of(name) or f"unknown {name!r}" for name in listed)
    if bands and (not set(bands) <= set(BANDS) or len(set(bands)) < len(bands)):
        raise FileError(
            path, f"is a cube of bands {', '.join(bands)}; expected {', '.join(BANDS)}."
        )
    return bands or None


def _position(path: Path, image: _Image, ra: float, dec: float) -> tuple[float, float] | None:
    """Pixel of the object by the image's WCS, from 0; ``None`` where there is no WCS."""
    height, width = image.pixels.shape
    try:
        wcs = TanWcs.from_header(image.header)
    except WcsError as error:
        if "CTYPE1" in image.header and max(height, width) > WINDOW:
            raise FileError(path, f"has {error}.", "Crop it to 224 pixels yourself.") from error
        return None
    if abs(wcs.pixel_scale / PIXEL_ARCSEC - 1.0) > SCALE_TOLERANCE:
        raise FileError(
            path,
            f"expected pixels of {PIXEL_ARCSEC} arcsec, found {wcs.pixel_scale:.4g}.",
            "Resample it to the grid of the MER mosaics.",
        )
    x, y = (float(value[0]) for value in wcs.to_pixel(np.array([ra]), np.array([dec])))
    if np.isnan(ra):
        return None
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        raise FileError(
            path,
            f"its object at RA {ra:.6f}, Dec {dec:.6f} falls on pixel ({x:.0f}, {y:.0f}) of "
            f"{width} x {height}, outside of the image.",
            "The file is named after another object, or its WCS is wrong.",
        )
    return x, y
