"""The first pass over a table: whose rows are these, and can the identifiers be trusted?

Every id is checked against the position that it encodes. An id that went through a float or a
spreadsheet no longer agrees with its position; such a row goes to quarantine, or is given the
id that its position spells, when that is asked for and the position is precise enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from astropt_db.ingest.convert import parse_numbers
from astropt_db.ingest.match import Target
from astropt_db.q1 import identity
from astropt_db.q1.readers import Block, Table, Values

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_UNIT = 1e-7
_BLOCK = 4096
_MIN_ROWS = 4
"""Fewer ids may all be multiples of a float's spacing by chance (1 in 64 each, or rarer)."""


class Reason(IntEnum):
    """Why a row cannot be identified; 0 means that it can."""

    OK = 0
    ID_MISSING = 1
    ID_NOT_EXACT = 2
    ID_NOT_ON_SKY = 3
    ID_POSITION_MISMATCH = 4
    POSITION_INVALID = 5
    RANK_MISSING = 6

    @property
    def code(self) -> str:
        """The short code that the quarantine shows."""
        return self.name.lower()

    @property
    def explanation(self) -> str:
        """What was expected, in a sentence."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Reason.OK: "",
    Reason.ID_MISSING: "the row has no object id",
    Reason.ID_NOT_EXACT: (
        "the object id went through a floating-point number or a spreadsheet and lost digits; "
        "expected a whole number of up to 19 digits"
    ),
    Reason.ID_NOT_ON_SKY: "the object id does not decode to a position on the sky",
    Reason.ID_POSITION_MISMATCH: "the object id does not encode the row's position",
    Reason.POSITION_INVALID: "right ascension must lie in [0, 360) and declination in [-90, 90]",
    Reason.RANK_MISSING: "the row has no rank, which is part of its key; expected 0 or more",
}


@dataclass
class Identities:
    """What the first pass found, one element per row.

    Attributes
    ----------
    object_id
        Ids as they will be stored, int64; 0 where there is none.
    rank
        Second key column of ranked products, else ``None``.
    reason
        :class:`Reason` of each row, uint8.
    duplicate
        True for every later row with the key of an earlier one.
    repaired
        Number of ids rebuilt from the position.
    """

    object_id: Int64
    rank: Int64 | None
    reason: NDArray[np.uint8]
    duplicate: Bool
    repaired: int = 0

    @property
    def ok(self) -> Bool:
        """Rows that can be identified and are no later duplicates."""
        return np.asarray((self.reason == Reason.OK) & ~self.duplicate, np.bool_)


@dataclass(frozen=True)
class _Ids:
    number: Int64
    as_float: Float64
    tolerance: Float64
    exact: Bool
    missing: Bool


def identify(table: Table, target: Target, *, repair: bool = False) -> Identities:
    """Read the identifiers and positions of a table and judge each row.

    Parameters
    ----------
    table, target
        The table and how its columns are used.
    repair
        Rebuild destroyed ids from their positions where these leave no doubt.
    """
    n_rows = table.n_rows if table.n_rows is not None else _count_rows(table, target)
    ids, reason = np.empty(n_rows, np.int64), np.empty(n_rows, np.uint8)
    ranked = "spe_rank" in target.sources and "spe_rank" in target.product.key
    rank = np.empty(n_rows, np.int64) if ranked else None
    repaired, checked = 0, target.ra_column is not None
    for block in _key_blocks(table, target):
        here = slice(block.first_row, block.first_row + block.n_rows)
        part = _identify_block(block, target, repair)
        ids[here], reason[here] = part.object_id, part.reason
        if rank is not None and part.rank is not None:
            rank[here] = part.rank
        repaired += part.repaired
        checked &= part.exact_positions
    # Ids that miss their position bear witness, too: a coarse position is missed by some only.
    if not checked and _float_damage(ids):
        reason[reason == Reason.OK] = Reason.ID_NOT_EXACT
    return Identities(
        object_id=ids,
        rank=rank,
        reason=reason,
        duplicate=_later_duplicates(ids, rank, reason == Reason.OK),
        repaired=repaired,
    )


def _count_rows(table: Table, target: Target) -> int:
    return sum(block.n_rows for block in table.blocks([target.id_column], _BLOCK))


@dataclass(frozen=True)
class _Part:
    object_id: Int64
    rank: Int64 | None
    reason: NDArray[np.uint8]
    repaired: int
    exact_positions: bool


def _key_blocks(table: Table, target: Target) -> Iterator[Block]:
    names = [target.id_column, target.ra_column, target.dec_column]
    names += list(target.sources.get("spe_rank", ()))
    return table.blocks([name for name in names if name], _BLOCK)


def _identify_block(block: Block, target: Target, repair: bool) -> _Part:
    ids = _read_ids(block.columns[target.id_column])
    reason = np.full(block.n_rows, Reason.OK, np.uint8)
    number, repaired, precise = ids.number, 0, False
    if target.ra_column is not None and target.dec_column is not None:
        ra, ra_error = _coordinate(block.columns[target.ra_column])
        dec, dec_error = _coordinate(block.columns[target.dec_column])
        valid = (ra >= 0) & (ra < 360) & (np.abs(dec) <= 90)
        agrees = _agrees(ids.number, ra, dec, ra_error, dec_error)
        precise = max(ra_error, dec_error) < _UNIT
        reason[valid & ~agrees] = Reason.ID_POSITION_MISMATCH
        # Only a product that owns the position depends on it; elsewhere it is merely a check.
        reason[~valid] = Reason.POSITION_INVALID if target.product.has_position else Reason.OK
        reason[~ids.exact & ~(agrees & precise)] = Reason.ID_NOT_EXACT
        if repair:
            mended = _repairable(ids, ra, dec, ra_error, dec_error) & valid
            mended &= np.isin(reason, [Reason.ID_NOT_EXACT, Reason.ID_POSITION_MISMATCH])
            number = np.where(mended, identity.encode(np.where(valid, ra, 0.0), dec), number)
            reason[mended] = Reason.OK
            repaired = int(mended.sum())
    else:
        reason[~ids.exact] = Reason.ID_NOT_EXACT
    reason[(reason == Reason.OK) & ~identity.decodes_to_sky(number)] = Reason.ID_NOT_ON_SKY
    reason[ids.missing] = Reason.ID_MISSING
    rank = _rank(block, target)
    if rank is not None:
        reason[(reason == Reason.OK) & (rank < 0)] = Reason.RANK_MISSING
    return _Part(number, rank, reason, repaired, precise)


def _rank(block: Block, target: Target) -> Int64 | None:
    """Rank of each row, -1 where there is none; ``None`` if the file has no such column."""
    source = target.sources.get("spe_rank")
    if source is None:
        return None
    values = block.columns[source[0]]
    if values.data.dtype.kind == "S":
        values, _ = parse_numbers(values, "bigint")
    data = np.nan_to_num(values.data.astype(np.float64), nan=-1, posinf=-1, neginf=-1)
    if values.null is not None:
        data[values.null] = -1
    return data.astype(np.int64)


def _read_ids(values: Values) -> _Ids:
    """Ids of any type; ``tolerance`` is how far a damaged id may be from the true one."""
    n_rows = len(values.data)
    missing = np.zeros(n_rows, np.bool_) if values.null is None else values.null.copy()
    if values.data.dtype.kind == "S":
        return _read_text_ids(values, missing)
    if values.data.dtype.kind == "f":
        missing |= np.isnan(values.data)
        as_float = np.where(np.isfinite(values.data), values.data, 0.0).astype(np.float64)
        small = np.abs(as_float) < 2.0**53
        exact = small & (as_float == np.trunc(as_float))
        number = np.clip(as_float, -(2.0**62), 2.0**62).astype(np.int64)
        spacing = np.abs(np.spacing(as_float.astype(values.data.dtype.newbyteorder("="))))
        return _Ids(number, as_float, spacing.astype(np.float64), exact, missing)
    if values.data.dtype.kind == "u":
        exact = values.data <= np.uint64(2**63 - 1)
        number = np.where(exact, values.data, 0).astype(np.int64)
    else:
        exact = np.ones(n_rows, np.bool_)
        number = values.data.astype(np.int64)
    as_float = number.astype(np.float64)
    # A whole number may have been a float before it was written as one.
    return _Ids(number, as_float, np.spacing(np.abs(as_float)), exact, missing)


def _read_text_ids(values: Values, missing: Bool) -> _Ids:
    raw: NDArray[np.bytes_] = np.strings.strip(values.data.astype("S"))
    missing |= np.isin(np.strings.lower(raw), [b"", b"nan", b"null", b"none", b"--"])
    # Thousands separators are only spelling: what remains is checked like any other id.
    text = Values(np.strings.replace(raw, b",", b""), missing)
    numbers, bad = parse_numbers(text, "bigint")
    floats, unreadable = parse_numbers(text, "double precision")
    as_float = np.where(unreadable | missing, 0.0, floats.data)
    mantissa = np.strings.partition(np.strings.lower(text.data), b"e")[0]
    digits = np.strings.str_len(np.strings.lstrip(mantissa, b"+-0."))
    digits -= np.strings.count(np.strings.lstrip(mantissa, b"+-0."), b".")
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(as_float)))
    tolerance = np.where(as_float == 0, 0.0, 0.5 * 10.0 ** (exponent - digits + 1))
    number = np.where(bad | missing, 0, numbers.data).astype(np.int64)
    tolerance = np.maximum(tolerance, np.spacing(np.abs(as_float)))
    return _Ids(number, as_float, tolerance, ~bad, missing)


def _coordinate(values: Values) -> tuple[Float64, float]:
    """A coordinate in degrees, and half of the last digit that it was written with."""
    if values.data.dtype.kind == "S":
        values, bad = parse_numbers(values, "double precision")
    else:
        bad = np.zeros(len(values.data), np.bool_)
    data = values.data.astype(np.float64)
    missing = bad if values.null is None else bad | values.null
    data = np.where(missing, np.nan, data)
    known = data[np.isfinite(data)]
    if values.data.dtype.itemsize < 8 or values.data.dtype.kind != "f":
        return data, 2e-5
    if len(known) == 0:
        return data, 180.0
    decimals = next((k for k in range(2, 13) if (np.round(known, k) == known).all()), None)
    return data, 6e-14 if decimals is None else 0.5 * 10.0**-decimals


def _agrees(ids: Int64, ra: Float64, dec: Float64, ra_error: float, dec_error: float) -> Bool:
    """Whether each id encodes the position, given how precisely that is known."""
    id_ra, id_dec = _id_parts(ids)
    ra_low, ra_high = _truncated_range(ra, ra_error)
    dec_low, dec_high = _truncated_range(np.abs(dec), dec_error)
    inside = (id_ra >= ra_low) & (id_ra <= ra_high) & (id_dec >= dec_low) & (id_dec <= dec_high)
    same_side = (np.sign(ids) == np.where(np.signbit(dec), -1, 1)) | (np.abs(dec) <= dec_error)
    return np.asarray(inside & same_side, np.bool_)


def _id_parts(ids: Int64) -> tuple[Int64, Int64]:
    magnitude = np.abs(ids)
    return magnitude // 1_000_000_000, magnitude % 1_000_000_000


def _truncated_range(value: Float64, error: float) -> tuple[Float64, Float64]:
    return np.trunc((value - error) / _UNIT), np.trunc((value + error) / _UNIT)


def _repairable(ids: _Ids, ra: Float64, dec: Float64, ra_error: float, dec_error: float) -> Bool:
    """Whether the position spells one id only, and that id is what the damaged one was."""
    ra_low, ra_high = _truncated_range(ra, ra_error)
    dec_low, dec_high = _truncated_range(np.abs(dec), dec_error)
    with np.errstate(invalid="ignore"):
        unambiguous = (ra_low == ra_high) & (dec_low == dec_high)
    safe = np.isfinite(ra) & np.isfinite(dec) & unambiguous
    candidate = identity.encode(np.where(safe, ra, 0.0), np.where(safe, dec, 0.0))
    near = np.abs(candidate.astype(np.float64) - ids.as_float) <= ids.tolerance
    return np.asarray(safe & near, np.bool_)


def _float_damage(ids: Int64) -> bool:
    """Whether all ids are what a float64 can hold: they went through one and lost digits.

    A true id is a multiple of its float spacing (64 to 512) only once in that many.
    """
    large = ids[np.abs(ids) > 2**53]
    if len(large) < _MIN_ROWS:
        return False
    return bool((large.astype(np.float64).astype(np.int64) == large).all())


def _later_duplicates(ids: Int64, rank: Int64 | None, ok: Bool) -> Bool:
    """True for every row whose key an earlier good row has.

    Sorting one copy of the keys tells whether there are any, which is rare; only rows with a
    suspect key are then looked at in order, so 30 million rows need one 240 MB copy.
    """
    duplicate = np.zeros(len(ids), np.bool_)
    # With a rank the key may overflow: that can only add suspects, never hide one.
    keys = ids if rank is None else ids * 8 + rank
    ordered = np.sort(keys[ok])
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(suspects) == 0:
        return duplicate
    rows = np.flatnonzero(ok & is_member(keys, suspects))
    order = rows[np.lexsort((ids[rows],) if rank is None else (rank[rows], ids[rows]))]
    same = ids[order][1:] == ids[order][:-1]
    if rank is not None:
        same &= rank[order][1:] == rank[order][:-1]
    duplicate[order[1:][same]] = True
    return duplicate


def is_member(values: Int64, ordered: Int64) -> Bool:
    """Whether each value stands in a sorted array (``np.isin`` would sort it every time)."""
    if len(ordered) == 0:
        return np.zeros(len(values), np.bool_)
    place = np.searchsorted(ordered, values)
    return np.asarray(ordered[np.minimum(place, len(ordered) - 1)] == values, np.bool_)


def describe_ids(values: Values) -> NDArray[np.bytes_]:
    """Ids as the file spells them, for messages."""
    if values.data.dtype.kind == "S":
        return np.asarray(values.data, "S")
    if values.data.dtype.kind == "f":
        return values.data.astype("S32")
    array = pa.array(values.data.astype(values.data.dtype.newbyteorder("=")))
    return np.asarray(pc.cast(array, pa.string()).to_numpy(zero_copy_only=False), "S")
