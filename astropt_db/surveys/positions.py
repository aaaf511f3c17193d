"""Positions as files write them: degrees, hours, radians, sexagesimal; and their mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from astropt_db.errors import AstroptDbError
from astropt_db.ingest.convert import parse_numbers
from astropt_db.q1.readers import Values

Float64 = NDArray[np.float64]

_SEXAGESIMAL = (
    r"^\s*(?P<sign>[+\-−]?)\s*(?P<whole>\d{1,3})[:\shd°]+(?P<minute>\d{1,2})[:\sm'′]+"
    r"(?P<second>\d+\.?\d*)\s*[\"″s]?\s*$"
)
_FEW = 20
_TURN = 2 * np.pi


class SurveyError(AstroptDbError):
    """A survey cannot be loaded or matched; the message names it and says what to do."""

    def __init__(self, name: str, problem: str) -> None:
        self.name, self.problem = name, problem
        super().__init__(f"survey {name}: {problem}")

    def __reduce__(self) -> tuple[type[SurveyError], tuple[str, str]]:
        return type(self), (self.name, self.problem)


@dataclass
class PositionReader:
    """Reads the positions of a survey and remembers what they look like.

    Attributes
    ----------
    survey
        Its name, for messages.
    ra_name, dec_name
        Columns of the file.
    unit
        ``deg``, ``hours`` (right ascension only), ``rad``, or ``auto`` to judge by unit, name
        and form.
    notes
        What is worth saying.
    """

    survey: str
    ra_name: str
    dec_name: str
    unit: str = "auto"
    notes: list[str] = field(default_factory=list)
    n: int = 0
    n_missing: int = 0
    n_outside: int = 0
    _assumed: bool = False
    _low: Float64 = field(default_factory=lambda: np.full(2, np.inf))
    _high: Float64 = field(default_factory=lambda: np.full(2, -np.inf))

    def read(self, ra: Values, dec: Values, ra_unit: str, dec_unit: str) -> tuple[Float64, Float64]:
        """Right ascension and declination in degrees, NaN where there is none."""
        one = self._degrees(ra, self.ra_name, ra_unit, is_ra=True)
        other = self._degrees(dec, self.dec_name, dec_unit, is_ra=False)
        missing = ~(np.isfinite(one) & np.isfinite(other))
        here = ~missing
        if here.any():
            self._low = np.minimum(self._low, [one[here].min(), other[here].min()])
            self._high = np.maximum(self._high, [one[here].max(), other[here].max()])
        outside = here & ((np.abs(other) > 90) | (one < -180) | (one > 360))
        self.n += len(one)
        self.n_missing += int(missing.sum())
        self.n_outside += int(outside.sum())
        bad = missing | outside
        return np.where(bad, np.nan, one % 360), np.where(bad, np.nan, other)

    def _degrees(self, values: Values, name: str, unit: str, *, is_ra: bool) -> Float64:
        scale, stated = _scale(self.unit, unit, name, is_ra)
        if values.data.dtype.kind != "S":
            numbers = values.data.astype(np.float64)
            if values.null is not None:
                numbers = np.where(values.null, np.nan, numbers)
            self._assumed |= not stated
            return numbers * scale
        parsed, _ = parse_numbers(values, "double precision")
        assert parsed.null is not None
        numbers = np.where(parsed.null, np.nan, parsed.data.astype(np.float64)) * scale
        angles = _sexagesimal(values)
        found = np.isfinite(angles)
        if found.any():
            hours = is_ra and not (stated and scale == 1 and "deg" in unit.lower())
            how = "hours, minutes, seconds" if hours else "degrees, minutes, seconds"
            self._note(f"{name} is sexagesimal, read as {how}")
            numbers = np.where(found, angles * (15 if hours else 1), numbers)
        elif np.isfinite(numbers).any():
            self._assumed |= not stated
        return numbers

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def check(self) -> None:
        """Refuse positions that are swapped or in another unit.

        Raises
        ------
        SurveyError
            With the ranges found and the option that mends it.
        """
        if self.n == self.n_missing:
            return
        (ra0, dec0), (ra1, dec1) = self._low, self._high
        where = f"{self.ra_name} from {ra0:.6g} to {ra1:.6g}, {self.dec_name} from {dec0:.6g} to "
        where += f"{dec1:.6g}"
        # A bad value or two are no exchange of the columns.
        several = self.n_outside > 0.1 * (self.n - self.n_missing)
        if several and max(abs(dec0), abs(dec1)) > 90 and max(abs(ra0), abs(ra1)) <= 90:
            raise SurveyError(
                self.survey,
                f"right ascension and declination look swapped: {where}. Try --ra "
                f"{self.dec_name} --dec {self.ra_name}",
            )
        many = self.n - self.n_missing >= _FEW
        small = ra0 >= -np.pi and ra1 <= _TURN + 1e-3 and max(-dec0, dec1) <= np.pi / 2 + 1e-3
        wide = ra1 - ra0 > np.pi or dec1 - dec0 > 1
        if self._assumed and many and small and wide:
            raise SurveyError(
                self.survey,
                f"the positions look like radians: {where}. Say --unit rad if they are, "
                "--unit deg if they are degrees",
            )
        if self._assumed and many and 12 < ra1 <= 24 and ra0 >= 0 and dec1 - dec0 > 60:
            self._note(f"taken as degrees, but {where}: say --unit hours if these are hours")


def _scale(asked: str, unit: str, name: str, is_ra: bool) -> tuple[float, bool]:
    """Degrees per unit, and whether anything says so."""
    said = asked if asked != "auto" else unit.strip().lower()
    words = name.lower()
    if said.startswith("rad") or (not said and "[rad" in words):
        return float(np.degrees(1)), True
    if said in ("h", "hour", "hours", "hourangle", "hr"):
        return (15.0 if is_ra else 1.0), True
    if said.startswith("deg") or (not said and "[deg" in words):
        return 1.0, True
    return 1.0, False


def _sexagesimal(values: Values) -> Float64:
    """Hours or degrees from texts such as ``00:08:27.05``; NaN where the text is something else."""
    raw = pa.array(values.data.astype(object), pa.binary(), mask=values.null)
    try:
        text = raw.cast(pa.string())
    except pa.ArrowInvalid:
        return np.full(len(values.data), np.nan)
    parts = pc.extract_regex(text, _SEXAGESIMAL)
    whole, minute, second = (
        pc.cast(pc.struct_field(parts, name), pa.float64()).to_numpy(zero_copy_only=False)
        for name in ("whole", "minute", "second")
    )
    sign = pc.struct_field(parts, "sign").to_numpy(zero_copy_only=False)
    size = whole + minute / 60 + second / 3600
    right = (minute < 60) & (second < 60.0001)
    negative = (sign == "-") | (sign == "−")
    return np.asarray(np.where(right, np.where(negative, -size, size), np.nan), np.float64)


def move(
    ra: Float64, dec: Float64, pmra: Float64, pmdec: Float64, years: Float64
) -> tuple[Float64, Float64]:
    """Positions after some years, along great circles; right at the poles, too.

    Parameters
    ----------
    ra, dec
        Degrees ``(n,)``.
    pmra, pmdec
        Proper motions in mas/yr, that in right ascension with cos dec; NaN stays in place.
    years
        ``(n,)``.
    """
    step = np.radians(np.nan_to_num(years) / 3.6e6)
    east, north = np.nan_to_num(pmra) * step, np.nan_to_num(pmdec) * step
    a, d = np.radians(ra), np.radians(dec)
    along = np.cos(d) - north * np.sin(d)
    x = along * np.cos(a) - east * np.sin(a)
    y = along * np.sin(a) + east * np.cos(a)
    z = np.sin(d) + north * np.cos(d)
    moved = np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))
    still = (east == 0) & (north == 0)
    return np.where(still, ra, moved[0]), np.where(still, dec, moved[1])
