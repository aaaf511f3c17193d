"""OBJECT_ID and the position that it encodes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from astropt_db.q1.identity import decode, decodes_to_sky, encode

UNIT = 1e-7


def one_id(ra: float, dec: float) -> int:
    return int(encode(np.array([ra]), np.array([dec]))[0])


def position(object_id: int) -> tuple[float, float]:
    ra, dec = decode(np.array([object_id]))
    return float(ra[0]), float(dec[0])


@pytest.mark.parametrize(
    ("ra", "dec", "object_id"),
    [
        (53.22574151940563, -28.240033065121686, -532257415282400330),
        (268.48058743, 64.78064676, 2684805874647806467),
        (0.0, 45.0, 450000000),
        (359.99999999, 0.00000011, 3599999999000000001),
        (10.0, -0.5, -100000000005000000),
        (10.0, -0.0, -100000000000000000),
        (10.0, 0.0, 100000000000000000),
        (10.0, 90.0, 100000000900000000),
        (10.0, -90.0, -100000000900000000),
    ],
)
def test_known_ids(ra: float, dec: float, object_id: int) -> None:
    assert one_id(ra, dec) == object_id
    back = position(object_id)
    assert back == pytest.approx((ra, dec), abs=1.0001 * UNIT)


def test_every_real_id_is_its_position(real_data: Path) -> None:
    sample = real_data / "q1" / "mer_morphology_edff_523rows.csv"
    with sample.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    ids = [int(row["object_id"]) for row in rows]
    ra, dec = (
        np.array([float(row[name]) for row in rows]) for name in ("right_ascension", "declination")
    )
    assert len(ids) == 523
    assert encode(ra, dec).tolist() == ids
    assert decodes_to_sky(np.array(ids)).all()


@given(
    ra=st.floats(0, 360, exclude_max=True),
    dec=st.floats(-90, 90),
)
@example(ra=0.0, dec=-0.9999999)
@example(ra=math.nextafter(360, 0), dec=-90.0)
@example(ra=5e-324, dec=-5e-324)
def test_an_id_gives_its_position_back(ra: float, dec: float) -> None:
    object_id = one_id(ra, dec)
    assert object_id == pytest.approx(math.copysign(1, dec) * abs(object_id))
    back_ra, back_dec = position(object_id)
    # The id truncates towards zero; the float noise of RA at 360 degrees is 6e-14.
    assert -1e-13 <= ra - back_ra <= UNIT + 1e-13
    assert -1e-13 <= abs(dec) - abs(back_dec) <= UNIT + 1e-13
    assert back_dec == 0 or math.copysign(1, back_dec) == math.copysign(1, dec)


@given(st.integers(0, 3599999999), st.integers(0, 900000000), st.sampled_from([-1, 1]))
def test_an_id_comes_back_from_the_middle_of_its_cell(ra: int, dec: int, sign: int) -> None:
    object_id = sign * (ra * 10**9 + dec)
    middle = ((ra + 0.5) * UNIT, math.copysign((dec + 0.5) * UNIT, sign))
    assert one_id(*middle) == object_id


@pytest.mark.parametrize(
    "object_id",
    [
        0,
        1262232,
        -999999999,
        3600000000000000000,
        100000000900000001,
        -100000000999999999,
        2**63 - 1,
        -(2**63),
    ],
)
def test_numbers_that_are_no_position(object_id: int) -> None:
    assert not decodes_to_sky(np.array([object_id])).any()


def test_shapes_follow_the_input() -> None:
    none = np.empty(0)
    assert encode(none, none).shape == (0,)
    assert encode(none, none).dtype == np.int64
    assert decodes_to_sky(np.empty(0, np.int64)).shape == (0,)
