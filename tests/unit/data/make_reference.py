"""Make the reference embeddings that tests/unit/test_astropt_parity.py compares with.

Run once for each release of the official ``astropt`` package, in a throw-away environment that
has it (``pip install --no-deps astropt==1.0.4``, with torch, torchvision, einops, loralib and
astropy beside it):

    python make_reference.py v1        with astropt 1.0.2 or 1.0.4
    python make_reference.py v2        with astropt 2.0.9
    python make_reference.py v3        with astropt 3.0.0a1

Each run writes ``astropt_LAYOUT.npz`` (what the package computes) and ``astropt_LAYOUT.json``
(the names and shapes of its weights, its model_args). Weights and pixels are not stored: both come
from seeds, through the functions below, here and in the test. The package is only called; none of
its code is here.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
PATCH, SIDE = 8, 48  # 6 x 6 = 36 tokens


def seeded_images(bands: int) -> np.ndarray:
    """Return four images, float32 (4, bands, 48, 48)."""
    rng = np.random.default_rng(20250319)
    y, x = np.mgrid[0:SIDE, 0:SIDE] - 23.5
    flux = rng.lognormal(1.0, 1.0, size=(4, bands, 1, 1))
    noise = rng.normal(0.0, 0.02, (4, bands, SIDE, SIDE))
    return (flux * np.exp(-np.hypot(x, y) / 6.0) + noise).astype(np.float32)


def seeded_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the weight of this name: large enough that every one of them matters."""
    values = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) > 1:
        return torch.from_numpy(values / np.sqrt(shape[-1])).float()
    centre = 1.0 if "ln_" in key and key.endswith("weight") else 0.0
    return torch.from_numpy(centre + 0.3 * values).float()


def seeded_spectra() -> dict[str, torch.Tensor]:
    """Return five spectrum tokens for each of the four sources, and their positions."""
    rng = np.random.default_rng(42)
    return {
        "spectra": torch.from_numpy(rng.standard_normal((4, 5, 12))).float(),
        "spectra_positions": torch.from_numpy(rng.random((4, 5, 2))).float(),
    }


def fill(model: torch.nn.Module) -> dict[str, list[int]]:
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: seeded_weight(key, shape) for key, shape in shapes.items()})
    return {key: list(shape) for key, shape in shapes.items()}


def official_tokens(
    bands: int, dtype: torch.dtype = torch.float32, **options: object
) -> torch.Tensor:
    """Tokenise with the package's own data set class and the training script's normalisation."""
    from astropt.local_datasets import GalaxyImageDataset

    def normalise(x: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(x, dim=1, keepdim=True)
        return (x - mean) / (std + 1e-8)

    later = "modality_registry" in options
    transform = {"images": normalise} if later else normalise
    data = GalaxyImageDataset(transform=transform, spiral=True, **options)
    images = torch.from_numpy(seeded_images(bands)).to(dtype)
    return torch.stack([data.process_galaxy(image) for image in images])


def make_v1() -> tuple[dict, dict]:
    from astropt.model import GPT, GPTConfig

    cards, arrays = {}, {}
    for name, bands, bias in (("vis", 1, False), ("vis_nisp", 4, False), ("bias", 1, True)):
        args = {"n_layer": 3, "n_head": 2, "n_embd": 16, "n_chan": bands, "block_size": 40}
        args |= {"dropout": 0.0, "patch_size": PATCH, "attn_type": "causal", "bias": bias}
        model = GPT(GPTConfig(**args), master_process=False).eval()
        cards[name] = {"shapes": fill(model), "model_args": args}
        tokens, rounded = (
            official_tokens(bands, dtype, patch_size=PATCH)
            for dtype in (torch.float32, torch.bfloat16)
        )
        with torch.no_grad():
            found = {
                "tokens": tokens[0],
                "tokens_bfloat16": rounded[0].float(),
                "first16": model.generate_embeddings(tokens[:, :16]),
                "first16_bfloat16": model.generate_embeddings(rounded[:, :16].float()),
                "all35": model.generate_embeddings(tokens[:, :-1]),
                "loss": model(tokens[:, :-1], tokens[:, 1:])[1],
            }
        arrays |= {f"{name}/{key}": value.numpy() for key, value in found.items()}
    return cards, arrays


def make_later() -> tuple[dict, dict]:
    from astropt.model import GPT, GPTConfig, ModalityConfig, ModalityRegistry

    cards, arrays = {}, {}
    image = {"name": "images", "input_size": 256, "pos_input_size": 1, "patch_size": PATCH}
    image |= {"embed_pos": True, "loss_weight": 1.0}
    spectrum = {"name": "spectra", "input_size": 12, "pos_input_size": 2, "patch_size": 12}
    spectrum |= {"embed_pos": False, "loss_weight": 0.5}
    registry = ModalityRegistry([ModalityConfig(**image)])
    tokens = official_tokens(4, modality_registry=registry)
    for name, kind, attention, described in (
        ("aim", "aim", "causal", [image]),
        ("prefix", "aim", "prefix", [image]),
        ("aim_chain", "aim", "causal", [image, spectrum]),
        ("affine_chain", "affine", "causal", [image, spectrum]),
    ):
        args = {"n_layer": 3, "n_head": 2, "n_embd": 16, "n_chan": 4, "block_size": 48}
        args |= {"dropout": 0.0, "tokeniser": kind, "attn_type": attention}
        modalities = [ModalityConfig(**item) for item in described]
        config = GPTConfig(**args, modalities=modalities)
        model = GPT(config, ModalityRegistry(modalities), master_process=False).eval()
        cards[name] = {"shapes": fill(model), "model_args": {**args, "modalities": described}}
        inputs = {"images": tokens if len(described) > 1 else tokens[:, :-1]}
        inputs["images_positions"] = torch.arange(inputs["images"].shape[1]).expand(4, -1)
        if len(described) > 1:
            inputs |= seeded_spectra()
        with torch.no_grad():
            found = {f"middle_{k}": v for k, v in model.generate_embeddings(inputs).items()}
            last = model.get_embeddings(inputs, draw_from_centre=False)
            found |= {f"normed_{k}": v.mean(dim=1) for k, v in last.items()}
            if attention == "causal":
                found["loss"] = loss_of(model, inputs, tokens)
        arrays |= {f"{name}/{key}": value.numpy() for key, value in found.items()}
    return cards, arrays


def loss_of(model: torch.nn.Module, inputs: dict, tokens: torch.Tensor) -> torch.Tensor:
    """Call the package as its training script does: the chain's first token is no target."""
    targets = {"images": tokens[:, 1:]}
    if "spectra" in inputs:
        targets["spectra"] = inputs["spectra"]
    return model(inputs, targets)[1]


if __name__ == "__main__":
    layout = sys.argv[1]
    cards, arrays = make_v1() if layout == "v1" else make_later()
    np.savez_compressed(HERE / f"astropt_{layout}.npz", **arrays)
    (HERE / f"astropt_{layout}.json").write_text(json.dumps(cards, indent=1) + "\n")
