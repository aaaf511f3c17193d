"""The small network of arXiv:2503.15312 as a head: 64, 32, 16 with batch normalisation.

The paper predicts one number by Huber loss. Here the last layer gives the parameters of a
mixture, so that every prediction comes with its distribution, or logits of shares and classes.
Several members, each trained with another part of the labels held back, are averaged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astropt_db.predict.directions import find_directions
from astropt_db.predict.features import Batch
from astropt_db.predict.models import SLOPE, Network
from astropt_db.predict.scaling import Scaler, blocks

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]
"""From raw outputs ``(members, n, outputs)`` and targets ``(members, n, t)`` to ``(members,)``."""

WIDTHS = (64, 32, 16)
_IN_MEMORY = 150_000_000
_ONE_THREAD = 50_000
_MOMENTUM, _EPSILON = 0.1, 1e-5
"""Of batch normalisation, torch's own."""


@dataclass(frozen=True)
class Sight:
    """What a member of the ensemble sees of the embedding, beside all fluxes.

    Attributes
    ----------
    directions
        Whether it sees what :mod:`.directions` makes of the embedding.
    share
        Of the principal components, the leading ones.
    """

    directions: bool
    share: float


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes
    ----------
    members
        Networks in the ensemble.
    widths
        Units of the hidden layers.
    dropout
        Share of units left out in training; the paper has 0.3.
    learning_rate, weight_decay
        Of AdamW.
    epochs, steps
        At most; training stops when the labels held back are not predicted better any more.
    patience
        Epochs without improvement after which it stops.
    held
        Share of the labels held back.
    labels_per_component
        Labels for each principal component of the embedding that the network sees.
    sights
        What each member sees where there are embedding and fluxes; members are as many.
    """

    members: int = 3
    widths: tuple[int, ...] = WIDTHS
    dropout: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    epochs: int = 80
    steps: int = 4000
    patience: int = 8
    held: float = 0.12
    labels_per_component: int = 80
    sights: tuple[Sight, ...] = ()


def mixture_loss(least_scale: float, components: int) -> Loss:
    """Negative log likelihood of a mixture of logistic components."""

    def loss(raw: Tensor, target: Tensor) -> Tensor:
        logits, centre, log_scale = raw.reshape(*raw.shape[:2], 3, components).unbind(2)
        scale = least_scale + torch.exp(log_scale.clamp(-20, 10))
        z = ((target[..., :1] - centre) / scale).abs()
        density = -z - 2 * nn.functional.softplus(-z) - torch.log(scale)
        return -torch.logsumexp(torch.log_softmax(logits, 2) + density, dim=2).mean(dim=1)

    return loss


def share_loss(raw: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of shares; each has the same weight, and gaps have none."""
    present = torch.isfinite(target)
    clean = torch.where(present, target, torch.zeros_like(target))
    each = nn.functional.binary_cross_entropy_with_logits(raw, clean, reduction="none")
    return ((each * present).sum(dim=1) / present.sum(dim=1).clamp_min(1)).sum(dim=1)


def class_loss(weights: Float32) -> Loss:
    """Cross entropy of classes, rare ones with more weight."""
    tensor = torch.from_numpy(weights)

    def loss(raw: Tensor, target: Tensor) -> Tensor:
        weighted = target * tensor
        entropy = -(torch.log_softmax(raw, dim=2) * weighted).sum(dim=(1, 2))
        return entropy / weighted.sum(dim=(1, 2))

    return loss


class _Normalised(torch.autograd.Function):
    """Batch normalisation and leaky rectifier of each member, ``(members, n, units)``.

    Networks this small spend their time on passes over their states. Torch's own operators for
    this make more of them, and its variance is not vectorised along the middle axis.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Result, and mean and variance of the batch, which have no gradient."""
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        variance = torch.square(centred).mean(dim=1, keepdim=True)
        scale = torch.rsqrt(variance + _EPSILON)
        result = nn.functional.leaky_relu_(torch.addcmul(shift, centred, scale * gain), SLOPE)
        ctx.save_for_backward(centred, result, scale, gain)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, _mean: Tensor, _variance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the three arguments."""
        centred, result, scale, gain = ctx.saved_tensors
        before = torch.ops.aten.leaky_relu_backward(gradient, result, SLOPE, True)
        of_shift = before.sum(dim=1, keepdim=True)
        of_gain = (before * centred).sum(dim=1, keepdim=True).mul_(scale)
        factor = scale * gain
        share = factor / -centred.shape[1]
        of_x = torch.addcmul(share * of_shift, before, factor)
        return of_x.addcmul_(centred, share * scale * of_gain), of_gain, of_shift


_normalised = cast("Callable[..., tuple[Tensor, Tensor, Tensor]]", _Normalised.apply)


class Ensemble(nn.Module):
    """The paper's network with another last layer, several members side by side.

    Members share each step's products, which costs little more than one member alone.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        settings: Settings,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        sizes = (inputs, *settings.widths, outputs)
        self.dropout, self.rng = settings.dropout, rng
        # One parameter for all: the optimiser's many small operations become few.
        parts: list[Tensor] = []
        for width, units in itertools.pairwise(sizes):
            bound = width**-0.5
            start = rng.uniform(-bound, bound, (members, width, units)).astype(np.float32)
            zeros = torch.zeros(members, 1, units)
            parts += [torch.from_numpy(start), zeros, torch.ones_like(zeros)]
        del parts[-1]  # there is no gain in the last layer, nor normalisation
        self.shapes = [part.shape[1:] for part in parts]
        self.numbers = nn.Parameter(torch.cat([part.flatten(1) for part in parts], dim=1))
        self.register_buffer("sees", torch.ones(members, inputs, 1))
        for k, units in enumerate(settings.widths):
            self.register_buffer(f"mean{k}", torch.zeros(members, 1, units))
            self.register_buffer(f"variance{k}", torch.ones(members, 1, units))

    def layers(self) -> list[tuple[Tensor, ...]]:
        """Weight, shift and gain of each layer; the last one has no gain.

        A bias before the normalisation would be taken off by it.
        """
        flat = torch.split(self.numbers, [shape.numel() for shape in self.shapes], dim=1)
        parts = [one.view(-1, *shape) for one, shape in zip(flat, self.shapes, strict=True)]
        parts[0] = parts[0] * self.get_buffer("sees")
        return [tuple(parts[k : k + 3]) for k in range(0, len(parts), 3)]

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs ``(members, n, outputs)`` of features ``(members, n, p)``."""
        *hidden, (last, bias) = self.layers()
        for k, (weight, shift, gain) in enumerate(hidden):
            x = torch.bmm(x, weight)
            mean, variance = self.get_buffer(f"mean{k}"), self.get_buffer(f"variance{k}")
            if self.training:
                x, now_mean, now_variance = _normalised(x, gain, shift)
                mean.lerp_(now_mean, _MOMENTUM)
                variance.lerp_(now_variance, _MOMENTUM)
            else:
                x = (x - mean) * (gain * torch.rsqrt(variance + _EPSILON)) + shift
                x = nn.functional.leaky_relu(x, SLOPE)
            if self.training and self.dropout:
                x = x * self._kept(x.shape)
        return torch.baddbmm(bias, x, last)

    def _kept(self, shape: torch.Size) -> Tensor:
        """What dropout multiplies with; a byte of chance is enough, and ten times as fast."""
        least = round(256 * self.dropout)
        chance = torch.from_numpy(self.rng.integers(0, 256, shape, np.uint8))
        return (chance >= least) * (256 / (256 - least))

    @torch.no_grad()
    def folded(self) -> Network:
        """The same network with batch normalisation folded into weights and biases."""
        *hidden, (last, bias) = self.layers()
        folded = []
        for k, (weight, shift, gain) in enumerate(hidden):
            mean, variance = self.get_buffer(f"mean{k}"), self.get_buffer(f"variance{k}")
            factor = gain.double() * torch.rsqrt(variance.double() + _EPSILON)
            folded.append((weight * factor, shift - mean * factor))
        folded.append((last, bias))
        return Network(tuple((w.float().numpy(), b.float().squeeze(1).numpy()) for w, b in folded))


def fit_network(
    batch: Batch,
    scaler: Scaler,
    targets: Float32,
    outputs: int,
    loss: Loss,
    settings: Settings,
    seed: int,
) -> Network:
    """Train the ensemble, each member with another part of the labels held back.

    Parameters
    ----------
    batch, scaler
        Features and their scale.
    targets
        float32 ``(n, t)``.
    outputs
        Width of the last layer.
    loss
        Of raw outputs and targets of one member.
    seed
        Same seed, same head.
    """
    rng = np.random.default_rng(seed)
    reduction = _reduction(batch, scaler, settings)
    inputs = scaler(batch) @ reduction if len(batch) * scaler.width <= _IN_MEMORY else None
    if settings.sights:
        directions = find_directions(batch, scaler, targets[:, 0], rng)
        reduction = np.concatenate([directions.weight, reduction], axis=1)
        if inputs is not None:
            inputs = np.concatenate([directions.values, inputs], axis=1)
    net = Ensemble(settings.members, reduction.shape[1], outputs, settings, rng)
    components = reduction.shape[1] - (scaler.width - batch.embedding.shape[1])
    for sight, seen in zip(settings.sights, net.get_buffer("sees"), strict=False):
        seen[: directions.number] = float(sight.directions)
        last = directions.number + round((components - directions.number) * sight.share)
        seen[last:components] = 0.0
    # Products this small are slower on several threads, and sums then depend on their number.
    threads = torch.get_num_threads()
    if len(batch) < _ONE_THREAD:
        torch.set_num_threads(1)
    try:
        _train(net, _Rows(batch, scaler, targets, reduction, inputs), loss, settings, rng)
    finally:
        torch.set_num_threads(threads)
    network = net.folded()
    (weight, bias), *others = network.layers
    p, q = reduction.shape
    units = weight.shape[0] * weight.shape[2]
    if q * (p + units) < p * units:  # two small products are quicker than one large one
        return Network(network.layers, reduction)
    return Network(((np.asarray(reduction @ weight, np.float32), bias), *others))


def _reduction(batch: Batch, scaler: Scaler, settings: Settings) -> Float32:
    """Scaled features to those that the network sees, ``(p, q)``.

    The embedding is reduced to so many principal components as the labels can tell apart; the
    rest of the features stay.
    """
    width = batch.embedding.shape[1]
    number = int(np.clip(len(batch) // settings.labels_per_component, 8, max(width, 8)))
    if width <= number:
        return np.eye(scaler.width, dtype=np.float32)
    gram = np.zeros((width, width))
    for part in blocks(len(batch)):
        x = scaler(batch.take(part))[:, :width]
        gram += x.T @ x
    vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :number]
    kept = scaler.width - width
    out = np.zeros((scaler.width, number + kept), np.float32)
    out[:width, :number] = vectors
    out[width:, number:] = np.eye(kept)
    return out


class _Rows:
    """Scaled features and targets of some rows; kept in memory where they are few."""

    def __init__(
        self,
        batch: Batch,
        scaler: Scaler,
        targets: Float32,
        reduction: Float32,
        inputs: Float32 | None,
    ) -> None:
        self.batch, self.scaler, self.reduction = batch, scaler, reduction
        self.targets = torch.from_numpy(np.ascontiguousarray(targets, np.float32))
        self.features = None if inputs is None else torch.from_numpy(inputs)

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, rows: Int64) -> tuple[Tensor, Tensor]:
        """Features and targets of rows ``(members, n)``."""
        index = torch.from_numpy(rows).flatten()
        if self.features is not None:
            # Twice to four times as fast as indexing with two dimensions.
            features = self.features.index_select(0, index)
        else:
            scaled = self.scaler(self.batch.take(rows.ravel())) @ self.reduction
            features = torch.from_numpy(scaled)
        targets = self.targets.index_select(0, index)
        return features.view(*rows.shape, -1), targets.view(*rows.shape, -1)


def _train(
    net: Ensemble, rows: _Rows, loss: Loss, settings: Settings, rng: np.random.Generator
) -> None:
    members, n = settings.members, len(rows)
    orders = np.stack([rng.permutation(n) for _ in range(members)]).astype(np.int64)
    n_held = max(int(settings.held * n), min(10, n // 4))
    held, learn = orders[:, :n_held], orders[:, n_held:]
    size = int(np.clip(learn.shape[1] // 12, 16, 512))
    epochs = int(np.clip(settings.steps // (learn.shape[1] / size), 8, settings.epochs))
    optimiser = torch.optim.AdamW(
        net.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    best, waited = np.full(members, np.inf), 0
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(epochs):
        net.train()
        shuffled = rng.permuted(learn, axis=1)
        for start in range(0, shuffled.shape[1], size):
            some = shuffled[:, start : start + size]
            if some.shape[1] < 2:  # batch normalisation needs two
                continue
            features, targets = rows.take(some)
            optimiser.zero_grad()
            value = loss(net(features), targets).sum()
            value.backward()  # type: ignore[no-untyped-call]
            _clip(net.numbers)
            optimiser.step()
        schedule.step()
        current = _held_loss(net, rows, held, loss)
        better = current < best - 1e-4
        waited = 0 if better.any() else waited + 1
        best = np.where(better, current, best)
        for name, value in net.state_dict().items():
            kept[name][torch.from_numpy(better)] = value[torch.from_numpy(better)]
        if waited > settings.patience:
            break
    net.load_state_dict(kept)
    net.eval()


@torch.no_grad()
def _clip(parameter: nn.Parameter) -> None:
    """Shorten a gradient to length 1 if it is longer; torch's own takes as long as a layer."""
    assert parameter.grad is not None
    parameter.grad.mul_((1.0 / (parameter.grad.norm() + 1e-6)).clamp_max(1.0))


@torch.no_grad()
def _held_loss(net: Ensemble, rows: _Rows, held: Int64, loss: Loss) -> NDArray[np.float64]:
    """Loss of each member on the rows that it holds back."""
    net.eval()
    total = np.zeros(len(held))
    for start in range(0, held.shape[1], 4096):
        some = held[:, start : start + 4096]
        features, targets = rows.take(some)
        total += loss(net(features), targets).numpy() * some.shape[1]
    total /= max(held.shape[1], 1)
    return np.where(np.isfinite(total), total, np.inf)
