"""What a pre-training run looks like: its losses as table and picture, reconstructions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import AstroPT
from astropt_db.astropt.pretrain import Batch
from astropt_db.astropt.tokens import image_tokens, sed_tokens, unpatchify

_SHOWN = 5
_RANGE = 2.5


def write_losses(history: Sequence[dict[str, float]], folder: Path) -> list[Path]:
    """Write ``losses.csv``, a row for each step, and ``losses.png``."""
    names = list(dict.fromkeys(name for row in history for name in row))
    table = folder / "losses.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    # Losses of images, of SEDs and their mean are of different sizes: a panel for each.
    curves = names[1:]
    figure = Figure(figsize=(3.5 * len(curves), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        rows = [(row["iteration"], row[name]) for row in history if name in row]
        steps, values = np.array(rows).T
        window = max(len(steps) // 50, 1) if name == "training" else 1
        smooth = np.convolve(values, np.full(window, 1 / window), "valid")
        axes.plot(steps[window - 1 :], smooth, "-" if window > 1 else "o-", color="k")
        title = f"training, mean of {window} steps" if name == "training" else f"{name}, all tokens"
        axes.set(title=title.replace("_", ", "), xlabel="step", ylabel="Huber loss")
    picture = folder / "losses.png"
    figure.savefig(picture, dpi=130)
    return [table, picture]


def write_reconstructions(
    model: AstroPT, preprocessing: Preprocessing, batch: Batch, folder: Path
) -> Path:
    """Write ``reconstructions.png``: patches as the model gets them, and as it foresees them.

    Each patch is predicted from those nearer to the centre; the first is not predicted.
    """
    some = Batch(batch.images[:_SHOWN], None if batch.sed is None else batch.sed[:_SHOWN])
    real, predicted = reconstruct(model, preprocessing, some)
    shown = [0] if preprocessing.bands == 1 else [0, preprocessing.bands - 1]
    rows = [pair[:, band] for band in shown for pair in (real, predicted)]
    columns = len(some.images)
    size = (1.6 * columns, 1.6 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    labels = [f"{what}, band {band + 1}" for band in shown for what in ("seen", "foreseen")]
    for row, label in enumerate(labels):
        for column in range(columns):
            axes[row, column].imshow(
                rows[row][column], origin="lower", cmap="gray", vmin=-_RANGE, vmax=_RANGE
            )
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(label)
    picture = folder / "reconstructions.png"
    figure.savefig(picture, dpi=80)
    return picture


def reconstruct(
    model: AstroPT, preprocessing: Preprocessing, batch: Batch
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standardised patches put in place: those of the images, and the model's predictions.

    Returns
    -------
    tuple
        Two float32 arrays ``(n, bands, side, side)``.
    """
    how, device = preprocessing, next(model.parameters()).device
    images = batch.images.to(device)
    patches = image_tokens(images, how.patch_size, None, how.spiral, how.bfloat16, how.scale)
    tokens = {"images": patches}
    if batch.sed is not None:
        tokens["sed"], _ = sed_tokens(batch.sed.to(device))
    with torch.no_grad():
        predicted = model.predict(tokens)["images"]
    predicted = torch.cat([torch.zeros_like(patches[:, :1]), predicted], dim=1)

    def place(values: Tensor) -> NDArray[np.float32]:
        image = unpatchify(values.float(), how.patch_size, how.spiral)
        return np.asarray(image.cpu().numpy(), np.float32)

    return place(patches), place(predicted)
