"""Ready-made cut-outs: FITS by extension, by band and as cubes, and Parquet."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from image_files import noise, sky_header

from astropt_db.errors import FileError
from astropt_db.images import BANDS, WINDOW, CutoutFlag, open_cutouts
from astropt_db.images.cutout_names import band_of, image_band_of, object_id_of
from astropt_db.q1.identity import decode

REAL_ID = -570040238507752998
SOUTH = -532257415282400330
NORTH = 2684805874647806467
COLUMNS = dict(
    zip(BANDS, ("VIS_image", "NISP_Y_image", "NISP_J_image", "NISP_H_image"), strict=True)
)


def read(source, *object_id):
    ids = np.array(object_id, dtype=np.int64)
    return source.cutouts(ids, *decode(ids))


def images(shape=(WINDOW, WINDOW), bands=BANDS):
    return {band: noise(shape, seed) for seed, band in enumerate(bands)}


def header_at(object_id, shape):
    """A projection about the object itself."""
    ra, dec = decode(np.array([object_id]))
    return sky_header(shape, (float(ra[0]), float(dec[0])))


def write_extensions(path, pixels, header=None):
    hdus = [fits.ImageHDU(data, header, f"{band}_BGSUB") for band, data in pixels.items()]
    hdus += [fits.ImageHDU(np.ones((21, 21)), name=f"{band}_PSF") for band in pixels]
    hdus += [fits.ImageHDU(data * 0 + 1, name=f"{band}_RMS") for band, data in pixels.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus[::-1]]).writeto(path)


def write_parquet(path, object_ids, columns, row_group=7, **more):
    table = pa.table({"object_id": object_ids, **columns, **more})
    pq.write_table(table, path, row_group_size=row_group)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("102018665_NEG570040238507752998.fits", REAL_ID),
        ("a/b/2684805874647806467.fits", NORTH),
        ("-532257415282400330.fits.gz", SOUTH),
        ("VIS_-532257415282400330.fits", SOUTH),
        ("neg_532257415282400330_NIR-Y.fits", SOUTH),
        ("EUC_MER_BGSUB-MOSAIC-VIS_TILE102158889-8A3F1C_2684805874647806467.fits", NORTH),
        ("9223372036854775807.fits", 2**63 - 1),
    ],
)
def test_object_ids_in_names(name, expected):
    assert object_id_of(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "102018665.fits",
        "vis.fits",
        "102018665-532257415282400330.fits",
        "NEG570040238507752998_2684805874647806467.fits",
        "9223372036854775808.fits",
        "5.32257E+17.fits",
    ],
)
def test_names_without_one_clear_id(name):
    with pytest.raises(FileError, match=r"object id|minus"):
        object_id_of(name)


def test_bands_in_texts():
    found = [
        band_of(text) for text in ("vis", "NIR-Y", "NISP_J", "H", "VIS_NIR_Y", "DES_G", "VISTA")
    ]
    assert found == ["VIS", "NIR_Y", "NIR_J", "NIR_H", None, None, None]
    extensions = ("VIS_BGSUB", "VIS_RMS", "NIR_H_PSF", "DES_Z_BGSUB", "NISP_Y", "NIR_J_FLAG")
    assert [image_band_of(name) for name in extensions] == ["VIS", None, None, None, "NIR_Y", None]


def test_the_real_cutout(real_data):
    path = real_data / "q1" / "cutout_8band_102018665_NEG570040238507752998.fits"
    source = open_cutouts([path])
    assert source.object_ids.tolist() == [REAL_ID]
    cutouts = read(source, REAL_ID)
    assert cutouts.flags.tolist() == [CutoutFlag.PADDED]
    with fits.open(path) as hdus:
        for number, band in enumerate(BANDS):
            middle = cutouts.pixels[0, number, 62:162, 62:162]
            np.testing.assert_array_equal(middle, hdus[f"{band}_BGSUB"].data)
    cutouts.pixels[:, :, 62:162, 62:162] = 0
    assert not cutouts.pixels.any()
    expected = np.full(4, 1 - 1e4 / WINDOW**2)
    expected[0] += 51 / WINDOW**2
    np.testing.assert_allclose(cutouts.missing[0], expected, rtol=1e-6)


def test_extensions_of_full_size_and_an_unknown_object(tmp_path):
    pixels = images()
    write_extensions(tmp_path / f"{NORTH}.fits", pixels, header_at(NORTH, (WINDOW, WINDOW)))
    cutouts = read(open_cutouts([tmp_path]), SOUTH, NORTH)
    np.testing.assert_array_equal(cutouts.pixels[1], np.stack(list(pixels.values())))
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_BAND | CutoutFlag.ALL_MISSING, 0]
    assert cutouts.missing.tolist() == [[1] * 4, [0] * 4]
    assert cutouts.object_id.tolist() == [SOUTH, NORTH]


@pytest.mark.parametrize("where", ["name", "filter", "folder"])
def test_one_file_for_each_band(tmp_path, where):
    pixels = images((64, 80))
    for band, data in pixels.items():
        folder = tmp_path / (band if where == "folder" else f"set-{len(band)}{band[-1]}")
        folder.mkdir()
        header = fits.Header({"FILTER": band} if where == "filter" else {})
        name = f"{band.replace('_', '-')}_{NORTH}.fits" if where == "name" else f"{NORTH}.fits"
        fits.PrimaryHDU(data.astype(">f8"), header).writeto(folder / name)
    cutouts = read(open_cutouts([tmp_path]), NORTH)
    inner = cutouts.pixels[0, :, 80:144, 72:152]
    np.testing.assert_array_equal(inner, np.stack(list(pixels.values())))
    assert cutouts.flags.tolist() == [CutoutFlag.PADDED]


def test_packed_files_and_a_missing_band(tmp_path):
    pixels = images(bands=("VIS", "NIR_H"))
    write_extensions(tmp_path / "x.fits", pixels)
    packed = tmp_path / f"NEG{-SOUTH}.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "x.fits").read_bytes()))
    cutouts = read(open_cutouts([packed]), SOUTH)
    assert cutouts.missing.tolist() == [[0, 1, 1, 0]]
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_BAND]
    np.testing.assert_array_equal(cutouts.pixels[0, 3], pixels["NIR_H"])
    only = read(open_cutouts([packed], ("NIR_H",)), SOUTH)
    assert only.flags.tolist() == [0]


@pytest.mark.parametrize(
    "cards",
    [
        {"BANDS": "VIS,NIR_H,NIR_J,NIR_Y"},
        {"BAND1": "VIS", "BAND2": "H", "BAND3": "J", "BAND4": "Y"},
        {"FILTER1": "VIS", "FILTER2": "NISP_H", "FILTER3": "NISP_J", "FILTER4": "NISP_Y"},
        {},
    ],
)
def test_cubes_in_another_order(tmp_path, cards):
    pixels = images((64, 64))
    order = ("VIS", "NIR_H", "NIR_J", "NIR_Y")
    cube = np.stack([pixels[band] for band in order])
    fits.PrimaryHDU(cube, fits.Header(cards)).writeto(tmp_path / f"{NORTH}.fits")
    source = open_cutouts([tmp_path], cube_bands=None if cards else order)
    cutouts = read(source, NORTH)
    inner = cutouts.pixels[0, :, 80:144, 80:144]
    np.testing.assert_array_equal(inner, np.stack(list(pixels.values())))


def test_a_large_image_is_cropped_about_its_object(tmp_path):
    data = noise((400, 300))
    header = header_at(NORTH, data.shape)
    header["CRPIX1"], header["CRPIX2"] = 130.3, 280.0
    fits.PrimaryHDU(data, header).writeto(tmp_path / f"VIS_{NORTH}.fits")
    cutouts = read(open_cutouts([tmp_path], ("VIS",)), NORTH)
    ra, dec = decode(np.array([NORTH]))
    x, y = WCS(header).world_to_pixel_values(ra, dec)
    expected = Cutout2D(data, (x[0], y[0]), WINDOW, mode="partial", fill_value=0.0).data
    np.testing.assert_array_equal(cutouts.pixels[0, 0], expected)
    assert cutouts.flags.tolist() == [0]


def test_a_large_image_without_wcs_is_cropped_about_its_middle(tmp_path):
    data = noise((400, 300))
    fits.PrimaryHDU(data).writeto(tmp_path / f"VIS_{NORTH}.fits")
    cutouts = read(open_cutouts([tmp_path], ("VIS",)), NORTH)
    np.testing.assert_array_equal(cutouts.pixels[0, 0], data[88:312, 38:262])


def test_files_that_are_left_out_are_told(tmp_path):
    write_extensions(tmp_path / f"{NORTH}.fits", images((20, 20)))
    write_extensions(tmp_path / "stars.fits", images((20, 20)))
    source = open_cutouts([tmp_path])
    assert source.object_ids.tolist() == [NORTH]
    assert [problem.path for problem in source.problems] == [str(tmp_path / "stars.fits")]


FORMS = {
    "nested": lambda stack: pa.array(stack.tolist(), pa.list_(pa.list_(pa.float32()))),
    "nested float64": lambda stack: pa.array(stack.tolist(), pa.list_(pa.list_(pa.float64()))),
    "large nested": lambda stack: pa.array(
        stack.tolist(), pa.large_list(pa.large_list(pa.float32()))
    ),
    "fixed": lambda stack: pa.array(
        stack.tolist(), pa.list_(pa.list_(pa.float32(), WINDOW), WINDOW)
    ),
    "flat": lambda stack: pa.array(stack.reshape(len(stack), -1).tolist(), pa.list_(pa.float32())),
    "bytes": lambda stack: pa.array([one.tobytes() for one in stack], pa.binary()),
}


@pytest.mark.parametrize("form", FORMS)
def test_parquet_in_every_form(tmp_path, form):
    object_ids = np.array([NORTH + step for step in range(20)] + [SOUTH], dtype=np.int64)
    stack = noise((21, WINDOW, WINDOW))
    columns = {name: FORMS[form](stack + number) for number, name in enumerate(COLUMNS.values())}
    write_parquet(tmp_path / "test.parquet", object_ids, columns)
    source = open_cutouts([tmp_path])
    assert source.object_ids.tolist() == sorted(object_ids.tolist())
    asked = np.array([SOUTH, NORTH + 13, NORTH, NORTH + 12, 5], dtype=np.int64)
    cutouts = read(source, *asked)
    for number in range(4):
        expected = (stack + number)[[20, 13, 0, 12]]
        np.testing.assert_array_equal(cutouts.pixels[:4, number], expected)
    assert cutouts.flags[:4].tolist() == [0] * 4
    assert cutouts.flags[4] & CutoutFlag.ALL_MISSING
    assert cutouts.sed is None


def test_parquet_with_seds_nulls_and_shapes(tmp_path):
    small, tall = noise((10, 12), 1), noise((300, WINDOW), 2)
    vis = pa.array([small.tolist(), None, tall.tolist()], pa.list_(pa.list_(pa.float32())))
    infrared = noise((10, 12), 3).astype(object)
    infrared[0, 0] = None
    rows = pa.array([infrared.tolist()] * 3, pa.list_(pa.list_(pa.float32())))
    sed = pa.array(
        [{"flux_vis": 1.5, "flux_y": None, "field": "N"}, None, {"flux_vis": 2.5, "flux_y": 3.5}],
        pa.struct({"flux_vis": pa.float32(), "flux_y": pa.float64(), "field": pa.string()}),
    )
    columns = {"VIS_image": vis, "NISP_Y_image": rows, "RGB_image": pa.array([b""] * 3)}
    texts = pa.array([str(NORTH), str(SOUTH), str(REAL_ID)])
    write_parquet(tmp_path / "a.parquet", texts, columns, sed_data=sed)
    cutouts = read(open_cutouts([tmp_path]), REAL_ID, SOUTH, NORTH, 7)
    np.testing.assert_array_equal(cutouts.pixels[0, 0], tall[38:262])
    np.testing.assert_array_equal(cutouts.pixels[2, 0, 107:117, 106:118], small)
    lost = cutouts.missing * WINDOW**2
    np.testing.assert_allclose(lost[:, 0], [0, WINDOW**2, WINDOW**2 - 120, WINDOW**2], rtol=1e-5)
    np.testing.assert_allclose(lost[:3, 1], WINDOW**2 - 119, rtol=1e-5)
    assert list(cutouts.sed) == ["flux_vis", "flux_y"]
    np.testing.assert_array_equal(cutouts.sed["flux_vis"], [2.5, np.nan, 1.5, np.nan])
    np.testing.assert_array_equal(cutouts.sed["flux_y"], [3.5, np.nan, np.nan, np.nan])


def test_parquet_shards_and_objects_met_twice(tmp_path):
    for shard, object_ids in enumerate(([NORTH, SOUTH], [REAL_ID, NORTH])):
        stack = np.full((2, 4, 4), shard + 1.0, np.float32)
        columns = {"VIS_image": FORMS["nested"](stack)}
        write_parquet(tmp_path / f"{shard}.parquet", pa.array(object_ids), columns)
    source = open_cutouts([tmp_path], ("VIS",))
    assert source.duplicates.tolist() == [NORTH]
    asked = np.array([REAL_ID, NORTH, SOUTH], dtype=np.int64)
    order = source.reading_order(asked, *decode(asked))
    assert asked[order].tolist() == [NORTH, SOUTH, REAL_ID]
    assert read(source, *asked).pixels[:, 0, 112, 112].tolist() == [2, 1, 1]


def test_batches_of_parquet_cover_everything(tmp_path):
    object_ids = NORTH + np.arange(30, dtype=np.int64)
    stack = noise((30, 8, 8))
    columns = {"VIS_image": FORMS["flat"](stack)}
    write_parquet(tmp_path / "a.parquet", object_ids, columns)
    source = open_cutouts([tmp_path], ("VIS",))
    asked = np.random.default_rng(0).permutation(object_ids)
    seen = {}
    for index, cutouts in source.batches(asked, *decode(asked), size=8):
        np.testing.assert_array_equal(cutouts.object_id, asked[index])
        seen |= dict(zip(cutouts.object_id.tolist(), cutouts.pixels[:, 0], strict=True))
    assert len(seen) == 30
    for number, one in enumerate(object_ids.tolist()):
        np.testing.assert_array_equal(seen[one][108:116, 108:116], stack[number])
