"""A trained predictor: features in, the columns of a prediction table out; and as bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from astropt_db.errors import DatabaseError
from astropt_db.predict import mixture as mixtures
from astropt_db.predict.features import Batch
from astropt_db.predict.mixture import PROBABILITIES, Mixture, Summary
from astropt_db.predict.models import Model, mixture_from, model_from
from astropt_db.predict.novelty import Novelty
from astropt_db.predict.parallel import map_blocks
from astropt_db.predict.recalibration import Recalibration
from astropt_db.predict.scaling import Scaler
from astropt_db.predict.tasks import Task

Float32 = NDArray[np.float32]
Columns = dict[str, NDArray[Any]]
FORMAT = 1

_AT = {name: PROBABILITIES.index(p) for name, p in (
    ("median", 0.5), ("lower_68", 0.16), ("upper_68", 0.84),
    ("lower_95", 0.025), ("upper_95", 0.975),
)}  # fmt: skip


@dataclass(frozen=True)
class Density:
    """How a head's raw output becomes distributions of the target.

    Attributes
    ----------
    components
        Of each member's mixture.
    least_scale
        Smallest width of a component, scaled.
    mean, deviation
        Target (after the logarithm, if any) to scaled units.
    grid
        Scaled values where distributions are tabulated.
    calibration
        Between predicted and true probabilities.
    share
        Weight of each member; one number where all count the same.
    """

    components: int
    least_scale: float
    mean: float
    deviation: float
    grid: Float32
    calibration: Recalibration
    share: Float32 = field(default_factory=lambda: np.ones(1, np.float32))


@dataclass(frozen=True)
class Logits:
    """How a head's logits become probabilities.

    Attributes
    ----------
    members
        Networks whose logits are averaged.
    gain, shift
        Calibrated logit = gain * logit + shift, float32 ``(outputs,)``.
    known
        Outputs that had labels, bool ``(outputs,)``; the others are 0.
    """

    members: int
    gain: Float32
    shift: Float32
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class _Entry:
    """First product of a head, and the components of novelty, with the scaling folded in."""

    scaler: Scaler
    vectors: Float32
    light: Float32
    bias: Float32
    width: int

    def __call__(self, batch: Batch) -> tuple[Float32, Float32]:
        """Input of the head's second step ``(n, width)``, and components ``(n, q)``."""
        found = self.scaler.light(batch) @ self.light
        if len(self.vectors):
            found += batch.vectors() @ self.vectors
        found += self.bias
        return found[:, : self.width], found[:, self.width :]


@dataclass(frozen=True)
class Predictor:
    """All that is needed to predict.

    Attributes
    ----------
    task
        What is predicted.
    head
        ``linear``, ``mlp``, ``knn``.
    scaler, model
        From features to raw output.
    link
        From raw output to the task's columns.
    novelty
        Which sources are unlike the training set; ``None`` where nobody asks.
    """

    task: Task
    head: str
    scaler: Scaler
    model: Model
    link: Density | Logits
    novelty: Novelty | None = None

    def predict(self, batch: Batch) -> Columns:
        """Columns of the prediction table, without keys; arrays ``(n,)`` or ``(n, k)``."""
        entry = self._entry(batch.embedding.shape[1])
        parts = map_blocks(lambda rows: self._block(batch.take(rows), entry), len(batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _block(self, batch: Batch, entry: _Entry) -> Columns:
        hidden, place = entry(batch)
        new = self.novelty.is_new(place) if self.novelty else np.zeros(len(batch), np.bool_)
        columns: Columns = {"is_extrapolated": new}
        raw = self.model.finish(hidden)
        if isinstance(self.link, Density):
            return columns | self._density_columns(self._mixture(raw))
        names = self.task.outputs
        if self.task.kind == "classes":
            names = tuple(f"prob_{name}" for name in names)
        return columns | dict(zip(names, self.probabilities(raw).T, strict=True))

    def _entry(self, d: int) -> _Entry:
        weight, bias = self.model.entry()
        width = weight.shape[1]
        if self.novelty is not None:
            weight = np.concatenate([weight, self.novelty.projection], axis=1)
            bias = np.concatenate([bias, np.zeros(weight.shape[1] - width, np.float32)])
        vectors, offset = self.scaler.folded(weight, d)
        return _Entry(self.scaler, vectors, weight[d:], bias + offset, width)

    def raw(self, batch: Batch) -> Float32:
        """What the head gives before anything is read into it, ``(n, outputs)``."""
        entry = self._entry(batch.embedding.shape[1])
        parts = map_blocks(lambda rows: self.model.finish(entry(batch.take(rows))[0]), len(batch))
        return np.concatenate(parts)

    def mixture(self, batch: Batch) -> Mixture:
        """Uncalibrated distributions in scaled units."""
        return self._mixture(self.raw(batch))

    def _mixture(self, raw: Float32) -> Mixture:
        assert isinstance(self.link, Density)
        return mixture_from(raw, self.link.components, self.link.least_scale, self.link.share)

    def scaled(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Values of the target in scaled units."""
        assert isinstance(self.link, Density)
        number = np.asarray(values, np.float64)
        number = np.log1p(number) if self.task.logarithmic else number
        return (number - self.link.mean) / self.link.deviation

    def unscaled(self, scaled: NDArray[np.floating[Any]]) -> Float32:
        """Scaled units back to values of the target."""
        assert isinstance(self.link, Density)
        number = scaled * self.link.deviation + self.link.mean
        return np.asarray(np.expm1(number) if self.task.logarithmic else number, np.float32)

    def pit(self, batch: Batch, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Calibrated cumulative probability at given values of the target, ``(n,)``."""
        assert isinstance(self.link, Density)
        raw = self.mixture(batch).cdf(self.scaled(values).astype(np.float32))
        return self.link.calibration.to_true(raw.astype(np.float64))

    def _density_columns(self, found: Mixture) -> Columns:
        assert isinstance(self.link, Density)
        summary: Summary = mixtures.summarise(found, self.link.grid, self.link.calibration)
        prefix, quantiles = self.task.prefix, self.unscaled(summary.quantiles)
        mode = self.unscaled(summary.mode)
        columns: Columns = {f"{prefix}_mode": mode, f"{prefix}_quantiles": quantiles}
        columns |= {f"{prefix}_{name}": quantiles[:, k] for name, k in _AT.items()}
        if self.task.name == "photoz":
            width = mixtures.ODDS_WIDTH * (1 + mode.astype(np.float64))
            low, high = (self.scaled(mode + sign * width).astype(np.float32) for sign in (-1, 1))
            columns["odds"] = mixtures.probability_between(found, low, high, self.link.calibration)
        return columns

    def probabilities(self, raw: Float32) -> Float32:
        """Probabilities of the task's outputs ``(n, outputs)``."""
        assert isinstance(self.link, Logits)
        logits = raw.reshape(len(raw), self.link.members, -1).mean(axis=1)
        return link_probabilities(self.task, logits, self.link)


def link_probabilities(task: Task, logits: Float32, link: Logits) -> Float32:
    """Calibrated probabilities from averaged logits ``(n, outputs)``."""
    calibrated = logits * link.gain + link.shift
    if task.kind == "classes":
        calibrated = np.where(link.known, calibrated, -np.inf)
        shifted = np.exp(calibrated - calibrated.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)
    shares = np.where(link.known, 1.0 / (1.0 + np.exp(-np.clip(calibrated, -30, 30))), 0.0)
    # Smooth, featured and artefact are the answers to one question.
    shares[:, :3] /= np.maximum(shares[:, :3].sum(axis=1, keepdims=True), 1e-6)
    return np.asarray(shares, np.float32)


# As bytes


def to_bytes(predictor: Predictor) -> bytes:
    """A safetensors file with everything that was learned."""
    tensors = {f"model.{name}": value for name, value in predictor.model.tensors().items()}
    scaler = predictor.scaler
    tensors |= {
        "scaler.mean": scaler.mean,
        "scaler.deviation": scaler.deviation,
        "scaler.gaps": scaler.gaps,
    }
    link, facts = predictor.link, {"format": FORMAT, "head": predictor.head}
    if isinstance(link, Density):
        facts |= {"components": link.components, "least_scale": link.least_scale}
        facts |= {"mean": link.mean, "deviation": link.deviation}
        tensors |= {
            "link.grid": link.grid,
            "link.predicted": link.calibration.predicted,
            "link.true": link.calibration.true,
            "link.share": link.share,
        }
    else:
        facts["members"] = link.members
        tensors |= {"link.gain": link.gain, "link.shift": link.shift, "link.known": link.known}
    if predictor.novelty is not None:
        tensors |= {
            "novelty.projection": predictor.novelty.projection,
            "novelty.centres": predictor.novelty.centres,
            "novelty.limit": np.array([predictor.novelty.limit]),
        }
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return bytes(save_tensors(contiguous, metadata={"astropt_db": json.dumps(facts)}))


def from_bytes(task: Task, raw: bytes) -> Predictor:
    """Read what :func:`to_bytes` wrote.

    Raises
    ------
    DatabaseError
        If it is something else, or of a newer format.
    """
    try:
        tensors = load_tensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        facts = json.loads(header["__metadata__"]["astropt_db"])
    except Exception as error:
        raise DatabaseError(f"the weights of a predictor are damaged: {error}") from error
    if facts["format"] > FORMAT:
        raise DatabaseError("a predictor was stored by a newer astropt-db; upgrade the package")
    scaler = Scaler(tensors["scaler.mean"], tensors["scaler.deviation"], tensors["scaler.gaps"])
    model = model_from(
        facts["head"],
        {name[6:]: value for name, value in tensors.items() if name.startswith("model.")},
    )
    link: Density | Logits
    if task.kind == "density":
        calibration = Recalibration(tensors["link.predicted"], tensors["link.true"])
        link = Density(
            facts["components"],
            facts["least_scale"],
            facts["mean"],
            facts["deviation"],
            tensors["link.grid"],
            calibration,
            tensors.get("link.share", np.ones(1, np.float32)),
        )
    else:
        link = Logits(
            facts["members"], tensors["link.gain"], tensors["link.shift"], tensors["link.known"]
        )
    novelty = None
    if "novelty.limit" in tensors:
        novelty = Novelty(
            tensors["novelty.projection"],
            tensors["novelty.centres"],
            float(tensors["novelty.limit"][0]),
        )
    return Predictor(task, facts["head"], scaler, model, link, novelty)
