"""The key layouts of released AstroPT checkpoints, and how each maps onto our model.

Four layouts are known: v1.0.x (one modality), the multi-encoder branch of v1 that chained images
and spectra, v2.0.x, and v3 with its own transformer. Sizes come from the tensors' shapes; only
what shapes cannot tell (heads, attention, patch size) comes from the stored ``model_args``, and
where both speak they must agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from astropt_db.astropt.model import Modality, ModelConfig, Tokeniser
from astropt_db.errors import FileError

Layout = Literal["v1", "v1-chain", "v2", "v3"]

# A key that only this layout has; its group, if any, is the modality.
SIGNATURES: dict[Layout, str] = {
    "v1": r"transformer\.wte\.0\.weight",
    "v1-chain": r"transformer\.wte\.([A-Za-z]\w*)\.encode\.0\.weight",
    "v2": r"transformer\.wte\.([A-Za-z]\w*)\.c_fc\.weight",
    "v3": r"encoders\.([A-Za-z]\w*)\.c_fc\.weight",
}

_BLOCKS = [(r"transformer\.h\.", "blocks."), (r"transformer\.ln_f\.", "ln_f.")]
RENAMES: dict[Layout, list[tuple[str, str]]] = {
    "v1": [
        (r"transformer\.wte\.", "encoders.images."),
        (r"transformer\.wpe\.", "positions.images."),
        (r"lm_head\.", "decoders.images."),
        *_BLOCKS,
    ],
    "v1-chain": [
        (r"transformer\.wte\.(\w+)\.encode\.", r"encoders.\1."),
        (r"transformer\.wpe\.(\w+)\.wpe\.", r"positions.\1."),
        (r"lm_head\.(\w+)\.decode\.", r"decoders.\1."),
        *_BLOCKS,
    ],
    "v2": [
        (r"transformer\.wte\.(\w+)\.", r"encoders.\1."),
        (r"transformer\.wpe\.(\w+)\.(?:wpe\.)?", r"positions.\1."),
        (r"lm_head\.(\w+)\.", r"decoders.\1."),
        *_BLOCKS,
    ],
    "v3": [(r"embedders\.(\w+)\.(?:wpe\.)?", r"positions.\1."), *_BLOCKS],
}


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its images cut into tokens.

    Attributes
    ----------
    bands
        Number of bands: 1 is VIS; 4 is VIS, Y, J, H.
    image_size, patch_size
        Side of the window and of a patch in pixels.
    spiral
        Patches in spiral order from the centre (else raster order).
    bfloat16
        Pixels rounded to and standardised in bfloat16, as the official v1 Euclid code does.
    scale
        Factor of each band's pixels before anything else; empty for none. A patch is standardised
        over all its bands together, so a band in a unit 200 times larger is not seen at all: that
        is what the zero points of Q1's mosaics (24.6 for VIS, 30 for NISP) would do.
    """

    bands: int
    image_size: int = 224
    patch_size: int = 16
    spiral: bool = True
    bfloat16: bool = False
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(float(factor) for factor in self.scale))
        if self.scale and len(self.scale) != self.bands:
            raise ValueError(f"scale has {len(self.scale)} factors for {self.bands} bands")
        if not all(math.isfinite(factor) and factor > 0 for factor in self.scale):
            raise ValueError(f"scale is {self.scale}; its factors must be positive and finite")
        if min(self.bands, self.image_size, self.patch_size) < 1:
            raise ValueError("bands, image_size and patch_size must be positive")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )

    @property
    def n_patches(self) -> int:
        """Number of patches in a window."""
        return (self.image_size // self.patch_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Interpreted:
    """A checkpoint's tensors under our names, with what is needed to compute with them."""

    layout: Layout
    model: ModelConfig
    preprocessing: Preprocessing
    weights: dict[str, Tensor]


def interpret(
    state: Mapping[str, Tensor],
    model_args: Mapping[str, Any],
    training: Mapping[str, Any],
    path: object,
) -> Interpreted:
    """Recognise the layout of an official checkpoint and translate it.

    Parameters
    ----------
    state
        The checkpoint's ``model`` entry.
    model_args, training
        Its ``model_args`` and ``config`` entries as plain values; may be empty.
    path
        For messages.

    Raises
    ------
    FileError
        If the layout is unknown (the keys found are listed), or what the shapes say and what
        ``model_args`` say disagree, or something needed is in neither.
    """
    # torch.compile and DDP wrap the model, and their prefixes end up in saved keys.
    state = {re.sub(r"_orig_mod\.|^module\.", "", key): value for key, value in state.items()}
    layout, names = _recognise(state, path)
    weights = _rename(state, layout, names)
    reader = _Reader(weights, model_args, path)
    config = reader.model_config(layout, names)
    patch = reader.patch_size()
    size = {m.name: m.input_size for m in config.modalities}["images"]
    preprocessing = Preprocessing(
        bands=size // (patch * patch),
        image_size=int(training.get("image_size", 224)),
        patch_size=patch,
        spiral=bool(training.get("spiral", True)),
        bfloat16=layout in ("v1", "v1-chain"),
    )
    return Interpreted(layout, config, preprocessing, weights)


def _recognise(state: Mapping[str, Tensor], path: object) -> tuple[Layout, list[str]]:
    for layout, pattern in SIGNATURES.items():
        found = [match for key in state if (match := re.fullmatch(pattern, key))]
        names = [match.group(1) if match.groups() else "images" for match in found]
        if "images" in names:
            # v1 chained images first; v2 and v3 order their modalities by name.
            rest = sorted(names) if layout in ("v2", "v3") else ["images", *names]
            return layout, list(dict.fromkeys(rest))
    shown = "\n  ".join(f"{key} {tuple(value.shape)}" for key, value in list(state.items())[:60])
    more = f"\n  ... and {len(state) - 60} more" if len(state) > 60 else ""
    raise FileError(
        path,
        "not a known AstroPT layout (v1.0.x, v1 multi-encoder, v2.0.x or v3 with an 'images' "
        f"modality). Keys found:\n  {shown}{more}",
    )


def _rename(state: Mapping[str, Tensor], layout: Layout, names: list[str]) -> dict[str, Tensor]:
    weights = {}
    for key, value in state.items():
        if key.startswith("task_head."):
            continue  # a regression head on top of the encoder; embeddings do not pass through it
        for pattern, replacement in RENAMES[layout]:
            key, count = re.subn(f"^{pattern}", replacement, key)
            if count:
                break
        if layout in ("v2", "v3") and key.startswith(("encoders.", "decoders.", "positions.")):
            key = key.replace(".c_fc.", ".0.").replace(".c_proj.", ".2.")
        if layout == "v1-chain" and key in {f"positions.{name}.weight" for name in names[1:]}:
            continue  # present in the file, but the whole chain is looked up in the first table
        weights[key] = value
    return weights


class _Reader:
    """Reads a model's configuration off renamed tensors and ``model_args``."""

    def __init__(
        self, weights: Mapping[str, Tensor], model_args: Mapping[str, Any], path: object
    ) -> None:
        self.weights = weights
        self.args = model_args
        self.path = path
        described = model_args.get("modalities")
        described = described if isinstance(described, list) else []
        self.described = {str(item["name"]): item for item in described if "name" in item}

    def model_config(self, layout: Layout, names: list[str]) -> ModelConfig:
        layers = {key.split(".")[1] for key in self.weights if key.startswith("blocks.")}
        relu = layout in ("v1", "v1-chain")
        aim = "encoders.images.2.weight" in self.weights
        kind: Tokeniser = "relu" if relu else "aim" if aim else "affine"
        if self.args.get("backbone", "native") != "native":
            raise FileError(self.path, "its backbone is a language model, which is not supported.")
        if int(self.args.get("lora_r", 0) or 0):
            raise FileError(self.path, "it holds LoRA adapters. Merge them and save it again.")
        try:
            return ModelConfig(
                modalities=tuple(self._modality(name, layout) for name in names),
                n_layer=self._agreed("n_layer", len(layers)),
                n_head=self._number("n_head"),
                n_embd=self._agreed("n_embd", self._shape("ln_f.weight", 1)[0]),
                block_size=self._agreed("block_size", self._shape("positions.images.weight", 2)[0]),
                tokeniser=kind,
                attention="causal" if self._attention() == "causal" else "full",
                bias="blocks.0.ln_1.bias" in self.weights,
                shared_positions=layout == "v1-chain",
            )
        except ValueError as error:
            raise FileError(self.path, f"{error}.") from error

    def patch_size(self) -> int:
        if "images" in self.described:
            return int(self.described["images"]["patch_size"])
        if "patch_size" in self.args:
            return self._number("patch_size")
        size = self._shape("encoders.images.0.weight", 2)[1]
        return math.isqrt(size // max(self._number("n_chan"), 1))

    def _modality(self, name: str, layout: Layout) -> Modality:
        numbers = self._shape(f"encoders.{name}.0.weight", 2)[1]
        default = 0.5 if layout == "v1-chain" and name != "images" else 1.0
        weight = float(self.described.get(name, {}).get("loss_weight", default))
        values = f"positions.{name}.0.weight"
        return Modality(
            name=name,
            input_size=numbers,
            loss_weight=weight,
            position_size=self._shape(values, 2)[1] if values in self.weights else 0,
        )

    def _attention(self) -> str:
        kind = str(self.args.get("attn_type", "causal"))
        if kind not in ("causal", "prefix", "full"):
            raise FileError(self.path, f"unknown attention type {kind!r}.")
        return kind

    def _shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        if key not in self.weights:
            raise FileError(self.path, f"the tensor {key!r} (our name) is missing.")
        shape = tuple(self.weights[key].shape)
        if len(shape) != dimensions:
            raise FileError(self.path, f"{key!r} has shape {shape}, not {dimensions} dimensions.")
        return shape

    def _number(self, name: str) -> int:
        value = self.args.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FileError(
                self.path,
                f"its model_args give {name} = {value!r}, not a positive whole number, and "
                "shapes do not tell it.",
            )
        return value

    def _agreed(self, name: str, from_shapes: int) -> int:
        if name in self.args and self.args[name] != from_shapes:
            raise FileError(
                self.path,
                f"model_args give {name} = {self.args[name]!r}, the shapes {from_shapes}.",
                "The file is damaged or was put together from two models.",
            )
        return from_shapes
