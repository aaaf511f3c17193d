"""How fast images become vectors, beside the official AstroPT package on the same weights.

    python benchmarks/encode.py                     our rows only
    PYTHONPATH=SITE python benchmarks/encode.py     with the official rows, where SITE holds
                                                    astropt 1.0.4 and einops
                                                    (pip install --no-deps --target SITE ...)

Both sides get the same random weights of the released architecture (90M, VIS + NISP), the same
pixels, batch and dtype, and take turns; the table shows each one's best turn, and the median over
turns of the ratios of wall time and of processor time; the last is what other work on the machine
disturbs least. "model" starts from
pixels on our side and from tokens that are already made on theirs; "files" starts on both sides
from one FITS file for each object and band, and counts their tokenisation too, which sorts the
spiral of each object anew.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from torch import Tensor

from astropt_db.astropt import Encoder, read_checkpoint, save_checkpoint
from astropt_db.astropt.encoder import Mode
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import SIZES, AstroPT, Modality, ModelConfig
from astropt_db.astropt.pretrain import configure
from astropt_db.astropt.tokens import image_tokens

PAPER_TOKENS = 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=64, help="objects in a batch (90M)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--types", default="float32,bfloat16", help="of the 90M rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"load {os.getloadavg()[0]:.1f}, batch {options.images}\n")  # fmt: skip
    print(f"{'':44}{'ours':>12}{'official':>12}{'ratio':>8}{'CPU':>8}")
    with tempfile.TemporaryDirectory() as folder:
        types = [getattr(torch, name) for name in options.types.split(",") if name]
        compare_90m(Path(folder), options.images, options.repeats, types)
        for name, bands in (("mini-vis", 1), ("mini-vis_nisp", 4)):
            mini(Path(folder), name, bands, options.repeats)
        if torch.cuda.is_available():
            gpu(Path(folder), options.repeats)


def compare_90m(folder: Path, n: int, repeats: int, types: list[torch.dtype]) -> None:
    """Time the released architecture, float32 and bfloat16, against the official package."""
    images = pixels(n, 4)
    tokens = image_tokens(torch.from_numpy(images), 16, PAPER_TOKENS, bfloat16=True)
    official = None
    for dtype in types:
        encoder = random_encoder(folder, "90M", 4, device="cpu", dtype=dtype)
        official = official or official_model(encoder)
        theirs = None
        if official is not None:
            theirs = partial(official_vectors, official, tokens, dtype)
        row(f"90M {dtype}, model", n, partial(encoder.embed, images), theirs, repeats)
        distance(encoder, images[:8])
        if theirs is not None:
            difference = np.abs(encoder.embed(images[:8]) - theirs().numpy()[:8]).max()
            print(f"    largest difference from the official vectors {difference:.1e}")
        if dtype == torch.float32:
            compare_files(folder, encoder, official, images, repeats)


def compare_files(
    folder: Path, encoder: Encoder, official: Any, images: np.ndarray, repeats: int
) -> None:
    """Time both sides from one FITS file for each object and band."""
    data = None if official is None else official_data_set()
    names = write_files(folder, images)

    def theirs() -> Tensor:
        return official_vectors(official, official_tokens(data, names), torch.float32)

    label = f"90M {encoder.dtype}, files"
    ours = lambda: encoder.embed(read_files(names))  # noqa: E731
    row(label, len(images), ours, None if data is None else theirs, repeats)


def mini(folder: Path, name: str, bands: int, repeats: int) -> None:
    """Time a mini encoder from pixels to vectors, in both modes."""
    images = pixels(128, bands)
    modes: tuple[Mode, ...] = ("fast", "reference")
    for mode in modes:
        encoder = random_encoder(folder, "mini", bands, device="cpu", mode=mode)
        row(f"{name}, {mode}", len(images), lambda e=encoder: e.embed(images), None, repeats)


def gpu(folder: Path, repeats: int) -> None:
    """Time the 90M encoder on a GPU, from pixels on the device to vectors on the device."""
    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    peak = 2 * size**3 / best(lambda: (a @ a, torch.cuda.synchronize()), repeats)
    print(f"bfloat16 matrix rate of the device: {peak / 1e12:.0f} TFLOP/s")
    n = 1024
    encoder = random_encoder(folder, "90M", 4, device="cuda")
    images = torch.from_numpy(pixels(n, 4)).cuda()
    for label in ("eager", "compiled"):
        if label == "compiled":
            encoder.model.hidden = torch.compile(encoder.model.hidden)
        seconds = best(lambda: (encoder.encode(images), torch.cuda.synchronize()), repeats)
        rate = flops(encoder.model.config, PAPER_TOKENS) * n / seconds
        print(f"90M {label}: {n / seconds:.0f} images/s, {100 * rate / peak:.0f} % of that rate")


def flops(config: ModelConfig, tokens: int) -> float:
    """Return the multiplications and additions of one forward pass without the heads."""
    width = config.n_embd
    size = config.modalities[0].input_size
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    return config.n_layer * block + 2 * tokens * (size * width + width**2)


def distance(encoder: Encoder, images: np.ndarray) -> None:
    """Print the cosine distance of an encoder's vectors from those of the reference mode."""
    reference = Encoder(encoder.checkpoint, "cpu", "reference").embed(images).astype(float)
    fast = encoder.embed(images).astype(float)
    cosine = (fast * reference).sum(1)
    cosine /= np.linalg.norm(fast, axis=1) * np.linalg.norm(reference, axis=1)
    print(f"    cosine distance from the reference mode {(1 - cosine).max():.1e}")


def row(
    label: str,
    n: int,
    ours: Callable[[], object],
    theirs: Callable[[], object] | None,
    repeats: int,
) -> None:
    """Print images/s of both and their ratios; the two take turns."""
    mine, other = [], []
    for turn in range(repeats + 1):
        times = [cost(ours), cost(theirs) if theirs is not None else (np.nan, np.nan)]
        if turn:  # the first turn warms up
            mine.append(times[0])
            other.append(times[1])
    rates = n / np.min(mine, axis=0)[0], n / np.min(other, axis=0)[0]
    wall, processor = np.median(np.array(other) / np.array(mine), axis=0)
    beside = "" if theirs is None else f"{rates[1]:12.1f}{wall:8.2f}{processor:8.2f}"
    print(f"{label + ', images/s':44}{rates[0]:12.1f}{beside}", flush=True)


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of wall time and of processor time."""
    start, begun = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - begun


def best(work: Callable[[], object], repeats: int) -> float:
    """Return the shortest of several timings in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def pixels(n: int, bands: int) -> np.ndarray:
    """Return noise with a galaxy-like bump, float32 (n, bands, 224, 224)."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:224, 0:224] - 111.5
    galaxy = 5 * np.exp(-np.hypot(x, y) / 12)
    return (galaxy + rng.standard_normal((n, bands, 224, 224))).astype(np.float32)


def random_encoder(folder: Path, size: str, bands: int, **options: Any) -> Encoder:
    """Return an untrained encoder of a named size, by way of a file as users do."""
    torch.manual_seed(0)
    config = ModelConfig((Modality("images", 256 * bands),), **SIZES[size])
    weights = AstroPT(config).state_dict()
    ours = configure("mini", "vis_nisp" if bands == 4 else "vis")[1]
    how = Preprocessing(bands, bfloat16=True) if size == "90M" else ours
    path = save_checkpoint(folder / f"{size}-{bands}", config, how, weights)
    return Encoder(read_checkpoint(path), **options)


def official_model(encoder: Encoder) -> Any:
    """Return the official v1 model with the encoder's weights, or None without the package."""
    try:
        from astropt.model import GPT, GPTConfig
    except ImportError as error:
        print(f"no official rows: {error}")
        return None
    model = GPT(GPTConfig(n_chan=4), master_process=False).eval()
    names = {
        "encoders.images.": "transformer.wte.",
        "positions.images.": "transformer.wpe.",
        "decoders.images.": "lm_head.",
        "blocks.": "transformer.h.",
        "ln_f.": "transformer.ln_f.",
    }
    state = encoder.checkpoint.weights
    for ours, theirs in names.items():
        state = {key.replace(ours, theirs, 1): value for key, value in state.items()}
    model.load_state_dict(state)
    return model


def official_vectors(model: Any, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Call the official ``generate_embeddings``, under autocast for bfloat16."""
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        return model.generate_embeddings(tokens).float()


def write_files(folder: Path, images: np.ndarray) -> list[list[Path]]:
    """Write one FITS file for each object and band, as the official loader wants them."""
    names = [[folder / f"{i}-{b}.fits" for b in range(images.shape[1])] for i in range(len(images))]
    for row_names, image in zip(names, images, strict=True):
        for name, band in zip(row_names, image, strict=True):
            fits.writeto(name, band, overwrite=True)
    return names


def read_files(names: list[list[Path]]) -> np.ndarray:
    """Read what :func:`write_files` wrote."""
    return np.stack([[fits.getdata(name) for name in bands] for bands in names]).astype(np.float32)


def official_data_set() -> Any:
    """Return the official data set class, set up as its Euclid sampler does; None without it."""
    try:
        from astropt.local_datasets import GalaxyImageDataset
    except ImportError as error:
        print(f"no official row for files: {error}")
        return None

    def normalise(x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim=1, keepdim=True)
        return (x - mean) / (std + 1e-8)

    return GalaxyImageDataset(None, transform=normalise, stochastic=False, spiral=True)


def official_tokens(data: Any, names: list[list[Path]]) -> Tensor:
    """Let the official data set read and tokenise every object."""
    data.paths = np.array([[str(name) for name in bands] for bands in names])
    return torch.stack([data[i]["X"][:PAPER_TOKENS].float() for i in range(len(names))])


if __name__ == "__main__":
    main()
