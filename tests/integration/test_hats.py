"""``astropt-db export … -o DIR.hats``: the layout, and LSDB on two workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky
from commands import run, select
from conftest import temporary_database
from delivery_database import fill

from astropt_db.database.connect import Database
from astropt_db.database.copy_out import stream
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.reading import reading
from astropt_db.deliver.export import export
from astropt_db.deliver.hats_folder import lay_out, write_hats
from astropt_db.deliver.selection import select as choose
from astropt_db.errors import ConfigurationError, FileError
from astropt_db.sky.healpix import healpix29

SHIFTED = """
    SELECT object_id AS other_id, right_ascension AS ra, declination + 0.3 / 3600 AS dec
    FROM astropt.source WHERE mod(abs(object_id), 3) > 0
"""


@pytest.fixture(scope="module")
def database(server: EmbeddedServer, sky_template: str) -> Iterator[Database]:
    with temporary_database(server, sky_template) as url:
        fill(Database(url))
        yield Database(url)


def ids_of(database: Database) -> list[int]:
    return [row[0] for row in select(database, "SELECT object_id FROM astropt.source ORDER BY 1")]


def write_small_files(database: Database, folder: Path, view: str, max_rows: int) -> int:
    """As an export, with few rows to a file."""
    folder.mkdir()
    with reading(database, snapshot=True) as cursor:
        layout = lay_out(cursor, choose(cursor, view, None), max_rows)
        batches = stream(cursor, layout.selection.query, [c.out for c in layout.selection.columns])
        return write_hats(folder, layout, batches)


def test_files_hold_their_cells(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    ids = ids_of(database)
    assert write_small_files(database, folder, "catalogue", 60) == len(ids)
    files = sorted(folder.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"))
    assert len(files) > 3
    found: list[int] = []
    for path in files:
        order, _, pixel = (int(part.split("=")[1].split(".")[0]) for part in path.parts[-3:])
        table = pq.read_table(path, partitioning=None)
        cells = table["_healpix_29"].to_numpy()
        assert (cells >> 2 * (29 - order) == pixel).all()
        assert (np.diff(cells) >= 0).all()
        assert len(table) <= 60
        # The server's cells are those of the positions, to the last bit but rounding.
        own = healpix29(*(table[n].to_numpy() for n in ("right_ascension", "declination")))
        assert np.array_equal(cells, own)
        found += table["object_id"].to_pylist()
    assert sorted(found) == ids
    listed = (folder / "partition_info.csv").read_text().split()
    assert len(listed) == len(files) + 1
    assert pq.read_metadata(folder / "dataset/_metadata").num_rows == len(ids)


def test_headers_speak(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "catalogue.hats"
    report = export(database, target, "catalogue")
    assert (report.rows, report.left_out) == (len(ids_of(database)), 0)
    schema = pq.read_schema(target / "dataset/_common_metadata")
    assert str(schema.field("object_id").type) == "int64"
    assert schema.field("mag_vis").metadata[b"unit"] == b"mag"
    assert schema.field("right_ascension").metadata[b"ucd"] == b"pos.eq.ra;meta.main"
    assert b"test_encoder" in schema.metadata[b"astropt-db.encoder"]
    properties = dict(
        line.split("=", 1) for line in (target / "hats.properties").read_text().splitlines()[1:]
    )
    assert properties["hats_col_ra"] == "right_ascension"
    assert properties["hats_nrows"] == str(report.rows)
    assert "photoz: linear" in properties["astropt_db_predictors"]
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.hats"]


def test_a_hats_folder_comes_back_as_a_survey(database: Database, tmp_path: Path) -> None:
    export(database, tmp_path / "s.hats", query=SHIFTED)
    done = run(database, "survey", "add", "shifted", tmp_path / "s.hats", "--id", "other_id")
    assert done.code == 0, done.err
    assert run(database, "survey", "match", "shifted", "--all").code == 0
    rows = select(database, "SELECT object_id, survey_id FROM survey.shifted_match "
                  "WHERE object_id = survey_id")  # fmt: skip
    assert len(rows) == sum(abs(one) % 3 > 0 for one in ids_of(database))
    run(database, "survey", "drop", "shifted")


def test_rows_without_a_position_are_told(database: Database, tmp_path: Path) -> None:
    query = (
        "SELECT * FROM (VALUES (1, 10.0::float8, 20.0::float8), (2, NULL, 3), (3, 'NaN', 4)) "
        "AS t (i, ra, dec)"
    )
    answer = run(database, "export", "--query", query, "-o", tmp_path / "p.hats")
    assert answer.code == 0, answer.err
    assert "1 rows" in answer.err
    assert "2 rows without a position left out" in answer.err
    assert pq.read_table(tmp_path / "p.hats/dataset", partitioning=None)["i"].to_pylist() == [1]
    with pytest.raises(ConfigurationError, match="has no position"):
        export(database, tmp_path / "q.hats", query="SELECT 1 AS a")
    with pytest.raises(ConfigurationError, match="rename yours"):
        export(database, tmp_path / "q.hats", query="SELECT 1 AS _healpix_29")


def test_other_folders_stay(database: Database, tmp_path: Path) -> None:
    mine = tmp_path / "mine.hats"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigurationError, match="exists"):
        export(database, mine, "source")
    with pytest.raises(ConfigurationError, match=r"a folder without hats\.properties"):
        export(database, mine, "source", overwrite=True)
    assert (mine / "thesis.tex").read_text() == "all of it"
    for _ in range(2):
        export(database, tmp_path / "b.hats", "source", overwrite=True)
    (tmp_path / "c.hats").write_text("a file")
    with pytest.raises(ConfigurationError, match="is a file"):
        export(database, tmp_path / "c.hats", "source", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.hats", "c.hats", "mine.hats"]


def test_a_full_disk(database: Database, small_disk: Path) -> None:
    query = (
        "SELECT md5(i::text) AS t, i * 1e-4::float8 AS ra, 0.0::float8 AS dec "
        "FROM generate_series(1, 100000) AS i"
    )
    with pytest.raises(FileError, match="the disk is full"):
        export(database, small_disk / "a.hats", query=query)
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lsdb_matches_on_two_workers(database: Database, tmp_path: Path) -> None:
    lsdb = pytest.importorskip("lsdb", reason="LSDB is not installed (extra hats)")
    distributed = pytest.importorskip("distributed")
    validation = pytest.importorskip("hats.io.validation")
    write_small_files(database, tmp_path / "one", "catalogue", 60)
    export(database, tmp_path / "other.hats", query=SHIFTED)
    for folder in ("one", "other.hats"):
        assert validation.is_valid_catalog(tmp_path / folder, strict=True)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1) as cluster,
        distributed.Client(cluster),
    ):
        one = lsdb.open_catalog(tmp_path / "one")
        other = lsdb.open_catalog(tmp_path / "other.hats")
        everything = one.compute()
        pairs = one.crossmatch(other, radius_arcsec=1, n_neighbors=5).compute()
        near = one.cone_search(*first_place(database), radius_arcsec=200).compute()
    assert sorted(everything["object_id"]) == ids_of(database)
    assert str(everything["object_id"].dtype) in ("int64", "int64[pyarrow]")
    places = select(database, "SELECT right_ascension, declination FROM astropt.source "
                    "ORDER BY object_id")  # fmt: skip
    here = SkyCoord(places, unit="deg")
    moved = [i for i, one in enumerate(ids_of(database)) if abs(one) % 3]
    there = SkyCoord(here.ra[moved], here.dec[moved] + 0.3 * u.arcsec)
    expected = search_around_sky(here, there, 1 * u.arcsec)[0]
    assert len(pairs) == len(expected) >= len(moved)
    centre = SkyCoord(*first_place(database), unit="deg")
    assert len(near) == int((centre.separation(here) <= 200 * u.arcsec).sum())


def first_place(database: Database) -> tuple[float, float]:
    return select(database, "SELECT right_ascension, declination FROM astropt.source "
                  "ORDER BY object_id LIMIT 1")[0]  # fmt: skip
