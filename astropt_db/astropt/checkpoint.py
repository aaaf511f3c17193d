"""Checkpoints: read official ones safely, and read and write our own form.

Our form is two files: ``NAME.safetensors`` holds numbers only, ``NAME.json`` says what they mean
and the SHA-256 of the numbers. Official checkpoints are zip archives with a pickle inside; they
are read with ``torch.load(weights_only=True)`` alone, after the archive's declared sizes have been
checked, so that nothing in them can run and nothing can claim more memory than the file has.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from astropt_db.astropt.layouts import Preprocessing, interpret
from astropt_db.astropt.model import AstroPT, ModelConfig
from astropt_db.errors import FileError

FORMAT = "astropt-db encoder"
MAX_PICKLE_BYTES = 64 << 20
MAX_HEADER_BYTES = 8 << 20
DAMAGED = "The file is damaged, incomplete or not a checkpoint: fetch it again."


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights and everything needed to compute with them.

    Attributes
    ----------
    model, preprocessing
        Configuration.
    weights
        float32 tensors under the names of :class:`~astropt_db.astropt.model.AstroPT`.
    layout
        ``v1``, ``v1-chain``, ``v2``, ``v3`` for official files, ``native`` for ours.
    sha256
        Of the file that holds the weights, hexadecimal.
    source
        The path or address it was read from.
    notes
        Plain facts carried along, such as ``iter_num``, or the digest of a converted original.
    """

    model: ModelConfig
    preprocessing: Preprocessing
    weights: dict[str, Tensor]
    layout: str
    sha256: str
    source: str
    notes: dict[str, Any] = field(default_factory=dict)

    def build(self) -> AstroPT:
        """Return the model with these weights, on the CPU, in evaluation mode."""
        with torch.device("meta"):
            model = AstroPT(self.model)
        model.load_state_dict(self.weights, assign=True)
        return model.eval()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours (``.safetensors`` or its ``.json``) or an official one.

    Raises
    ------
    FileError
        If the file is absent, truncated, hostile, of unknown layout, has values that are not
        finite, or shapes that disagree. Nothing in a refused file has been executed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(path, "no such file.")
    if path.suffix in (".safetensors", ".json"):
        return _read_native(path)
    return from_archive(load_archive(path), path)


def save_checkpoint(
    path: str | Path,
    model: ModelConfig,
    preprocessing: Preprocessing,
    weights: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write ``path`` (``.safetensors``) and the ``.json`` beside it.

    Parameters
    ----------
    path
        Where; the suffix is replaced.
    model, preprocessing, weights, notes
        As in :class:`Checkpoint`; `notes` must be plain values.
    dtype
        float16 halves the size of a small encoder; reading gives float32 again.

    Returns
    -------
    Path
        The ``.safetensors`` file.
    """
    path = Path(path).with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not safetensors' save_file: its files are for their owner's eyes only, whatever the umask.
    stored = {key: value.detach().to(dtype).contiguous() for key, value in weights.items()}
    path.write_bytes(save(stored))
    card = {
        "format": FORMAT,
        "version": 1,
        "sha256": sha256(path),
        "model": model.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "notes": dict(notes or {}),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_archive(path: Path) -> dict[str, Any]:
    """Load a torch archive with the weights-only unpickler, after checking its sizes."""
    check_archive(path)
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it may not know; what it does not know it refuses.
            warnings.simplefilter("ignore")
            # mmap: optimiser states, twice the size of the weights, are never read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise FileError(
            path,
            f"its pickle needs more than tensors and plain values ({_offence(path, error)}), so it "
            "was not loaded.",
            f"If you trust its origin: astropt-db encoder convert {path} NAME.safetensors; that "
            "reads it with a list of allowed plain classes and runs no code either.",
        ) from error
    except Exception as error:  # a hostile file can fail anywhere inside the parser
        raise FileError(path, f"torch cannot read it ({_shorten(str(error))}).", DAMAGED) from error
    if not isinstance(content, dict):
        raise FileError(path, f"it holds a {type(content).__name__}, not a dictionary.")
    return content


def _offence(path: Path, error: pickle.UnpicklingError) -> str:
    """Name the classes and functions that a pickle asks for, found without running it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged on purpose, perhaps: then torch's own words must do
        names = []
    cause = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    # torch goes on to explain how its protection is switched off.
    return _shorten(", ".join(names) or cause.partition("Check the documentation")[0])


def check_archive(path: Path) -> None:
    """Refuse archives that are not what torch writes: bombs, overlaps, giant pickles."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise FileError(path, f"not a complete torch archive ({error}).", DAMAGED) from error
    # torch stores its entries uncompressed, so together they cannot exceed the file.
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise FileError(
            path,
            f"its entries claim {claimed:,} bytes in a file of {size:,}, or are compressed: no "
            "checkpoint that torch wrote looks like this, so it was not opened.",
        )
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise FileError(path, "expected one data.pkl of at most 64 MiB in it.", DAMAGED)


def from_archive(content: Mapping[str, Any], path: Path) -> Checkpoint:
    """Turn a loaded official checkpoint (plain values and tensors) into a :class:`Checkpoint`."""
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not state:
        raise FileError(path, f"no state dictionary in it; entries: {sorted(map(str, content))}.")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise FileError(path, f"entry {key!r} of its model is not a tensor.")
    args, training = content.get("model_args"), content.get("config")
    try:
        known = interpret(
            state,
            args if isinstance(args, Mapping) else {},
            training if isinstance(training, Mapping) else {},
            path,
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FileError(path, f"its model_args or config make no sense ({error!r}).") from error
    check_geometry(known.model, known.preprocessing, path)
    notes = {
        name: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for name in ("iter_num", "best_val_loss")
        if isinstance(value := content.get(name), (int, float, Tensor))
    }
    return Checkpoint(
        model=known.model,
        preprocessing=known.preprocessing,
        weights=check_weights(known.weights, known.model, path),
        layout=known.layout,
        sha256=sha256(path),
        source=str(path),
        notes=notes,
    )


def check_weights(
    weights: Mapping[str, Tensor], config: ModelConfig, path: object
) -> dict[str, Tensor]:
    """Return float32 copies, or raise FileError if names, shapes, dtypes or values are wrong."""
    _check_shapes({key: tuple(value.shape) for key, value in weights.items()}, config, path)
    checked = {}
    for key, value in weights.items():
        dense = value.layout == torch.strided and value.device.type == "cpu"
        if not (dense and value.is_floating_point()):
            raise FileError(path, f"tensor {key!r} ({value.dtype}) is not dense floating point.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FileError(path, f"tensor {key!r} claims more numbers than are stored.", DAMAGED)
        checked[key] = value.detach().to(torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(checked[key]).all()):
            bad = int((~torch.isfinite(checked[key])).sum())
            raise FileError(path, f"tensor {key!r} has {bad} NaN or infinite values.", DAMAGED)
    return checked


def check_geometry(model: ModelConfig, preprocessing: Preprocessing, path: object) -> None:
    """Raise FileError if the model's tokens are not the patches of its images."""
    size = {m.name: m.input_size for m in model.modalities}.get("images")
    pixels = preprocessing.bands * preprocessing.patch_size**2
    if size != pixels:
        raise FileError(
            path,
            f"an image token has {size} numbers, but {preprocessing.bands} bands of "
            f"{preprocessing.patch_size} x {preprocessing.patch_size} pixels make {pixels}.",
        )
    # The last patch is only predicted, so it needs no position.
    if preprocessing.n_patches - 1 > model.block_size:
        raise FileError(
            path,
            f"images of {preprocessing.image_size} pixels make {preprocessing.n_patches} tokens, "
            f"but the model has {model.block_size} positions.",
        )


def _check_shapes(found: Mapping[str, tuple[int, ...]], config: ModelConfig, path: object) -> None:
    # Before the model is laid out, so that a file cannot ask for a billion blocks.
    if config.n_layer > len(found) or len(config.modalities) > len(found):
        raise FileError(path, f"{config.n_layer} blocks are declared, {len(found)} tensors found.")
    try:
        with torch.device("meta"):
            wanted = {key: tuple(v.shape) for key, v in AstroPT(config).state_dict().items()}
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(path, f"no model can have its sizes ({_shorten(str(error))}).") from error
    faults = [f"{key} is missing" for key in wanted if key not in found]
    faults += [f"{key} is not part of this layout" for key in found if key not in wanted]
    faults += [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
        raise FileError(path, f"its tensors do not fit together: {shown}.", DAMAGED)


def _read_native(path: Path) -> Checkpoint:
    tensors, card_path = path.with_suffix(".safetensors"), path.with_suffix(".json")
    for needed in (tensors, card_path):
        if not needed.is_file():
            raise FileError(needed, "missing; an encoder is a .safetensors and a .json file.")
    card = _read_card(card_path)
    digest = sha256(tensors)
    if card["sha256"] != digest:
        raise FileError(
            tensors,
            f"its SHA-256 is {digest}, but {card_path.name} says {card['sha256']}.",
            DAMAGED,
        )
    try:
        model = ModelConfig.from_dict(card["model"])
        preprocessing = Preprocessing(**card["preprocessing"])
        check_geometry(model, preprocessing, card_path)
        weights = _read_safetensors(tensors, model)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FileError(card_path, f"its configuration cannot be used ({error}).") from error
    notes = dict(card.get("notes", {}))
    return Checkpoint(model, preprocessing, weights, "native", digest, str(tensors), notes)


def _read_card(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_HEADER_BYTES:
        raise FileError(path, "larger than 8 MiB, which no encoder's description is.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"not JSON ({_shorten(str(error))}).") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("version") != 1:
        raise FileError(
            path, f"not the description of an encoder ('format': {FORMAT!r}, version 1)."
        )
    if not {"sha256", "model", "preprocessing"} <= card.keys():
        raise FileError(path, "'sha256', 'model' or 'preprocessing' is missing.")
    return card


def _read_safetensors(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > min(MAX_HEADER_BYTES, size - 8):
        raise FileError(path, f"its header claims {header:,} bytes in a file of {size:,}.", DAMAGED)
    try:
        with safe_open(path, framework="pt") as archive:
            shapes = {key: tuple(archive.get_slice(key).get_shape()) for key in archive.keys()}  # noqa: SIM118
            _check_shapes(shapes, config, path)
            weights = {key: archive.get_tensor(key) for key in shapes}
    except SafetensorError as error:
        raise FileError(path, f"not a safetensors file ({error}).", DAMAGED) from error
    return check_weights(weights, config, path)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
