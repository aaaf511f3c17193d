"""Linear heads: ridge regression from normal equations, logistic regression by L-BFGS.

Both pass over the features block by block, so that 300,000 vectors of 768 numbers need no more
memory than their 2 bytes each.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from astropt_db.predict.features import Batch
from astropt_db.predict.models import Linear, raw_output
from astropt_db.predict.scaling import Scaler, blocks

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in np.arange(-5.0, 1.1, 0.5))
_LOGISTIC_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
_LOG_LOGISTIC = float(np.log(np.pi / 2) - np.euler_gamma)
"""Mean logarithm of the size of a logistic variable of scale 1."""
_SMALL = 30_000
"""Rows up to which a logistic penalty is chosen by trying; above, the smallest serves."""
_ONE_LEFT_OUT = 8_000_000
"""Numbers up to which a regression judges each source by all others; above, by a share."""
_IN_MEMORY = 50_000_000
"""Numbers that are kept scaled, 4 bytes each."""


@dataclass
class Normal:
    """Sums of products of features (with a last constant one) and targets.

    Attributes
    ----------
    gram
        float64 ``(p + 1, p + 1)``.
    moment
        float64 ``(p + 1, t)``.
    squares
        Sums of squared targets, float64 ``(t,)``.
    n
        Rows.
    """

    gram: Float64
    moment: Float64
    squares: Float64
    n: int = 0

    def __add__(self, other: Normal) -> Normal:
        return Normal(
            self.gram + other.gram,
            self.moment + other.moment,
            self.squares + other.squares,
            self.n + other.n,
        )

    def mean_error(self, weights: Float64) -> Float64:
        """Mean squared error of weights ``(p + 1, t)`` on these rows."""
        fitted = np.einsum("ij,ij->j", weights, self.gram @ weights)
        crossed = np.einsum("ij,ij->j", weights, self.moment)
        return np.asarray((self.squares - 2 * crossed + fitted) / max(self.n, 1))


def accumulate(
    batch: Batch, scaler: Scaler, targets: Float64, held: NDArray[np.bool_]
) -> tuple[Normal, Normal]:
    """Normal equations of the rows to learn from and of those held back to choose a penalty."""
    p, t = scaler.width + 1, targets.shape[1]
    sums = [Normal(np.zeros((p, p)), np.zeros((p, t)), np.zeros(t)) for _ in range(2)]
    for part in blocks(len(batch)):
        x = np.ones((part.stop - part.start, p), np.float32)
        x[:, :-1] = scaler(batch.take(part))
        y = targets[part].astype(np.float32)  # products of single precision are twice as fast
        for one, rows in zip(sums, (~held[part], held[part]), strict=True):
            if rows.any():
                some, wanted = x[rows], y[rows]
                one.gram += some.T @ some
                one.moment += some.T @ wanted
                one.squares += np.einsum("ij,ij->j", wanted, wanted)
                one.n += len(some)
    return sums[0], sums[1]


def solve_ridge(learn: Normal, choose: Normal) -> tuple[Float64, Float64]:
    """Ridge weights ``(p + 1, t)`` and the penalty chosen for each target.

    The penalty with the least error on the rows held back is taken, then all rows are used.
    """
    penalties = np.asarray(PENALTIES)
    errors = np.stack([choose.mean_error(_ridge(learn, one)) for one in penalties])
    best = errors.argmin(axis=0)
    both = learn + choose
    weights = np.empty_like(both.moment)
    for index in np.unique(best):
        columns = best == index
        weights[:, columns] = _ridge(both, penalties[index])[:, columns]
    return weights, penalties[best]


def _ridge(normal: Normal, penalty: float) -> Float64:
    diagonal = np.full(len(normal.gram), penalty * max(normal.n, 1))
    diagonal[-1] = 1e-9
    return np.asarray(np.linalg.solve(normal.gram + np.diag(diagonal), normal.moment))


class OneLeftOut:
    """Ridge regression with each source judged by a fit to all others.

    Few labels cannot spare any to choose a penalty, and residuals of a fit to itself say nothing
    of its width. Both follow in closed form from the leverage of each source (Allen 1974, PRESS).

    Parameters
    ----------
    x
        Scaled features, ``(n, p)``.
    """

    def __init__(self, x: Float64) -> None:
        self.mean = x.mean(axis=0)
        centred = x - self.mean
        spread, self.axes = np.linalg.eigh(centred.T @ centred)
        self.spread = np.maximum(spread, 0.0)
        self.along = centred @ self.axes
        self.squares = self.along**2

    def fit(self, target: Float64) -> tuple[Float64, float, Float64, float]:
        """Weights ``(p,)``, constant, residuals ``(n,)`` of the others' fits, and the penalty.

        The penalty is the largest one whose mean absolute residual is not above the least one by
        more than the error of their difference: the rule of one standard error (Breiman et al.
        1984), which keeps a few labels from choosing a fit that follows their noise.
        """
        n, mean = len(target), float(target.mean())
        moment = self.along.T @ (target - mean)
        shrunk = 1.0 / (self.spread + n * np.array(PENALTIES)[:, None])
        free = 1.0 - 1.0 / n - shrunk @ self.squares.T
        fitted = (moment * shrunk) @ self.along.T
        residuals = (target - mean - fitted) / np.maximum(free, 1e-9)
        sizes = np.abs(residuals)
        worse = sizes - sizes[sizes.mean(axis=1).argmin()]
        as_good = worse.mean(axis=1) <= worse.std(axis=1) / np.sqrt(n)
        best = int(np.flatnonzero(as_good).max())
        weights = self.axes @ (moment * shrunk[best])
        return weights, mean - float(self.mean @ weights), residuals[best], PENALTIES[best]


def fit_regression(
    batch: Batch, scaler: Scaler, target: Float64, rng: np.random.Generator
) -> tuple[Linear, Float32 | None, dict[str, float]]:
    """Centre and width of one component for each source, both linear in the features.

    The width is learned from the size of the residuals, so that it may differ between sources.

    Parameters
    ----------
    target
        Scaled, ``(n,)``.

    Returns
    -------
    tuple
        The head with raw outputs (logit, centre, log scale), those that fits to all others give
        each source, ``(n, 3)`` (None of many sources), and its penalties.
    """
    others = None
    if len(batch) * scaler.width <= _ONE_LEFT_OUT:
        exact = OneLeftOut(scaler(batch).astype(np.float64))
        weights, constant, residual, penalty = exact.fit(target)
        size = _log_size(residual)
        widths, shift, missed, width_penalty = exact.fit(size)
        centre, scale = np.append(weights, constant), np.append(widths, shift)
        others = _raw(target - residual, size - missed)
    else:
        centre, scale, penalty, width_penalty = _in_blocks(batch, scaler, target, rng)
    raw = _raw(centre, scale)
    head = Linear(np.ascontiguousarray(raw[:-1]), raw[-1])
    return head, others, {"penalty": penalty, "width_penalty": width_penalty}


def _raw(centre: Float64, log_scale: Float64) -> Float32:
    """Logit, centre and log scale of one component side by side."""
    return np.stack([np.zeros_like(centre), centre, log_scale], axis=1).astype(np.float32)


def _log_size(residual: Float64) -> Float64:
    """Logarithms whose mean is that of the scale, if residuals are logistic."""
    return np.asarray(np.log(np.abs(residual) + 1e-3) - _LOG_LOGISTIC, np.float64)


def _in_blocks(
    batch: Batch, scaler: Scaler, target: Float64, rng: np.random.Generator
) -> tuple[Float64, Float64, float, float]:
    """Weights of centre and width with their constants, and both penalties, of many sources."""
    held = rng.random(len(batch)) < 0.15
    learn, choose = accumulate(batch, scaler, target[:, None], held)
    weights, penalty = solve_ridge(learn, choose)
    centre = Linear(weights[:-1].astype(np.float32), weights[-1].astype(np.float32))
    size = np.empty(len(batch))
    for part in blocks(len(batch)):
        size[part] = _log_size(target[part] - raw_output(centre, scaler(batch.take(part)))[:, 0])
    moments = accumulate_moment(batch, scaler, size, held)
    for one, (moment, squares) in zip((learn, choose), moments, strict=True):
        one.moment, one.squares = moment, squares
    widths, width_penalty = solve_ridge(learn, choose)
    return weights[:, 0], widths[:, 0], float(penalty[0]), float(width_penalty[0])


def accumulate_moment(
    batch: Batch, scaler: Scaler, target: Float64, held: NDArray[np.bool_]
) -> list[tuple[Float64, Float64]]:
    """The moments of another target, where the Gram matrices are known already."""
    p = scaler.width + 1
    sums = [(np.zeros((p, 1)), np.zeros(1)) for _ in range(2)]
    for part in blocks(len(batch)):
        x = np.ones((part.stop - part.start, p), np.float32)
        x[:, :-1] = scaler(batch.take(part))
        for (moment, squares), rows in zip(sums, (~held[part], held[part]), strict=True):
            wanted = np.where(rows, target[part], 0.0)
            moment += x.T @ wanted[:, None].astype(np.float32)
            squares += (wanted**2).sum()
    return sums


def fit_logistic(
    batch: Batch,
    scaler: Scaler,
    targets: Float32,
    softmax: bool,
    rng: np.random.Generator,
) -> tuple[Linear, dict[str, float]]:
    """Logistic regression on shares or on classes.

    Parameters
    ----------
    targets
        float32 ``(n, t)``: shares with NaN in gaps, or one-hot classes.
    softmax
        Whether the targets of a row sum to 1 (classes).

    Returns
    -------
    tuple
        The head, whose raw outputs are logits, and its penalty.
    """
    penalty = _LOGISTIC_PENALTIES[-1]
    start = np.zeros((scaler.width + 1) * targets.shape[1])
    held = rng.random(len(batch)) < 0.2
    if len(batch) <= _SMALL and held.any() and not held.all():
        learn = _Loss(batch.take(~held), scaler, targets[~held], softmax, 0.0)
        judge = _Loss(batch.take(held), scaler, targets[held], softmax, 0.0)
        # Each fit begins where the one with the next larger penalty ended: a few steps away.
        tried, losses = [start], []
        for one in _LOGISTIC_PENALTIES:
            tried.append(_minimise(learn.penalised(one), tried[-1]))
            losses.append(judge(tried[-1])[0])
        best = int(np.argmin(losses))
        penalty, start = _LOGISTIC_PENALTIES[best], tried[best + 1]
    whole = _Loss(batch, scaler, targets, softmax, penalty)
    return whole.head(_minimise(whole, start)), {"penalty": penalty}


def _minimise(loss: _Loss, start: Float64) -> Float64:
    steps = 35 if start.any() else 60
    options = {"maxiter": steps, "maxfun": steps + 20}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, np.float64)


class _Loss:
    """Mean cross entropy with a ridge penalty, and its gradient, block by block.

    Few sources are scaled once; many anew for each step, since all of them scaled would not fit
    in memory.
    """

    def __init__(
        self, batch: Batch, scaler: Scaler, targets: Float32, softmax: bool, penalty: float
    ) -> None:
        self.batch, self.scaler, self.targets = batch, scaler, targets
        self.softmax, self.penalty = softmax, penalty
        self.present = np.isfinite(targets)
        self.total = max(int(self.present.any(axis=1).sum()), 1)
        fits = len(batch) * scaler.width <= _IN_MEMORY
        self.scaled = {p.start: self._scaled(p) for p in blocks(len(batch))} if fits else {}

    def penalised(self, penalty: float) -> _Loss:
        """The same with another penalty."""
        other = copy(self)
        other.penalty = penalty
        return other

    def _scaled(self, part: slice) -> Float32:
        return self.scaler(self.batch.take(part))

    def head(self, flat: Float64) -> Linear:
        """Weights and constants in one array, as a head."""
        weights = flat.reshape(-1, self.targets.shape[1]).astype(np.float32)
        return Linear(weights[:-1], weights[-1])

    def __call__(self, flat: Float64) -> tuple[float, Float64]:
        weights, head = flat.reshape(-1, self.targets.shape[1]), self.head(flat)
        loss, gradient = 0.0, np.zeros_like(weights)
        for part in blocks(len(self.batch)):
            x = self.scaled[part.start] if self.scaled else self._scaled(part)
            one, slope = self._block(raw_output(head, x), part)
            loss += one
            gradient[:-1] += x.T @ slope
            gradient[-1] += slope.sum(axis=0)
        ridge = self.penalty * weights[:-1]
        gradient /= self.total
        gradient[:-1] += ridge
        return loss / self.total + 0.5 * float((ridge * weights[:-1]).sum()), gradient.ravel()

    def _block(self, logits: Float32, part: slice) -> tuple[float, Float32]:
        present = self.present[part]
        target = np.where(present, self.targets[part], 0.0)
        if self.softmax:
            shifted = logits - logits.max(axis=1, keepdims=True)
            normal = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            loss = -(target * (shifted - normal)).sum()
            return float(loss), np.asarray(np.exp(shifted - normal) - target, np.float32)
        softplus = np.logaddexp(0.0, logits)
        loss = ((softplus - target * logits) * present).sum()
        slope = (1.0 / (1.0 + np.exp(-logits)) - target) * present
        return float(loss), np.asarray(slope, np.float32)
