"""From labelled features to a predictor: scale, head, calibration, novelty. No database here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from astropt_db.errors import ConfigurationError
from astropt_db.predict import linear, mlp
from astropt_db.predict.features import Batch
from astropt_db.predict.mixture import target_grid
from astropt_db.predict.models import Model, Neighbours, Network, mixture_from
from astropt_db.predict.novelty import fit_novelty
from astropt_db.predict.pooling import LEAST_LABELS, choose_weights
from astropt_db.predict.predictor import Density, Logits, Predictor
from astropt_db.predict.recalibration import LEAST, fit_recalibration
from astropt_db.predict.scaling import Scaler, fit_scaler
from astropt_db.predict.tasks import Task

HeadName = Literal["linear", "mlp", "knn"]
HEADS: tuple[HeadName, ...] = ("linear", "mlp", "knn")
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

COMPONENTS = 3
LEAST_SCALE = 0.005
NEIGHBOURS = 20
SIGHTS = (mlp.Sight(False, 0.0), mlp.Sight(True, 0.0), mlp.Sight(True, 0.3))
"""Of the members of an ensemble, beside all fluxes."""

_KNN_COMPONENTS = 32
_NOVELTY_SAMPLE = 20_000
_JUDGED = 5_000
"""Examples that are judged by their neighbours, at most."""


@dataclass(frozen=True)
class Labelled:
    """Sources with features and targets.

    Attributes
    ----------
    batch
        Features.
    targets
        float32 ``(n, t)``: the number, the shares with NaN in gaps, or one-hot classes.
    """

    batch: Batch
    targets: Float32

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, rows: NDArray[Any] | slice) -> Labelled:
        """Some of the sources."""
        return Labelled(self.batch.take(rows), self.targets[rows])

    def joined(self, other: Labelled) -> Labelled:
        """These and other sources."""
        one, two = self.batch, other.batch
        batch = Batch(
            np.concatenate([one.object_id, two.object_id]),
            np.concatenate([one.embedding, two.embedding]),
            np.concatenate([one.flux, two.flux]),
        )
        return Labelled(batch, np.concatenate([self.targets, other.targets]))


@dataclass
class Fitted:
    """A predictor and what was chosen on the way."""

    predictor: Predictor
    notes: dict[str, float] = field(default_factory=dict)


def fit(
    task: Task,
    head: HeadName,
    train: Labelled,
    calibration: Labelled,
    seed: int,
    settings: mlp.Settings | None = None,
    *,
    novelty: bool = True,
) -> Fitted:
    """Train and calibrate a predictor.

    Parameters
    ----------
    train, calibration
        Sources to learn from, and others to calibrate on.
    seed
        Same seed and data, same predictor.
    settings
        Of the network.
    novelty
        Whether to describe the training set for the flag of extrapolation.

    Raises
    ------
    ConfigurationError
        If there is no such head.
    """
    if head not in HEADS:
        raise ConfigurationError(f"there is no head {head!r}; there are: {', '.join(HEADS)}")
    if len(calibration) < LEAST:  # too few to calibrate on: rather learn from them
        train, calibration = train.joined(calibration), calibration.take(slice(0, 0))
    rng = np.random.default_rng(seed)
    scaler = fit_scaler(train.batch)
    make = _fit_density if task.kind == "density" else _fit_logits
    fitted = make(task, head, scaler, train, calibration, rng, seed, settings or settings_for(task))
    if novelty:
        sample = rng.permutation(len(train))[:_NOVELTY_SAMPLE]
        description = fit_novelty(
            scaler(train.batch.take(sample)),
            scaler(calibration.batch),
            train.batch.embedding.shape[1],
            seed,
        )
        fitted.predictor = replace(fitted.predictor, novelty=description)
    return fitted


def _fit_density(
    task: Task,
    head: HeadName,
    scaler: Scaler,
    train: Labelled,
    calibration: Labelled,
    rng: np.random.Generator,
    seed: int,
    settings: mlp.Settings,
) -> Fitted:
    values = train.targets[:, 0].astype(np.float64)
    values = np.log1p(values) if task.logarithmic else values
    mean, deviation = float(values.mean()), float(values.std())
    target = (values - mean) / deviation
    pit, notes, components = np.empty(0), dict[str, float](), 1
    model: Model
    if head == "linear":
        model, others, notes = linear.fit_regression(train.batch, scaler, target, rng)
        pit = pit if others is None else _pit(others, target)
    elif head == "mlp":
        components = COMPONENTS
        model = mlp.fit_network(
            train.batch,
            scaler,
            target[:, None].astype(np.float32),
            3 * components,
            mlp.mixture_loss(LEAST_SCALE, components),
            _with_sights(settings, train.batch),
            seed,
        )
    else:
        model, pit = _neighbours_of_a_number(train.batch, scaler, target)
    grid, none = target_grid(target), fit_recalibration(np.empty(0))
    link = Density(components, LEAST_SCALE, mean, deviation, grid, none)
    predictor = Predictor(task, head, scaler, model, link)
    truth = calibration.targets[:, 0].astype(np.float64)
    if isinstance(model, Network):
        predictor, notes = _pooled(predictor, model, calibration.batch, truth)
        assert isinstance(predictor.link, Density)
        link = predictor.link
    if len(calibration):
        # A source judged by a fit to all others tells as much as one of the calibration split.
        pit = np.concatenate([pit, predictor.pit(calibration.batch, truth)])
    link = replace(link, calibration=fit_recalibration(pit))
    return Fitted(replace(predictor, link=link), notes)


def _neighbours_of_a_number(
    batch: Batch, scaler: Scaler, target: Float64
) -> tuple[Neighbours, Float64]:
    """The head, and cumulative probabilities of examples by their neighbours."""
    # A width between neighbours' labels; the calibration mends it.
    width = np.full(len(target), np.log(max(len(target), 2) ** -0.2 * 0.3))
    raw = np.stack([np.zeros(len(target)), target, width], axis=1)
    model = _neighbours(batch, scaler, raw.astype(np.float32), keep=True)
    rows = np.unique(np.linspace(0, len(target) - 1, _JUDGED).astype(np.intp))
    return model, _pit(model.others(rows), target[rows])


def _pit(raw: Float32, target: Float64) -> Float64:
    """Cumulative probabilities at scaled targets ``(n,)`` by raw outputs of single components."""
    found = mixture_from(raw, 1, LEAST_SCALE, np.ones(1, np.float32))
    return found.cdf(target.astype(np.float32)).astype(np.float64)


def settings_for(task: Task) -> mlp.Settings:
    """Of the network, by kind of task; how they were chosen stands in docs/results.md."""
    if task.kind == "density":
        return mlp.Settings(widths=(128, 64, 32), dropout=0.0, learning_rate=1e-2)
    return mlp.Settings()


def _with_sights(settings: mlp.Settings, batch: Batch) -> mlp.Settings:
    """Members that see more or less of the embedding, where it stands beside fluxes.

    Fluxes alone tell most of redshift and mass, and hundreds of image features make it easy to
    learn too much; which members help is chosen by :mod:`.pooling`.
    """
    if settings.sights:
        return settings
    if not batch.flux.shape[1] or not batch.embedding.shape[1]:
        return replace(settings, members=4)
    sights = tuple(one for one in SIGHTS for _ in range(2))
    return replace(settings, sights=sights, members=len(sights))


def _pooled(
    predictor: Predictor, model: Network, batch: Batch, truth: Float64
) -> tuple[Predictor, dict[str, float]]:
    """The predictor with the weights of its members chosen on the calibration split."""
    link = predictor.link
    assert isinstance(link, Density)
    members = len(model.layers[0][0])
    if len(batch) < LEAST_LABELS:
        return predictor, {}
    raw = predictor.raw(batch).reshape(len(batch), members, -1)
    alone = [
        mixture_from(np.ascontiguousarray(raw[:, k]), link.components, link.least_scale, link.share)
        for k in range(members)
    ]
    share = choose_weights(alone, predictor.scaled(truth), link.grid)
    used = np.flatnonzero(share)
    notes = {f"member_{k}": round(float(one), 4) for k, one in enumerate(share)}
    model = model.take(used)
    return replace(predictor, model=model, link=replace(link, share=share[used])), notes


def _fit_logits(
    task: Task,
    head: HeadName,
    scaler: Scaler,
    train: Labelled,
    calibration: Labelled,
    rng: np.random.Generator,
    seed: int,
    settings: mlp.Settings,
) -> Fitted:
    targets, softmax = train.targets, task.kind == "classes"
    notes: dict[str, float] = {}
    members = 1
    if head == "linear":
        model: Model
        model, notes = linear.fit_logistic(train.batch, scaler, targets, softmax, rng)
    elif head == "mlp":
        members = settings.members
        loss = mlp.class_loss(_class_weights(targets)) if softmax else mlp.share_loss
        model = mlp.fit_network(
            train.batch, scaler, targets, targets.shape[1], loss, settings, seed
        )
    else:
        model = _neighbours(train.batch, scaler, targets, keep=False)
    width = targets.shape[1]
    seen = np.isfinite(targets).any(axis=0)
    known = np.asarray((np.nansum(targets, axis=0) > 0) & seen if softmax else seen, np.bool_)
    link = Logits(members, np.ones(width, np.float32), np.zeros(width, np.float32), known)
    predictor = Predictor(task, head, scaler, model, link)
    if len(calibration) >= LEAST:
        raw = predictor.raw(calibration.batch)
        logits = raw.reshape(len(raw), members, -1).mean(axis=1)
        link = _calibrate(logits, calibration.targets, link, softmax)
    return Fitted(replace(predictor, link=link), notes)


def _class_weights(targets: Float32) -> Float32:
    """Weights against the rarity of classes, mean 1; the square root keeps rare ones sane."""
    share = np.maximum(targets.mean(axis=0), 1e-4)
    weights = 1.0 / np.sqrt(share)
    return np.asarray(weights / (weights * share).sum(), np.float32)


def _neighbours(batch: Batch, scaler: Scaler, values: Float32, keep: bool) -> Neighbours:
    x = scaler(batch)
    centred = x.astype(np.float64)
    spread, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    number = min(_KNN_COMPONENTS, x.shape[1])
    projection = vectors[:, ::-1][:, :number].astype(np.float32)
    # Half-whitened: leading components still count more, but do not decide alone.
    projection /= np.maximum(spread[::-1][:number], 1e-6).astype(np.float32) ** 0.25
    return Neighbours(projection, x @ projection, values, min(NEIGHBOURS, len(x) - 1), keep)


def _calibrate(logits: Float32, targets: Float32, link: Logits, softmax: bool) -> Logits:
    """Gain and shift of each output that make the calibration set most likely."""
    present = np.isfinite(targets)
    clean = np.where(present, targets, 0.0).astype(np.float64)
    width = logits.shape[1]
    known = link.known & (present.sum(axis=0) >= LEAST)
    if softmax:
        known = link.known & (clean.sum(axis=0) >= 3)

    def loss(flat: Float64) -> float:
        gain, shift = _unpack(flat, known, softmax)
        calibrated = logits * gain + shift
        if softmax:
            calibrated = np.where(link.known, calibrated, -1e3)
            top = calibrated.max(axis=1, keepdims=True)
            normal = np.log(np.exp(calibrated - top).sum(axis=1, keepdims=True)) + top
            entropy = -(clean * (calibrated - normal)).sum()
        else:
            entropy = ((np.logaddexp(0.0, calibrated) - clean * calibrated) * present).sum()
        # Holds gain near 1 and shift near 0 where the calibration set says little.
        return float(entropy + 0.5 * (np.log(gain) ** 2).sum() + 0.05 * (shift**2).sum())

    start = np.zeros(2 * width)
    found = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 100})
    gain, shift = _unpack(found.x, known, softmax)
    return replace(link, gain=gain.astype(np.float32), shift=shift.astype(np.float32))


def _unpack(flat: Float64, known: NDArray[np.bool_], softmax: bool) -> tuple[Float64, Float64]:
    width = len(known)
    shift = np.where(known, flat[width:], 0.0)
    if softmax:  # one temperature for all classes
        return np.full(width, np.exp(np.clip(flat[0], -3, 3))), shift
    return np.where(known, np.exp(np.clip(flat[:width], -3, 3)), 1.0), shift
