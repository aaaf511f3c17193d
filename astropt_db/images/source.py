"""What every source of images gives: windows of fixed size in fixed band order.

Missing pixels are the padding outside an image, pixels that are not finite, and pixels that are
exactly 0: the co-addition writes 0 where nothing was observed (the pixels of a real cut-out with
RMS = 1e16 are its zeros, no more and no fewer), and a background-subtracted measurement is never
exactly 0. They are counted first and then filled with 0, the level of the subtracted sky: that is
what a mosaic itself holds there and what the Euclid models were trained on. A caller whose
tokens leave missing pixels out asks for ``fill=numpy.nan`` instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from astropt_db.errors import ConfigurationError

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

BANDS = ("VIS", "NIR_Y", "NIR_J", "NIR_H")
"""Order of the bands in every array of pixels."""
WINDOW = 224
"""Side of a window in pixels."""
PIXEL_ARCSEC = 0.1
"""Side of a pixel of a MER mosaic, which the encoders' images must have to 5 per cent."""
SCALE_TOLERANCE = 0.05


class CutoutFlag(IntFlag):
    """What is wrong with a window; the values are added up and may be stored."""

    PADDED = 1
    """The window reaches over the edge of its image in some band that exists."""
    MISSING_BAND = 2
    """Some band has no file, or no pixel in the window."""
    ALL_MISSING = 4
    """No band has any pixel: there is nothing to embed."""


@dataclass(frozen=True)
class Cutouts:
    """Windows around n sources.

    Attributes
    ----------
    object_id
        int64 ``(n,)``, in the order in which they were asked for.
    pixels
        float32 ``(n, bands, window, window)`` in the units of the files; rows go north.
    missing
        float32 ``(n, bands)``: the fraction of each window's pixels that is missing.
    flags
        uint8 ``(n,)``, sums of :class:`CutoutFlag`.
    sed
        Fluxes that came with the images, float64 ``(n,)`` by column name; ``None`` if none did.
    """

    object_id: Int64
    pixels: Float32
    missing: Float32
    flags: UInt8
    sed: dict[str, Float64] | None = None

    def __len__(self) -> int:
        return len(self.object_id)


class ImageSource(ABC):
    """Something that has images of sources: a tile, or a folder of cut-outs.

    Parameters
    ----------
    bands
        Bands to return, some of :data:`BANDS`, in the order wanted.
    fill
        Value of missing pixels: 0, or NaN.
    window
        Side of a window in pixels. A smaller one than 224 is the middle of the large one where
        the side is even, for an encoder that reads no more than that.

    Raises
    ------
    ConfigurationError
        If a band is unknown or named twice, or a window has no size.
    """

    def __init__(
        self, bands: Sequence[str] = BANDS, fill: float = 0.0, window: int = WINDOW
    ) -> None:
        if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(BANDS):
            raise ConfigurationError(
                f"bands are {', '.join(bands) or 'none'}; expected some of {', '.join(BANDS)}, "
                "each at most once."
            )
        self.bands = tuple(bands)
        if window < 1:
            raise ConfigurationError(f"a window is {window} pixels wide; expected at least 1.")
        self.fill = np.float32(fill)
        self.window = window

    @abstractmethod
    def cutouts(
        self, object_id: Int64, ra: Float64, dec: Float64, out: Float32 | None = None
    ) -> Cutouts:
        """Windows around sources, in the order given.

        A source of which there are no pixels is returned flagged, not refused.

        Parameters
        ----------
        object_id
            int64 ``(n,)``.
        ra, dec
            ICRS degrees, float64 ``(n,)``.
        out
            float32 ``(n, bands, window, window)`` to fill instead of new memory: pinned, or used
            before.

        Raises
        ------
        FileError
            If a file cannot be read, or is not the one that was registered.
        """

    def reading_order(self, object_id: Int64, ra: Float64, dec: Float64) -> Int64:
        """Permutation of the sources in which the files are read from front to back."""
        return np.arange(len(object_id), dtype=np.int64)

    def batches(
        self, object_id: Int64, ra: Float64, dec: Float64, size: int
    ) -> Iterator[tuple[Int64, Cutouts]]:
        """Yield all sources in reading order, ``size`` at a time, each file read once.

        A window of four bands takes 0.8 MB, which bounds the memory.

        Yields
        ------
        tuple
            Indices into ``object_id``, and the cut-outs of these sources.
        """
        order = self.reading_order(object_id, ra, dec)
        for first in range(0, len(order), size):
            index = order[first : first + size]
            yield index, self.cutouts(object_id[index], ra[index], dec[index])


def has_missing(pixels: Float32) -> Bool:
    """Whether any pixel of each image ``(k, height, width)`` is missing, bool ``(k,)``.

    Half the time of looking for which, and most windows have none.
    """
    flat = pixels.reshape(len(pixels), -1)
    return np.asarray((flat == 0.0).any(axis=1) | ~np.isfinite(flat).all(axis=1))


def new_pixels(n: int, bands: int, out: Float32 | None, window: int = WINDOW) -> Float32:
    """Memory for n windows: ``out`` if it fits, else new.

    Raises
    ------
    ValueError
        If ``out`` is of another shape or type.
    """
    shape = (n, bands, window, window)
    if out is None:
        return np.empty(shape, dtype=np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} {out.shape}; expected float32 {shape}")
    return out


def missing_pixels(pixels: Float32) -> Bool:
    """Whether each pixel is 0, infinite or NaN; same shape as ``pixels``."""
    # Without its sign bit, 0 is the smallest pattern and the non-finite ones are the largest: one
    # comparison finds both after a subtraction that wraps around.
    bits = pixels.view(np.uint32) << np.uint32(1)
    bits -= np.uint32(1)
    return np.asarray(bits >= np.uint32(0xFEFF_FFFF))


def flag(missing: Float32, padded: Bool) -> UInt8:
    """Flags of sources from missing fractions ``(n, bands)`` and padding ``(n, bands)``."""
    absent = missing >= 1.0
    flags = np.where(padded.any(axis=1), CutoutFlag.PADDED, 0)
    flags |= np.where(absent.any(axis=1), CutoutFlag.MISSING_BAND, 0)
    flags |= np.where(absent.all(axis=1), CutoutFlag.ALL_MISSING, 0)
    return flags.astype(np.uint8)
