"""Simulated pixels: light is conserved, noise and PSF are those of real mosaics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

from astropt_db.simulate import drawing, measure, mosaics, shapes
from astropt_db.simulate.bands import EUCLID_BANDS, PIXEL_ARCSEC, EuclidBand
from astropt_db.simulate.drawing import Canvas, draw
from astropt_db.simulate.measure import (
    COLOUR_FWHM,
    aperture_fluxes,
    detect,
    gather,
    to_microjansky,
)
from astropt_db.simulate.psf import point_stamps, psf_image, transfer
from astropt_db.simulate.scene import Scene, draw_scene, take
from astropt_db.simulate.seds import photometry

pytest.importorskip("galsim", reason="the simulation needs the extra [sim]")

VIS, Y, _, H = EUCLID_BANDS


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(400, photometry("EDF-N"), np.random.default_rng(12))


def draw_alone(scene: Scene, row: int, side: int = 600) -> Canvas:
    one = take(scene, np.array([row]))
    return draw(one, np.array([[side / 2 + 0.3, side / 2 - 0.2]]), (side, side))


@pytest.mark.parametrize(
    "morphology", ["elliptical", "lenticular", "spiral", "edge_on", "irregular", "merger", "star"]
)
def test_the_image_of_a_source_holds_its_flux(scene: Scene, morphology: str) -> None:
    rows = np.flatnonzero((scene.truth["morphology"] == morphology).to_numpy())
    row = rows[np.argsort(scene.total[rows, 0])[rows.size // 2]]
    canvas = draw_alone(scene, int(row))
    for index, band in enumerate(EUCLID_BANDS):
        drawn = canvas.images[index].sum(dtype=np.float64) * band.ujy_per_unit
        # The rest lies in the PSF's wings and beyond the stamp.
        assert drawn == pytest.approx(scene.total[row, index], rel=0.13)
        assert drawn < 1.01 * scene.total[row, index]


def test_a_source_stands_where_it_should(scene: Scene) -> None:
    star = int(np.flatnonzero((scene.truth["morphology"] == "star").to_numpy())[0])
    canvas = draw_alone(scene, star, 300)
    y, x = np.mgrid[:300, :300]
    for image in canvas.images:
        weight = np.where(np.hypot(x - 150.3, y - 149.8) < 12, image, 0.0)
        assert (weight * x).sum() / weight.sum() == pytest.approx(150.3, abs=0.05)
        assert (weight * y).sum() / weight.sum() == pytest.approx(149.8, abs=0.05)


def test_tiles_show_the_same_source_alike(scene: Scene) -> None:
    """Whole-pixel shifts, as between the stamps of two tiles, change nothing."""
    spiral = np.flatnonzero((scene.truth["morphology"] == "spiral").to_numpy())[:1]
    one = take(scene, spiral)
    first = draw(one, np.array([[200.25, 180.5]]), (400, 400)).images
    second = draw(one, np.array([[230.25, 150.5]]), (400, 400)).images
    np.testing.assert_allclose(
        first[:, 100:260, 100:260], second[:, 70:230, 130:290], atol=first.max() * 1e-5
    )


def test_light_beyond_the_tile_is_cut_off(scene: Scene) -> None:
    one = take(scene, np.array([0]))
    outside = draw(one, np.array([[-400.0, 50.0]]), (100, 100))
    assert (outside.images == 0).all()
    assert (outside.owner == -1).all()


@pytest.mark.parametrize(
    ("band", "peak", "fwhm"), [(VIS, 0.198, (0.15, 0.22)), (Y, 0.043, (0.40, 0.50))]
)
def test_psf_is_as_sharp_as_the_real_one(
    band: EuclidBand, peak: float, fwhm: tuple[float, float]
) -> None:
    """Peaks of real Q1 PSF stamps: 0.198 of the flux in VIS, 0.043 in Y."""
    image = psf_image(band, 65)
    assert image[32, 32] == image.max() == pytest.approx(peak, rel=0.12)
    row = image[32] / image.max()
    above = np.interp(0.5, row[32:42][::-1], np.arange(10)[::-1])
    assert fwhm[0] < 2 * above * PIXEL_ARCSEC < fwhm[1]
    assert 0.9 < image.sum() < 1.0


@pytest.mark.parametrize(("size", "over"), [(48, 2), (128, 1)])
def test_points_are_those_of_the_fourier_path(size: int, over: int) -> None:
    """A point spread over the nearest pixels, convolved with the PSF in Fourier space."""
    offset = np.array([[0.0, 0.0], [0.031, -0.044], [-0.05, 0.05]])
    flux = np.array([[1.0, 2.0, 3.0, 4.0]] * 3, np.float32)
    axis = (np.arange(size * over) - size * over // 2) * PIXEL_ARCSEC / over
    near = np.maximum(1.0 - np.abs(axis - offset[:, :, None]) * over / PIXEL_ARCSEC, 0.0)
    points = near[:, 1, :, None] * near[:, 0, None, :]
    stamps = point_stamps(flux, offset, size, over)
    for band in range(4):
        image = fft.irfft2(fft.rfft2(points) * transfer(band, size * over, over))
        expected = image[:, ::over, ::over] * over**2 * flux[:, band, None, None]
        # The Fourier path wraps the wings about the stamp's edges, where little is left.
        inner = np.s_[:, 2:-2, 2:-2]
        peak = expected.max()
        np.testing.assert_allclose(stamps[:, band][inner], expected[inner], atol=2e-6 * peak)


def test_folding_a_spectrum_takes_every_second_pixel() -> None:
    image = np.random.default_rng(0).standard_normal((2, 24, 24)).astype(np.float32)
    folded = drawing._fold(fft.rfft2(image), 12)
    np.testing.assert_allclose(fft.irfft2(folded), 4.0 * image[:, ::2, ::2], atol=1e-5)


@pytest.mark.parametrize("band", [VIS, Y])
def test_noise_does_not_depend_on_strips(band: EuclidBand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaics, "_STRIP_PIXELS", 2**20)
    whole = mosaics.noise(band, (100, 71), np.random.default_rng(3))
    monkeypatch.setattr(mosaics, "_STRIP_PIXELS", 500)
    np.testing.assert_array_equal(whole, mosaics.noise(band, (100, 71), np.random.default_rng(3)))


def test_detection_smooths_with_a_gaussian() -> None:
    image = np.random.default_rng(1).standard_normal((90, 700)).astype(np.float32)
    rms = np.random.default_rng(2).uniform(0.5, 2.0, image.shape).astype(np.float32)
    expected = ndimage.gaussian_filter(image, 1.0)
    np.testing.assert_allclose(measure._smoothed(image * rms, rms), expected, atol=1e-6)


def test_noise_has_the_power_and_the_correlation_of_real_mosaics() -> None:
    """Neighbours in a real cut-out correlate by 0.27 in VIS and 0.80 in Y."""
    random = np.random.default_rng(0)
    for band, scatter, neighbour in ((VIS, 0.71, 0.27), (Y, 0.23, 0.80)):
        field = mosaics.noise(band, (900, 960), random)
        assert field.shape == (900, 960)
        assert field.std() == pytest.approx(scatter, rel=0.1)
        correlation = (field[:, 1:] * field[:, :-1]).mean() / field.var()
        assert correlation == pytest.approx(neighbour, abs=0.16)
        blocks = field.reshape(30, 30, 32, 30).sum(axis=(1, 3))
        assert blocks.std() / 30.0 == pytest.approx(1.0, rel=0.12), "power on large scales"


def test_exposure_adds_source_noise_and_marks_holes() -> None:
    model = np.zeros((300, 300), np.float32)
    model[:, 150:] = 50.0
    missing = np.zeros((300, 300), np.bool_)
    missing[:20] = True
    image = model.copy()
    rms = mosaics.expose(image, H, missing, np.random.default_rng(1))
    assert (image[:20] == 0).all()
    assert (rms[:20] == mosaics.NO_COVERAGE_RMS).all()
    np.testing.assert_allclose(rms[20:, :150], H.rms, rtol=1e-6)
    np.testing.assert_allclose(rms[20:, 150:], np.hypot(H.rms, np.sqrt(50.0 / H.gain)), rtol=1e-5)


def test_saturated_cores_are_flat() -> None:
    image = np.full((50, 50), 1e6, np.float32)
    none = np.zeros(image.shape, np.bool_)
    mosaics.expose(image, VIS, none, np.random.default_rng(1))
    assert np.median(image) == pytest.approx(VIS.saturation, rel=1e-3)


def test_apertures_measure_a_star_alike_in_all_bands(scene: Scene) -> None:
    """Matched apertures hold the same share of a point source in every band."""
    bright = (scene.truth["morphology"] == "star").to_numpy() & (scene.total[:, 0] > 20)
    row = int(np.flatnonzero(bright)[0])
    canvas = draw_alone(scene, row, 200)
    units = np.array([band.ujy_per_unit for band in EUCLID_BANDS], np.float32)
    images = canvas.images * units[:, None, None]
    flux, error = aperture_fluxes(images, np.ones_like(images), np.array([[100.3, 99.8]]))
    share = flux[0] / scene.total[row, :4, None]
    assert (np.diff(share, axis=1) > 0).all()
    np.testing.assert_allclose(share[:, 1], share[3, 1], rtol=0.06)
    assert 0.6 < share[0, 1] < 0.95
    # Unit noise under the largest aperture: the square root of its area in pixels.
    area = np.pi * (2 * COLOUR_FWHM / PIXEL_ARCSEC) ** 2
    assert error[0, 3, 3] == pytest.approx(np.sqrt(area), rel=0.05)


def test_detection_and_shapes_of_a_known_galaxy(scene: Scene) -> None:
    elliptical = (scene.truth["morphology"] == "elliptical").to_numpy()
    candidates = np.flatnonzero(elliptical & (scene.truth["half_light_radius"] < 2.5).to_numpy())
    row = int(candidates[np.argmax(scene.total[candidates, 0])])
    side = 700
    canvas = draw_alone(scene, row, side)
    random = np.random.default_rng(3)
    none = np.zeros((side, side), np.bool_)
    maps = [
        mosaics.expose(image, band, none, random)
        for image, band in zip(canvas.images, EUCLID_BANDS, strict=True)
    ]
    exposure = to_microjansky(canvas.images, maps)
    found = detect(exposure, canvas.owner, np.array([[350.3, 349.8]]), random)
    assert found.detected.all()
    assert found.in_vis.all()
    np.testing.assert_allclose(found.position[0], [350.3, 349.8], atol=0.3)
    measured = shapes.measure_shapes(exposure.images[0], exposure.rms[0], found)
    assert measured.total[0] == pytest.approx(scene.total[row, 0], rel=0.15)
    assert measured.radius[0] == pytest.approx(scene.truth["half_light_radius"][row], rel=0.3)
    assert measured.concentration[0] > 3.2
    assert abs(measured.asymmetry[0]) < 0.2
    assert measured.axis_ratio[0] == pytest.approx(scene.truth["axis_ratio"][row], abs=0.15)


def test_empty_sky_has_no_detections() -> None:
    shape = (4, 300, 300)
    random = np.random.default_rng(5)
    exposure = to_microjansky(
        np.stack(
            [mosaics.noise(band, shape[1:], random) * np.float32(band.rms) for band in EUCLID_BANDS]
        ),
        np.stack([np.full(shape[1:], band.rms, np.float32) for band in EUCLID_BANDS]),
    )
    owner = np.full(shape[1:], -1, np.int32)
    places = random.uniform(20, 280, (60, 2))
    assert detect(exposure, owner, places, random).detected.mean() < 0.05


def test_windows_repeat_the_edge() -> None:
    image = np.arange(25).reshape(5, 5)
    window = gather(image, np.array([[0.2, 4.4]]), 3)[0]
    np.testing.assert_array_equal(window, [[15, 15, 16], [20, 20, 21], [20, 20, 21]])


def test_sersic_indices_come_back_from_growth_radii() -> None:
    index = np.array([1.0, 4.0])
    from scipy.special import gammaincinv

    ratio = (gammaincinv(2 * index, 0.8) / gammaincinv(2 * index, 0.2)) ** index
    np.testing.assert_allclose(shapes._sersic_index(ratio), index, rtol=0.01)
