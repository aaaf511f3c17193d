"""Trained heads as plain arrays.

A head maps scaled features to a raw output: for numbers the parameters of a mixture, for shares
and classes one logit each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from astropt_db.errors import DatabaseError
from astropt_db.predict.mixture import Mixture

Float32 = NDArray[np.float32]
Tensors = dict[str, NDArray[Any]]
SLOPE = 0.01
"""Of the leaky rectifier between layers."""
_BLOCK = 4096


class Model(Protocol):
    """A trained head."""

    def entry(self) -> tuple[Float32, Float32]:
        """The product that a head starts with: weights ``(p, q)`` on scaled features, bias."""

    def finish(self, hidden: Float32) -> Float32:
        """Raw output ``(n, outputs)`` from the result of that product ``(n, q)``."""

    def tensors(self) -> Tensors:
        """All that was learned."""


@dataclass(frozen=True)
class Linear:
    """A linear map.

    Attributes
    ----------
    weight, bias
        float32 ``(p, outputs)`` and ``(outputs,)``.
    """

    weight: Float32
    bias: Float32

    def entry(self) -> tuple[Float32, Float32]:
        """All there is."""
        return self.weight, self.bias

    def finish(self, hidden: Float32) -> Float32:
        """Raw output ``(n, outputs)``."""
        return hidden

    def tensors(self) -> Tensors:
        """All that was learned."""
        return {"weight": self.weight, "bias": self.bias}


@dataclass(frozen=True)
class Network:
    """Members of an ensemble of small networks, with batch normalisation folded in.

    Attributes
    ----------
    layers
        For each layer, weights ``(members, width in, width out)`` and biases
        ``(members, width out)``.
    reduction
        Scaled features to those that the first layer sees, float32 ``(p, q)``; ``None`` if it
        sees all.
    """

    layers: tuple[tuple[Float32, Float32], ...]
    reduction: Float32 | None = None

    def entry(self) -> tuple[Float32, Float32]:
        """The reduction, or all members' first layers in one product."""
        if self.reduction is not None:
            return self.reduction, np.zeros(self.reduction.shape[1], np.float32)
        return self._first()

    def _first(self) -> tuple[Float32, Float32]:
        weight, bias = self.layers[0]
        return np.concatenate(list(weight), axis=1), bias.ravel()

    def finish(self, hidden: Float32) -> Float32:
        """Raw outputs of all members side by side, ``(n, members * outputs)``."""
        members, _, width = self.layers[0][0].shape
        if self.reduction is not None:
            weight, bias = self._first()
            hidden = hidden @ weight
            hidden += bias
        parts = []
        for member in range(members):
            state = np.ascontiguousarray(hidden[:, member * width : (member + 1) * width])
            for weight, offset in self.layers[1:]:
                np.maximum(state, SLOPE * state, out=state)
                state = state @ weight[member]
                state += offset[member]
            parts.append(state)
        return np.concatenate(parts, axis=1)

    def take(self, members: NDArray[np.intp]) -> Network:
        """Some of the members."""
        layers = tuple((weight[members], bias[members]) for weight, bias in self.layers)
        return Network(layers, self.reduction)

    def tensors(self) -> Tensors:
        """All that was learned."""
        named: Tensors = {}
        for number, (weight, bias) in enumerate(self.layers):
            named[f"layer{number}.weight"], named[f"layer{number}.bias"] = weight, bias
        if self.reduction is not None:
            named["reduction"] = self.reduction
        return named


@dataclass(frozen=True)
class Neighbours:
    """Examples to compare with.

    Attributes
    ----------
    projection
        Scaled features to the space of comparison, float32 ``(p, q)``.
    examples
        Training sources there, float32 ``(m, q)``.
    values
        Raw output of each example, float32 ``(m, outputs)``, NaN in gaps.
    k
        Number of neighbours.
    keep
        Whether each neighbour's output is kept (for distributions), else their mean is taken.
    """

    projection: Float32
    examples: Float32
    values: Float32
    k: int
    keep: bool

    def entry(self) -> tuple[Float32, Float32]:
        """To the space of comparison."""
        return self.projection, np.zeros(self.projection.shape[1], np.float32)

    def finish(self, hidden: Float32) -> Float32:
        """Neighbours' outputs side by side ``(n, k * outputs)``, or their logit means."""
        return self._output(hidden, None)

    def others(self, rows: NDArray[np.intp]) -> Float32:
        """Outputs for some of the examples, from all examples but themselves."""
        return self._output(self.examples[rows], rows)

    def _output(self, hidden: Float32, left_out: NDArray[np.intp] | None) -> Float32:
        norm = np.einsum("ij,ij->i", self.examples, self.examples)
        parts = []
        for start in range(0, len(hidden), _BLOCK):
            one = hidden[start : start + _BLOCK]
            distance = norm - 2.0 * (one @ self.examples.T)
            if left_out is not None:
                distance[np.arange(len(one)), left_out[start : start + _BLOCK]] = np.inf
            nearest = np.argpartition(distance, self.k - 1, axis=1)[:, : self.k]
            parts.append(self.values[nearest])
        found = np.concatenate(parts) if parts else np.empty((0, self.k, self.values.shape[1]))
        if self.keep:
            return np.asarray(found.reshape(len(hidden), -1), np.float32)
        present = np.isfinite(found)
        # One vote for either side keeps shares off 0 and 1.
        total = np.where(present, found, 0.0).sum(axis=1) + 0.5
        share = total / (present.sum(axis=1) + 1.0)
        return np.asarray(np.log(share / (1.0 - share)), np.float32)

    def tensors(self) -> Tensors:
        """All that was learned."""
        return {
            "projection": self.projection,
            "examples": self.examples,
            "values": self.values,
            "k": np.array([self.k], np.int64),
            "keep": np.array([self.keep]),
        }


def raw_output(model: Model, x: Float32) -> Float32:
    """Raw output ``(n, outputs)`` of scaled features ``(n, p)``."""
    weight, bias = model.entry()
    return model.finish(np.asarray(x @ weight + bias, np.float32))


def model_from(head: str, tensors: Mapping[str, NDArray[Any]]) -> Model:
    """The head that its tensors describe.

    Raises
    ------
    DatabaseError
        If there is no such head.
    """
    if head == "linear":
        return Linear(tensors["weight"], tensors["bias"])
    if head == "mlp":
        number = sum(name.endswith(".weight") for name in tensors)
        names = [f"layer{k}" for k in range(number)]
        layers = tuple((tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in names)
        return Network(layers, tensors.get("reduction"))
    if head == "knn":
        return Neighbours(
            tensors["projection"],
            tensors["examples"],
            tensors["values"],
            int(tensors["k"][0]),
            bool(tensors["keep"][0]),
        )
    raise DatabaseError(f"a predictor has the unknown head {head!r}; upgrade astropt-db")


def mixture_from(raw: Float32, components: int, least_scale: float, share: Float32) -> Mixture:
    """Read raw output ``(n, members * 3 * components)`` as a mixture of all members.

    Parameters
    ----------
    share
        Weight of each member, summing to 1; or one number, which all members share.
    """
    parts = raw.reshape(len(raw), -1, 3, components)
    logits = parts[:, :, 0]
    weight = np.exp(logits - logits.max(axis=2, keepdims=True))
    share = share if len(share) > 1 else share / np.float32(parts.shape[1])
    weight *= share[:, None] / weight.sum(axis=2, keepdims=True)
    scale = least_scale + np.exp(np.clip(parts[:, :, 2], -20, 10))
    flat = (len(raw), -1)
    return Mixture(
        np.ascontiguousarray(weight.reshape(flat)),
        np.ascontiguousarray(parts[:, :, 1].reshape(flat)),
        np.ascontiguousarray(scale.reshape(flat)),
    )
