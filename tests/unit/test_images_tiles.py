"""Windows of tiles, beside astropy.nddata.Cutout2D."""

import http.server
import threading
import warnings
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.nddata.utils import NoOverlapError
from image_files import CENTRE, TILE, noise, write_mosaic

from astropt_db.errors import ConfigurationError, FileError
from astropt_db.images import BANDS, WINDOW, CutoutFlag, TileSource, read_header
from astropt_db.images import tiles as tiles_module
from astropt_db.images.device import DeviceTile, gather_windows
from astropt_db.images.source import missing_pixels

SHAPE = (700, 600)
NORTH = (269.733, 66.018)


def write_tile(folder, shape=SHAPE, centre=CENTRE, bands=BANDS):
    images = {band: noise(shape, seed) for seed, band in enumerate(bands)}
    paths = [write_mosaic(folder, band, data, centre=centre) for band, data in images.items()]
    return images, [read_header(str(path)) for path in paths]


def places(shape=SHAPE, n=60):
    """Pixel positions: everywhere, on edges and corners, just outside, and far away."""
    height, width = shape
    x, y = np.random.default_rng(3).uniform(-100, max(shape) + 100, (2, n))
    x[:12] = [
        0,
        width - 1,
        0,
        width - 1,
        -0.5,
        width - 0.5,
        -112.5,
        width + 111.5,
        111.5,
        112,
        3,
        1e5,
    ]
    y[:12] = [0, 0, height - 1, height - 1, 50.5, 50, 60, 60, 111.5, height - 112.5, 1e5, -1e5]
    return x, y


def astropy_windows(image, x, y):
    """The same windows one by one, NaN outside."""
    out = np.full((len(x), WINDOW, WINDOW), np.nan, np.float32)
    for number, position in enumerate(zip(x, y, strict=True)):
        try:
            cutout = Cutout2D(image, position, WINDOW, mode="partial", fill_value=np.nan)
        except NoOverlapError:
            continue
        out[number] = cutout.data
    return out


def ids(n):
    return np.arange(n, dtype=np.int64) - (1 << 62)


@pytest.mark.parametrize("centre", [CENTRE, NORTH])
def test_the_same_pixels_as_cutout2d(tmp_path, centre):
    images, mosaics = write_tile(tmp_path, centre=centre)
    ra, dec = mosaics[0].wcs.to_sky(*places())
    x, y = mosaics[0].wcs.to_pixel(ra, dec)
    cutouts = TileSource(mosaics).cutouts(ids(len(ra)), ra, dec)
    kept = TileSource(mosaics, fill=np.nan).cutouts(ids(len(ra)), ra, dec)
    assert cutouts.pixels.dtype == np.float32
    assert cutouts.pixels.shape == (len(ra), 4, WINDOW, WINDOW)
    for band, image in enumerate(images.values()):
        expected = astropy_windows(image, x, y)
        np.testing.assert_array_equal(kept.pixels[:, band], expected)
        np.testing.assert_array_equal(cutouts.pixels[:, band], np.nan_to_num(expected))
        lost = np.isnan(expected).mean(axis=(1, 2))
        np.testing.assert_allclose(cutouts.missing[:, band], lost, rtol=1e-6)
    padded = (cutouts.missing > 0).any(axis=1)
    assert 5 < padded.sum() < len(ra) - 5
    np.testing.assert_array_equal(cutouts.flags & CutoutFlag.PADDED != 0, padded)
    away = cutouts.missing.min(axis=1) == 1
    assert away.sum() >= 2
    np.testing.assert_array_equal(cutouts.flags & CutoutFlag.ALL_MISSING != 0, away)


@pytest.mark.parametrize("shape", [(100, 150), (224, 224), (1200, 230)])
def test_tiles_of_every_size_in_many_small_reads(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(tiles_module, "_ROWS_BYTES", 1)
    images, mosaics = write_tile(tmp_path, shape, bands=("VIS",))
    x, y = places(shape, 80)
    ra, dec = mosaics[0].wcs.to_sky(x, y)
    found = TileSource(mosaics, ("VIS",), np.nan).cutouts(ids(80), ra, dec)
    expected = astropy_windows(images["VIS"], *mosaics[0].wcs.to_pixel(ra, dec))
    np.testing.assert_array_equal(found.pixels[:, 0], expected)


def test_every_row_is_read_once(tmp_path, monkeypatch):
    _, mosaics = write_tile(tmp_path, (3000, 300), bands=("VIS",))
    monkeypatch.setattr(tiles_module, "_ROWS_BYTES", 500 * 300 * 4)
    y = np.concatenate([np.linspace(150, 1400, 90), np.linspace(2400, 2600, 10)]) - 0.25
    ra, dec = mosaics[0].wcs.to_sky(np.full(100, 150.0), np.random.default_rng(0).permutation(y))
    read = []
    original = tiles_module._Rows.read

    def recorded(self, low, high):
        before = self._high
        rows = original(self, low, high)
        read.append(self._high - max(low, before))
        return rows

    monkeypatch.setattr(tiles_module._Rows, "read", recorded)
    TileSource(mosaics, ("VIS",)).cutouts(ids(100), ra, dec)
    assert sum(read) == (1400 - 150 + 224) + (2600 - 2400 + 224)
    assert len(read) > 3


def test_missing_pixels_are_counted_and_filled(tmp_path):
    images, _ = write_tile(tmp_path)
    vis, infrared = images["VIS"], images["NIR_Y"]
    vis[300:310, 200:220] = np.nan
    vis[310, 200:205] = np.inf
    vis[311, 200:205] = -0.0
    infrared[:] = 0.0
    for band in ("VIS", "NIR_Y"):
        write_mosaic(tmp_path, band, images[band])
    mosaics = [read_header(str(path)) for path in sorted(tmp_path.iterdir())]
    ra, dec = mosaics[0].wcs.to_sky(np.array([250.0]), np.array([300.0]))
    cutouts = TileSource(mosaics).cutouts(ids(1), ra, dec)
    assert cutouts.missing[0] == pytest.approx([210 / WINDOW**2, 1, 0, 0])
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_BAND]
    assert np.isfinite(cutouts.pixels).all()
    assert (cutouts.pixels[0, 0] == 0).sum() == 210
    kept = TileSource(mosaics, fill=np.nan).cutouts(ids(1), ra, dec)
    np.testing.assert_array_equal(np.isnan(kept.pixels), cutouts.pixels == 0)


def test_missing_pixels_of_every_kind():
    tiny = np.float32(1e-45)
    values = np.array([0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1, -1, tiny, 3.4e38], np.float32)
    assert missing_pixels(values).tolist() == [True] * 6 + [False] * 4


def test_an_rms_map_marks_what_was_never_observed(tmp_path):
    images, mosaics = write_tile(tmp_path, bands=("VIS",))
    rms = np.full(SHAPE, 0.1, np.float32)
    rms[200:300, 100:150] = 1e16
    mosaics.append(read_header(str(write_mosaic(tmp_path, "VIS", rms, kind="RMS"))))
    ra, dec = mosaics[0].wcs.to_sky(np.array([100.0, 400.0, 20.0]), np.array([250.0, 500.0, 20.0]))
    source = TileSource(mosaics, ("VIS",))
    cutouts = source.cutouts(ids(3), ra, dec)
    x, y = mosaics[0].wcs.to_pixel(ra, dec)
    hidden = np.where(rms > 1, np.nan, images["VIS"])
    expected = np.nan_to_num(astropy_windows(hidden, x, y))
    np.testing.assert_array_equal(cutouts.pixels[:, 0], expected)
    np.testing.assert_allclose(cutouts.missing[:, 0], (expected == 0).mean(axis=(1, 2)), rtol=1e-6)
    assert cutouts.missing[1, 0] == 0 < cutouts.missing[0, 0]


def test_bands_in_the_order_asked_for(tmp_path):
    _, mosaics = write_tile(tmp_path)
    ra, dec = mosaics[0].wcs.to_sky(np.array([300.0]), np.array([300.0]))
    every = TileSource(mosaics).cutouts(ids(1), ra, dec).pixels
    some = TileSource(mosaics, ("NIR_H", "VIS")).cutouts(ids(1), ra, dec).pixels
    np.testing.assert_array_equal(some, every[:, [3, 0]])
    for bands in ((), ("VIS", "VIS"), ("Y",)):
        with pytest.raises(ConfigurationError, match="expected some of VIS"):
            TileSource(mosaics, bands)


def test_a_tile_without_a_band(tmp_path):
    _, mosaics = write_tile(tmp_path, bands=("VIS", "NIR_Y", "NIR_J"))
    ra, dec = mosaics[0].wcs.to_sky(np.array([300.0]), np.array([300.0]))
    cutouts = TileSource(mosaics).cutouts(ids(1), ra, dec)
    assert cutouts.missing[0].tolist() == [0, 0, 0, 1]
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_BAND]
    nothing = TileSource([]).cutouts(ids(1), ra, dec)
    assert nothing.flags.tolist() == [CutoutFlag.MISSING_BAND | CutoutFlag.ALL_MISSING]
    assert not nothing.pixels.any()


def test_batches_hold_every_source_once_from_south_to_north(tmp_path):
    _, mosaics = write_tile(tmp_path)
    ra, dec = mosaics[0].wcs.to_sky(*places())
    source = TileSource(mosaics)
    whole = source.cutouts(ids(len(ra)), ra, dec)
    order = []
    for index, cutouts in source.batches(ids(len(ra)), ra, dec, 16):
        assert len(cutouts) == len(index) <= 16
        np.testing.assert_array_equal(cutouts.object_id, whole.object_id[index])
        np.testing.assert_array_equal(cutouts.pixels, whole.pixels[index])
        np.testing.assert_array_equal(cutouts.flags, whole.flags[index])
        order.extend(index.tolist())
    assert sorted(order) == list(range(len(ra)))
    assert (np.diff(mosaics[0].wcs.to_pixel(ra, dec)[1][order]) >= 0).all()


def test_no_source_at_all(tmp_path):
    _, mosaics = write_tile(tmp_path)
    nothing = np.empty(0)
    cutouts = TileSource(mosaics).cutouts(ids(0), nothing, nothing)
    assert cutouts.pixels.shape == (0, 4, WINDOW, WINDOW)
    assert list(TileSource(mosaics).batches(ids(0), nothing, nothing, 8)) == []


def test_mosaics_that_do_not_belong_together(tmp_path):
    _, mosaics = write_tile(tmp_path, (50, 50))
    for folder, options in (
        ("twice", {}),
        ("tile", {"tile": 102158889}),
        ("turned", {"rotation": 0.1}),
    ):
        (tmp_path / folder).mkdir()
        other = read_header(
            str(write_mosaic(tmp_path / folder, "NIR_H", noise((50, 50)), **options))
        )
        group = mosaics if folder == "twice" else mosaics[:3]
        with pytest.raises(FileError, match=rf"second|tile {TILE}|orientation"):
            TileSource([*group, other])


def test_a_tile_on_a_device_gives_the_same_windows(tmp_path):
    images, mosaics = write_tile(tmp_path, bands=("VIS", "NIR_Y", "NIR_J"))
    images["VIS"][300:310, 200:220] = np.nan
    mosaics[0] = read_header(str(write_mosaic(tmp_path, "VIS", images["VIS"])))
    rms = np.full(SHAPE, 0.1, np.float32)
    rms[200:300, 100:150] = 1e16
    mosaics.append(read_header(str(write_mosaic(tmp_path, "NIR_Y", rms, kind="RMS"))))
    ra, dec = mosaics[0].wcs.to_sky(*places())
    source = TileSource(mosaics)
    expected = source.cutouts(ids(len(ra)), ra, dec)
    found = DeviceTile(source, "cpu").cutouts(ra, dec)
    np.testing.assert_array_equal(found.pixels.numpy(), expected.pixels)
    np.testing.assert_allclose(found.missing, expected.missing, atol=1e-6)
    np.testing.assert_array_equal(found.flags, expected.flags)


def test_windows_of_a_tensor():
    tile = torch.arange(2 * 5 * 6, dtype=torch.float32).reshape(2, 5, 6)
    windows = gather_windows(tile, torch.tensor([1, -1, 40]), torch.tensor([2, 4, 0]), 3)
    assert torch.equal(windows[0], tile[:, 2:5, 1:4])
    assert torch.equal(windows[1, :, 0, 1:], tile[:, 4, :2])
    assert int(torch.isnan(windows[1]).sum()) == 2 * 7
    assert bool(torch.isnan(windows[2]).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_windows_on_a_gpu():
    tile = torch.randn(4, 500, 600)
    x, y = torch.randint(-300, 700, (2, 50))
    cpu = gather_windows(tile, x, y, WINDOW)
    gpu = gather_windows(tile.cuda(), x, y, WINDOW).cpu()
    assert torch.equal(torch.nan_to_num(cpu), torch.nan_to_num(gpu))


def test_remote_tiles_give_the_same_windows(tmp_path):
    _, mosaics = write_tile(tmp_path)
    ra, dec = mosaics[0].wcs.to_sky(*places())
    remote = []
    for mosaic in mosaics:
        uri = "memory://" + mosaic.uri
        with fsspec.open(uri, "wb") as handle, open(mosaic.uri, "rb") as local:  # noqa: PTH123
            handle.write(local.read())
        remote.append(read_header(uri))
    expected = TileSource(mosaics).cutouts(ids(len(ra)), ra, dec)
    found = TileSource(remote).cutouts(ids(len(ra)), ra, dec)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    with fsspec.open(remote[0].uri, "wb") as handle:
        handle.write(b"")
    with pytest.raises(FileError, match="changed since it was registered"):
        TileSource(remote).cutouts(ids(len(ra)), ra, dec)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server that answers range requests, as an object store does."""

    served = 0

    def do_GET(self):
        with open(self.translate_path(self.path), "rb") as handle:  # noqa: PTH123
            body = handle.read()
        first, last = 0, len(body) - 1
        if asked := self.headers.get("Range"):
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        part = body[first : last + 1]
        Ranges.served += len(part)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"abc"')
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    def handler(*arguments):
        return Ranges(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_tiles_behind_a_web_server(tmp_path):
    pytest.importorskip("aiohttp", reason="needs astropt-db[cloud]")
    _, mosaics = write_tile(tmp_path, (2000, 300), bands=("VIS",))
    ra, dec = mosaics[0].wcs.to_sky(np.array([150.0]), np.array([1000.0]))
    expected = TileSource(mosaics, ("VIS",)).cutouts(ids(1), ra, dec)
    with served(tmp_path) as address, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        remote = read_header(f"{address}/{mosaics[0].uri.rpartition('/')[2]}")
        found = TileSource([remote], ("VIS",)).cutouts(ids(1), ra, dec)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert Ranges.served < 224 * 300 * 4 + 6 * 4 * 2880
        with pytest.raises(FileError, match="does not exist"):
            read_header(f"{address}/EUC_MER_BGSUB-MOSAIC-VIS_TILE1-A_x.fits")


def test_real_zeros_are_the_pixels_without_coverage(real_data):
    path = real_data / "q1" / "cutout_8band_102018665_NEG570040238507752998.fits"
    with fits.open(path) as hdus:
        for band in BANDS:
            image = hdus[f"{band}_BGSUB"].data.astype(np.float32)
            unobserved = hdus[f"{band}_RMS"].data > 1e15
            np.testing.assert_array_equal(missing_pixels(image), unobserved)
