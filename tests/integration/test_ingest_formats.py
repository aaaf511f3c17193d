"""The same rows in every format give the same table; merged catalogues feed several tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from q1_files import positions

from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.provenance import recorded_run
from astropt_db.ingest.catalogue import FileReport, Options, ingest_file
from astropt_db.q1 import identity
from astropt_db.q1.readers import catalogue_files

ROWS = 150


def ingest(database: Database, path: Path, options: Options | None = None) -> list[FileReport]:
    with recorded_run(database, "test", {}) as run:
        return ingest_file(database, path, options or Options(), run.id)


def query(database: Database, statement: str) -> list[tuple[object, ...]]:
    with connect(database) as connection:
        return connection.execute(statement).fetchall()


def photo_z_table() -> Table:
    """PHZ rows with a vector, intervals, a sentinel-free flag and missing values."""
    rng = np.random.default_rng(5)
    ra, dec = positions(ROWS)
    median = rng.random(ROWS).astype(np.float32)
    median[::7] = np.nan
    table = Table(
        {
            "OBJECT_ID": identity.encode(ra, dec),
            "PHZ_PDF": rng.random((ROWS, 601)).astype(np.float32),
            "PHZ_MEDIAN": median,
            "PHZ_90_INT": np.stack([median - 0.1, median + 0.1], axis=1),
            "PHZ_FLAGS": rng.integers(0, 13, ROWS).astype(np.int32),
            "FLUX_VIS_UNIF": rng.lognormal(size=ROWS),
            "A_new_column": rng.random(ROWS),
        }
    )
    table["FLUX_VIS_UNIF"].unit = "uJy"
    return table


def write(table: Table, folder: Path, suffix: str) -> Path:
    path = folder / f"EUC_PHZ_PHZCAT_20241018T214045.289017Z_00.00{suffix}"
    if suffix.startswith(".fits"):
        fits.BinTableHDU(table).writeto(path)
    elif suffix == ".parquet":
        columns = {
            name: pa.array(list(column)) if column.ndim == 2 else pa.array(np.asarray(column))
            for name, column in table.columns.items()
        }
        pq.write_table(pa.table(columns), path)
    elif suffix == ".csv":
        flat = table.copy()
        for name in ("PHZ_PDF", "PHZ_90_INT"):
            flat[name] = ["[" + ",".join(map(repr, row.tolist())) + "]" for row in table[name]]
        flat.write(path, format="ascii.csv")
    else:
        formats = {".vot": "votable", ".ecsv": "ascii.ecsv"}
        table.write(path, format=formats[suffix])
    return path


CHECKSUM = (
    "SELECT count(*), sum(object_id), sum(hashtextextended((object_id, phz_pdf, phz_median, "
    "phz_90_int, phz_flags, flux_vis_unif, extra ->> 'A_new_column')::text, 0)) FROM q1.phz_photo_z"
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return photo_z_table()


@pytest.fixture
def expected(reference: Table, ready_database: Database, tmp_path: Path) -> tuple[object, ...]:
    """Checksum of the rows as they come from FITS."""
    (report,) = ingest(ready_database, write(reference, tmp_path, ".fits"))
    assert (report.state, report.counts.inserted) == ("done", ROWS)
    (checksum,) = query(ready_database, CHECKSUM)
    with connect(ready_database, role=ADMIN) as connection:
        connection.execute("TRUNCATE q1.phz_photo_z, astropt.ingest_file CASCADE")
    return checksum


@pytest.mark.parametrize("suffix", [".fits.gz", ".parquet", ".vot", ".csv", ".ecsv"])
def test_every_format_gives_the_rows_of_fits(
    suffix: str,
    reference: Table,
    expected: tuple[object, ...],
    ready_database: Database,
    tmp_path: Path,
) -> None:
    (report,) = ingest(ready_database, write(reference, tmp_path, suffix))
    assert report.complete, report.message
    assert report.unknown == ("A_new_column",)
    assert query(ready_database, CHECKSUM) == [expected]


def merged_catalogue(folder: Path) -> tuple[Path, np.ndarray]:
    """IRSA's merged objects in small: prefixed columns, ranks in names, HATS folders."""
    rng = np.random.default_rng(6)
    ra, dec = positions(ROWS)
    ids = identity.encode(ra, dec)
    second = rng.random(ROWS) < 0.3
    columns = {
        "object_id": ids,
        "ra": ra,
        "dec": dec,
        "tileid": np.full(ROWS, 102158889),
        "_healpix_29": np.arange(ROWS),
        "mer_segmentation_map_id": 102158889000000 + np.arange(ROWS),
        "mer_vis_det": np.ones(ROWS, np.int16),
        "mer_flux_detection_total": rng.lognormal(size=ROWS).astype(np.float32),
        "morph_concentration": pa.array(
            rng.random(ROWS).astype(np.float32), mask=rng.random(ROWS) < 0.5
        ),
        "phz_phz_median": rng.random(ROWS).astype(np.float32),
        "phz_phz_90_int1": np.zeros(ROWS, np.float32),
        "phz_phz_90_int2": np.ones(ROWS, np.float32),
        "class_phz_classification": np.full(ROWS, 2, np.int32),
        "z_galaxy_candidates_spe_z_rank0": rng.random(ROWS),
        "z_galaxy_candidates_spe_z_rank1": pa.array(rng.random(ROWS), mask=~second),
        "starsed_flux_4900_5000": rng.random(ROWS).astype(np.float32),
    }
    data = folder / "hats" / "dataset" / "Norder=5" / "Dir=0" / "Npix=3"
    data.mkdir(parents=True)
    (folder / "hats" / "hats.properties").write_text("obs_collection=merged\n")
    pq.write_table(pa.table(columns), data / "part0.snappy.parquet")
    return folder / "hats", second


def test_a_merged_catalogue_feeds_every_product(ready_database: Database, tmp_path: Path) -> None:
    folder, second = merged_catalogue(tmp_path)
    (path,) = catalogue_files(folder)
    reports = {report.product: report for report in ingest(ready_database, path)}
    assert all(report.complete for report in reports.values()), reports
    counts = {name: report.counts.inserted for name, report in reports.items()}
    (filled,) = query(ready_database, "SELECT count(concentration) FROM q1.mer_morphology")
    assert counts == {
        "mer_catalogue": ROWS,
        "mer_morphology": filled[0],
        "phz_photo_z": ROWS,
        "phz_classification": ROWS,
        "spectro_zcatalog_spe_galaxy_candidates": ROWS + int(second.sum()),
    }
    assert reports["mer_catalogue"].skipped == ("starsed_flux_4900_5000",)
    rows = query(ready_database, "SELECT DISTINCT phz_90_int FROM q1.phz_photo_z")
    assert rows == [([0.0, 1.0],)]
    ranks = query(
        ready_database,
        "SELECT spe_rank, count(*) FROM q1.spectro_zcatalog_spe_galaxy_candidates "
        "GROUP BY spe_rank ORDER BY spe_rank",
    )
    assert ranks == [(0, ROWS), (1, int(second.sum()))]
    tiles = query(ready_database, "SELECT DISTINCT tile_index FROM astropt.source")
    assert tiles == [(102158889,)]


def test_the_real_morphology_rows_come_in_exactly(
    real_data: Path, ready_database: Database
) -> None:
    path = real_data / "q1" / "mer_morphology_edff_523rows.csv"
    (report,) = ingest(ready_database, path)
    assert (report.product, report.counts.read) == ("mer_morphology", 523)
    assert (report.counts.inserted, report.counts.rejected) == (521, 2)
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("object_id")
    expected = {int(row[place]) for row in csv.reader(lines[1:])}
    stored = {row[0] for row in query(ready_database, "SELECT object_id FROM q1.mer_morphology")}
    assert stored == expected
    assert query(ready_database, "SELECT DISTINCT reason FROM astropt.quarantine") == [
        ("duplicate_in_file",)
    ]
    (empty,) = query(
        ready_database,
        "SELECT count(*) FROM q1.mer_morphology WHERE agn_yes IS NOT NULL OR t_type IS NOT NULL",
    )
    assert empty == (0,)


def test_destroyed_ids_end_in_quarantine(real_data: Path, ready_database: Database) -> None:
    (report,) = ingest(ready_database, real_data / "q1" / "phz_physical_destroyed_ids.csv")
    assert (report.counts.read, report.counts.inserted, report.counts.rejected) == (495, 0, 495)
    assert query(ready_database, "SELECT count(*) FROM q1.phz_physical_parameters") == [(0,)]
    reasons = query(
        ready_database,
        "SELECT reason, count(*), count(object_id) FROM astropt.quarantine GROUP BY 1",
    )
    assert reasons == [("id_not_exact", 495, 0)]
    (row,) = query(ready_database, "SELECT row ->> 'Euclid_ID_x' FROM astropt.quarantine LIMIT 1")
    assert row == ("-5.14806E+17",)
