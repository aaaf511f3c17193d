"""What became of the sources of a chunk: vectors with flags, or a reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astropt_db.images.source import CutoutFlag

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

MANY_MISSING = 0.25
"""A source is flagged if a larger fraction of its window is missing."""


class EmbeddingFlag(IntFlag):
    """What is odd about a vector's input: the column ``flags`` holds the sum."""

    PADDED = CutoutFlag.PADDED
    """The window reaches over the edge of its image."""
    MISSING_BAND = CutoutFlag.MISSING_BAND
    """A band has no pixel."""
    MANY_MISSING = 8
    """More than a quarter of the pixels is missing, over all bands."""
    NO_SED = 16
    """The encoder takes an SED, but there is none."""


@dataclass
class Outcome:
    """The sources of a chunk, filled batch by batch.

    Attributes
    ----------
    object_id
        int64 ``(n,)``.
    vectors
        float16 ``(n, d)``.
    flags
        int16 ``(n,)``, sums of :class:`EmbeddingFlag`.
    missing
        float32 ``(n,)``: fraction of the window's pixels that is missing, over all bands.
    empty
        Sources without one pixel, bool ``(n,)``.
    """

    object_id: Int64
    vectors: NDArray[np.float16]
    flags: NDArray[np.int16]
    missing: NDArray[np.float32]
    empty: Bool

    @classmethod
    def of(cls, object_id: Int64, dimension: int) -> Outcome:
        """Room for the results of n sources."""
        n = len(object_id)
        return cls(
            object_id,
            np.zeros((n, dimension), np.float16),
            np.zeros(n, np.int16),
            np.ones(n, np.float32),
            np.ones(n, np.bool_),
        )

    def put(self, index: Int64, vectors: NDArray[np.float32]) -> None:
        """Store vectors, rounded to what the database holds."""
        with np.errstate(over="ignore"):
            self.vectors[index] = vectors

    def describe(
        self,
        index: Int64,
        flags: NDArray[np.uint8],
        missing: NDArray[np.float32],
        no_sed: Bool | None,
    ) -> None:
        """Store what is known of the inputs: cut-out flags, missing fractions by band."""
        fraction = missing.mean(axis=1)
        empty = (flags & CutoutFlag.ALL_MISSING) != 0
        kept = (flags & (CutoutFlag.PADDED | CutoutFlag.MISSING_BAND)).astype(np.int16)
        kept[fraction > MANY_MISSING] |= EmbeddingFlag.MANY_MISSING
        if no_sed is not None:
            kept[no_sed] |= EmbeddingFlag.NO_SED
        self.flags[index], self.missing[index], self.empty[index] = kept, fraction, empty

    @property
    def good(self) -> Bool:
        """Which sources have a vector that can be stored, bool ``(n,)``."""
        return np.asarray(~self.empty & self._finite & self._nonzero)

    # NumPy has no fast instructions for float16, so its bits are compared (IEEE 754).
    @property
    def _finite(self) -> Bool:
        exponents = self.vectors.view(np.uint16) & np.uint16(0x7C00)
        return np.asarray(exponents.max(axis=1, initial=0) < 0x7C00)

    @property
    def _nonzero(self) -> Bool:
        magnitudes = self.vectors.view(np.uint16) & np.uint16(0x7FFF)
        return np.asarray(magnitudes.any(axis=1))

    def problems(self) -> list[dict[str, Any]]:
        """Sources without a vector, with reason and detail; few, so plain dictionaries."""
        finite, nonzero = self._finite, self._nonzero
        reason = np.select(
            [self.empty, ~finite, ~nonzero], ["no_pixels", "not_finite", "zero_vector"], ""
        )
        said = {
            "no_pixels": "no pixel of its window was observed in any band",
            "not_finite": "its vector has values that are not finite in half precision",
            "zero_vector": "its vector is zero",
        }
        return [
            {
                "object_id": int(self.object_id[i]),
                "reason": str(reason[i]),
                "detail": said[reason[i]],
            }
            for i in np.flatnonzero(reason != "")
        ]
