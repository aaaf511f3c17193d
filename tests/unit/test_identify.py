"""Which rows can be identified: exact ids, damaged ids, repaired ids, duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_table import MemoryTable, memory_table

from astropt_db.ingest.identify import Identities, Reason, describe_ids, identify
from astropt_db.ingest.match import targets
from astropt_db.q1 import identity
from astropt_db.q1.readers import Values, open_tables

N = 40
_random = np.random.default_rng(7)
RA = _random.uniform(52, 54, N)
DEC = _random.uniform(-29, -27, N)
IDS = identity.encode(RA, DEC)


def mer(ids: object, ra: object = RA, dec: object = DEC) -> MemoryTable:
    return memory_table(OBJECT_ID=ids, RIGHT_ASCENSION=ra, DECLINATION=dec, VIS_DET=[1] * len(ra))


def judged(table: MemoryTable, product: str = "mer_catalogue", *, repair: bool = False):
    ((_, target),) = targets([table], product)
    return identify(table, target, repair=repair)


def reasons(found: Identities) -> list[str]:
    return [Reason(code).code for code in found.reason]


def spelled(ids: np.ndarray) -> list[str]:
    return [str(one) for one in ids.tolist()]


# Ids that are right


@pytest.mark.parametrize(
    "ids",
    [IDS, IDS.astype(">i8"), spelled(IDS), [f"{one:,}" for one in IDS.tolist()]],
    ids=["int64", "big-endian", "text", "thousands separators"],
)
def test_exact_ids_of_any_spelling(ids: object) -> None:
    found = judged(mer(ids))
    assert found.ok.all()
    assert found.object_id.tolist() == IDS.tolist()
    assert found.repaired == 0


@given(st.floats(2e-7, 359.9999999), st.floats(-90, 90))
def test_every_id_agrees_with_its_own_position(ra: float, dec: float) -> None:
    where = np.array([ra]), np.array([dec])
    object_id = identity.encode(*where)
    assert reasons(judged(mer(object_id, *where))) == ["ok"]


@pytest.mark.parametrize("decimals", [2, 5, 7, 9])
def test_positions_with_few_decimals_check_as_far_as_they_can(decimals: int) -> None:
    assert judged(mer(IDS, RA.round(decimals), DEC.round(decimals))).ok.all()
    # An object 0.02 degrees away is told apart even by two decimals.
    elsewhere = judged(
        mer(identity.encode(RA + 0.02, DEC), RA.round(decimals), DEC.round(decimals))
    )
    assert set(reasons(elsewhere)) == {"id_position_mismatch"}


def test_positions_in_32_bit_floats() -> None:
    found = judged(mer(IDS, RA.astype("f4"), DEC.astype("f4")))
    assert found.ok.all()


def test_positions_written_as_text() -> None:
    ra, dec = [repr(one) for one in RA.tolist()], [repr(one) for one in DEC.tolist()]
    assert judged(mer(IDS, ra, dec)).ok.all()


def test_every_real_row(real_data: Path) -> None:
    (table,) = open_tables(real_data / "q1" / "mer_morphology_edff_523rows.csv")
    ((_, target),) = targets([table])
    found = identify(table, target)
    assert reasons(found) == ["ok"] * 523
    assert found.duplicate.sum() == 2


# Ids that are wrong


def test_ids_that_went_through_a_float() -> None:
    floats = IDS.astype("f8")
    survived = floats.astype("i8") == IDS
    found = judged(mer(floats))
    assert [one == "ok" for one in reasons(found)] == survived.tolist()
    assert set(reasons(found)) <= {"ok", "id_not_exact"}
    written = judged(mer(floats.astype("i8")))
    assert set(np.array(reasons(written))[~survived]) == {"id_position_mismatch"}


def test_ids_that_went_through_a_spreadsheet() -> None:
    found = judged(mer([f"{one:.5E}" for one in IDS.astype(float).tolist()]))
    assert reasons(found) == ["id_not_exact"] * N


def test_every_row_of_a_real_spreadsheet(real_data: Path) -> None:
    (table,) = open_tables(real_data / "q1" / "phz_physical_destroyed_ids.csv")
    ((_, target),) = targets([table])
    assert target.product.table == "phz_physical_parameters"
    assert set(reasons(identify(table, target, repair=True))) == {"id_not_exact"}


def test_ids_that_are_nothing_of_the_kind() -> None:
    ids = ["", "nan", "galaxy 7", "12.5", "9" * 19, "9" * 20, b"\xff\xfe"]
    raw = np.array([one if isinstance(one, bytes) else one.encode() for one in ids])
    found = judged(mer(raw, RA[:7], DEC[:7]))
    assert reasons(found) == ["id_missing"] * 2 + ["id_not_exact"] * 5


def test_missing_ids() -> None:
    missing = np.arange(N) == 3
    assert reasons(judged(mer(Values(IDS, missing))))[3] == "id_missing"
    floats = np.where(missing, np.nan, 5.0)
    assert reasons(judged(mer(floats)))[3] == "id_missing"


def test_ids_of_another_place() -> None:
    assert set(reasons(judged(mer(IDS[::-1])))) == {"id_position_mismatch"}
    assert set(reasons(judged(mer(-IDS)))) == {"id_position_mismatch"}


def test_positions_that_do_not_exist() -> None:
    ra, dec = RA.copy(), DEC.copy()
    ra[:3] = [360.0, -0.1, np.nan]
    dec[3:6] = [90.1, np.inf, np.nan]
    found = judged(mer(IDS, ra, dec))
    assert reasons(found) == ["position_invalid"] * 6 + ["ok"] * (N - 6)


def test_unsigned_ids_beyond_64_bits() -> None:
    ids = np.array([2**63 + 5, 100000000450000000], "u8")
    found = judged(mer(ids, np.array([10.0, 10.0]), np.array([45.0, 45.0])))
    assert reasons(found) == ["id_not_exact", "ok"]


# Products without positions


def classification(ids: object) -> MemoryTable:
    return memory_table(object_id=ids, phz_classification=[1] * len(ids))


def test_without_positions_ids_must_decode_to_the_sky() -> None:
    ids = np.array([*IDS[:5].tolist(), 3600000000000000000, 0, -(2**63)])
    found = judged(classification(ids), "phz_classification")
    assert reasons(found) == ["ok"] * 5 + ["id_not_on_sky"] * 3


def test_without_positions_a_file_of_rounded_ids_is_seen_as_a_whole() -> None:
    rounded = IDS.astype("f8").astype("i8")
    found = judged(classification(rounded), "phz_classification")
    assert set(reasons(found)) == {"id_not_exact"}
    one_is_exact = rounded.copy()
    one_is_exact[0] = 532257415282400331
    assert judged(classification(one_is_exact), "phz_classification").ok.all()
    # Three ids may be multiples of 64 by chance.
    assert judged(classification(rounded[:3]), "phz_classification").ok.all()


def test_rough_positions_do_not_hide_rounded_ids() -> None:
    rounded = IDS.astype("f8").astype("i8")
    found = judged(mer(rounded, RA.round(3), DEC.round(3)))
    assert set(reasons(found)) == {"id_not_exact"}


def test_the_position_is_only_a_check_where_the_product_does_not_own_it() -> None:
    ra = RA.copy()
    ra[0] = np.nan
    table = memory_table(object_id=IDS, ra=ra, dec=DEC, phz_classification=[1] * N)
    assert judged(table, "phz_classification").ok.all()


# Repair


@pytest.mark.parametrize(
    "ids",
    [
        IDS.astype("f8"),
        IDS.astype("f8").astype("i8"),
        [f"{one:.5E}" for one in IDS.astype(float).tolist()],
        [f"{one:.2E}" for one in IDS.astype(float).tolist()],
        [repr(one) for one in IDS.astype(float).tolist()],
    ],
    ids=["float64", "float64 as integers", "spreadsheet", "short spreadsheet", "floats as text"],
)
def test_damaged_ids_are_rebuilt_from_exact_positions(ids: object) -> None:
    before = judged(mer(ids))
    found = judged(mer(ids), repair=True)
    assert found.ok.all()
    assert found.object_id.tolist() == IDS.tolist()
    assert found.repaired == int((~before.ok).sum()) > N // 2


@pytest.mark.parametrize("decimals", [4, 6, 7])
def test_nothing_is_rebuilt_from_positions_that_leave_a_doubt(decimals: int) -> None:
    ids = [f"{one:.5E}" for one in IDS.astype(float).tolist()]
    found = judged(mer(ids, RA.round(decimals), DEC.round(decimals)), repair=True)
    assert found.repaired == 0
    assert set(reasons(found)) == {"id_not_exact"}


def test_what_is_rebuilt_from_nine_decimals_is_right() -> None:
    ids = [f"{one:.5E}" for one in IDS.astype(float).tolist()]
    found = judged(mer(ids, RA.round(9), DEC.round(9)), repair=True)
    assert found.repaired >= N - 2
    assert (found.object_id[found.ok] == IDS[found.ok]).all()


def test_another_object_is_no_damaged_one() -> None:
    damaged = [f"{one:.5E}" for one in IDS[::-1].astype(float).tolist()]
    found = judged(mer(damaged), repair=True)
    assert found.repaired == 0
    exact = judged(mer(IDS[::-1]), repair=True)
    assert set(reasons(exact)) == {"id_position_mismatch"}


def test_ids_that_are_missing_are_not_invented() -> None:
    found = judged(mer([""] * N), repair=True)
    assert found.repaired == 0
    assert set(reasons(found)) == {"id_missing"}


def test_good_ids_stay_as_they_are_under_repair() -> None:
    found = judged(mer(IDS), repair=True)
    assert found.repaired == 0
    assert found.object_id.tolist() == IDS.tolist()


# Duplicates and ranks


def test_later_rows_of_the_same_object() -> None:
    rows = np.array([0, 1, 0, 2, 1, 0])
    found = judged(mer(IDS[rows], RA[rows], DEC[rows]))
    assert found.duplicate.tolist() == [False, False, True, False, True, True]
    assert found.ok.sum() == 3


def test_a_rejected_row_does_not_make_the_next_one_a_duplicate() -> None:
    ra = np.array([np.nan, RA[0]])
    found = judged(mer(IDS[[0, 0]], ra, DEC[[0, 0]]))
    assert reasons(found) == ["position_invalid", "ok"]
    assert not found.duplicate.any()


def ranked(rank: object) -> Identities:
    table = memory_table(object_id=IDS[[0, 0, 0, 1]], spe_rank=rank, spe_z=np.ones(4))
    return judged(table, "spectro_zcatalog_spe_galaxy_candidates")


def test_ranks_belong_to_the_key() -> None:
    found = ranked([0, 1, 0, 0])
    assert found.rank is not None
    assert found.rank.tolist() == [0, 1, 0, 0]
    assert found.duplicate.tolist() == [False, False, True, False]
    assert ranked(["0", "1", "0", "0"]).duplicate.tolist() == found.duplicate.tolist()


@pytest.mark.parametrize(
    "rank",
    [
        [np.nan, 1.0, -1.0, 0.0],
        ["", "1", "best", "0"],
        Values(np.array([7, 1, 7, 0]), np.array([True, False, True, False])),
    ],
    ids=["float", "text", "null"],
)
def test_rows_without_a_rank(rank: object) -> None:
    assert reasons(ranked(rank)) == ["rank_missing", "ok", "rank_missing", "ok"]


def test_an_empty_table() -> None:
    none = np.empty(0)
    found = judged(mer(np.empty(0, "i8"), none, none))
    assert len(found.object_id) == len(found.reason) == len(found.ok) == 0


# Messages


def test_every_reason_is_explained() -> None:
    assert [one for one in Reason if one and not one.explanation] == []


def test_ids_are_shown_as_the_file_spells_them() -> None:
    assert describe_ids(Values(IDS[:1].astype(">i8"))).tolist() == [spelled(IDS)[0].encode()]
    assert describe_ids(Values(np.array([b"-5.14E+17"]))).tolist() == [b"-5.14E+17"]
    assert describe_ids(Values(np.array([-5.14806e17]))).tolist() == [b"-5.14806e+17"]
