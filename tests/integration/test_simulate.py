"""A simulated release on disk: its files, tables and mosaics are those of Q1."""

from __future__ import annotations

import hashlib
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner

from astropt_db.cli.main import cli
from astropt_db.database.connect import Database, connect
from astropt_db.database.provenance import recorded_run
from astropt_db.errors import ConfigurationError
from astropt_db.ingest.batch import ingest_files
from astropt_db.ingest.catalogue import Options
from astropt_db.q1 import identity
from astropt_db.q1.products import BY_TABLE, load_columns
from astropt_db.q1.readers import catalogue_files, open_tables
from astropt_db.simulate import SimulationSummary, simulate

pytest.importorskip("galsim", reason="the simulation needs the extra [sim]")

SOURCES = 240
FORMATS = {
    "bigint": "K",
    "integer": "J",
    "smallint": "I",
    "double precision": "D",
    "real": "E",
}
PRODUCTS = {
    "mer_catalogue": ("*FINAL-CAT_TILE*", 1),
    "mer_morphology": ("*FINAL-MORPH-CAT_TILE*", 1),
    "phz_photo_z": ("*PHZCAT*", 1),
    "phz_classification": ("*CLASSCAT*", 1),
    "phz_physical_parameters": ("*PHYSPARAM_*", 1),
    "spectro_zcatalog_spe_quality": ("*CAT-Z*", "SPE_QUALITY"),
    "spectro_zcatalog_spe_classification": ("*CAT-Z*", "SPE_CLASSIFICATION"),
    "spectro_zcatalog_spe_galaxy_candidates": ("*CAT-Z*", "SPE_GALAXY_CANDIDATES"),
    "spectro_zcatalog_spe_star_candidates": ("*CAT-Z*", "SPE_STAR_CANDIDATES"),
    "spectro_zcatalog_spe_qso_candidates": ("*CAT-Z*", "SPE_QSO_CANDIDATES"),
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    """Two tiles in the south, with negative ids and DECam bands."""
    return simulate(tmp_path_factory.mktemp("sky") / "sky", SOURCES, 2, "EDF-S", 3, jobs=2)


def tables(release: SimulationSummary, product: str) -> list[fits.FITS_rec]:
    pattern, extension = PRODUCTS[product]
    paths = sorted((release.directory / "catalogs").glob(f"*/*/{pattern}"))
    return [fits.getdata(path, extension) for path in paths]


def column(release: SimulationSummary, product: str, name: str) -> np.ndarray:
    return np.concatenate([np.asarray(data[name]) for data in tables(release, product)])


@pytest.mark.parametrize("product", PRODUCTS)
def test_columns_types_units_and_shapes_follow_the_list(
    release: SimulationSummary, product: str
) -> None:
    pattern, extension = PRODUCTS[product]
    paths = sorted((release.directory / "catalogs").glob(f"*/*/{pattern}"))
    assert len(paths) == 2
    for path in paths:
        with fits.open(path) as hdus:
            assert hdus[0].data is None
            found = hdus[extension].columns
            listed = load_columns(product)
            assert found.names == [wanted.name for wanted in listed]
            for have, wanted in zip(found, listed, strict=True):
                assert have.unit == (wanted.unit or "NA")
                if wanted.type == "text":
                    assert have.format.endswith("A")
                    continue
                repeat = str(wanted.length) if wanted.length else ""
                assert have.format == repeat + FORMATS[wanted.type.removesuffix("[]")]


def test_every_file_is_recognised_by_name_and_tile(release: SimulationSummary) -> None:
    import re

    folder = release.directory / "catalogs"
    patterns = [BY_TABLE[product].file_pattern for product in PRODUCTS]
    for path in catalogue_files(folder):
        assert any(re.match(pattern, path.name.upper()) for pattern in patterns), path.name
        assert int(path.parent.name) in release.tiles
    (mer, *_) = sorted(folder.glob("MER_FINAL_CATALOG/*/*FINAL-CAT_*"))
    (table,) = open_tables(mer)
    with table:
        assert table.tile == release.tiles[0]


def test_no_number_is_infinite(release: SimulationSummary) -> None:
    for product in PRODUCTS:
        for data in tables(release, product):
            for name in data.names:
                if data[name].dtype.kind == "f":
                    assert not np.isinf(data[name]).any(), f"{product}.{name}"


def test_ids_follow_from_positions_and_say_the_tile(release: SimulationSummary) -> None:
    for tile, data in zip(release.tiles, tables(release, "mer_catalogue"), strict=True):
        ids = np.asarray(data["OBJECT_ID"], np.int64)
        ra = np.asarray(data["RIGHT_ASCENSION"], np.float64)
        dec = np.asarray(data["DECLINATION"], np.float64)
        np.testing.assert_array_equal(ids, identity.encode(ra, dec))
        assert (ids < 0).all(), "EDF-S lies in the south"
        np.testing.assert_array_equal(data["SEGMENTATION_MAP_ID"] // 1_000_000, tile)
    ids = column(release, "mer_catalogue", "OBJECT_ID")
    assert np.unique(ids).size == ids.size == release.detected
    for product in PRODUCTS:
        assert np.isin(column(release, product, "OBJECT_ID"), ids).all()


def test_what_is_empty_in_the_field_is_empty_here(release: SimulationSummary) -> None:
    for data in tables(release, "mer_catalogue"):
        for name in (
            "FLUX_U_EXT_MEGACAM_2FWHM_APER",
            "FLUX_G_EXT_LSST_SERSIC",
            "FLUX_Z_EXT_HSC_SERSIC",
        ):
            assert np.isnan(data[name]).all()
        assert np.isnan(data["RIGHT_ASCENSION_PSF_FITTING"]).all()
        assert np.isfinite(data["FLUX_R_EXT_DECAM_TEMPLFIT"]).mean() > 0.95
    for data in tables(release, "mer_morphology"):
        for name in ("T_TYPE", "AGN_YES", "DISK_SERSIC_DISK_RADIUS", "HOW_ROUNDED_COMPLETELY"):
            assert np.isnan(data[name]).all()


def test_flags_and_votes_keep_the_conventions(release: SimulationSummary) -> None:
    point = column(release, "mer_catalogue", "POINT_LIKE_FLAG")
    assert set(np.unique(point)) == {-32768, 1}
    quality = column(release, "mer_catalogue", "DET_QUALITY_FLAG")
    assert (quality[point == 1] == 0).all()
    assert (quality & 2 > 0).any()
    area = column(release, "mer_catalogue", "SEGMENTATION_AREA")
    flux = column(release, "mer_catalogue", "FLUX_DETECTION_TOTAL")
    smooth = column(release, "mer_morphology", "SMOOTH_OR_FEATURED_SMOOTH")
    featured = column(release, "mer_morphology", "SMOOTH_OR_FEATURED_FEATURED_OR_DISK")
    bright = (flux > 10 ** (0.4 * (23.9 - 20.5))) | (area > 1200)
    np.testing.assert_array_equal(np.isfinite(smooth), bright)
    total = (smooth + featured)[bright]
    assert 60 < np.median(total[total > 0]) < 110
    pdf = column(release, "phz_photo_z", "PHZ_PDF")
    np.testing.assert_allclose(pdf.sum(axis=1) * 0.01, 1.0, rtol=1e-3)
    median = column(release, "phz_photo_z", "PHZ_MEDIAN")
    np.testing.assert_allclose(median * 100, np.rint(median * 100), atol=1e-3)
    ids = column(release, "spectro_zcatalog_spe_galaxy_candidates", "OBJECT_ID")
    assert (np.unique(ids, return_counts=True)[1] == 5).all()


def test_mosaics_have_real_headers_and_show_the_sources(release: SimulationSummary) -> None:
    for tile, data in zip(release.tiles, tables(release, "mer_catalogue"), strict=True):
        for mosaic, instrument, zero_point in (("VIS", "VIS", 24.6), ("NIR-H", "NISP", 29.9)):
            folder = release.directory / "MER" / str(tile) / instrument
            (path,) = folder.glob(f"EUC_MER_BGSUB-MOSAIC-{mosaic}_TILE{tile}-*_00.00.fits")
            (noise_path,) = folder.glob(f"EUC_MER_MOSAIC-{mosaic}-RMS_TILE{tile}-*_00.00.fits")
            with fits.open(path) as hdus:
                header, image = hdus[0].header, hdus[0].data
                assert image.dtype == np.dtype(">f4")
                assert image.shape == (release.tile_size, release.tile_size)
                assert header["MAGZERO"] == zero_point
                assert header["CD1_1"] == pytest.approx(-0.1 / 3600, rel=1e-9)
                assert "BUNIT" not in header
                wcs = WCS(header)
            noise = fits.getdata(noise_path)
            assert noise.shape == image.shape
            x, y = wcs.all_world2pix(data["RIGHT_ASCENSION"], data["DECLINATION"], 0)
            # Windows of 224 pixels about every source fit in the mosaic.
            assert min(x.min(), y.min()) > 112
            assert max(x.max(), y.max()) < release.tile_size - 112
            column, row = np.rint(x).astype(int), np.rint(y).astype(int)
            covered = noise[row, column] < 1e15
            signal = (image[row, column] / noise[row, column])[covered]
            assert np.median(signal) > 3.0


def test_tiles_overlap_and_show_the_same_sky(release: SimulationSummary) -> None:
    headers, images = [], []
    for tile in release.tiles:
        (path,) = (release.directory / "MER" / str(tile) / "VIS").glob("*BGSUB*")
        headers.append(WCS(fits.getheader(path)))
        images.append(fits.getdata(path).astype(np.float64))
    truth = pd.read_parquet(release.directory / "truth.parquet")
    bright = truth[(truth["vis_magnitude"] < 21.5) & (truth["kind"] != "artefact")]
    places = [np.array(wcs.all_world2pix(bright["ra"], bright["dec"], 0)).T for wcs in headers]
    size = release.tile_size
    both = [((p > 20) & (p < size - 20)).all(axis=1) for p in places]
    shared = both[0] & both[1]
    assert shared.any()
    sums = []
    for image, place in zip(images, places, strict=True):
        column, row = np.rint(place[shared]).astype(int).T
        step = np.arange(-8, 9)
        windows = image[row[:, None, None] + step[:, None], column[:, None, None] + step]
        sums.append(windows.sum(axis=(1, 2)))
    np.testing.assert_allclose(sums[0], sums[1], rtol=0.15, atol=0.5)


def test_other_surveys_can_be_joined(release: SimulationSummary) -> None:
    folder = release.directory / "surveys"
    desi = fits.getdata(folder / "desi_zcatalog.fits", 1)
    mass = fits.getdata(folder / "desi_stellar_mass.fits", 1)
    gaia = fits.getdata(folder / "gaia_source.fits", 1)
    truth = pd.read_parquet(release.directory / "truth.parquet")
    primary = desi["ZCAT_PRIMARY"]
    assert np.unique(desi["TARGETID"][primary]).size == primary.sum()
    assert np.isin(mass["TARGETID"], desi["TARGETID"]).all()
    stars = truth[truth["gaia_id"] > 0].set_index("gaia_id").loc[gaia["source_id"]]
    years = 2024.5 - 2016.0
    moved = np.hypot(stars["pm_ra"], stars["pm_dec"]).fillna(0.0) * years / 1000.0
    cos = np.cos(np.radians(gaia["dec"]))
    apart = 3600 * np.hypot((gaia["ra"] - stars["ra"]) * cos, gaia["dec"] - stars["dec"])
    np.testing.assert_allclose(apart, moved, atol=1e-3)
    matched = column(release, "mer_catalogue", "GAIA_ID")
    assert np.isin(matched[matched > 0], gaia["source_id"]).all()


def test_catalogues_load_like_those_of_the_archive(
    release: SimulationSummary, ready_database: Database
) -> None:
    paths = list(catalogue_files(release.directory / "catalogs"))
    with recorded_run(ready_database, "test", {}) as run:
        reports = list(ingest_files(ready_database, paths, Options(), run.id))
    assert [(r.path, r.message) for r in reports if not r.complete] == []
    assert all(r.unknown == () and r.missing == () for r in reports)
    with connect(ready_database) as connection:
        rows = connection.execute(
            "SELECT m.object_id, m.point_like_flag, p.phz_median FROM q1.mer_catalogue m"
            " JOIN q1.phz_photo_z p USING (object_id)"
        ).fetchall()
    assert len(rows) == release.detected
    assert {row[0] for row in rows} == set(column(release, "mer_catalogue", "OBJECT_ID").tolist())
    assert {row[1] for row in rows} == {None, 1}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    """Once in this process, once in worker processes of the command line."""
    simulate(tmp_path / "a", 20, 2, "EDF-N", 5, tile_size=512, jobs=1)
    arguments = ["--sources", "20", "--tiles", "2", "--seed", "5", "--tile-size", "512"]
    program = "from astropt_db.cli.simulate import simulate; simulate()"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "b"), *arguments, "--jobs", "2"], check=True
    )
    first = digest(tmp_path / "a")
    assert len(first) == 2 * 14 + 4
    assert first == digest(tmp_path / "b")
    simulate(tmp_path / "c", 20, 1, "EDF-N", 6, tile_size=512)
    assert set(digest(tmp_path / "c").values()).isdisjoint(first.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field": "COSMOS"}, "EDF-N"),
        ({"sources": 5}, "10 sources per tile"),
        ({"tile_size": 100}, "512"),
    ],
)
def test_wrong_arguments_are_explained(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"sources": 40, "tiles": 1, "field": "EDF-N", "seed": 1}
    with pytest.raises(ConfigurationError, match=message):
        simulate(tmp_path / "sky", **(arguments | changes))  # type: ignore[arg-type]
    assert not (tmp_path / "sky").exists()


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        simulate(tmp_path, 40, 1, "EDF-N", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_help_names_every_option() -> None:
    result = CliRunner().invoke(cli, ["simulate", "--help"])
    assert result.exit_code == 0
    for option in ("--sources", "--tiles", "--field", "--seed", "--tile-size", "--jobs"):
        assert option in result.output


@pytest.mark.slow
def test_redshifts_can_be_learned_but_not_trivially(tmp_path: Path) -> None:
    """Boosted trees on the noisy fluxes; the measurement of ``benchmarks/simulate.py``."""
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "simulate.py"))
    simulate(tmp_path / "sky", 2400, 2, "EDF-N", 3)
    number, fitted, learnt = benchmark["photo_z"](benchmark["catalogue"](tmp_path / "sky"))
    assert number > 300
    assert 0.02 < learnt < 0.06
    assert 0.02 < fitted < 0.08
