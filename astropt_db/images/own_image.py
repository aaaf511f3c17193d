"""An image of the user's own, whatever its name, as a window for an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astropt_db.errors import ConfigurationError, FileError
from astropt_db.images.cutout_files import FitsCutouts
from astropt_db.images.cutout_names import band_of
from astropt_db.images.source import BANDS, WINDOW, CutoutFlag, Cutouts, ImageSource

SMALLEST = 32
"""Pixels on a side below which there is less than 2 x 2 patches to see."""
ZERO_POINTS = {"VIS": 24.6, "NIR_Y": 29.8, "NIR_J": 30.0, "NIR_H": 29.9}
"""AB magnitudes of one unit in the MER mosaics of Q1."""
_OWN = 0


class OwnImage(FitsCutouts):
    """FITS files that show one object: a file per band, extensions by band, or a cube.

    Parameters
    ----------
    paths
        The files.
    bands
        Bands that are wanted, in order.
    told
        Bands of the file or of a cube's planes where the headers do not tell; short names such as
        ``Y`` will do.
    window
        Side of the window in pixels.

    Attributes
    ----------
    zero_points
        MAGZERO by band, of those that state it; known after :meth:`read`.
    smallest
        Smallest side of an image in pixels; known after :meth:`read`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        bands: Sequence[str] = BANDS,
        told: Sequence[str] = (),
        window: int = WINDOW,
    ) -> None:
        ImageSource.__init__(self, bands, np.nan, window)
        names = [band_of(one) for one in told]
        if None in names:
            raise ConfigurationError(
                f"--band {told[names.index(None)]}: expected one of {', '.join(BANDS)}"
            )
        self._told = [str(one) for one in names]
        self.cube_bands = tuple(self._told) if len(self._told) > 1 else None
        self._files = {_OWN: list(paths)}
        self.object_ids = np.array([_OWN], np.int64)
        self.duplicates = np.empty(0, np.int64)
        self.problems = ()
        self.zero_points: dict[str, float] = {}
        self.smallest = 0

    def read(self, position: tuple[float, float] | None = None) -> Cutouts:
        """The window about a position in ICRS degrees, else about the middle of each image.

        Raises
        ------
        FileError
            If a file cannot be read, its bands cannot be told, it is too small, its pixels are
            not of 0.1 arcsec, or it has no data in some band that is wanted.
        """
        for path in self._files[_OWN]:
            if not path.is_file():
                raise FileError(path, "does not exist.")
        ra, dec = position or (np.nan, np.nan)
        found = self.cutouts(np.array([_OWN]), np.array([ra]), np.array([dec]))
        path = self._files[_OWN][0]
        if found.flags[0] & CutoutFlag.ALL_MISSING:
            raise FileError(path, f"has no data in {', '.join(self.bands)}: nothing to embed.")
        if found.flags[0] & CutoutFlag.MISSING_BAND:
            lost = [b for b, part in zip(self.bands, found.missing[0], strict=True) if part >= 1]
            raise FileError(
                path,
                f"has no data in {', '.join(lost)}, which the encoder sees.",
                "Give a file for each band (--image again), or choose an encoder of your bands.",
            )
        return found

    def scaled(self, found: Cutouts, reference: Mapping[str, float]) -> Cutouts:
        """Pixels in the units that zero points by band stand for, where the files state theirs."""
        for number, band in enumerate(self.bands):
            if band in self.zero_points:
                difference = reference[band] - self.zero_points[band]
                found.pixels[:, number] *= np.float32(10 ** (0.4 * difference))
        return found

    def _images(self, path: Path, hdus: list[Any]) -> Any:
        """Images by band; a file of one image may be of the band that the user named."""
        if len(self._told) == 1 and len(hdus) == 1 and len(hdus[0].shape) == 2:
            card = band_of(str(hdus[0].header.get("FILTER", "")))
            if card not in (None, self._told[0]):
                raise FileError(path, f"says FILTER {card}, not {self._told[0]}.")
            hdus[0].header["FILTER"] = self._told[0]
            hdus[0].name = self._told[0]
        images = super()._images(path, hdus)
        for band, image in images.items():
            side = min(image.pixels.shape)
            if side < SMALLEST:
                height, width = image.pixels.shape
                raise FileError(
                    path,
                    f"is {width} x {height} pixels in {band}; expected {WINDOW} x {WINDOW}, at "
                    f"least {SMALLEST}.",
                )
            self.smallest = min(self.smallest or side, side)
            value = image.header.get("MAGZERO")
            if isinstance(value, int | float) and np.isfinite(value):
                self.zero_points[band] = float(value)
        return images
