"""A whole tile in the memory of a GPU, and windows gathered there.

Four bands of 19200 x 19200 take 5.9 GB. The functions work on the CPU too, where a tile of that
size has no place: use :class:`~astropt_db.images.tiles.TileSource` there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from astropt_db.errors import ConfigurationError, FileError
from astropt_db.images.source import Float32, Float64, UInt8, flag
from astropt_db.images.tiles import TileSource, read_image
from astropt_db.images.windows import origins, overlaps


@dataclass(frozen=True)
class DeviceCutouts:
    """Windows on a device.

    Attributes
    ----------
    pixels
        float32 ``(n, bands, window, window)`` on the tile's device, missing pixels filled.
    missing
        float32 ``(n, bands)``: the fraction of each window's pixels that is missing.
    flags
        uint8 ``(n,)``, sums of :class:`~astropt_db.images.source.CutoutFlag`.
    """

    pixels: Tensor
    missing: Float32
    flags: UInt8


class DeviceTile:
    """A tile's bands on a device.

    Parameters
    ----------
    source
        The tile. Its bands must lie on one pixel grid; its RMS maps are applied.
    device
        Where to load it.

    Attributes
    ----------
    pixels
        float32 ``(bands, height, width)``, NaN where a pixel is missing.

    Raises
    ------
    ConfigurationError
        If the tile has no mosaic in the bands asked for.
    FileError
        If a mosaic cannot be read, has changed, or lies on another grid than the others.
    """

    def __init__(self, source: TileSource, device: torch.device | str) -> None:
        if not source.images:
            raise ConfigurationError(f"no mosaic in {', '.join(source.bands)} to load.")
        self.mosaic = next(iter(source.images.values()))
        self.fill = float(source.fill)
        self.window = source.window
        self.present = np.array([band in source.images for band in source.bands])
        for other in source.images.values():
            grid = (other.width, other.height, other.wcs)
            if grid != (self.mosaic.width, self.mosaic.height, self.mosaic.wcs):
                raise FileError(other.uri, f"lies on another pixel grid than {self.mosaic.uri}.")
        shape = (len(source.bands), self.mosaic.height, self.mosaic.width)
        self.pixels = torch.empty(shape, dtype=torch.float32, device=device)
        for number, band in enumerate(source.bands):
            if band not in source.images:
                self.pixels[number].fill_(torch.nan)
                continue
            for low, rows in read_image(source.images[band], source.rms.get(band)):
                self.pixels[number, low : low + len(rows)].copy_(torch.from_numpy(rows))

    def cutouts(self, ra: Float64, dec: Float64) -> DeviceCutouts:
        """Windows around positions in degrees, float64 ``(n,)``; the same as ``TileSource``'s."""
        column, row = self.mosaic.wcs.to_pixel(ra, dec)
        x, y = origins(column, self.window), origins(row, self.window)
        _, inside = overlaps(x, y, self.mosaic.width, self.mosaic.height, self.window)
        windows = gather_windows(self.pixels, torch.from_numpy(x), torch.from_numpy(y), self.window)
        lost = torch.isnan(windows)
        missing = lost.float().mean(dim=(2, 3)).cpu().numpy()
        windows.masked_fill_(lost, self.fill)
        return DeviceCutouts(windows, missing, flag(missing, ~inside[:, None] & self.present))


def gather_windows(tile: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Gather windows of a tile on its device in one indexing operation.

    Parameters
    ----------
    tile
        ``(bands, height, width)``, floating point.
    x, y
        First column and row of each window, int64 ``(n,)``; any value, on any device.
    size
        Side of a window in pixels.

    Returns
    -------
    Tensor
        ``(n, bands, size, size)``, NaN outside of the tile.
    """
    bands, height, width = tile.shape
    step = torch.arange(size, device=tile.device)
    rows = y.to(tile.device)[:, None] + step
    columns = x.to(tile.device)[:, None] + step
    row, column = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    band = torch.arange(bands, device=tile.device)[None, :, None, None]
    windows = tile[band, row[:, None, :, None], column[:, None, None, :]]
    outside = (rows != row)[:, None, :, None] | (columns != column)[:, None, None, :]
    return windows.masked_fill_(outside, torch.nan)
