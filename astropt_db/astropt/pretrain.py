"""Self-supervised pre-training: predict each token from those before it.

The loop knows nothing of where images come from: a source yields batches from any position on,
always the same ones, and that is what makes a run that was killed continue exactly. Optimiser and
schedule are those of AstroPT (Smith et al. 2024, arXiv:2405.14930): AdamW with weight decay on
matrices only, linear warm-up and cosine decay of the learning rate, gradients clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from astropt_db.astropt.checkpoint import load_archive, save_checkpoint
from astropt_db.astropt.encoder import multiplies_bfloat16
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import SIZES, AstroPT, Modality, ModelConfig
from astropt_db.astropt.sed import SED_SLOTS, SED_TOKEN_SIZE
from astropt_db.astropt.tokens import image_tokens, pixel_weights, sed_tokens
from astropt_db.errors import ConfigurationError

LEAD = 64  # central tokens before the SED: those that the paper's embedding averages
ZERO_POINTS = (24.6, 29.8, 30.0, 29.9)
"""AB magnitudes of one unit in Q1's mosaics of VIS, Y, J and H, whose pixels the encoders take."""
MICROJANSKY = 23.9
STATE_FILE = "state.pt"
_SPREAD = 1_000_003  # keeps the random numbers of neighbouring seeds apart


@dataclass(frozen=True)
class Batch:
    """Images (n, bands, side, side) and, for models that take them, SEDs (n, 8, 2)."""

    images: Tensor
    sed: Tensor | None = None


class Source(Protocol):
    """Where batches come from."""

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield micro-batch number `start` and all later ones, the same at every call."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    iterations
        Optimiser steps.
    accumulate
        Micro-batches for each step, shared among the processes of a run.
    learning_rate, final_rate, warmup
        Peak and end of the schedule, and steps to the peak.
    weight_decay, clip
        AdamW's decay of matrices, and the largest gradient norm.
    band_dropout
        Chance that a band of an SED is hidden, so that absent bands are nothing new.
    evaluate_every, evaluation_batches
        Steps between validations, and batches of each.
    seed
        Of the first weights and of the hidden bands.
    tokens, full_every
        Steps see the first `tokens` image tokens only (None: all), but every `full_every`-th sees
        all. Of a causal model that teaches the same predictions for less work, and the paper's
        embedding reads 64 tokens.
    """

    iterations: int = 30_000
    accumulate: int = 1
    learning_rate: float = 6e-4
    final_rate: float = 6e-5
    warmup: int = 2000
    weight_decay: float = 0.1
    clip: float = 1.0
    band_dropout: float = 0.2
    evaluate_every: int = 1000
    evaluation_batches: int = 8
    seed: int = 1337
    tokens: int | None = None
    full_every: int = 8

    def rate(self, iteration: int) -> float:
        """Return the learning rate of a step."""
        if iteration < self.warmup:
            return self.learning_rate * (iteration + 1) / self.warmup
        done = (iteration - self.warmup) / max(self.iterations - self.warmup, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        return self.final_rate + cosine * (self.learning_rate - self.final_rate)


def configure(size: str, modalities: str) -> tuple[ModelConfig, Preprocessing]:
    """Return the configuration of a named size and set of modalities.

    Parameters
    ----------
    size
        ``mini``, ``5M``, ``21M`` or ``90M``.
    modalities
        ``vis``, ``vis_nisp`` or ``vis_nisp_sed``.

    Raises
    ------
    ConfigurationError
        If either name does not exist.
    """
    bands = {"vis": 1, "vis_nisp": 4, "vis_nisp_sed": 4}
    if size not in SIZES or modalities not in bands:
        raise ConfigurationError(
            f"no encoder of size {size!r} and modalities {modalities!r}; sizes are "
            f"{', '.join(SIZES)}, modalities {', '.join(bands)}"
        )
    scale = tuple(10 ** (-0.4 * (zero - MICROJANSKY)) for zero in ZERO_POINTS)
    how = Preprocessing(bands[modalities], scale=scale if bands[modalities] == 4 else ())
    chain = [Modality("images", how.bands * how.patch_size**2)]
    lead = 0
    if modalities.endswith("sed"):
        chain.append(Modality("sed", SED_TOKEN_SIZE))
        lead = LEAD
    config = ModelConfig(tuple(chain), block_size=how.n_patches, lead=lead, **SIZES[size])
    return config, how


class Trainer:
    """A training run that can be stopped anywhere and continued exactly.

    Parameters
    ----------
    config, preprocessing
        See :func:`configure`.
    settings
        How to train.
    folder
        Where ``state.pt`` is kept. If it holds one, the run continues from there.
    device
        Where to compute.
    data
        What decides the batches, as plain values: a run goes on only with the same.

    Raises
    ------
    ConfigurationError
        If the folder holds a run with another configuration, other settings or other data.
    """

    def __init__(
        self,
        config: ModelConfig,
        preprocessing: Preprocessing,
        settings: Settings,
        folder: Path,
        device: str | torch.device = "cpu",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.preprocessing, self.settings = config, preprocessing, settings
        self.data = dict(data or {})
        self.folder, self.device = Path(folder), torch.device(device)
        self.rank, self.world = _place()
        if settings.accumulate % self.world:
            raise ConfigurationError(
                f"{settings.accumulate} batches for each step cannot be shared equally among "
                f"{self.world} processes"
            )
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.model = AstroPT(config).to(self.device)
        self.optimiser = _optimiser(self.model, settings)
        self.iteration = 0
        self.history: list[dict[str, float]] = []
        if (self.folder / STATE_FILE).exists():
            self._restore()
        # Gradients are averaged over all processes during the backward pass.
        self._parallel: nn.Module = self.model
        if self.world > 1:
            self._parallel = DistributedDataParallel(self.model)

    def run(
        self,
        training: Source,
        validation: Source | None = None,
        until: int | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Train up to step `until` (default: to the end), then save the state.

        Parameters
        ----------
        training, validation
            Sources; the first is read from where the run stands. Of several processes, each hands
            over its own share of the batches.
        until
            Stop there.
        report
            Called with each row that is added to :attr:`history`.
        """
        end = min(until or self.settings.iterations, self.settings.iterations)
        batches = training.batches(self.iteration * self._share)
        while self.iteration < end:
            row = {"iteration": float(self.iteration + 1), "training": self._step(batches)}
            self.iteration += 1
            due = self.iteration % self.settings.evaluate_every == 0
            last = self.iteration == self.settings.iterations
            if validation and self.rank == 0 and (due or last):
                row |= {f"validation_{k}": v for k, v in self.evaluate(validation).items()}
            self.history.append(row)
            if due:
                self.save_state()
            if report is not None:
                report(row)
        self.save_state()

    def start_from(self, weights: Mapping[str, Tensor]) -> int:
        """Take over the weights whose names and shapes fit, before the first step.

        A model of other bands has other tokenisers, but its blocks and positions fit.

        Returns
        -------
        int
            How many tensors were taken.
        """
        if self.iteration:
            return 0
        own = self.model.state_dict()
        fitting = {
            name: value
            for name, value in weights.items()
            if name in own and own[name].shape == value.shape
        }
        self.model.load_state_dict({**own, **fitting})
        return len(fitting)

    @property
    def _share(self) -> int:
        return self.settings.accumulate // self.world

    def evaluate(self, source: Source) -> dict[str, float]:
        """Return each modality's mean loss over the source's first batches, for all tokens."""
        sums: dict[str, float] = {}
        count = self.settings.evaluation_batches
        with torch.no_grad(), self._autocast():
            for _, batch in zip(range(count), source.batches(0), strict=False):
                tokens, weights = self._tokens(batch)
                for name, loss in self.model.losses(tokens, weights=weights).items():
                    sums[name] = sums.get(name, 0.0) + float(loss) / count
        return sums

    def save_state(self) -> None:
        """Write everything that the next step depends on; a kill leaves the old or the new.

        Random numbers need no place in it: they follow from the seed and the step.
        """
        if self.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "identity": self._identity(),
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
        }
        partial = self.folder / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def save_encoder(
        self, path: Path, notes: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32
    ) -> Path:
        """Write the model as an encoder that ``load_encoder`` reads; return the weights' path."""
        facts = {"iterations": self.iteration, "settings": asdict(self.settings), **(notes or {})}
        weights = self.model.state_dict()
        return save_checkpoint(path, self.config, self.preprocessing, weights, facts, dtype)

    def _step(self, batches: Iterator[Batch]) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(self.iteration)
        total = torch.zeros((), device=self.device)
        for number in range(self._share):
            batch = next(batches, None)
            if batch is None:
                raise ConfigurationError(f"the training images ended at step {self.iteration}")
            short = self.settings.tokens and self.iteration % self.settings.full_every
            tokens, weights = self._tokens(batch, self.settings.tokens if short else None)
            self._hide_bands(tokens, weights, number)
            with self._autocast(), self._synchronised(number == self._share - 1):
                loss = self._parallel(tokens, weights=weights) / self._share
                loss.backward()
            total += loss.detach()
        if self.world > 1:
            distributed.all_reduce(total)
            total /= self.world
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(total)

    def _tokens(
        self, batch: Batch, count: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        how = self.preprocessing
        images = batch.images.to(self.device)
        patches = image_tokens(images, how.patch_size, count, how.spiral, how.bfloat16, how.scale)
        tokens, weights = {"images": patches}, {}
        present = pixel_weights(images, how.patch_size, how.spiral, count)
        if present is not None:
            weights["images"] = present
        if batch.sed is not None:
            tokens["sed"], weights["sed"] = sed_tokens(batch.sed.to(self.device))
        return tokens, weights

    def _hide_bands(
        self, tokens: dict[str, Tensor], weights: dict[str, Tensor], number: int
    ) -> None:
        """Hide bands of the SEDs of this process's micro-batch `number` of the step."""
        if "sed" not in tokens or not self.settings.band_dropout:
            return
        place = self.iteration * self.settings.accumulate + number * self.world + self.rank
        generator = torch.Generator().manual_seed(_SPREAD * self.settings.seed + place)
        shape = (len(tokens["sed"]), len(SED_SLOTS), 1)
        kept = torch.rand(shape, generator=generator) >= self.settings.band_dropout
        tokens["sed"] = tokens["sed"] * kept.to(self.device)
        weights["sed"] = weights["sed"] * kept.to(self.device)

    def _synchronised(self, last: bool) -> Any:
        """Average gradients over the processes in the last micro-batch of a step only."""
        if isinstance(self._parallel, DistributedDataParallel) and not last:
            return self._parallel.no_sync()
        return nullcontext()

    def _autocast(self) -> Any:
        if multiplies_bfloat16(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _identity(self) -> dict[str, Any]:
        return {
            "model": self.config.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "settings": asdict(self.settings),
            "data": self.data,
        }

    def _restore(self) -> None:
        path = self.folder / STATE_FILE
        state = load_archive(path)
        if state.get("identity") != self._identity():
            raise ConfigurationError(
                f"{path} belongs to a run with another model, other settings or other images; "
                "use another folder, or give what it was started with"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.iteration, self.history = state["iteration"], state["history"]


def _place() -> tuple[int, int]:
    """Number of this process, and of all processes, of a run under ``torchrun``."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _optimiser(model: AstroPT, settings: Settings) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
