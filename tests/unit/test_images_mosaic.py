"""Registration of mosaics and their projection, beside astropy."""

import gzip
import pickle

import fsspec
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from image_files import CENTRE, TILE, mosaic_header, noise, sky_header, write_mosaic

from astropt_db.errors import FileError
from astropt_db.images import Mosaic, read_header
from astropt_db.images.mosaic import parse_name
from astropt_db.images.wcs import TanWcs, WcsError

FIELDS = [CENTRE, (269.733, 66.018), (52.932, -28.088), (0.01, 1.0), (120.0, 89.9)]


def scattered(centre, wcs, n=2000):
    """Positions over a whole real tile."""
    x, y = np.random.default_rng(1).uniform(-1000, 20200, (2, n))
    sky = wcs.pixel_to_world_values(x, y)
    return x, y, sky[0], sky[1]


@pytest.mark.parametrize("centre", FIELDS)
@pytest.mark.parametrize("rotation", [0.0, 0.3])
def test_projection_agrees_with_astropy(centre, rotation):
    header = sky_header((19440, 19200), centre, rotation)
    theirs = WCS(header)
    ours = TanWcs.from_header(header)
    x, y, ra, dec = scattered(centre, theirs)
    expected = theirs.world_to_pixel_values(ra, dec)
    assert np.abs(np.array(ours.to_pixel(ra, dec)) - expected).max() < 1e-6
    back = ours.to_sky(x, y)
    assert np.abs((back[0] - ra + 180.0) % 360.0 - 180.0).max() * np.cos(np.radians(89)) < 1e-10
    assert np.abs(back[1] - dec).max() < 1e-10
    assert ours.pixel_scale == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("also_cd", [True, False])
def test_projection_with_pc_and_cdelt(also_cd):
    header = sky_header((1000, 1000), rotation=0.2)
    for row in (1, 2):
        for column in (1, 2):
            header[f"PC{row}_{column}"] = header[f"CD{row}_{column}"]
            if not also_cd:
                del header[f"CD{row}_{column}"]
        header[f"CDELT{row}"] = 1.0
    theirs = WCS(header)
    _, _, ra, dec = scattered(CENTRE, theirs, 100)
    expected = theirs.world_to_pixel_values(ra, dec)
    found = TanWcs.from_header(header).to_pixel(ra, dec)
    assert np.abs(np.array(found) - expected).max() < 1e-6


def test_the_far_side_of_the_sky_has_no_pixel():
    wcs = TanWcs.from_header(sky_header((100, 100), (269.733, 66.018)))
    x, y = wcs.to_pixel(np.array([89.733, 269.733]), np.array([-66.018, 66.018]))
    assert np.isnan([x[0], y[0]]).all()
    assert (x[1], y[1]) == pytest.approx((49.0, 49.0))


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("CTYPE1", "RA---SIN"),
        ("CTYPE1", "RA---TAN-SIP"),
        ("RADESYS", "FK4"),
        ("CUNIT2", "arcsec"),
        ("LONPOLE", 90.0),
        ("PV2_1", 0.1),
        ("CD2_2", 0.0),
        ("CRPIX1", None),
        ("CTYPE1", None),
        ("CRVAL2", "north"),
    ],
)
def test_other_projections_are_refused(card, value):
    header = sky_header((100, 100))
    if value is None:
        del header[card]
    else:
        header[card] = value
    with pytest.raises(WcsError):
        TanWcs.from_header(header)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EUC_MER_BGSUB-MOSAIC-VIS_TILE102018665-8A3F1C_x.fits", ("BGSUB", "VIS")),
        ("EUC_MER_BGSUB-MOSAIC-NIR-H_TILE102018665-8A3F1C_x.fits", ("BGSUB", "NIR_H")),
        ("EUC_MER_BGSUB-MOSAIC-PANSTARRS-I_TILE102018665-8A3F1C_x.fits", ("BGSUB", "PANSTARRS_I")),
        ("EUC_MER_MOSAIC-NIR-Y-RMS_TILE102018665-8A3F1C_x.fits", ("RMS", "NIR_Y")),
        ("EUC_MER_MOSAIC-VIS-FLAG_TILE102018665-8A3F1C_x.fits.gz", ("FLAG", "VIS")),
        ("EUC_MER_CATALOG-PSF-VIS_TILE102018665-8A3F1C_x.fits", ("CATALOG-PSF-VIS", "")),
        ("EUC_MER_FINAL-SEGMAP_TILE102018665-8A3F1C_x.fits", ("FINAL-SEGMAP", "")),
        ("EUC_MER_BGMOD-VIS_TILE102018665-8A3F1C_x.fits", ("BGMOD-VIS", "")),
    ],
)
def test_names(name, expected):
    found = parse_name(f"s3://bucket/q1/MER/102018665/VIS/{name}")
    assert (found.kind, found.band, found.tile) == (*expected, TILE)
    assert parse_name("mosaic.fits") is None


def test_a_mosaic_becomes_a_row_and_comes_back(tmp_path):
    path = write_mosaic(tmp_path, "NIR_H", noise((90, 70)))
    mosaic = read_header(str(path))
    assert (mosaic.tile, mosaic.band, mosaic.kind) == (TILE, "NIR_H", "BGSUB")
    assert (mosaic.width, mosaic.height, mosaic.bitpix) == (70, 90, -32)
    assert mosaic.magzero == 29.9
    with fits.open(path) as hdus:
        assert mosaic.data_offset == hdus[0]._data_offset
    assert mosaic.size == path.stat().st_size
    row = mosaic.as_row()
    assert all(isinstance(value, int | float | str) for value in row.values())
    assert Mosaic.from_row(row | {"registered_at": "today"}) == mosaic
    assert pickle.loads(pickle.dumps(mosaic)) == mosaic


def test_positions_in_a_mosaic(tmp_path):
    mosaic = read_header(str(write_mosaic(tmp_path, "VIS", noise((90, 70)))))
    x = np.array([-0.4, -0.6, 69.4, 69.6, 35.0, 35.0])
    y = np.array([10.0, 10.0, 10.0, 10.0, 89.4, 89.6])
    inside = mosaic.contains(*mosaic.wcs.to_sky(x, y))
    assert inside.tolist() == [True, False, True, False, True, False]


def test_relative_paths_and_file_uris_are_stored_absolute(tmp_path, monkeypatch):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)))
    monkeypatch.chdir(tmp_path)
    assert read_header(path.name).uri == str(path)
    assert read_header(f"file://{path}").uri == str(path)


def test_the_tile_of_a_foreign_name_comes_from_the_folder_or_the_caller(tmp_path):
    folder = tmp_path / "102158889" / "VIS"
    folder.mkdir(parents=True)
    for place in (folder, tmp_path):
        header = mosaic_header("VIS", (20, 20))
        fits.PrimaryHDU(noise((20, 20)), header).writeto(place / "vis.fits")
    assert read_header(str(folder / "vis.fits")).tile == 102158889
    assert read_header(str(tmp_path / "vis.fits"), tile=7).tile == 7
    with pytest.raises(FileError, match="no tile index"):
        read_header(str(tmp_path / "vis.fits"))


def test_a_header_longer_than_the_first_read(tmp_path):
    cards = {f"KEY{number}": number for number in range(400)}
    mosaic = read_header(str(write_mosaic(tmp_path, "VIS", noise((20, 20)), cards=cards)))
    assert mosaic.data_offset == 12 * 2880


def test_an_rms_map_needs_no_zero_point(tmp_path):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)), kind="RMS", cards={"MAGZERO": None})
    mosaic = read_header(str(path))
    assert mosaic.kind == "RMS"
    assert np.isnan(mosaic.magzero)


def test_only_the_header_of_a_remote_file_is_read(tmp_path):
    path = write_mosaic(tmp_path, "VIS", noise((1000, 1000)))
    remote = f"memory://{tmp_path.name}/{path.name}"
    with fsspec.open(remote, "wb") as handle:
        handle.write(path.read_bytes())
    asked = []
    filesystem = fsspec.filesystem("memory")
    original = filesystem.cat_file

    def recorded(path, start=None, end=None, **options):
        asked.append(end - start)
        return original(path, start, end, **options)

    filesystem.cat_file = recorded
    try:
        mosaic = read_header(remote)
    finally:
        del filesystem.cat_file
    local = read_header(str(path))
    assert sum(asked) <= 4 * 2880
    assert mosaic.uri == remote
    assert (mosaic.wcs, mosaic.header_sha256) == (local.wcs, local.header_sha256)


def test_packed_files_are_refused_with_the_reason(tmp_path):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)))
    packed = path.with_suffix(".fits.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(FileError, match=r"compressed \(gzip\).*uncompressed"):
        read_header(str(packed))
