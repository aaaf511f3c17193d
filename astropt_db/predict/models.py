"""Trained heads as plain arrays: applying one needs NumPy alone.

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
_SLOPE = 0.01
_BLOCK = 4096


class Model(Protocol):
    """A trained head."""

    def raw(self, x: Float32) -> Float32:
        """Raw output ``(n, outputs)`` of scaled features ``(n, p)``."""

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

    def raw(self, x: Float32) -> Float32:
        """Raw output ``(n, outputs)``."""
        return np.asarray(x @ self.weight + self.bias, np.float32)

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
    """

    layers: tuple[tuple[Float32, Float32], ...]

    def raw(self, x: Float32) -> Float32:
        """Raw outputs of all members side by side, ``(n, members * outputs)``."""
        first, bias = self.layers[0]
        members, width = first.shape[0], first.shape[2]
        # All members' first layers are one product, which is where the time goes.
        joined = np.concatenate(list(first), axis=1)
        hidden = x @ joined
        hidden += bias.ravel()
        parts = []
        for member in range(members):
            state = np.ascontiguousarray(hidden[:, member * width : (member + 1) * width])
            for weight, offset in self.layers[1:]:
                np.maximum(state, _SLOPE * state, out=state)
                state = state @ weight[member]
                state += offset[member]
            parts.append(state)
        return np.concatenate(parts, axis=1)

    def tensors(self) -> Tensors:
        """All that was learned."""
        named: Tensors = {}
        for number, (weight, bias) in enumerate(self.layers):
            named[f"layer{number}.weight"], named[f"layer{number}.bias"] = weight, bias
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

    def raw(self, x: Float32) -> Float32:
        """Neighbours' outputs side by side ``(n, k * outputs)``, or their logit means."""
        place = x @ self.projection
        norm = np.einsum("ij,ij->i", self.examples, self.examples)
        parts = []
        for start in range(0, len(place), _BLOCK):
            one = place[start : start + _BLOCK]
            distance = norm - 2.0 * (one @ self.examples.T)
            nearest = np.argpartition(distance, self.k - 1, axis=1)[:, : self.k]
            parts.append(self.values[nearest])
        found = np.concatenate(parts) if parts else np.empty((0, self.k, self.values.shape[1]))
        if self.keep:
            return np.asarray(found.reshape(len(x), -1), np.float32)
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
        return Network(tuple((tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in names))
    if head == "knn":
        return Neighbours(
            tensors["projection"],
            tensors["examples"],
            tensors["values"],
            int(tensors["k"][0]),
            bool(tensors["keep"][0]),
        )
    raise DatabaseError(f"a predictor has the unknown head {head!r}; upgrade astropt-db")


def mixture_from(raw: Float32, components: int, least_scale: float) -> Mixture:
    """Read raw output ``(n, members * 3 * components)`` as a mixture of all members."""
    parts = raw.reshape(len(raw), -1, 3, components)
    logits = parts[:, :, 0]
    weight = np.exp(logits - logits.max(axis=2, keepdims=True))
    weight /= weight.sum(axis=2, keepdims=True) * parts.shape[1]
    scale = least_scale + np.exp(np.clip(parts[:, :, 2], -20, 10))
    flat = (len(raw), -1)
    return Mixture(
        np.ascontiguousarray(weight.reshape(flat)),
        np.ascontiguousarray(parts[:, :, 1].reshape(flat)),
        np.ascontiguousarray(scale.reshape(flat)),
    )
