"""Rows that cannot be taken: each ends in quarantine with its reason, and none is lost or bent."""

from __future__ import annotations

import csv
from collections.abc import Callable

import numpy as np
import pytest
from commands import content, done_files, ingest, run, select
from conftest import temporary_database
from q1_files import TILE, Rows, make_rows, with_columns, write_product

from astropt_db.database.connect import Database

MER = "mer_catalogue"
N_ROWS = 12
QUARANTINE = (
    "SELECT row_number, reason, detail FROM astropt.quarantine WHERE state = 'open' ORDER BY id"
)


@pytest.fixture(scope="module")
def undisturbed(server, template, tmp_path_factory):
    """What the database holds after an undamaged file of the tile."""
    with temporary_database(server, template) as url:
        path = write_product(tmp_path_factory.mktemp("undisturbed"), MER, N_ROWS)
        assert ingest(Database(url), path).code == 0
        return content(Database(url))


def one_value(column: str, value: float, dtype: str | None = None) -> Callable[[Rows], Rows]:
    """Change the fourth row of one column, perhaps after the column took another type."""

    def change(rows: Rows) -> Rows:
        values = rows[column].astype(dtype or rows[column].dtype)
        values[3] = value
        return with_columns(rows, {column: values})

    return change


def swapped_ids(rows: Rows) -> Rows:
    rows["OBJECT_ID"][[3, 4]] = rows["OBJECT_ID"][[4, 3]]
    return rows


def repeated_row(rows: Rows) -> Rows:
    rows = rows[[0, 1, 2, *range(N_ROWS)]]
    rows["FLUX_DETECTION_TOTAL"][3] = 1e6
    return rows


BAD_ROWS: dict[str, tuple[Callable[[Rows], Rows], list[tuple[int, str, str]]]] = {
    "RA too large": (
        one_value("RIGHT_ASCENSION", 400.0),
        [(4, "position_invalid", "RIGHT_ASCENSION = 400.0")],
    ),
    "RA 360": (one_value("RIGHT_ASCENSION", 360.0), [(4, "position_invalid", "[0, 360)")]),
    "RA negative": (one_value("RIGHT_ASCENSION", -0.1), [(4, "position_invalid", "-0.1")]),
    "RA NaN": (
        one_value("RIGHT_ASCENSION", np.nan),
        [(4, "position_invalid", "RIGHT_ASCENSION = null")],
    ),
    "Dec too large": (one_value("DECLINATION", 90.5), [(4, "position_invalid", "90.5")]),
    "Dec infinite": (one_value("DECLINATION", -np.inf), [(4, "position_invalid", "-inf")]),
    "another position": (
        one_value("DECLINATION", 12.0),
        [(4, "id_position_mismatch", "DECLINATION = 12.0")],
    ),
    "two ids swapped": (
        swapped_ids,
        [(4, "id_position_mismatch", "OBJECT_ID"), (5, "id_position_mismatch", "OBJECT_ID")],
    ),
    "id 0": (one_value("OBJECT_ID", 0), [(4, "id_position_mismatch", "OBJECT_ID = 0")]),
    "flux +inf": (
        one_value("FLUX_DETECTION_TOTAL", np.inf),
        [(4, "value_infinite", 'FLUX_DETECTION_TOTAL: expected a finite number, found "inf"')],
    ),
    "flux -inf": (
        one_value("FLUX_DETECTION_TOTAL", -np.inf),
        [(4, "value_infinite", 'found "-inf"')],
    ),
    "flux beyond float32": (
        one_value("FLUX_DETECTION_TOTAL", 1e300, ">f8"),
        [(4, "value_out_of_range", "FLUX_DETECTION_TOTAL: expected a 32-bit float, found 1e+300")],
    ),
    "half a flag": (
        one_value("VIS_DET", 0.5, ">f8"),
        [(4, "value_not_integer", "VIS_DET: expected a whole number (smallint), found 0.5")],
    ),
    "a flag beyond int16": (
        one_value("VIS_DET", 70_000, ">i8"),
        [(4, "value_out_of_range", 'VIS_DET: expected -32768 to 32767 (smallint), found "70000"')],
    ),
    "an int64 that went through a float": (
        one_value("GAIA_ID", 1_635_721_458_409_799_680.0, ">f8"),
        [(4, "value_not_integer", "GAIA_ID")],
    ),
    "the same key with other values": (
        repeated_row,
        [(4, "duplicate_in_file", "an earlier row of the file has the same key")],
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_kept_with_its_reason(ready_database, tmp_path, undisturbed, name):
    damage, expected = BAD_ROWS[name]
    path = write_product(tmp_path, MER, damage(make_rows(MER, N_ROWS)))

    first = ingest(ready_database, path)

    assert first.code == 1
    assert f"{len(expected)} in quarantine" in first.err
    found = select(ready_database, QUARANTINE)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert all(part in row[2] for row, (_, _, part) in zip(found, expected, strict=True))
    rejected = 0 if "duplicate_in_file" in {row[1] for row in found} else len(found)
    assert content(ready_database)[MER][0] == N_ROWS - rejected
    listed = run(ready_database, "quarantine", "list", "--format", "csv")
    assert [line["path"] for line in csv.DictReader(listed.out.splitlines())] == [str(path)] * len(
        expected
    )

    again = ingest(ready_database, path)
    assert again.code == 1
    assert "same content as before" in again.err

    write_product(tmp_path, MER, N_ROWS)
    refused = ingest(ready_database, path)
    assert refused.code == 1
    assert "run again with --replace" in refused.err
    assert ingest(ready_database, path, "--replace").code == 0
    assert content(ready_database) == undisturbed


@pytest.mark.parametrize(
    "change",
    [
        one_value("FLUX_DETECTION_TOTAL", np.nan),
        one_value("SEGMENTATION_MAP_ID", 7.0, ">f8"),
        lambda rows: rows[[*range(N_ROWS), 0, 1]],
        lambda rows: with_columns(
            rows,
            {n: np.full(N_ROWS, np.nan, "f4") for n in rows.dtype.names if n.startswith("FLUX")},
        ),
    ],
    ids=["NaN flux", "int64 as float", "rows written twice", "columns without a value"],
)
def test_what_looks_bad_and_is_not(ready_database, tmp_path, change):
    rows = change(make_rows(MER, N_ROWS))
    outcome = ingest(ready_database, write_product(tmp_path, MER, rows))
    assert outcome.code == 0, outcome.err
    assert f"inserted {N_ROWS} / updated 0 / unchanged {len(rows) - N_ROWS} / rejected 0" in (
        outcome.out
    )
    stored = select(
        ready_database,
        "SELECT object_id, segmentation_map_id, coalesce(flux_detection_total, 'NaN') "
        "FROM q1.mer_catalogue ORDER BY ctid",
    )
    names = ["OBJECT_ID", "SEGMENTATION_MAP_ID", "FLUX_DETECTION_TOTAL"]
    for name, values in zip(names, zip(*stored, strict=True), strict=True):
        stored_values = np.array(values).astype(rows[name].dtype)
        np.testing.assert_array_equal(stored_values, rows[name][:N_ROWS])


def test_big_endian_values_and_units_na(ready_database, tmp_path):
    rows = make_rows(MER, N_ROWS)
    path = write_product(tmp_path, MER, rows)
    assert rows["OBJECT_ID"].dtype.byteorder == ">"
    assert b"'NA      '" in path.read_bytes()
    assert ingest(ready_database, path).code == 0
    query = "SELECT object_id, right_ascension FROM q1.mer_catalogue"
    assert sorted(select(ready_database, query)) == sorted(
        zip(rows["OBJECT_ID"].tolist(), rows["RIGHT_ASCENSION"].tolist(), strict=True)
    )


# Identifiers


def as_float64(rows: Rows) -> Rows:
    return with_columns(rows, {"OBJECT_ID": rows["OBJECT_ID"].astype(">f8")})


def as_float32(rows: Rows) -> Rows:
    return with_columns(rows, {"OBJECT_ID": rows["OBJECT_ID"].astype(">f4")})


def through_float64(rows: Rows) -> Rows:
    return with_columns(rows, {"OBJECT_ID": rows["OBJECT_ID"].astype(">f8").astype(">i8")})


def as_spreadsheet(rows: Rows) -> Rows:
    texts = [f"{number:.14E}" for number in rows["OBJECT_ID"].tolist()]
    return with_columns(rows, {"OBJECT_ID": np.array(texts, "S24")})


def rounded_positions(rows: Rows) -> Rows:
    for name in ("RIGHT_ASCENSION", "DECLINATION"):
        rows[name] = np.round(rows[name], 5)
    return rows


def float32_positions(rows: Rows) -> Rows:
    names = ("RIGHT_ASCENSION", "DECLINATION")
    return with_columns(rows, {name: rows[name].astype(">f4") for name in names})


DESTROYED = pytest.mark.parametrize(
    "destroy", [as_float64, as_float32, through_float64, as_spreadsheet]
)


@DESTROYED
def test_destroyed_ids_are_refused_and_repaired_on_request(
    ready_database, tmp_path, undisturbed, destroy
):
    path = write_product(tmp_path, MER, destroy(make_rows(MER, N_ROWS)))

    first = ingest(ready_database, path)

    assert first.code == 1
    assert f"{N_ROWS} in quarantine" in first.err
    found = select(ready_database, QUARANTINE)
    assert [row[0] for row in found] == list(range(1, N_ROWS + 1))
    assert {row[1] for row in found} <= {"id_not_exact", "id_position_mismatch"}
    assert MER not in content(ready_database)

    second = ingest(ready_database, path, "--repair-ids")
    assert second.code == 0
    assert f"{N_ROWS} repaired ids" in second.err
    assert content(ready_database) == undisturbed


@pytest.mark.parametrize("destroy", [as_float64, through_float64, as_spreadsheet])
def test_quarantined_rows_come_out_as_they_went_in(ready_database, tmp_path, undisturbed, destroy):
    path = write_product(tmp_path, MER, destroy(make_rows(MER, N_ROWS)))
    assert ingest(ready_database, path).code == 1
    ((number,),) = select(ready_database, "SELECT min(id) FROM astropt.quarantine")
    shown = run(ready_database, "quarantine", "show", number, "--format", "json")
    assert shown.code == 0
    assert "RIGHT_ASCENSION" in shown.out

    without = run(ready_database, "quarantine", "retry")
    assert (without.code, MER in content(ready_database)) == (1, False)
    assert f"still in quarantine {N_ROWS}" in without.out

    repaired = run(ready_database, "quarantine", "retry", "--repair-ids")
    assert (repaired.code, repaired.err.count(f"{N_ROWS} ids repaired")) == (0, 1)
    assert content(ready_database) == undisturbed
    assert run(ready_database, "quarantine", "retry").code == 0
    assert run(ready_database, "quarantine", "list", "--format", "json").out.strip() == "[]"
    assert run(ready_database, "quarantine", "show", 999_999).code == 1


@DESTROYED
@pytest.mark.parametrize("coarse", [rounded_positions, float32_positions])
def test_coarse_positions_repair_nothing(ready_database, tmp_path, destroy, coarse):
    path = write_product(tmp_path, MER, coarse(destroy(make_rows(MER, N_ROWS))))
    outcome = ingest(ready_database, path, "--repair-ids")
    assert outcome.code == 1
    assert content(ready_database).keys() == {"quarantine"}
    assert content(ready_database)["quarantine"][0] == N_ROWS
    assert run(ready_database, "quarantine", "retry", "--repair-ids").code == 1
    assert content(ready_database).keys() == {"quarantine"}


def test_a_repaired_id_belongs_to_the_destroyed_one(ready_database, tmp_path):
    """A row whose position is another object's keeps its doubt, however precise it is."""
    rows = as_float64(make_rows(MER, N_ROWS))
    rows["DECLINATION"][3] += 0.01
    outcome = ingest(ready_database, write_product(tmp_path, MER, rows), "--repair-ids")
    assert outcome.code == 1
    assert [row[0] for row in select(ready_database, QUARANTINE)] == [4]
    assert content(ready_database)[MER][0] == N_ROWS - 1


@pytest.mark.parametrize("spelling", ["{}", "{:,}", " {} ", "+{}"])
def test_ids_as_text(ready_database, tmp_path, undisturbed, spelling):
    rows = make_rows(MER, N_ROWS)
    texts = [spelling.format(number) for number in rows["OBJECT_ID"].tolist()]
    path = write_product(tmp_path, MER, with_columns(rows, {"OBJECT_ID": np.array(texts, "S40")}))
    outcome = ingest(ready_database, path)
    assert outcome.code == 0, outcome.err
    assert content(ready_database) == undisturbed


# Tiles


def test_replacing_a_tile(ready_database, server, template, tmp_path):
    rows = make_rows(MER, N_ROWS + 1)
    path = write_product(tmp_path / "old", MER, rows[:N_ROWS])
    assert ingest(ready_database, path).code == 0
    better = rows[3:].copy()
    better["FLUX_DETECTION_TOTAL"][:2] = 42.0
    path = write_product(tmp_path / "new", MER, better)

    before = content(ready_database)
    refused = ingest(ready_database, path)
    assert refused.code == 1
    assert f"brings tile {TILE} of mer_catalogue" in refused.err
    assert "--replace" in refused.err
    assert content(ready_database) == before

    replaced = ingest(ready_database, path, "--replace")
    assert replaced.code == 0, replaced.err
    assert "2 updated, 3 removed" in replaced.err
    assert "inserted 1 / updated 2 / unchanged 7 / rejected 0" in replaced.out
    with temporary_database(server, template) as url:
        assert ingest(Database(url), path).code == 0
        assert content(ready_database) == content(Database(url))
    states = "SELECT state, rows_removed FROM astropt.ingest_file ORDER BY id"
    assert select(ready_database, states) == [("replaced", 0), ("failed", 0), ("done", 3)]
    again = ingest(ready_database, path, "--replace")
    assert again.code == 0
    assert "known" in again.err
    assert done_files(ready_database) == 1


def test_the_same_object_in_two_tiles(ready_database, tmp_path):
    rows = make_rows(MER, N_ROWS)
    rows["FLUX_DETECTION_TOTAL"][1] = 7.0
    first = write_product(tmp_path, MER, rows)
    assert ingest(ready_database, first).code == 0
    other = make_rows(MER, N_ROWS, TILE + 1)
    other[:2] = rows[:2]
    other["FLUX_DETECTION_TOTAL"][1] = 42.0
    second = write_product(tmp_path, MER, other, TILE + 1)

    outcome = ingest(ready_database, second)

    assert outcome.code == 1
    assert f"inserted {N_ROWS - 2} / updated 0 / unchanged 1 / rejected 1" in outcome.out
    ((number, reason, detail),) = select(ready_database, QUARANTINE)
    assert (number, reason) == (2, "conflict")
    assert str(first) in detail
    flux = "SELECT flux_detection_total FROM q1.mer_catalogue WHERE object_id = %s"
    key = [int(other["OBJECT_ID"][1])]
    assert select(ready_database, flux, key) == [(7.0,)]

    assert ingest(ready_database, tmp_path, "--replace").code == 0
    assert select(ready_database, flux, key) == [(42.0,)]
    assert content(ready_database).keys() == {MER}
    assert content(ready_database)[MER][0] == 2 * N_ROWS - 2
    assert "known" in ingest(ready_database, tmp_path).err
    assert ingest(ready_database, tmp_path, "--replace").code == 0
    assert select(ready_database, flux, key) == [(42.0,)]


def test_repairing_ids_takes_nothing_from_another_file(ready_database, tmp_path):
    rows = make_rows(MER, N_ROWS)
    rows["FLUX_DETECTION_TOTAL"][1] = 7.0
    assert ingest(ready_database, write_product(tmp_path, MER, rows)).code == 0
    other = make_rows(MER, N_ROWS, TILE + 1)
    other[1] = rows[1]
    other["FLUX_DETECTION_TOTAL"][1] = 42.0
    other["OBJECT_ID"][5:] = other["OBJECT_ID"][5:].astype(">f8").astype(">i8")
    second = write_product(tmp_path, MER, other, TILE + 1)
    assert ingest(ready_database, second).code == 1

    outcome = ingest(ready_database, second, "--repair-ids")

    assert outcome.code == 1
    assert [row[:2] for row in select(ready_database, QUARANTINE)] == [(2, "conflict")]
    flux = "SELECT flux_detection_total FROM q1.mer_catalogue WHERE object_id = %s"
    assert select(ready_database, flux, [int(rows["OBJECT_ID"][1])]) == [(7.0,)]
    assert content(ready_database)[MER][0] == 2 * N_ROWS - 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_content_twice_is_taken_once(ready_database, tmp_path, jobs):
    write_product(tmp_path / "a", MER, N_ROWS)
    write_product(tmp_path / "b", MER, N_ROWS)
    outcome = ingest(ready_database, tmp_path, "--jobs", jobs)
    assert outcome.code == 0, outcome.err
    assert f"inserted {N_ROWS} / updated 0 / unchanged {N_ROWS} /" in outcome.out
    assert done_files(ready_database) == 1
    again = ingest(ready_database, tmp_path, "--jobs", jobs)
    assert again.code == 0
    assert f"inserted 0 / updated 0 / unchanged {2 * N_ROWS} /" in again.out
