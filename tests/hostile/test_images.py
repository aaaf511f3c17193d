"""Damaged, swapped and misleading images.

Each must end in an error that names the file, or in a flag, never in wrong pixels or a dead
process.
"""

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import TILE, mosaic_path, noise, sky_header, write_mosaic

from astropt_db.errors import FileError
from astropt_db.images import BANDS, CutoutFlag, TileSource, open_cutouts, read_header
from astropt_db.images import tiles as tiles_module
from astropt_db.images.storage import LocalFile

NORTH = 2684805874647806467
SHAPE = (500, 400)


def refusal(path, action, *arguments, **options):
    """The message of the error; it is one line and names the file."""
    with pytest.raises(FileError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
    return message


def registered(folder, bands=BANDS):
    return [
        read_header(str(write_mosaic(folder, band, noise(SHAPE, seed))))
        for seed, band in enumerate(bands)
    ]


def middle(mosaics):
    ra, dec = mosaics[0].wcs.to_sky(np.array([200.0]), np.array([250.0]))
    return np.array([NORTH]), ra, dec


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"MAGZERO": None}, "zero point in MAGZERO, found None"),
        ({"MAGZERO": "unknown"}, "zero point in MAGZERO, found 'unknown'"),
        ({"CTYPE1": None}, "no celestial WCS"),
        ({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, "projection RA---SIN"),
        ({"CRPIX1": None}, "incomplete WCS"),
        ({"FILTER": "NIR_Y"}, "named as VIS, but its header says FILTER NIR_Y"),
        ({"LONPOLE": "north"}, "incomplete WCS"),
        ({"CD1_1": -0.3 / 3600, "CD2_2": 0.3 / 3600}, "pixels of 0.1 arcsec, found 0.3"),
    ],
)
def test_headers_that_cannot_be_registered(tmp_path, cards, expected):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)), cards=cards)
    assert expected in refusal(path, read_header, str(path))


def test_scaled_pixels(tmp_path):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)))
    card = f"{'BZERO   =':9} {'32768.0':>20}".ljust(80).encode()
    replaced = f"{'RADESYS = ':10}'ICRS    '".ljust(80).encode()
    content = path.read_bytes()
    assert replaced in content
    path.write_bytes(content.replace(replaced, card))
    assert "BSCALE or BZERO" in refusal(path, read_header, str(path))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float64"])
def test_pixels_of_another_type(tmp_path, dtype):
    path = write_mosaic(tmp_path, "VIS", np.ones((20, 20), dtype))
    bits = {"uint8": 8, "int16": 16, "int32": 32, "float64": -64}[dtype]
    assert f"BITPIX -32 (float32), found {bits}" in refusal(path, read_header, str(path))


def test_files_that_are_no_mosaics(tmp_path):
    path = mosaic_path(tmp_path, "VIS")
    for content in (b"", b"SIMPLE  =", b"hello" * 10_000, b"\x00" * 40_000, b"SIMPLE  =" * 90_000):
        path.write_bytes(content)
        refusal(path, read_header, str(path))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(noise((20, 20)))]).writeto(path, overwrite=True)
    assert "found no image" in refusal(path, read_header, str(path))
    fits.PrimaryHDU(noise((2, 20, 20))).writeto(path, overwrite=True)
    assert "found 20 x 20 x 2" in refusal(path, read_header, str(path))
    path.unlink()
    assert "No such file" in refusal(path, read_header, str(path))
    path.mkdir()
    refusal(path, read_header, str(path))


@pytest.mark.parametrize("kind", ["FLAG", "PSF"])
def test_other_products(tmp_path, kind):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)), kind=kind)
    assert "expected EUC_MER_BGSUB-MOSAIC" in refusal(path, read_header, str(path))


def test_a_ground_band(tmp_path):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)), cards={"FILTER": "DECAM_g"})
    path = path.rename(tmp_path / path.name.replace("VIS", "DES-G"))
    assert "band DES_G; the encoders take VIS" in refusal(path, read_header, str(path))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_headers_are_refused_or_read(tmp_path, data):
    path = write_mosaic(tmp_path, "VIS", noise((20, 20)))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, 2879), min_size=1, max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    try:
        mosaic = read_header(str(path))
    except FileError as error:
        named = error.path
    else:
        named = mosaic.uri
        assert mosaic.data_offset + 4 * mosaic.width * mosaic.height <= cut
    assert named == str(path)


@pytest.mark.parametrize("lost", [1, 2880, 400_000])
def test_truncated_mosaics(tmp_path, lost):
    path = write_mosaic(tmp_path, "VIS", noise((500, 400)))
    size = 2880 + 500 * 400 * 4
    os.truncate(path, size - lost)
    message = refusal(path, read_header, str(path))
    assert "truncated" in message


def test_a_mosaic_that_is_truncated_after_registration(tmp_path):
    mosaics = registered(tmp_path)
    os.truncate(mosaics[2].uri, mosaics[2].size - 2880)
    message = refusal(mosaics[2].uri, TileSource(mosaics).cutouts, *middle(mosaics))
    assert "changed since it was registered" in message


def test_a_mosaic_that_disappeared(tmp_path):
    mosaics = registered(tmp_path)
    os.unlink(mosaics[3].uri)  # noqa: PTH108
    message = refusal(mosaics[3].uri, TileSource(mosaics).cutouts, *middle(mosaics))
    assert "No such file" in message


@pytest.mark.parametrize("same_time", [True, False])
def test_a_mosaic_that_was_swapped_for_another_tile(tmp_path, same_time):
    mosaics = registered(tmp_path)
    before = os.stat(mosaics[0].uri)  # noqa: PTH116
    (tmp_path / "other").mkdir()
    other = write_mosaic(tmp_path / "other", "VIS", noise(SHAPE, 9), centre=(10.0, 20.0))
    other.replace(mosaics[0].uri)
    if same_time:
        os.utime(mosaics[0].uri, ns=(before.st_atime_ns, before.st_mtime_ns))
    message = refusal(mosaics[0].uri, TileSource(mosaics).cutouts, *middle(mosaics))
    assert ("another header" in message) == same_time
    assert "Register it again" in message


def test_a_mosaic_that_changes_while_it_is_read(tmp_path, monkeypatch):
    mosaics = registered(tmp_path)
    original = LocalFile.read_into

    def slow(self, offset, target):
        original(self, offset, target)
        if offset > 5760:
            os.utime(self.uri, ns=(1, 1))

    monkeypatch.setattr(LocalFile, "read_into", slow)
    message = refusal(mosaics[0].uri, TileSource(mosaics).cutouts, *middle(mosaics))
    assert "changed since it was registered" in message


def test_truncation_in_the_middle_of_reading_kills_no_process(tmp_path):
    """A process reads a tile over and over while the file shrinks under it."""
    path = write_mosaic(tmp_path, "VIS", noise((3000, 500)))
    code = """
        import sys
        import numpy as np
        from astropt_db.errors import FileError
        from astropt_db.images import TileSource, read_header

        mosaic = read_header(sys.argv[1])
        ra, dec = mosaic.wcs.to_sky(np.full(200, 250.0), np.linspace(120.0, 2800.0, 200))
        source = TileSource([mosaic], ("VIS",))
        print("ready", flush=True)
        try:
            while True:
                source.cutouts(np.arange(200), ra, dec)
        except FileError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ready\n"
        os.truncate(path, 1_000_000)
        output, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    assert str(path) in output
    assert "truncated" in output or "changed since" in output


def test_a_file_that_ends_in_the_middle_of_a_read(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as handle:
        file = LocalFile(str(path), handle.fileno())
        message = refusal(path, file.read_into, 90, np.empty(20, np.uint8))
    assert "ends at byte 100, 10 bytes early" in message


def test_a_mosaic_of_nothing_but_holes(tmp_path):
    paths = [write_mosaic(tmp_path, band, np.full(SHAPE, np.nan, np.float32)) for band in BANDS]
    mosaics = [read_header(str(path)) for path in paths]
    cutouts = TileSource(mosaics).cutouts(*middle(mosaics))
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_BAND | CutoutFlag.ALL_MISSING]
    assert not cutouts.pixels.any()


def test_positions_that_are_none(tmp_path):
    mosaics = registered(tmp_path)
    nowhere = np.array([np.nan, np.inf, 0.0])
    with np.errstate(invalid="ignore"):
        cutouts = TileSource(mosaics).cutouts(np.arange(3), nowhere, nowhere)
    assert (cutouts.flags & CutoutFlag.ALL_MISSING).all()


def test_an_rms_map_that_was_swapped(tmp_path):
    mosaics = registered(tmp_path)
    rms = write_mosaic(tmp_path, "VIS", noise(SHAPE), kind="RMS")
    mosaics.append(read_header(str(rms)))
    write_mosaic(tmp_path, "VIS", noise(SHAPE), kind="RMS", cards={"MAGZERO": 1.0})
    assert "changed" in refusal(rms, TileSource(mosaics).cutouts, *middle(mosaics))


def test_the_memory_of_a_reader_does_not_grow_with_the_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles_module, "_ROWS_BYTES", 1 << 20)
    path = write_mosaic(tmp_path, "VIS", noise((4000, 400)))
    mosaic = read_header(str(path))
    with path.open("rb") as handle:
        rows = tiles_module._Rows(mosaic, LocalFile(str(path), handle.fileno()))
        assert rows._bytes.nbytes <= 1 << 20


def cutout(object_id=NORTH):
    return lambda source: source.cutouts(
        np.array([object_id]), np.array([268.48058743]), np.array([64.78064676])
    )


def extensions(path, *names, shape=(20, 20), header=None):
    images = [fits.ImageHDU(noise(shape), header, name) for name in names]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)


def test_fits_cutouts_whose_bands_cannot_be_told(tmp_path):
    path = tmp_path / f"{NORTH}.fits"
    for names in ((), ("DES_G_BGSUB", "DES_R_BGSUB"), ("VIS_BGSUB", "VIS_BGSUB"), ("SCI",)):
        path.unlink(missing_ok=True)
        extensions(path, *names)
        message = refusal(path, cutout(), open_cutouts([path]))
        assert "expected one" in message


def test_the_same_band_in_two_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        extensions(tmp_path / name / f"{NORTH}.fits", "VIS_BGSUB")
    message = refusal(tmp_path / "a" / f"{NORTH}.fits", cutout(), open_cutouts([tmp_path]))
    assert "holds VIS of object" in message


def test_cubes_of_unknown_or_impossible_order(tmp_path):
    path = tmp_path / f"{NORTH}.fits"
    cases = [
        ({}, None, "does not tell the order"),
        ({"BANDS": "VIS,NIR_Y"}, None, "cube of 2 planes"),
        ({"BANDS": "VIS,VIS,NIR_J,NIR_H"}, None, "cube of bands"),
        ({"BANDS": "g,r,i,z"}, None, "unknown 'g'"),
        ({"BANDS": "VIS,H,J,Y"}, BANDS, "by its header, not of"),
    ]
    for cards, order, expected in cases:
        fits.PrimaryHDU(noise((4, 20, 20)), fits.Header(cards)).writeto(path, overwrite=True)
        message = refusal(path, cutout(), open_cutouts([path], cube_bands=order))
        assert expected in message


def test_cutouts_of_another_object_or_scale(tmp_path):
    path = tmp_path / f"{NORTH}.fits"
    extensions(path, "VIS_BGSUB", header=sky_header((20, 20), (10.0, 20.0)))
    assert "outside of the image" in refusal(path, cutout(), open_cutouts([path]))
    path.unlink()
    header = sky_header((20, 20), (268.48058743, 64.78064676))
    header["CD1_1"], header["CD2_2"] = -0.03 / 3600, 0.03 / 3600
    extensions(path, "VIS_BGSUB", header=header)
    assert "pixels of 0.1 arcsec, found 0.03" in refusal(path, cutout(), open_cutouts([path]))


def test_integer_pixels_in_cutouts(tmp_path):
    path = tmp_path / f"VIS_{NORTH}.fits"
    fits.PrimaryHDU(np.ones((20, 20), np.int16)).writeto(path)
    assert "found int16" in refusal(path, cutout(), open_cutouts([path]))


@pytest.mark.parametrize("kept", [0, 100, 2880, 6000, 10_000])
def test_truncated_cutouts(tmp_path, kept):
    path = tmp_path / f"{NORTH}.fits"
    extensions(path, "VIS_BGSUB", shape=(100, 100))
    os.truncate(path, kept)
    refusal(path, cutout(), open_cutouts([path]))


def test_a_name_that_lies_about_the_band(tmp_path):
    path = tmp_path / f"VIS_{NORTH}.fits"
    fits.PrimaryHDU(noise((20, 20)), fits.Header({"FILTER": "NIR_Y"})).writeto(path)
    assert "VIS and FILTER NIR_Y" in refusal(path, cutout(), open_cutouts([path]))


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


IMAGE = pa.array([[[1.0, 2.0], [3.0, 4.0]]])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"object_id": [float(NORTH)], "VIS_image": IMAGE}, "int64 or text, found double"),
        ({"object_id": ["2.68E+18"], "VIS_image": IMAGE}, "cannot be read as Parquet"),
        ({"object_id": pa.array([None], pa.int64()), "VIS_image": IMAGE}, "1 rows without"),
        ({"object_id": [NORTH]}, "expected the columns"),
        ({"VIS_image": IMAGE}, "expected the columns"),
    ],
)
def test_parquet_that_cannot_be_opened(tmp_path, columns, expected):
    path = parquet(tmp_path / "a.parquet", **columns)
    assert expected in refusal(path, open_cutouts, [path])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (pa.array([[[1.0, 2.0], [3.0]]]), "rows of different length"),
        (pa.array([[1.0, 2.0, 3.0]]), "square images, found one of 3 pixels"),
        (pa.array([[[1, 2], [3, 4]]]), "floating-point pixels, found int64"),
        (pa.array([b"abc"]), "other bytes"),
        (pa.array([b"abcdabcd"]), "square images, found one of 2 pixels"),
        (pa.array([{"bytes": b"png", "path": "x"}]), "lists or bytes"),
    ],
)
def test_parquet_images_that_are_none(tmp_path, image, expected):
    path = parquet(tmp_path / "a.parquet", object_id=[NORTH], VIS_image=image)
    assert expected in refusal(path, cutout(), open_cutouts([path]))


@pytest.mark.parametrize("image", [pa.array([[]], pa.list_(pa.float32())), pa.array([b""])])
def test_empty_parquet_images_are_missing(tmp_path, image):
    path = parquet(tmp_path / "a.parquet", object_id=[NORTH], VIS_image=image)
    cutouts = cutout()(open_cutouts([path]))
    assert cutouts.flags[0] & CutoutFlag.ALL_MISSING


def test_a_damaged_parquet_file(tmp_path):
    path = parquet(tmp_path / "a.parquet", object_id=[NORTH], VIS_image=IMAGE)
    os.truncate(path, 200)
    refusal(path, open_cutouts, [path])


def test_folders_without_cutouts(tmp_path):
    refusal(tmp_path, open_cutouts, [tmp_path])
    refusal(tmp_path / "none", open_cutouts, [tmp_path / "none"])
    extensions(tmp_path / "stars.fits", "VIS_BGSUB")
    refusal(tmp_path / "stars.fits", open_cutouts, [tmp_path])
    parquet(tmp_path / "a.parquet", object_id=[NORTH], VIS_image=IMAGE)
    assert "one kind" in refusal(tmp_path / "stars.fits", open_cutouts, [tmp_path])


def test_two_tiles_never_mix(tmp_path):
    mosaics = registered(tmp_path, ("VIS",))
    other = read_header(str(write_mosaic(tmp_path, "NIR_Y", noise(SHAPE), tile=TILE + 1)))
    assert f"of tile {TILE + 1}" in refusal(other.uri, TileSource, [*mosaics, other])
