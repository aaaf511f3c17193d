"""Convert an official checkpoint, once, into safetensors and JSON.

Some checkpoints (v2 and later) pickle a few of the official package's own small classes beside
the tensors, which ``torch.load(weights_only=True)`` rightly refuses. Here the same unpickler is
given a list of names for which an inert stand-in takes the place of the class: it stores what it
is handed and does nothing else. No class of the checkpoint's author is imported or run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from astropt_db.astropt.checkpoint import from_archive, load_archive, save_checkpoint
from astropt_db.errors import ConfigurationError

PLAIN_CLASSES = (
    "astropt.model.GPTConfig",
    "astropt.model.ModalityConfig",
    "astropt.model.ModalityRegistry",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "numpy.dtype",
)
"""Classes that official checkpoints are known to hold; each becomes an inert stand-in."""

NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


class Inert:
    """Stands in for a class of a pickle: keeps arguments and attributes, does nothing."""

    def __init__(self, *args: object, **attributes: object) -> None:
        self.args = args
        self.attributes: dict[str, Any] = dict(attributes)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.attributes = {str(key): value for key, value in state.items()}


def convert(source: str | Path, target: str | Path, allow: Iterable[str] = ()) -> Path:
    """Read an official checkpoint and write it as ``target`` (safetensors) with its JSON.

    Parameters
    ----------
    source
        The official ``ckpt.pt``.
    target
        Where to write; the suffix becomes ``.safetensors``.
    allow
        Further classes, as ``module.Class``, that may appear in the pickle. They too are
        replaced by inert stand-ins.

    Returns
    -------
    Path
        The ``.safetensors`` file. Its JSON records the digest of `source`.

    Raises
    ------
    FileError
        As :func:`~astropt_db.astropt.checkpoint.read_checkpoint`; a class outside the list is
        named.
    ConfigurationError
        If an entry of `allow` is not the name of a class in a module.
    """
    source = Path(source)
    with torch.serialization.safe_globals(_stand_ins(allow)):
        content = plain(load_archive(source))
    found = from_archive(with_modalities(content), source)
    notes = {
        **found.notes,
        "converted_from": {"name": source.name, "sha256": found.sha256, "layout": found.layout},
    }
    return save_checkpoint(target, found.model, found.preprocessing, found.weights, notes)


def plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """Replace stand-ins, at any depth of dictionaries and lists, by dictionaries.

    An object met again (a pickle may hold itself, or one list a million times) is not walked
    again; inside itself it becomes None.
    """
    seen = {} if seen is None else seen
    if not isinstance(value, (Inert, Mapping, list, tuple)):
        return value
    if id(value) not in seen:
        seen[id(value)] = None
        if isinstance(value, (list, tuple)):
            seen[id(value)] = [plain(item, seen) for item in value]
        else:
            items = value.attributes if isinstance(value, Inert) else value
            seen[id(value)] = {key: plain(item, seen) for key, item in items.items()}
    return seen[id(value)]


def with_modalities(content: dict[str, Any]) -> dict[str, Any]:
    """Copy the modality descriptions of a v2 registry into ``model_args`` if it lacks them."""
    args = dict(content.get("model_args") or {})
    registry = content.get("modality_registry")
    if isinstance(args.get("modalities"), list) or not isinstance(registry, dict):
        return content
    # The registry keeps its configurations in a dictionary by name.
    for entry in registry.values():
        described = list(entry.values()) if isinstance(entry, dict) else entry
        if isinstance(described, list) and described:
            args["modalities"] = [item for item in described if isinstance(item, dict)]
    return {**content, "model_args": args}


def _stand_ins(allow: Iterable[str]) -> list[Any]:
    names = [*PLAIN_CLASSES, *allow]
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
            raise ConfigurationError(f"{name!r} is not the name of a class: write module.Class")
    # One class per name: torch looks instances up by their type.
    classes = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]
    return [*classes, *((_numpy_scalar, name) for name in NUMPY_SCALARS)]


def _numpy_scalar(dtype: Inert, data: bytes) -> float | int | bool:
    """Rebuild a pickled NumPy number from its type code and bytes."""
    code = str(dtype.args[0])
    if not re.fullmatch(r"[biuf][1248]", code):
        raise ValueError(f"a NumPy scalar of type {code!r} is not a number")
    number: float | int | bool = np.frombuffer(data, np.dtype(code))[0].item()
    return number
