"""Networks trained end to end on the images: the paper's small one and a strong one.

The paper's (arXiv:2503.15312, its public code): two convolutions with pooling and one hidden
layer, each band divided by its own maximum, ten epochs, no augmentation. The strong one is a
residual network on the central 128 pixels, asinh-scaled with brightness kept, with flips and
quarter turns, mixed members and a cosine schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astropt_db.astropt.encoder import multiplies_bfloat16
from astropt_db.predict.predictor import Columns
from astropt_db.predict.tasks import Task

CnnName = Literal["paper_cnn", "resnet"]
CNNS: tuple[CnnName, ...] = ("paper_cnn", "resnet")
Float32 = NDArray[np.float32]
_CROP = 128
_PREDICT = 64


@dataclass(frozen=True)
class CnnSettings:
    """How a network is trained; epochs of the strong one shrink as the labels grow."""

    paper_epochs: int = 10
    paper_batch: int = 32
    steps: int = 1200
    most_epochs: int = 60
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02


class PaperCnn(nn.Module):
    """Conv 32, pool, conv 64, pool, dense 128, dense out; ReLU between."""

    def __init__(self, bands: int, outputs: int, size: int) -> None:
        super().__init__()
        side = ((size - 2) // 2 - 2) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(bands, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * side * side, 128), nn.ReLU(), nn.Linear(128, outputs),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Outputs ``(n, outputs)`` of images ``(n, bands, size, size)``."""
        return self.layers(images)  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, width: int, units: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(width, units, 3, stride, 1, bias=False), nn.BatchNorm2d(units), nn.ReLU(),
            nn.Conv2d(units, units, 3, 1, 1, bias=False), nn.BatchNorm2d(units),
        )  # fmt: skip
        self.skip = nn.Identity() if width == units and stride == 1 else nn.Sequential(
            nn.Conv2d(width, units, 1, stride, bias=False), nn.BatchNorm2d(units)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x) + self.skip(x))


class ResNet(nn.Module):
    """A residual network of the ResNet-18 type, half as wide."""

    def __init__(self, bands: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(bands, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        ]  # fmt: skip
        width = 32
        for units, stride in ((32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)):
            layers.append(_Block(width, units, stride))
            width = units
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * width, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Outputs ``(n, outputs)`` of images ``(n, bands, size, size)``."""
        found = self.body(images)
        return self.head(torch.cat([found.mean(dim=(2, 3)), found.amax(dim=(2, 3))], dim=1))  # type: ignore[no-any-return]


def paper_scaled(images: Float32) -> Tensor:
    """Each band of each image divided by its own maximum, as in the paper's code."""
    tensor = torch.from_numpy(np.nan_to_num(images))
    top = tensor.amax(dim=(2, 3), keepdim=True)
    return tensor / torch.where(top > 0, top, torch.ones_like(top))


def strong_scaled(images: Float32, noise: Float32) -> Tensor:
    """The centre of asinh-scaled images: linear in the noise, logarithmic above; brightness stays.

    Parameters
    ----------
    images
        float32 ``(n, bands, size, size)``.
    noise
        Typical noise of each band, ``(bands,)``, see :func:`noise_of`.
    """
    edge = max((images.shape[2] - _CROP) // 2, 0)
    middle = images[:, :, edge : images.shape[2] - edge, edge : images.shape[3] - edge]
    scaled = np.arcsinh(np.nan_to_num(middle) / (3 * noise[:, None, None])) / 3
    return torch.from_numpy(np.ascontiguousarray(scaled, np.float32))


def noise_of(images: Float32) -> Float32:
    """Median absolute deviation of the pixels of each band, ``(bands,)``, as a deviation."""
    some = images[:: max(len(images) // 50, 1)]
    middle = np.nanmedian(some, axis=(0, 2, 3), keepdims=True)
    spread = 1.4826 * np.nanmedian(np.abs(some - middle), axis=(0, 2, 3))
    return np.asarray(np.maximum(spread, 1e-9), np.float32)


def train_cnn(
    name: CnnName,
    task: Task,
    images: Float32,
    targets: Float32,
    new: Float32,
    seed: int,
    settings: CnnSettings | None = None,
) -> Columns:
    """Train end to end and predict new images.

    Parameters
    ----------
    images, targets
        Of the training sources, ``(n, bands, 224, 224)`` and ``(n, t)``.
    new
        Images of the sources to predict.
    seed
        Of the initial weights, the order and the augmentation.

    Returns
    -------
    dict
        The task's columns for the new sources; the median only of numbers.
    """
    how = settings or CnnSettings()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train_and_predict(name, task, images, targets, new, how, generator)


def _train_and_predict(
    name: CnnName,
    task: Task,
    images: Float32,
    targets: Float32,
    new: Float32,
    how: CnnSettings,
    generator: torch.Generator,
) -> Columns:
    outputs = targets.shape[1]
    wanted, mean, deviation = _scaled_targets(task, targets)
    net: nn.Module
    if name == "paper_cnn":
        net = PaperCnn(images.shape[1], outputs, images.shape[2])
        optimiser: torch.optim.Optimizer = torch.optim.Adam(net.parameters())
        epochs, size = how.paper_epochs, how.paper_batch
    else:
        noise = noise_of(images)
        net = ResNet(images.shape[1], outputs)
        optimiser = torch.optim.AdamW(
            net.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
        )
        size = min(how.batch, max(len(images) // 4, 4))
        epochs = int(np.clip(how.steps * size / len(images), 8, how.most_epochs))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)

    def scaled(some: Float32) -> Tensor:
        return paper_scaled(some) if name == "paper_cnn" else strong_scaled(some, noise)

    for _ in range(epochs):
        net.train()
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            if len(some) < 2:
                continue
            batch = scaled(images[some.numpy()])
            if name == "resnet":
                batch = _turned(batch, generator)
            optimiser.zero_grad()
            loss = _loss(task, _outputs(net, batch), wanted[some])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if name == "resnet":
            schedule.step()
    net.eval()
    with torch.no_grad():
        parts = [
            _outputs(net, scaled(new[start : start + _PREDICT]))
            for start in range(0, len(new), _PREDICT)
        ]
    return _columns(task, torch.cat(parts).numpy(), mean, deviation)


def _outputs(net: nn.Module, batch: Tensor) -> Tensor:
    """A network's float32 outputs; in bfloat16 where the processor multiplies it in hardware."""
    half = multiplies_bfloat16(batch.device)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
        found: Tensor = net(batch.contiguous(memory_format=torch.channels_last))
    return found.float()


def _turned(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Flips and quarter turns, one for the whole batch; the sky has no up."""
    choice = int(torch.randint(8, (1,), generator=generator))
    batch = torch.rot90(batch, choice % 4, (2, 3))
    return batch.flip(3) if choice >= 4 else batch


def _scaled_targets(task: Task, targets: Float32) -> tuple[Tensor, float, float]:
    if task.kind != "density":
        return torch.from_numpy(targets), 0.0, 1.0
    values = np.log1p(targets) if task.logarithmic else targets
    mean, deviation = float(values.mean()), float(max(values.std(), 1e-6))
    return torch.from_numpy(((values - mean) / deviation).astype(np.float32)), mean, deviation


def _loss(task: Task, raw: Tensor, target: Tensor) -> Tensor:
    if task.kind == "density":
        return nn.functional.huber_loss(raw, target)
    if task.kind == "classes":
        return nn.functional.cross_entropy(raw, target.argmax(dim=1))
    present = torch.isfinite(target)
    clean = torch.where(present, target, torch.zeros_like(target))
    each = nn.functional.binary_cross_entropy_with_logits(raw, clean, reduction="none")
    return (each * present).sum() / present.sum().clamp_min(1)


def _columns(task: Task, raw: Float32, mean: float, deviation: float) -> Columns:
    if task.kind == "density":
        value = raw[:, 0] * deviation + mean
        return {f"{task.prefix}_median": np.expm1(value) if task.logarithmic else value}
    if task.kind == "classes":
        shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
        shifted /= shifted.sum(axis=1, keepdims=True)
        return {f"prob_{n}": v for n, v in zip(task.outputs, shifted.T, strict=True)}
    shares = 1 / (1 + np.exp(-raw))
    return dict(zip(task.outputs, shares.T, strict=True))
