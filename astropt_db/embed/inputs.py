"""What an encoder takes in: windows and SEDs of a chunk's sources, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import torch
from numpy.typing import NDArray
from torch import Tensor

from astropt_db.astropt.encoder import Encoder
from astropt_db.astropt.pooling import Pooling
from astropt_db.astropt.sed import sed_from_columns
from astropt_db.database.resources import named_queries
from astropt_db.embed.link import Link
from astropt_db.embed.queue import Chunk
from astropt_db.encoders.seds import MEASURE, catalogue_seds, rows_in_order
from astropt_db.images.device import DeviceTile
from astropt_db.images.registered import open_cutouts_of, open_tile
from astropt_db.images.source import BANDS, Float32, Float64, ImageSource, Int64, UInt8
from astropt_db.images.tiles import TileSource
from astropt_db.q1.identity import decode, decodes_to_sky

_BATCH_BYTES = 96 << 20
_BATCHES_AHEAD = 2
_DEVICE_SHARE = 0.7
"""Of the free memory of a GPU that a tile may take."""
_Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Batch:
    """Some sources of a chunk, ready for the encoder.

    Attributes
    ----------
    index
        Their places in the chunk, int64 ``(n,)``.
    images
        float32 ``(n, bands, side, side)``, NaN where a pixel is missing; on the encoder's device,
        or an array.
    missing, flags
        As in :class:`~astropt_db.images.source.Cutouts`.
    sed
        float32 ``(n, 8, 2)``; ``None`` if the encoder takes none.
    """

    index: Int64
    images: Float32 | Tensor
    missing: Float32
    flags: UInt8
    sed: Float32 | None

    @property
    def no_sed(self) -> NDArray[np.bool_] | None:
        """Sources without any flux; ``None`` if the encoder takes no SED."""
        if self.sed is None:
            return None
        return np.asarray(np.isnan(self.sed[..., 0]).all(axis=1))


class Inputs:
    """Reads the pixels and fluxes that an encoder needs.

    Parameters
    ----------
    encoder, pooling
        They decide bands, side of the windows, and whether SEDs are read.
    batch_bytes
        Memory of the images of a batch; up to three are in memory.
    whole_tiles
        Whether a tile is loaded whole into the encoder's device and cut there; by default on a
        GPU that has room for it.
    """

    def __init__(
        self,
        encoder: Encoder,
        pooling: Pooling,
        batch_bytes: int = _BATCH_BYTES,
        whole_tiles: bool | None = None,
    ) -> None:
        self._device = encoder.device
        self._takes_sed = encoder.takes_sed
        self.bands = BANDS[: len(encoder.bands)]
        self.window = encoder.window(pooling, self._takes_sed)
        self._source_bytes = len(self.bands) * self.window**2 * 4
        self.batch_size = min(max(batch_bytes // self._source_bytes, 16), 1024)
        self._whole_tiles = whole_tiles
        self.tile: int | None = None
        self._tile_source: TileSource | None = None
        self._on_device: DeviceTile | None = None
        self._pinned: list[Float32] = []

    @property
    def holds_tiles(self) -> bool:
        """Whether whole tiles are held, so that workers should take different ones."""
        wanted = self._whole_tiles
        return self._device.type == "cuda" if wanted is None else wanted

    def batches(self, link: Link, chunk: Chunk, object_id: Int64) -> Iterator[Batch]:
        """Yield the inputs of some of a chunk's sources, each file read once from front to back.

        Batches may share memory with the last but two.

        Raises
        ------
        FileError
            If a file is gone, cannot be read, or is not the one that was registered.
        ConfigurationError
            If the tile is no longer registered.
        """
        ra, dec = link.run(lambda connection: positions(connection, object_id))
        sed = None
        if self._takes_sed:
            sed = link.run(lambda connection: catalogue_seds(connection, object_id))
        if chunk.tile is None:
            source: ImageSource = link.run(
                lambda connection: open_cutouts_of(
                    connection, object_id, self.bands, np.nan, self.window
                )
            )
        else:
            source = self._open(link, chunk.tile)
            if self._on_device is not None:
                yield from self._from_device(self._on_device, object_id, ra, dec, sed)
                return
        order = source.reading_order(object_id, ra, dec)
        for number, first in enumerate(range(0, len(order), self.batch_size)):
            index = order[first : first + self.batch_size]
            out = self._memory(number, len(index))
            cutouts = source.cutouts(object_id[index], ra[index], dec[index], out)
            fluxes = _fill_seds(sed, index, cutouts.sed)
            images: Float32 | Tensor = cutouts.pixels
            if out is not None:
                images = torch.from_numpy(out).to(self._device, non_blocking=True)
            yield Batch(index, images, cutouts.missing, cutouts.flags, fluxes)

    def close(self) -> None:
        """Forget the open tile: its registration may have changed."""
        self.tile = self._tile_source = self._on_device = None

    def _open(self, link: Link, tile: int) -> TileSource:
        """The tile's mosaics; they stay open until another tile is asked for."""
        if self._tile_source is None or self.tile != tile:
            self.close()
            self._tile_source = link.run(
                lambda connection: open_tile(
                    connection, tile, self.bands, np.nan, window=self.window
                )
            )
            if self._fits_device(self._tile_source):
                with suppress(torch.OutOfMemoryError):
                    self._on_device = DeviceTile(self._tile_source, self._device)
            self.tile = tile
        return self._tile_source

    def _fits_device(self, source: TileSource) -> bool:
        grids = {(one.width, one.height, one.wcs) for one in source.images.values()}
        if self._whole_tiles is not None or self._device.type != "cuda":
            return bool(self._whole_tiles) and len(grids) == 1
        free, _ = torch.cuda.mem_get_info(self._device)
        width, height, _ = next(iter(grids))
        needed = len(self.bands) * width * height * 4
        return len(grids) == 1 and needed < _DEVICE_SHARE * free

    def _from_device(
        self, tile: DeviceTile, object_id: Int64, ra: Float64, dec: Float64, sed: Float32 | None
    ) -> Iterator[Batch]:
        for first in range(0, len(object_id), self.batch_size):
            index = np.arange(first, min(first + self.batch_size, len(object_id)))
            cutouts = tile.cutouts(ra[index], dec[index])
            fluxes = None if sed is None else sed[index]
            yield Batch(index, cutouts.pixels, cutouts.missing, cutouts.flags, fluxes)

    def _memory(self, number: int, n: int) -> Float32 | None:
        """Pinned memory for a batch that goes to a GPU, used in turn; ``None`` for a CPU."""
        if self._device.type != "cuda":
            return None
        if not self._pinned:
            shape = (self.batch_size, len(self.bands), self.window, self.window)
            self._pinned = [
                torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy()
                for _ in range(_BATCHES_AHEAD + 2)
            ]
        return self._pinned[number % len(self._pinned)][:n]


def positions(connection: _Connection, object_id: Int64) -> tuple[Float64, Float64]:
    """RA and Dec in degrees: the catalogue's, else those that the ids spell; else NaN."""
    decoded = decode(object_id)
    known = decodes_to_sky(object_id)
    ra, dec = (np.where(known, values, np.nan) for values in decoded)
    query, values = named_queries()["embed_positions"], {"ids": object_id.tolist()}
    rows = connection.execute(query, values, binary=True).fetchall()
    if rows:
        place = rows_in_order(rows, object_id)
        table = np.array([row[1:] for row in rows], np.float64)
        ra[place], dec[place] = table[:, 0], table[:, 1]
    return ra, dec


def _fill_seds(
    sed: Float32 | None, index: Int64, brought: dict[str, Float64] | None
) -> Float32 | None:
    """SEDs of a batch; those that came with its images where the database has none."""
    if sed is None:
        return None
    fluxes = sed[index]
    lacking = np.isnan(fluxes[..., 0]).all(axis=1)
    if not lacking.any() or not brought:
        return fluxes
    for measure in (MEASURE, "1fwhm_aper"):
        try:
            fluxes[lacking] = sed_from_columns(brought, measure)[lacking]
            break
        except ValueError:
            continue
    return fluxes
