"""The Python door: images in, vectors out.

>>> from astropt_db.astropt import load_encoder
>>> encoder = load_encoder("mini-vis_nisp")           # doctest: +SKIP
>>> vectors = encoder.embed(images)                   # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from astropt_db.astropt import hub
from astropt_db.astropt.checkpoint import Checkpoint, read_checkpoint
from astropt_db.astropt.packing import pack_bfloat16, pack_linears
from astropt_db.astropt.pooling import POOLINGS, Pooling, resolve
from astropt_db.astropt.sed import SED_SLOTS, SED_TOKEN_SIZE
from astropt_db.astropt.tokens import image_tokens, sed_tokens
from astropt_db.errors import AstroptDbError, ConfigurationError

Mode = Literal["fast", "reference"]
BANDS = {1: ("VIS",), 4: ("VIS", "Y", "J", "H")}


class InputError(AstroptDbError):
    """Images or SEDs are not of the shape or type that the encoder takes."""


class Encoder:
    """A trained model with its preprocessing.

    Parameters
    ----------
    checkpoint
        Weights and configuration.
    device
        ``cpu``, ``cuda``, ``cuda:1``, ...; None takes a GPU if there is one.
    mode
        ``fast``: many sources together, weights packed on a CPU, bfloat16 where it pays.
        ``reference``: float32, the plain attention formula, deterministic kernels, one thread and
        one source at a time, so that a vector depends on nothing but its own pixels and repeats
        bit for bit on one machine.
    batch_size
        Sources computed together in fast mode; None chooses by device.
    dtype
        Of the matrix products in fast mode, float32 or bfloat16; None chooses bfloat16 where the
        processor multiplies it in hardware.

    Attributes
    ----------
    dim
        Length of a vector.
    modalities
        ``vis``, ``vis_nisp``, ``vis_nisp_sed``, or the modalities' names joined by ``_``.
    sha256
        Of the weights' file.
    dtype
        Of the matrix products.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str | torch.device | None = None,
        mode: Mode = "fast",
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if mode not in ("fast", "reference"):
            raise ConfigurationError(f"no mode {mode!r}; there are fast and reference")
        if batch_size is not None and batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; it must be at least 1")
        if dtype not in (None, torch.float32, torch.bfloat16):
            raise ConfigurationError(f"dtype is {dtype}; it must be float32 or bfloat16")
        self.device = _device(device)
        if mode == "reference" and self.device.type == "cuda":
            # cuBLAS reads it when it starts, and torch refuses deterministic mode without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.mode = mode
        self.dtype = torch.float32
        if mode == "fast" and (dtype or multiplies_bfloat16(self.device)):
            self.dtype = dtype or torch.bfloat16
        self.batch_size = batch_size or self._usual_batch()
        self.checkpoint = checkpoint
        self.preprocessing = checkpoint.preprocessing
        self.model = checkpoint.build().to(self.device)
        self._autocast = self.dtype == torch.bfloat16
        if mode == "fast" and self.device.type == "cpu":
            self._pack(self.batch_size * self._paper_tokens())
        self.sha256 = checkpoint.sha256
        self.dim = checkpoint.model.n_embd
        self.modalities = _label(checkpoint)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that :meth:`embed` takes, in order."""
        count = self.preprocessing.bands
        return BANDS.get(count, tuple(f"band {i + 1}" for i in range(count)))

    def window(self, pooling: str | Pooling = "paper", with_sed: bool = False) -> int:
        """Side in pixels of the middle of an image that decides its vector.

        The paper's pooling sees 64 of 196 patches, a square of 128 pixels in the middle; what
        lies outside need not be read.

        Parameters
        ----------
        pooling
            As for :meth:`embed`.
        with_sed
            Whether there are SEDs. Where those follow all image tokens, all pixels count.
        """
        how, size = self.preprocessing, self.preprocessing.image_size
        grid, count = size // how.patch_size, self._image_count(with_sed, resolve(pooling))
        if not how.spiral:
            return size
        # Squares about the middle hold the first tokens of the spiral; their sides are even in an
        # even grid, odd in an odd one.
        side = next(k for k in range(grid % 2 or 2, grid + 1, 2) if k * k >= count or k == grid)
        return side * how.patch_size

    @property
    def takes_sed(self) -> bool:
        """Whether the model has SED tokens of our design (see :mod:`.sed`)."""
        return any(
            m.name == "sed" and m.input_size == SED_TOKEN_SIZE
            for m in self.checkpoint.model.modalities
        )

    def embed(
        self,
        images: npt.NDArray[np.float32],
        sed: npt.NDArray[np.float32] | None = None,
        pooling: str | Pooling = "paper",
    ) -> npt.NDArray[np.float32]:
        """Embed a batch of sources.

        Parameters
        ----------
        images
            float32 (n, bands, 224, 224) in the order VIS, Y, J, H, in any linear flux unit, NaN
            where a pixel is missing; or the middle of them, as large as :meth:`window` says.
        sed
            float32 (n, 8, 2), flux and error in microjansky by slot
            (:func:`~astropt_db.astropt.sed.sed_from_columns` makes it), NaN where absent. Only
            for models with SED tokens; None embeds the images alone.
        pooling
            ``paper``, ``middle``, ``mean``, ``last`` or a :class:`~.pooling.Pooling`.

        Returns
        -------
        ndarray
            float32 (n, dim). The row of a source without one finite pixel is NaN.

        Raises
        ------
        InputError
            If shapes, types or bands are not the ones above.
        ConfigurationError
            If the pooling does not exist.
        """
        how = resolve(pooling)
        self._check(images, sed, how)
        vectors = np.empty((len(images), self.dim), dtype=np.float32)
        # One session for all batches: where autocast casts weights, it then does so once.
        with self._session():
            for part, pixels, bands in self._batches(images, sed):
                vectors[part] = self._encode(pixels, bands, how).cpu().numpy()
        return vectors

    def encode(
        self, images: Tensor, sed: Tensor | None = None, pooling: str | Pooling = "paper"
    ) -> Tensor:
        """Embed images that are already on the device, in one batch: :meth:`embed` for tensors."""
        how = resolve(pooling)
        self._check(images, sed, how)
        with self._session():
            return self._encode(images, sed, how)

    def _batches(
        self, images: npt.NDArray[np.float32], sed: npt.NDArray[np.float32] | None
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        size = 1 if self.mode == "reference" else self.batch_size

        def load(array: npt.NDArray[np.float32]) -> Tensor:
            # FITS arrays are big-endian, memory maps read-only: torch wants its own copy.
            return torch.tensor(np.asarray(array, dtype=np.float32), device=self.device)

        for start in range(0, len(images), size):
            part = slice(start, start + size)
            yield part, load(images[part]), None if sed is None else load(sed[part])

    def _encode(self, images: Tensor, sed: Tensor | None, pooling: Pooling) -> Tensor:
        tokens = {"images": self._image_tokens(images, sed, pooling)}
        present = None
        if sed is not None:
            tokens["sed"], weights = sed_tokens(sed)
            present = weights[..., 0]
        block = pooling.block_of(self.checkpoint.model.n_layer)

        def pool(states: Tensor) -> Tensor:
            return self._pool(states, tokens, present, pooling)

        vectors = self.model.hidden(tokens, block=block, average=pool).float()
        # A patch without data is all zeros, so only images that start so need a closer look.
        blank = (tokens["images"][..., 0] == 0).all(dim=1)
        if blank.any():
            empty = ~torch.isfinite(images[blank]).flatten(1).any(dim=1)
            vectors[blank] = torch.where(empty[:, None], torch.nan, vectors[blank])
        return vectors

    def _image_tokens(self, images: Tensor, sed: Tensor | None, pooling: Pooling) -> Tensor:
        how, count = self.preprocessing, self._image_count(sed is not None, pooling)
        return image_tokens(images, how.patch_size, count, how.spiral, how.bfloat16, how.scale)

    def _image_count(self, with_sed: bool, pooling: Pooling) -> int:
        """Image tokens that decide the vector."""
        model, how = self.checkpoint.model, self.preprocessing
        # In training the last token of a chain is only predicted, never read.
        sees_all = with_sed and not model.lead
        count = how.n_patches if sees_all else how.n_patches - 1
        # The official sampler hands over the first 64 tokens only; under causal attention those
        # states do not depend on the rest. An SED needs all image tokens that precede it.
        if pooling.tokens and pooling.reduce == "mean":
            needed = pooling.tokens if not with_sed else max(pooling.tokens, model.lead or count)
            count = min(count, needed)
        return count

    def _paper_tokens(self) -> int:
        tokens = min(POOLINGS["paper"].tokens or 0, self.preprocessing.n_patches - 1)
        return tokens + (len(SED_SLOTS) if self.takes_sed else 0)

    def _pool(
        self, states: Tensor, tokens: dict[str, Tensor], present: Tensor | None, pooling: Pooling
    ) -> Tensor:
        if pooling.reduce == "last":
            return states[:, -1].float()
        parts: dict[str, list[Tensor]] = {}
        for s in self.model.segments(tokens):
            parts.setdefault(s.name, []).append(states[:, s.offset : s.offset + s.length])
        chosen = torch.cat(parts["images"], dim=1)[:, : pooling.tokens]
        image = chosen.mean(dim=1, dtype=torch.float32)
        if present is None:
            return image
        weight = present[..., None]
        number = weight.sum(dim=1)
        bands = (torch.cat(parts["sed"], dim=1) * weight).sum(dim=1) / number.clamp_min(1)
        return torch.where(number > 0, (image + bands) / 2, image)

    def _usual_batch(self) -> int:
        if self.device.type == "cuda":
            return 256
        return 32 if self.dtype == torch.bfloat16 else 16

    def _pack(self, rows: int) -> None:
        if self.dtype == torch.bfloat16:
            self._autocast = not pack_bfloat16(self.model, rows)
        else:
            pack_linears(self.model, rows)

    @contextmanager
    def _session(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.mode == "reference":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(_deterministic())
            elif self._autocast:
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            yield

    def _check(self, images: object, sed: object, pooling: Pooling) -> None:
        size, bands = self.preprocessing.image_size, len(self.bands)
        wanted = f"float32 (n, {bands}, {size}, {size}), bands {', '.join(self.bands)}"
        if not isinstance(images, (np.ndarray, Tensor)):
            raise InputError(f"images must be an array {wanted}, not {type(images).__name__}")
        middle = self.window(pooling, sed is not None)
        fitting = [(bands, side, side) for side in (size, middle)]
        if images.ndim != 4 or tuple(images.shape[1:]) not in fitting:
            raise InputError(f"images have shape {tuple(images.shape)}; expected {wanted}")
        if not _is_float32(images):
            raise InputError(f"images are {images.dtype}; expected {wanted}")
        if sed is None:
            return
        if not self.takes_sed:
            raise InputError(
                f"the encoder ({self.modalities}) has no SED tokens of ours; embed without sed. "
                "How the official SED model makes its tokens is not public."
            )
        shape = (len(images), len(SED_SLOTS), 2)
        if not isinstance(sed, (np.ndarray, Tensor)) or tuple(sed.shape) != shape:
            found = (
                tuple(sed.shape) if isinstance(sed, (np.ndarray, Tensor)) else type(sed).__name__
            )
            raise InputError(f"sed is {found}; expected float32 {shape}: {', '.join(SED_SLOTS)}")
        if not _is_float32(sed):
            raise InputError(f"sed is {sed.dtype}; expected float32")


def load_encoder(
    name: str | Path,
    device: str | torch.device | None = None,
    mode: Mode = "fast",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        A bundled encoder's name, a path to a checkpoint (ours or an official one), or
        ``hf://owner/repo@revision/path/to/file``.
    device, mode, batch_size, dtype
        As for :class:`Encoder`.

    Raises
    ------
    ConfigurationError
        If it is neither a bundled name nor a file, or an option does not exist.
    FileError
        If the checkpoint is refused.
    MissingExtraError, DownloadError
        See :func:`~astropt_db.astropt.hub.fetch`.
    """
    return Encoder(read_checkpoint(_locate(name)), device, mode, batch_size, dtype)


def bundled_encoders() -> dict[str, Path]:
    """Return the encoders that ship with the package: path of the weights by name."""
    folder = Path(str(resources.files("astropt_db.astropt"))) / "encoders"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether the device has bfloat16 matrix products in hardware.

    Without them autocast is slower than float32: on a CPU with AVX-512 but no AMX or BF16
    instructions, four times slower was measured.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in checks)


def _locate(name: str | Path) -> Path:
    if isinstance(name, str) and name.startswith(hub.PREFIX):
        return hub.fetch(name)
    bundled = bundled_encoders()
    if str(name) in bundled:
        return bundled[str(name)]
    if not Path(name).exists():
        raise ConfigurationError(
            f"no encoder {str(name)!r}: it is neither a file nor a bundled encoder "
            f"({', '.join(bundled) or 'none are installed'}), nor an address hf://..."
        )
    return Path(name)


def _label(checkpoint: Checkpoint) -> str:
    bands = checkpoint.preprocessing.bands
    names = [m.name for m in checkpoint.model.modalities]
    image = {1: "vis", 4: "vis_nisp"}.get(bands, f"images{bands}")
    return "_".join(image if name == "images" else name for name in names)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"the device {str(device)!r} cannot be used: {error}") from error
    return found


def _is_float32(values: npt.NDArray[np.generic] | Tensor) -> bool:
    if isinstance(values, Tensor):
        return values.dtype == torch.float32
    return values.dtype.kind == "f" and values.dtype.itemsize == 4


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic kernels, no TF32 and one thread inside, the caller's settings afterwards.

    One thread because products split over two differed in the last bit (measured, 2e-7).
    """
    before = torch.are_deterministic_algorithms_enabled()
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
