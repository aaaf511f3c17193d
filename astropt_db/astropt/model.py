"""AstroPT: a causal transformer over patches of galaxies, the whole model in this file.

References
----------
1. Smith et al. 2024, "AstroPT: Scaling Large Observation Models for Astronomy",
   arXiv:2405.14930: patches as tokens, each predicted from those before it, Huber loss.
2. Euclid Collaboration: Siudek et al. 2025, arXiv:2503.15312: the Euclid models, and image and
   SED tokens chained in one sequence.
3. Radford et al. 2019 (GPT-2) and Karpathy's nanoGPT: pre-norm blocks, the names of the weights.
4. El-Nouby et al. 2024, "AIM", arXiv:2401.08541: the MLP tokeniser called "aim", spiral order.

Three tokenisers exist in released models, hence three here: ``relu`` (v1, the Euclid models),
``aim`` and ``affine`` (v2 and v3). Biases are where the released weights have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

gelu_ = torch.ops.aten.gelu_  # in place; torch.nn.functional has no name for it
Tokeniser = Literal["relu", "aim", "affine"]
Tokens = Mapping[str, Tensor]
Average = Callable[[Tensor], Tensor]
"""Of (n, tokens, width) over the tokens, (n, width)."""


@dataclass(frozen=True)
class Modality:
    """One kind of token in the chain.

    Attributes
    ----------
    name
        ``images``, ``sed``, or a name found in a checkpoint such as ``spectra``.
    input_size
        Numbers in one token.
    loss_weight
        Weight of this modality's Huber loss.
    position_size
        0: positions are looked up in a learned table by their index. k > 0: a position is k real
        numbers (the wavelengths of a spectrum's patch) that go through a tokeniser of their own.
    """

    name: str
    input_size: int
    loss_weight: float = 1.0
    position_size: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shapes and the arithmetic of an AstroPT model.

    Attributes
    ----------
    modalities
        In the order in which their tokens are chained.
    attention
        ``causal``, or ``full`` for no mask at all. Released v1 models of type "prefix" are
        ``full``: their code never hands the prefix mask to the attention.
    shared_positions
        One position table for the whole chain, that of the first modality (v1 chains), instead
        of one for each modality.
    lead
        Tokens of the first modality that precede the other modalities; the rest follows them.
        0: all of them precede (the released chains). With ``lead=64`` a causal pass over the 64
        central patches and the SED equals the same positions of a pass over everything.
    """

    modalities: tuple[Modality, ...]
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    tokeniser: Tokeniser = "relu"
    attention: Literal["causal", "full"] = "causal"
    bias: bool = False
    shared_positions: bool = False
    lead: int = 0

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("a model needs at least one modality")
        if self.n_head < 1 or self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Rebuild a configuration from :meth:`to_dict`; unknown names raise TypeError."""
        modalities = tuple(Modality(**item) for item in values["modalities"])
        return cls(**{**values, "modalities": modalities})


SIZES: dict[str, dict[str, Any]] = {
    "mini": {"n_layer": 5, "n_head": 6, "n_embd": 192, "tokeniser": "affine"},
    "5M": {"n_layer": 6, "n_head": 8, "n_embd": 256, "tokeniser": "affine"},
    "21M": {"n_layer": 12, "n_head": 6, "n_embd": 384, "tokeniser": "affine"},
    "90M": {"n_layer": 12, "n_head": 12, "n_embd": 768, "tokeniser": "relu"},
}
"""Named sizes; 90M is the architecture of the released Euclid models."""


def tokeniser(kind: Tokeniser, size: int, width: int) -> nn.Sequential:
    """Return the layers that turn a token of `size` numbers into a vector of `width`."""
    if kind == "relu":
        return nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    if kind == "aim":
        hidden = nn.Linear(size, 4 * width, bias=False)
        return nn.Sequential(hidden, nn.GELU("tanh"), nn.Linear(4 * width, width, bias=False))
    return nn.Sequential(nn.Linear(size, width, bias=False))


def detokeniser(kind: Tokeniser, width: int, size: int) -> nn.Sequential:
    """Return the head that predicts a token of `size` numbers from a state of `width`."""
    if kind == "relu":
        first, second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, size))
    if kind == "aim":
        hidden = nn.Linear(width, 4 * width, bias=False)
        return nn.Sequential(hidden, nn.GELU("tanh"), nn.Linear(4 * width, size, bias=False))
    return nn.Sequential(nn.Linear(width, size, bias=False))


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.causal = config.attention == "causal"
        self.attend: Callable[..., Tensor] = F.scaled_dot_product_attention
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, tokens, n_embd) to the same shape."""
        n, tokens, width = x.shape
        heads = self.c_attn(x).view(n, tokens, 3, self.n_head, width // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = self.attend(q, k, v, is_causal=self.causal)
        return self.c_proj(y.transpose(1, 2).reshape(n, tokens, width))  # type: ignore[no-any-return]


def gelu(x: Tensor) -> Tensor:
    """Apply the tanh form of GELU, in place where no gradient is wanted.

    Between the layers of an MLP is the largest array of a pass: on a CPU, fresh memory for its
    like costs as much as the function. Only gradients need both.
    """
    y: Tensor = (F.gelu if x.requires_grad else gelu_)(x, approximate="tanh")
    return y


class MLP(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.activate = gelu

    def forward(self, x: Tensor, average: Average | None = None) -> Tensor:
        """Map (n, tokens, n_embd) to the same shape, or to its average over the tokens.

        The second layer may as well be applied to the average, once instead of to every token.
        """
        x = self.activate(self.c_fc(x))
        y: Tensor = self.c_proj(x if average is None else average(x))
        return y


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5, bias=config.bias)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, average: Average | None = None) -> Tensor:
        """Map (n, tokens, n_embd) to the same shape, or to its average over the tokens."""
        x = x + self.attn(self.ln_1(x))
        y: Tensor = self.mlp(self.ln_2(x), average)
        return (x if average is None else average(x)) + y


@dataclass(frozen=True)
class Segment:
    """A run of one modality's tokens inside the chain."""

    name: str
    start: int  # first token of the modality
    stop: int
    offset: int  # place of that token in the chain

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class AstroPT(nn.Module):
    """The model: tokenisers, positions, blocks, and a head for each modality.

    Parameters
    ----------
    config
        Shapes and arithmetic.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        kind, width = config.tokeniser, config.n_embd
        self.encoders = nn.ModuleDict()
        self.positions = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for index, modality in enumerate(config.modalities):
            self.encoders[modality.name] = tokeniser(kind, modality.input_size, width)
            self.decoders[modality.name] = detokeniser(kind, width, modality.input_size)
            if modality.position_size:
                self.positions[modality.name] = tokeniser(kind, modality.position_size, width)
            elif index == 0 or not config.shared_positions:
                self.positions[modality.name] = _embedding(config.block_size, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(width, eps=1e-5, bias=config.bias)
        self.apply(_initialise)
        for name, weight in self.blocks.named_parameters():
            if name.endswith("c_proj.weight") and not weight.is_meta:
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layer))

    def n_parameters(self) -> int:
        """Return the number of trainable numbers."""
        return sum(weight.numel() for weight in self.parameters())

    def segments(self, tokens: Tokens) -> Iterator[Segment]:
        """Yield the order of the chain for these tokens."""
        lengths = {
            m.name: tokens[m.name].shape[1] for m in self.config.modalities if m.name in tokens
        }
        first = self.config.modalities[0].name
        total = lengths.get(first, 0)
        lead = min(self.config.lead or total, total)
        runs = [(name, 0, lead if name == first else length) for name, length in lengths.items()]
        offset = 0
        for name, start, stop in [*runs, (first, lead, total)]:
            if stop > start:
                yield Segment(name, start, stop, offset)
                offset += stop - start

    def embed_tokens(self, tokens: Tokens, positions: Tokens | None = None) -> Tensor:
        """Return the input of the first block: tokens and positions embedded and chained.

        Parameters
        ----------
        tokens
            For each modality present, (n, tokens, input_size).
        positions
            Real-valued positions (n, tokens, position_size) for the modalities that use them.

        Returns
        -------
        Tensor
            (n, length of the chain, n_embd).
        """
        embedded = {name: self.encoders[name](values) for name, values in tokens.items()}
        if not self.config.shared_positions:
            embedded = {
                name: values + self._position(name, values, positions)
                for name, values in embedded.items()
            }
        parts = [embedded[s.name][:, s.start : s.stop] for s in self.segments(tokens)]
        chain = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        if self.config.shared_positions:
            chain = chain + self._position(self.config.modalities[0].name, chain, None)
        return chain

    def _position(self, name: str, embedded: Tensor, positions: Tokens | None) -> Tensor:
        table = self.positions[name]
        if isinstance(table, nn.Embedding):
            length = embedded.shape[1]
            if length > table.num_embeddings:
                raise ValueError(f"{length} {name} tokens, but {table.num_embeddings} positions")
            return table.weight[:length]
        if positions is None or name not in positions:
            raise ValueError(f"the modality {name!r} needs real-valued positions")
        return table(positions[name])  # type: ignore[no-any-return]

    def hidden(
        self,
        tokens: Tokens,
        positions: Tokens | None = None,
        block: int | None = None,
        average: Average | None = None,
    ) -> Tensor:
        """Return the states after block number `block` (default: the last), before ``ln_f``.

        Later blocks are not computed.

        Parameters
        ----------
        tokens, positions
            As in :meth:`embed_tokens`.
        average
            Of states over the tokens, with weights whose sum is 1.

        Returns
        -------
        Tensor
            (n, length of the chain, n_embd), or the average of it.
        """
        x = self.embed_tokens(tokens, positions)
        last = len(self.blocks) - 1 if block is None else block
        for number, layer in enumerate(self.blocks[: last + 1]):
            x = layer(x, average if number == last else None)
        return x

    def predict(self, tokens: Tokens, positions: Tokens | None = None) -> dict[str, Tensor]:
        """Return for each modality the prediction of its tokens from all earlier ones.

        The first token of the chain has nothing before it and no prediction: the first
        modality's result is one token shorter than its input.
        """
        states = self.ln_f(self.hidden(tokens, positions))
        parts: dict[str, list[Tensor]] = {}
        for s in self.segments(tokens):
            before = states[:, max(s.offset - 1, 0) : s.offset - 1 + s.length]
            parts.setdefault(s.name, []).append(before)
        return {name: self.decoders[name](torch.cat(x, dim=1)) for name, x in parts.items()}

    def losses(
        self,
        tokens: Tokens,
        positions: Tokens | None = None,
        weights: Tokens | None = None,
    ) -> dict[str, Tensor]:
        """Return the Huber loss (delta 1) of each modality's next-token predictions.

        Parameters
        ----------
        tokens, positions
            As in :meth:`embed_tokens`.
        weights
            For some or all modalities, non-negative weights that broadcast to the tokens; 0 leaves
            a missing pixel or an absent band out of the mean. A modality without: plain mean.

        Returns
        -------
        dict
            Scalars by modality. :meth:`forward` combines them.
        """
        if self.config.attention != "causal":
            raise ValueError("only causal models can be trained by next-token prediction")
        found = {}
        for name, predicted in self.predict(tokens, positions).items():
            skip = tokens[name].shape[1] - predicted.shape[1]
            target = tokens[name][:, skip:]
            if weights is None or name not in weights:
                found[name] = F.huber_loss(predicted, target)
                continue
            weight = weights[name].expand_as(tokens[name])[:, skip:]
            loss = F.huber_loss(predicted, target, reduction="none")
            found[name] = (weight * loss).sum() / weight.sum().clamp_min(1e-8)
        return found

    def forward(
        self,
        tokens: Tokens,
        positions: Tokens | None = None,
        weights: Tokens | None = None,
    ) -> Tensor:
        """Return the training loss: the mean over modalities of weight times Huber loss."""
        scale = {m.name: m.loss_weight for m in self.config.modalities}
        losses = self.losses(tokens, positions, weights)
        return torch.stack([scale[name] * loss for name, loss in losses.items()]).mean()


def _embedding(rows: int, width: int) -> nn.Embedding:
    weight = torch.empty(rows, width)
    # Drawing numbers on the meta device imports torch's compiler: two seconds for nothing.
    if weight.is_meta:
        from_weight = cast(Any, nn.Embedding.from_pretrained)  # torch has no types for it
        return cast(nn.Embedding, from_weight(weight, freeze=False))
    return nn.Embedding(rows, width)


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for matrices and tables, zero biases, as in GPT-2."""
    if isinstance(module, (nn.Linear, nn.Embedding)) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
