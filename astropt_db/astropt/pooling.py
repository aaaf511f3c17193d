"""From the states of all tokens to one vector for each source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from astropt_db.errors import ConfigurationError


@dataclass(frozen=True)
class Pooling:
    """Which states become the embedding, and how.

    Attributes
    ----------
    block
        Number of the block whose output is taken, before ``ln_f``: 0 is the first, -1 the last,
        None the middle one, ``n_layer // 2``.
    tokens
        Image tokens used, from the centre outwards; None for all.
    reduce
        ``mean`` over each modality's states, then over modalities, so that the eight tokens of an
        SED weigh as much as the image; ``last``: the state of the last token of the chain.
    """

    block: int | None = -1
    tokens: int | None = None
    reduce: Literal["mean", "last"] = "mean"

    def block_of(self, n_layer: int) -> int:
        """Return the block's number counted from 0; ConfigurationError if there is none such."""
        block = n_layer // 2 if self.block is None else self.block
        if not -n_layer <= block < n_layer:
            raise ConfigurationError(f"block {block} asked for, but the model has {n_layer}")
        return block % n_layer


POOLINGS: dict[str, Pooling] = {
    "paper": Pooling(block=-1, tokens=64),
    "middle": Pooling(block=None),
    "mean": Pooling(block=-1),
    "last": Pooling(block=-1, reduce="last"),
}
"""``paper`` is that of arXiv:2503.15312; ``middle`` the default of AstroPT v2."""


def resolve(pooling: str | Pooling) -> Pooling:
    """Return a pooling by its name; ConfigurationError lists the names that exist."""
    if isinstance(pooling, Pooling):
        return pooling
    if pooling not in POOLINGS:
        raise ConfigurationError(f"no pooling {pooling!r}; there are {', '.join(POOLINGS)}")
    return POOLINGS[pooling]
