"""Images to tokens: patches, joint standardisation, spiral order, missing pixels.

The rules are those of AstroPT v1 (Smith et al. 2024, arXiv:2405.14930) as the Euclid models were
trained with (arXiv:2503.15312):

1. a window is cut into square patches; inside a patch rows come first, then columns, then bands
   (band fastest);
2. each patch is standardised over all its pixels and bands jointly, with the unbiased standard
   deviation: brightness goes, the contrast between bands stays;
3. patches are ordered in a spiral from the centre outwards (El-Nouby et al. 2024,
   arXiv:2401.08541, fig. 8), so that a causal model sees the galaxy first.

Pixels that are not finite are missing: they do not enter the mean and deviation of their patch
and become 0, the patch's mean. A patch without any becomes all zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from astropt_db.astropt.sed import SOFTENING_UJY

EPSILON = 1e-8


def spiral_rank(n: int) -> npt.NDArray[np.int64]:
    """Return the (n, n) table of each patch's rank in the spiral from the centre outwards.

    For even n rank 0 is at row n/2, column n/2 - 1; the last rank is at (0, 0).
    """
    row, column = np.indices((n, n))
    ring = np.minimum(np.minimum(row, column), np.minimum(n - 1 - row, n - 1 - column))
    side = n - 1 - 2 * ring
    r, c = row - ring, column - ring
    # Steps along the clockwise walk inwards from (0, 0): along the top, right, bottom and left.
    along = np.select([r == 0, c == side, r == side], [c, side + r, 3 * side - c], 4 * side - r)
    return np.asarray(n * n - 1 - (4 * ring * (n - ring) + along), dtype=np.int64)


@lru_cache(maxsize=64)
def spiral_order(n: int, device: torch.device | None = None) -> Tensor:
    """Return the raster index of the patch at each rank, int64 (n * n,), on `device`.

    Cached: do not write into it.
    """
    order = torch.from_numpy(np.argsort(spiral_rank(n), axis=None))
    return order if device is None else order.to(device)


def standardise(patches: Tensor) -> Tensor:
    """Standardise (..., P) over the last axis: (x - mean) / (std + 1e-8), std with ddof 1.

    The arithmetic is done in the dtype of `patches`. Missing (non-finite) values become 0.
    """
    std, mean = torch.std_mean(patches, dim=-1, keepdim=True)
    result = (patches - mean).div_(std + EPSILON)
    # One missing pixel makes its patch's deviation NaN, so the small array tells of all of them.
    spoilt = ~torch.isfinite(std[..., 0])
    if spoilt.any():
        result[spoilt] = _standardise_present(patches[spoilt].float()).to(result.dtype)
    return result


def _standardise_present(patches: Tensor) -> Tensor:
    present = torch.isfinite(patches)
    count = present.sum(dim=-1, keepdim=True)
    known = torch.where(present, patches, 0.0)
    mean = known.sum(dim=-1, keepdim=True) / count.clamp_min(1)
    offset = torch.where(present, patches - mean, 0.0)
    variance = offset.square().sum(dim=-1, keepdim=True) / (count - 1).clamp_min(1)
    return offset / (variance.sqrt() + EPSILON)


def patchify(images: Tensor, patch: int, tokens: int | None = None, spiral: bool = True) -> Tensor:
    """Cut images into patches.

    Parameters
    ----------
    images
        (n, bands, side, side); `side` a multiple of `patch`.
    patch
        Side of a patch in pixels.
    tokens
        How many patches to return, from the first on; None for all. Pixels outside the
        rectangle that holds them are not read.
    spiral
        Spiral order from the centre, or raster order.

    Returns
    -------
    Tensor
        (n, tokens, patch * patch * bands), band fastest, dtype and device of `images`.
    """
    n, bands, side, _ = images.shape
    grid = side // patch
    count = grid * grid if tokens is None else min(tokens, grid * grid)
    order = spiral_order(grid) if spiral else torch.arange(grid * grid)
    row, column = order[:count] // grid, order[:count] % grid
    top, left = int(row.min()), int(column.min())
    height, width = int(row.max()) + 1 - top, int(column.max()) + 1 - left
    window = images[
        :,
        :,
        top * patch : (top + height) * patch,
        left * patch : (left + width) * patch,
    ]
    pixels = window.view(n, bands, height, patch, width, patch).permute(0, 2, 4, 3, 5, 1)
    raster = pixels.reshape(n, height * width, patch * patch * bands)
    index = ((row - top) * width + column - left).to(images.device)
    return torch.index_select(raster, 1, index)


def unpatchify(tokens: Tensor, patch: int, spiral: bool = True) -> Tensor:
    """Put all patches back in place: (n, grid * grid, P) to (n, bands, side, side)."""
    n, count, size = tokens.shape
    grid, bands = round(count**0.5), size // (patch * patch)
    if grid * grid != count:
        raise ValueError(f"{count} patches do not fill a square")
    raster = tokens
    if spiral:
        raster = torch.empty_like(tokens)
        raster[:, spiral_order(grid, tokens.device)] = tokens
    pixels = raster.reshape(n, grid, grid, patch, patch, bands).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(n, bands, grid * patch, grid * patch)


def image_tokens(
    images: Tensor,
    patch: int,
    tokens: int | None = None,
    spiral: bool = True,
    bfloat16: bool = False,
    scale: Sequence[float] = (),
) -> Tensor:
    """Turn images into standardised tokens, on the device of `images`.

    Parameters
    ----------
    images, patch, tokens, spiral
        As in :func:`patchify`; floating point, NaN or infinite where a pixel is missing.
    bfloat16
        Round the pixels to bfloat16 and standardise in bfloat16, as the official Euclid loader
        and sampler do. The rounding is about 0.4 % of a pixel's value.
    scale
        Factor of each band; empty for none.

    Returns
    -------
    Tensor
        float32 (n, tokens, patch * patch * bands), 0 where a pixel is missing.
    """
    patches = patchify(images, patch, tokens, spiral)
    if scale:
        # Bands are fastest, so the factors repeat along a patch.
        factors = torch.tensor(scale, dtype=torch.float32, device=images.device)
        patches = patches * factors.repeat(patch * patch)
    return standardise(patches.to(torch.bfloat16) if bfloat16 else patches.float()).float()


def pixel_weights(
    images: Tensor, patch: int, spiral: bool = True, tokens: int | None = None
) -> Tensor | None:
    """Return loss weights in the layout of :func:`image_tokens`: 1, or 0 for a missing pixel.

    None when no pixel is missing.
    """
    present = torch.isfinite(images)
    return None if bool(present.all()) else patchify(present.float(), patch, tokens, spiral)


def missing_fraction(images: npt.NDArray[np.floating] | Tensor) -> npt.NDArray[np.float32]:
    """Return the fraction of each image's pixels that are not finite, over all bands, (n,)."""
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(images)
    finite = torch.isfinite(pixels).flatten(1).float().mean(dim=1)
    return np.asarray((1.0 - finite).cpu().numpy(), dtype=np.float32)


def sed_tokens(sed: Tensor) -> tuple[Tensor, Tensor]:
    """Turn SEDs into tokens.

    Parameters
    ----------
    sed
        float32 (n, 8, 2), flux and error in microjansky in the order of
        :data:`~astropt_db.astropt.sed.SED_SLOTS`. A band is absent where its flux is not finite.
        An error that is not finite or not positive is unknown; the band then counts as well
        measured.

    Returns
    -------
    tokens
        float32 (n, 8, 3): scaled flux, reliability, presence.
    weights
        float32 (n, 8, 3) for :meth:`~astropt_db.astropt.model.AstroPT.losses`: 1 for the flux of
        a present band, 0 for all else.
    """
    flux, error = sed[..., 0].float(), sed[..., 1].float()
    present = torch.isfinite(flux)
    scaled = (torch.asinh(flux / SOFTENING_UJY) - 4.0) / 2.0
    known = torch.isfinite(error) & (error > 0)
    reliability = torch.where(known, torch.tanh(flux / (5.0 * error)), 1.0)
    values = torch.stack([scaled, reliability, torch.ones_like(flux)], dim=-1)
    tokens = torch.where(present[..., None], values, 0.0)
    weights = torch.zeros_like(tokens)
    weights[..., 0] = present
    return tokens, weights
