"""Other surveys: loaded from any format, matched, joined; real truth; bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from commands import run, select
from source_database import Sources, add_sources, draw_sources, write_csv

from astropt_db.database.connect import Database
from astropt_db.q1 import identity


def ok(database: Database, *arguments: object) -> str:
    outcome = run(database, "survey", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def refused(database: Database, *arguments: object) -> str:
    outcome = run(database, "survey", *arguments)
    assert outcome.code == 1
    assert select(database, "SELECT count(*) FROM astropt.survey") == [(0,)]
    return outcome.err


def near(sources: Sources, arcsec: float) -> dict[str, np.ndarray]:
    """Every source, moved north."""
    return {"RA": sources.ra, "DEC": sources.dec + arcsec / 3600}


def test_real_lenses_match_the_list_of_lenses(ready_database: Database, real_data: Path) -> None:
    """1,155 of 1,192 lens candidates stand in lenscat within 2 arcsec, median 0.036."""
    database, folder = ready_database, real_data / "surveys"
    out = ok(database, "add", "lenscat", folder / "lenscat.csv", "--ra", "RA [deg]",
             "--dec", "DEC [deg]")  # fmt: skip
    assert "rows 32,838" in out
    ok(database, "add", "stein", folder / "stein2022_new_lenses.tsv")
    pairs = select(
        database,
        "SELECT count(DISTINCT one_id), percentile_cont(0.5) WITHIN GROUP (ORDER BY nearest) "
        "FROM (SELECT one_id, min(separation) AS nearest FROM astropt.crossmatch("
        "'survey.stein', 'survey.lenscat', 2) GROUP BY one_id) AS t",
    )
    assert pairs[0][0] == 1155
    assert pairs[0][1] == pytest.approx(0.036, abs=0.0005)


def test_real_sexagesimal_positions(ready_database: Database, real_data: Path) -> None:
    path = real_data / "surveys" / "openngc.csv"
    outcome = run(ready_database, "survey", "add", "openngc", path, "--id", "Name")
    assert outcome.code == 0, outcome.err
    assert "RA is sexagesimal, read as hours" in outcome.err
    rows = select(
        ready_database,
        "SELECT sky_ra, sky_dec FROM survey.openngc WHERE name IN ('IC0001', 'NGC0224') "
        "ORDER BY name",
    )
    assert rows[0] == pytest.approx((2.1127083, 27.7176667), abs=1e-6)
    assert rows[1] == pytest.approx((10.6847929, 41.2690650), abs=1e-5)


def test_match_counts_chance_and_joins(ready_database: Database, tmp_path: Path) -> None:
    sources = draw_sources(500)
    add_sources(ready_database, sources)
    shift = np.where(np.arange(500) < 300, 0.4, 5.0)
    path = write_csv(
        tmp_path / "x.csv", name=[f"s{i}" for i in range(500)],
        ra=sources.ra, dec=sources.dec + shift / 3600, object_id=np.arange(500),
    )  # fmt: skip
    ok(ready_database, "add", "xmm", path, "--id", "name")
    for _ in range(2):  # the same again, not twice as much
        out = ok(ready_database, "match", "xmm", "--radius", 1)
        counts = select(ready_database, "SELECT count(*), count(DISTINCT object_id) "
                        "FROM survey.xmm_match")  # fmt: skip
        assert counts[0][0] >= 300
        assert f"{counts[0][0]:,} of 500 rows match" in out
    rows = select(
        ready_database,
        "SELECT object_id, survey_id, separation, match_rank, n_candidates, xmm_object_id "
        "FROM survey.xmm_matched WHERE survey_id = 's7'",
    )
    assert rows[0][:2] == (int(sources.object_id[7]), "s7")
    assert rows[0][2] == pytest.approx(0.4, abs=1e-4)
    assert rows[0][3:] == (1, 1, 7)
    chance, pairs = select(ready_database, "SELECT n_chance, n_pairs FROM astropt.survey")[0]
    # 500 positions, one source per 100 square arcsec: 3 % of them by chance.
    assert 0 <= chance < 60
    assert pairs == counts[0][0]
    listed = run(ready_database, "survey", "list", "--format", "csv")
    assert "xmm" in listed.out
    ok(ready_database, "match", "xmm", "--radius", 8, "--all")
    many = select(ready_database, "SELECT max(match_rank), max(n_candidates) FROM survey.xmm_match")
    assert many[0][0] == many[0][1] > 1
    ok(ready_database, "drop", "xmm")
    assert select(ready_database, "SELECT count(*) FROM pg_class WHERE relname LIKE 'xmm%%'") == [
        (0,)
    ]


def test_an_empty_match(ready_database: Database, tmp_path: Path) -> None:
    add_sources(ready_database, draw_sources(5))
    path = write_csv(tmp_path / "far.csv", ra=[1.0], dec=[-80.0])
    ok(ready_database, "add", "far", path)
    assert "0 of 1 rows match 0 sources" in ok(ready_database, "match", "far")
    assert select(ready_database, "SELECT count(*) FROM survey.far_matched") == [(0,)]


def test_formats_keep_ids_types_and_units(ready_database: Database, tmp_path: Path) -> None:
    table = Table({
        "TARGETID": np.array([39627000000000001, 39627000000000002, 39627000000000003]),
        "TARGET_RA": np.array([269.7, 359.9999999, 10.0]),
        "TARGET_DEC": np.array([66.0, 0.0, -89.9999]),
        "Z": np.array([0.1, 0.2, 0.3]), "ZWARN": np.array([0, 0, 4]),
        "ZCAT_PRIMARY": np.array([True, True, True]),
        "COEFF": np.ones((3, 10)), "FLUX_R": np.array([1, 2, np.inf], np.float32),
    })  # fmt: skip
    table["FLUX_R"].unit = "mJy"
    for suffix in ("fits", "vot", "ecsv", "parquet"):
        path = tmp_path / f"desi.{suffix}"
        if suffix == "parquet":
            columns = {name: table[name].tolist() for name in table.colnames}
            pq.write_table(pa.table(columns), path)
        else:
            table.write(path, format="votable" if suffix == "vot" else None)
        out = ok(ready_database, "add", f"desi_{suffix}", path, "--recipe", "desi")
        assert "read 3 / rows 2 / without position 0 / cut 1" in out
        rows = select(ready_database, f"SELECT targetid, sky_ra, sky_dec, coeff[10] "
                      f"FROM survey.desi_{suffix} ORDER BY 1")  # fmt: skip
        assert rows == [(39627000000000001, 269.7, 66.0, 1), (39627000000000002, 359.9999999, 0, 1)]
    unit = "SELECT unit FROM astropt.column_info WHERE table_name = 'desi_fits' AND column_name = "
    assert select(ready_database, unit + "'flux_r'") == [("mJy",)]
    assert "same content" in ok(
        ready_database, "add", "desi_fits", tmp_path / "desi.fits", "--recipe", "desi"
    )
    other = run(ready_database, "survey", "add", "desi_fits", tmp_path / "desi.vot",
                "--recipe", "desi")  # fmt: skip
    assert other.code == 1
    assert "--replace" in other.err
    ok(ready_database, "add", "desi_fits", tmp_path / "desi.vot", "--recipe", "desi", "--replace")


def test_a_hats_catalogue(ready_database: Database, tmp_path: Path) -> None:
    sources = draw_sources(60)
    add_sources(ready_database, sources)
    for half in (0, 1):
        folder = tmp_path / "cat" / "dataset" / "Norder=1" / "Dir=0"
        folder.mkdir(parents=True, exist_ok=True)
        rows = slice(30 * half, 30 * half + 30)
        pq.write_table(
            pa.table({"ra": sources.ra[rows], "dec": sources.dec[rows], "object_id": range(30)}),
            folder / f"Npix={half}.parquet",
        )
    (tmp_path / "cat" / "hats.properties").write_text("dataproduct_type = object\n")
    ok(ready_database, "add", "hsc", tmp_path / "cat", "--recipe", "hsc", "--duplicates", "keep")
    out = ok(ready_database, "match", "hsc")
    assert "60 of 60 rows match 60 sources" in out
    named = select(ready_database, "SELECT count(hsc_object_id) FROM survey.hsc")
    assert named == [(60,)]


def test_gaia_moves_to_the_epoch_of_euclid(ready_database: Database, tmp_path: Path) -> None:
    """A star of 200 mas/yr moves 1.7 arcsec in 8.5 years, out of the radius of a match."""
    ra, dec = np.array([269.7, 269.8]), np.array([66.0, 89.99999])
    add_sources(ready_database, Sources(identity.encode(ra, dec), ra, dec))
    path = write_csv(
        tmp_path / "gaia.csv", source_id=[4 * 10**18, 4 * 10**18 + 1],
        ra=ra - [0.2 * 8.5 / 3600 / np.cos(np.radians(66)), 0], dec=dec - [0, 0.1 * 8.5 / 3600],
        pmra=[200, 0], pmdec=[0, 100], ra_error=[0.2, 0.1], dec_error=[0.1, 0.3],
    )  # fmt: skip
    ok(ready_database, "add", "gaia", path, "--recipe", "gaia")
    ok(ready_database, "match", "gaia", "--radius", 0.1)
    rows = select(ready_database, "SELECT survey_id, separation < 0.001 FROM survey.gaia_match "
                  "ORDER BY 1")  # fmt: skip
    assert rows == [(4 * 10**18, True), (4 * 10**18 + 1, True)]
    errors = select(ready_database, "SELECT sky_error FROM survey.gaia ORDER BY source_id")
    assert errors == [(pytest.approx(0.0002),), (pytest.approx(0.0003),)]


def test_rows_with_errors_have_a_radius_of_their_own(
    ready_database: Database, tmp_path: Path
) -> None:
    sources = draw_sources(2)
    add_sources(ready_database, sources)
    path = write_csv(
        tmp_path / "e.csv", DETUID=["a", "b"], RA=sources.ra, DEC=sources.dec + 8 / 3600,
        POS_ERR=[3.0, 1.0],
    )  # fmt: skip
    ok(ready_database, "add", "erass", path, "--recipe", "erosita")
    ok(ready_database, "match", "erass")
    assert select(ready_database, "SELECT survey_id FROM survey.erass_match") == [("a",)]


def test_lotss_has_radii_of_its_errors(ready_database: Database, tmp_path: Path) -> None:
    """Three times the larger of E_RA and E_DEC where that is more than 1 arcsec."""
    sources = draw_sources(3)
    add_sources(ready_database, sources)
    table = Table({
        "Source_Name": ["ILTJ1", "ILTJ2", "ILTJ3"], "RA": sources.ra,
        "DEC": sources.dec + np.array([1.4, 1.4, 0.9]) / 3600,
        "E_RA": [0.1, 0.2, 0.1], "E_DEC": [0.5, 0.4, 0.1], "Total_flux": [1.0, 2.0, 3.0],
    })  # fmt: skip
    table["Total_flux"].unit = "mJy"
    table.write(tmp_path / "lotss.fits")
    ok(ready_database, "add", "lotss", tmp_path / "lotss.fits", "--recipe", "lotss")
    ok(ready_database, "match", "lotss")
    assert select(ready_database, "SELECT survey_id FROM survey.lotss_match ORDER BY 1") == [
        ("ILTJ1",), ("ILTJ3",)
    ]  # fmt: skip
    found = select(ready_database, "SELECT sky_error, total_flux FROM survey.lotss ORDER BY 1, 2")
    assert found == [(pytest.approx(0.1), 3), (pytest.approx(0.4), 2), (pytest.approx(0.5), 1)]


def test_allwise_has_a_wide_radius(ready_database: Database, tmp_path: Path) -> None:
    """IRSA's ``cntr`` has 19 digits; blends are counted as candidates."""
    sources = draw_sources(2)
    beside = Sources(sources.object_id, sources.ra[:1], sources.dec[:1] - 2 / 3600)
    both = Sources(
        identity.encode(np.append(sources.ra, beside.ra), np.append(sources.dec, beside.dec)),
        np.append(sources.ra, beside.ra), np.append(sources.dec, beside.dec),
    )  # fmt: skip
    add_sources(ready_database, both)
    cntr = [2714166501351000001, 2714166501351000002]
    path = write_csv(
        tmp_path / "allwise.csv", designation=["J1", "J2"], ra=sources.ra,
        dec=sources.dec + np.array([0.8, 3.5]) / 3600, sigra=[0.04, 0.05], sigdec=[0.05, 0.06],
        w1mpro=[15.1, 16.2], cntr=cntr,
    )  # fmt: skip
    ok(ready_database, "add", "wise", path, "--recipe", "allwise")
    ok(ready_database, "match", "wise")
    rows = select(ready_database, "SELECT survey_id, separation, n_candidates, w1mpro "
                  "FROM survey.wise_matched")  # fmt: skip
    assert rows == [(cntr[0], pytest.approx(0.8, abs=1e-4), 2, 15.1)]


def test_ids_of_20_digits_and_sentinels(ready_database: Database, tmp_path: Path) -> None:
    Table({
        "SPECOBJID": np.array([299489677444933632, 2**64 - 1], np.uint64),
        "PLUG_RA": [1.0, 2.0], "PLUG_DEC": [3.0, 4.0],
    }).write(tmp_path / "sdss.fits")  # fmt: skip
    ok(ready_database, "add", "sdss", tmp_path / "sdss.fits", "--recipe", "sdss")
    assert select(ready_database, "SELECT specobjid FROM survey.sdss ORDER BY survey_row") == [
        ("299489677444933632",), (str(2**64 - 1),)
    ]  # fmt: skip
    path = write_csv(
        tmp_path / "des.csv", COADD_OBJECT_ID=[1, 2], RA=[1.0, 2.0], DEC=[3.0, 4.0],
        mag=[37.5, 20.5], ext=[-99, 1],
    )  # fmt: skip
    ok(ready_database, "add", "des", path, "--recipe", "des")
    rows = select(ready_database, "SELECT mag, ext FROM survey.des ORDER BY 1")
    assert rows == [(20.5, 1), (None, None)]


# Bad input


def test_swapped_positions_are_told(ready_database: Database, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", ra=[66.0, 66.1], dec=[269.7, 269.8])
    assert "look swapped" in refused(ready_database, "add", "s", path)


def test_radians_are_told_and_taken_when_said(ready_database: Database, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ra, dec = 2 * np.pi * rng.random(50), rng.uniform(-1.5, 1.5, 50)
    path = write_csv(tmp_path / "r.csv", ra=ra, dec=dec)
    assert "look like radians" in refused(ready_database, "add", "r", path)
    ok(ready_database, "add", "r", path, "--unit", "rad")
    found = select(ready_database, "SELECT sky_ra, sky_dec FROM survey.r ORDER BY survey_row")
    assert np.allclose(found, np.degrees([ra, dec]).T)


def test_missing_positions_are_counted(ready_database: Database, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "n.csv", ra=[1.0, np.nan, 3.0, 200.0], dec=[1.0, 2.0, np.nan, 95.0])
    outcome = run(ready_database, "survey", "add", "n", path)
    assert "read 4 / rows 1 / without position 3" in outcome.out
    assert "1 positions are off the sphere" in outcome.err
    empty = write_csv(tmp_path / "e.csv", ra=[np.nan, 1.0], dec=[1.0, np.nan])
    outcome = run(ready_database, "survey", "add", "e", empty)
    assert outcome.code == 1
    assert "no row is left of 2: 2 without a position" in outcome.err


def test_ids_that_come_again(ready_database: Database, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", id=[7, 7, 8], ra=[1.0, 2.0, 3.0], dec=[0.0, 0.0, 0.0])
    message = refused(ready_database, "add", "d", path, "--id", "id")
    assert "1 rows repeat an id of column id: 7 (2 times)" in message
    out = ok(ready_database, "add", "d", path, "--id", "id", "--duplicates", "first")
    assert "rows 2 / without position 0 / cut 0 / duplicates 1" in out


def test_names_that_clash_and_reserved_words(ready_database: Database, tmp_path: Path) -> None:
    names = ["healpix29", "object_id", "order", "user", "select", "CTID", "Z", "z", "1st",
             'a"; DROP TABLE x', "sky_ra", "survey_row", "extra", "ra", "dec", "ß"]  # fmt: skip
    table = pa.table({name: [float(i)] for i, name in enumerate(names)})
    pq.write_table(table, tmp_path / "c.parquet")
    add_sources(ready_database, draw_sources(1))
    ok(ready_database, "add", "c", tmp_path / "c.parquet")
    ok(ready_database, "match", "c")
    row = select(
        ready_database,
        'SELECT c_healpix29, c_object_id, "order", "user", "select", c_ctid, z, z_2, c_1st, '
        "c_sky_ra, c_survey_row, c_extra FROM survey.c",
    )
    assert row == [(0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12)]
    for bad in ("1c", "c_match", "C d"):
        outcome = run(ready_database, "survey", "add", bad, tmp_path / "c.parquet")
        assert outcome.code == 1
        assert "a name begins with a letter" in outcome.err


def test_1500_columns(ready_database: Database, tmp_path: Path) -> None:
    columns = {"ra": [1.0, 2.0], "dec": [3.0, 4.0]}
    columns |= {f"c{i}": [float(i), float(i) + 0.5] for i in range(1498)}
    pq.write_table(pa.table(columns), tmp_path / "wide.parquet")
    add_sources(ready_database, draw_sources(1))
    outcome = run(ready_database, "survey", "add", "wide", tmp_path / "wide.parquet")
    assert outcome.code == 0, outcome.err
    assert "of 1,500 columns are in the JSON column extra" in outcome.err
    row = select(ready_database, "SELECT c7, (extra ->> 'c1497')::float8 FROM survey.wide")
    assert row == [(7.0, 1497.0), (7.5, 1497.5)]
    ok(ready_database, "match", "wide")
    kinds = select(
        ready_database,
        "SELECT data_type FROM astropt.column_info WHERE table_name = 'wide_matched' "
        "AND column_name = 'extra'",
    )
    assert kinds == [("text",)]


def test_what_is_not_there_is_told(ready_database: Database, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", x=[1.0], y=[2.0])
    assert "Say --ra and --dec; it has x, y" in refused(ready_database, "add", "m", path)
    assert "is not there" in refused(ready_database, "match", "nothing")
    assert "is not there" in refused(ready_database, "drop", "nothing")
