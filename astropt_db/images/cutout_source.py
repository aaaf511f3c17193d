"""Ready-made cut-outs: what the kinds of files have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astropt_db.errors import FileError
from astropt_db.images.source import (
    WINDOW,
    Cutouts,
    Float32,
    Float64,
    ImageSource,
    Int64,
    flag,
    missing_pixels,
    new_pixels,
)
from astropt_db.images.windows import origins

Floats = NDArray[np.floating]


class CutoutSource(ImageSource):
    """Images of single objects.

    Attributes
    ----------
    object_ids
        Objects of which there are images, int64, ascending.
    duplicates
        Objects found more than once in Parquet files; the first one is used.
    problems
        Files that were left out, with the reason.
    """

    object_ids: Int64
    duplicates: Int64
    problems: tuple[FileError, ...]

    @abstractmethod
    def files_by_object(self) -> tuple[list[Path], Int64, Int64]:
        """Which files hold which objects.

        Returns
        -------
        tuple
            The files; and for each image or row, the object's id and the index of its file, int64
            ``(m,)`` each.
        """


class Canvas:
    """The windows of a call while they are being filled; what is never painted is missing."""

    def __init__(
        self,
        object_id: Int64,
        bands: Sequence[str],
        out: Float32 | None = None,
        window: int = WINDOW,
    ) -> None:
        self.object_id = object_id
        self.window = window
        self.bands = {band: number for number, band in enumerate(bands)}
        shape = (len(object_id), len(bands))
        self.pixels = new_pixels(*shape, out, window)
        self.pixels.fill(np.nan)
        self.padded = np.zeros(shape, dtype=np.bool_)
        self.sed: dict[str, Float64] = {}

    def paint(
        self,
        index: Int64,
        band: str,
        images: Floats,
        position: tuple[float, float] | None = None,
    ) -> None:
        """Put images of one shape, ``(k, height, width)``, into the windows ``index``.

        An axis that fits is centred, so that nothing is lost; a longer one is cropped about the
        pixel position x, y, from 0, or about its middle.
        """
        cut: list[slice] = []
        put: list[slice] = []
        for axis, length in enumerate(images.shape[1:]):
            given = position is not None and length > WINDOW
            middle = position[1 - axis] if position and given else (length - 1) / 2.0
            first = int(origins(middle, self.window))
            low, high = max(first, 0), max(min(first + self.window, length), 0)
            cut.append(slice(low, max(high, low)))
            put.append(slice(low - first, low - first + max(high - low, 0)))
        number = self.bands[band]
        # float64 pixels beyond float32 become infinite, and so missing.
        with np.errstate(over="ignore"):
            self.pixels[index, number, put[0], put[1]] = images[:, cut[0], cut[1]]
        inner = (put[0].stop - put[0].start, put[1].stop - put[1].start)
        self.padded[index, number] = inner != (self.window, self.window)

    def finish(self, fill: np.float32) -> Cutouts:
        """Count and fill the missing pixels."""
        missing = np.empty(self.pixels.shape[:2], dtype=np.float32)
        for number in range(len(self.bands)):
            windows = self.pixels[:, number]
            lost = missing_pixels(np.ascontiguousarray(windows))
            missing[:, number] = lost.mean(axis=(1, 2))
            windows[lost] = fill
        flags = flag(missing, self.padded)
        return Cutouts(self.object_id, self.pixels, missing, flags, self.sed or None)
