"""Windows from the mosaics of one tile.

Sources are sorted by row; each band is read once from top to bottom in bands of rows that cover
the next group of sources, and the group's windows are gathered from memory in bulk. A real tile
of 5.9 GB is never loaded: the rows in memory take 64 MB, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from astropt_db.errors import FileError
from astropt_db.images.mosaic import Mosaic
from astropt_db.images.source import (
    BANDS,
    WINDOW,
    Bool,
    Cutouts,
    Float32,
    Float64,
    ImageSource,
    Int64,
    UInt8,
    flag,
    has_missing,
    missing_pixels,
    new_pixels,
)
from astropt_db.images.storage import RangedFile, open_ranged
from astropt_db.images.windows import gather, origins, overlaps

Raw = NDArray[np.float32]
"""Pixels in the byte order of the file."""

_ROWS_BYTES = 64 << 20
_TOGETHER = 8
"""Windows handled at once, so that they stay in the cache (1,000 at once: 3 x as slow)."""
_NO_COVERAGE = 1e15
"""An RMS above this means that the pixel was never observed; MER writes 1e16."""
_BIG_ENDIAN = np.dtype(">f4")


class TileSource(ImageSource):
    """The mosaics of one tile.

    Parameters
    ----------
    mosaics
        Images of the tile, at most one per band; RMS maps among them mark pixels that were never
        observed. A band without an image is missing.
    bands, fill, window
        As in :class:`~astropt_db.images.source.ImageSource`.

    Raises
    ------
    FileError
        If two mosaics are of one band and kind, of several tiles, or differ in pixel size.
    """

    def __init__(
        self,
        mosaics: Iterable[Mosaic],
        bands: Sequence[str] = BANDS,
        fill: float = 0.0,
        window: int = WINDOW,
    ) -> None:
        super().__init__(bands, fill, window)
        self.images: dict[str, Mosaic] = {}
        self.rms: dict[str, Mosaic] = {}
        for mosaic in mosaics:
            if mosaic.band not in self.bands:
                continue
            of_kind = self.rms if mosaic.kind == "RMS" else self.images
            _refuse_odd(mosaic, of_kind.get(mosaic.band), next(iter(self.images.values()), mosaic))
            of_kind[mosaic.band] = mosaic

    def reading_order(self, object_id: Int64, ra: Float64, dec: Float64) -> Int64:
        """Sources from the lowest row of the tile to the highest."""
        if not self.images:
            return super().reading_order(object_id, ra, dec)
        _, y = next(iter(self.images.values())).wcs.to_pixel(ra, dec)
        return np.argsort(y, kind="stable").astype(np.int64)

    def cutouts(
        self, object_id: Int64, ra: Float64, dec: Float64, out: Float32 | None = None
    ) -> Cutouts:
        """Windows around sources; see :meth:`ImageSource.cutouts`."""
        shape = (len(object_id), len(self.bands))
        pixels = new_pixels(*shape, out, self.window)
        missing = np.ones(shape, dtype=np.float32)
        padded = np.zeros(shape, dtype=np.bool_)
        for band, name in enumerate(self.bands):
            mosaic = self.images.get(name)
            if mosaic is None:
                pixels[:, band] = self.fill
                continue
            x, y = _origins(mosaic, ra, dec, self.window)
            _, inside = overlaps(x, y, mosaic.width, mosaic.height, self.window)
            padded[:, band] = ~inside
            self._read_band(mosaic, x, y, pixels[:, band], missing[:, band])
            if name in self.rms:
                self._read_rms(self.rms[name], ra, dec, pixels[:, band], missing[:, band])
        return Cutouts(object_id, pixels, missing, flag(missing, padded))

    def _read_band(
        self, mosaic: Mosaic, x: Int64, y: Int64, pixels: Float32, missing: Float32
    ) -> None:
        touches, _ = overlaps(x, y, mosaic.width, mosaic.height, self.window)
        pixels[~touches] = self.fill
        for index, raw in read_windows(mosaic, x, y, self.window):
            # Five times as fast as astype, which converts one value at a time.
            windows = raw.byteswap(inplace=True).view(raw.dtype.newbyteorder())
            pixels[index], missing[index] = windows, 0.0
            holed = has_missing(windows)
            if holed.any():
                self._blank(index[holed], missing_pixels(windows[holed]), pixels, missing)

    def _read_rms(
        self, mosaic: Mosaic, ra: Float64, dec: Float64, pixels: Float32, missing: Float32
    ) -> None:
        """Blank the pixels that the map calls unobserved, beside those already missing."""
        x, y = _origins(mosaic, ra, dec, self.window)
        for index, raw in read_windows(mosaic, x, y, self.window):
            unobserved = raw > _NO_COVERAGE
            holed = unobserved.any(axis=(1, 2))
            if holed.any():
                some = index[holed]
                lost = missing_pixels(pixels[some]) | unobserved[holed]
                self._blank(some, lost, pixels, missing)

    def _blank(self, index: Int64, lost: Bool, pixels: Float32, missing: Float32) -> None:
        """Count and fill the lost pixels ``(k, window, window)`` of the windows ``index``."""
        windows = pixels[index]
        windows[lost] = self.fill
        pixels[index] = windows
        missing[index] = lost.mean(axis=(1, 2))


def read_windows(
    mosaic: Mosaic, x: Int64, y: Int64, window: int = WINDOW
) -> Iterator[tuple[Int64, Raw]]:
    """Read the windows that touch a mosaic, a few at a time, from its lowest row to its highest.

    Parameters
    ----------
    x, y
        First column and row of each window, int64 ``(n,)``.
    window
        Side of a window in pixels.

    Yields
    ------
    tuple
        Indices of k windows, and their pixels ``(k, window, window)``, big-endian, NaN outside.

    Raises
    ------
    FileError
        If the file is not the one that was registered, or changes while it is read.
    """
    touches, inside = overlaps(x, y, mosaic.width, mosaic.height, window)
    index = np.flatnonzero(touches)
    index = index[np.argsort(y[index], kind="stable")]
    if not len(index):
        return
    with open_ranged(mosaic.uri) as file:
        mosaic.verify(file)
        rows = _Rows(mosaic, file, window)
        for first, last in _groups(y[index], rows.capacity, window):
            low = max(int(y[index[first]]), 0)
            image = rows.read(low, min(int(y[index[last - 1]]) + window, mosaic.height))
            group = index[first:last]
            # Windows over the edge are gathered pixel by pixel, five times as slowly: apart.
            for part in (group[inside[group]], group[~inside[group]]):
                for start in range(0, len(part), _TOGETHER):
                    some = part[start : start + _TOGETHER]
                    # The group's rows are all the rows that its windows have in the mosaic, so
                    # what lies outside of them lies outside of the mosaic.
                    yield some, gather(image, x[some], y[some] - low, window)
        mosaic.verify(file)


def read_image(mosaic: Mosaic, rms: Mosaic | None = None) -> Iterator[tuple[int, Float32]]:
    """Read a whole mosaic by bands of rows.

    Yields
    ------
    tuple
        Number of the first row, and float32 rows ``(k, width)``, NaN where a pixel is missing.

    Raises
    ------
    FileError
        If a file is not the one that was registered, or changes while it is read, or if the RMS
        map is of another size.
    """
    if rms is not None and (rms.width, rms.height) != (mosaic.width, mosaic.height):
        raise FileError(rms.uri, f"has another size than {mosaic.uri}.")
    with ExitStack() as stack:
        readers = []
        for one in (mosaic, rms) if rms is not None else (mosaic,):
            file = stack.enter_context(open_ranged(one.uri))
            one.verify(file)
            readers.append(_Rows(one, file))
        step = readers[0].capacity
        for low in range(0, mosaic.height, step):
            high = min(low + step, mosaic.height)
            image = readers[0].read(low, high).astype(np.float32)
            lost = missing_pixels(image)
            for reader in readers[1:]:
                lost |= reader.read(low, high) > _NO_COVERAGE
            image[lost] = np.nan
            yield low, image
        for reader in readers:
            reader.mosaic.verify(reader.file)


class _Rows:
    """Consecutive rows of a mosaic in memory, moved down the file without reading a row twice."""

    def __init__(self, mosaic: Mosaic, file: RangedFile, window: int = WINDOW) -> None:
        self.mosaic = mosaic
        self.file = file
        fitting = _ROWS_BYTES // (mosaic.width * _BIG_ENDIAN.itemsize)
        self.capacity = min(max(fitting, 2 * window), mosaic.height + 2 * window)
        self._bytes: UInt8 = np.empty(
            (min(self.capacity, mosaic.height), mosaic.width * _BIG_ENDIAN.itemsize), dtype=np.uint8
        )
        self._low = self._high = 0

    def read(self, low: int, high: int) -> Raw:
        """Rows ``low`` to ``high`` (exclusive), ``(high - low, width)``; valid until the next."""
        kept = max(self._high - low, 0)
        self._bytes[:kept] = self._bytes[low - self._low : low - self._low + kept]
        first, width = low + kept, self._bytes.shape[1]
        if first < high:
            target = self._bytes[kept : high - low].reshape(-1)
            self.file.read_into(self.mosaic.data_offset + first * width, target)
        self._low, self._high = low, high
        return self._bytes[: high - low].view(_BIG_ENDIAN)


def _groups(y: Int64, rows: int, window: int) -> Iterator[tuple[int, int]]:
    """Split sorted windows into runs that touch each other and span at most ``rows`` rows."""
    gaps = np.append(np.flatnonzero(np.diff(y) > window) + 1, len(y))
    first = 0
    while first < len(y):
        fitting = int(np.searchsorted(y, y[first] + rows - window, side="right"))
        last = min(fitting, int(gaps[np.searchsorted(gaps, first, side="right")]))
        yield first, last
        first = last


def _origins(mosaic: Mosaic, ra: Float64, dec: Float64, window: int) -> tuple[Int64, Int64]:
    x, y = mosaic.wcs.to_pixel(ra, dec)
    return origins(x, window), origins(y, window)


def _refuse_odd(mosaic: Mosaic, same: Mosaic | None, first: Mosaic) -> None:
    if same is not None:
        raise FileError(
            mosaic.uri,
            f"is a second {mosaic.kind} mosaic of tile {mosaic.tile} in {mosaic.band}, beside "
            f"{same.uri}.",
            "Keep one of them registered.",
        )
    if mosaic.tile != first.tile:
        raise FileError(
            mosaic.uri, f"is of tile {mosaic.tile}; the others are of tile {first.tile}."
        )
    if not np.allclose(mosaic.wcs.matrix, first.wcs.matrix, rtol=0.0, atol=1e-9):
        raise FileError(
            mosaic.uri,
            f"has pixels of {mosaic.wcs.pixel_scale:.4f} arcsec or another orientation than "
            f"{first.uri} with {first.wcs.pixel_scale:.4f}.",
        )
