"""The simulated population and its spectra: self-consistent, and close to the literature."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM

from astropt_db.errors import MissingExtraError
from astropt_db.simulate.bands import EUCLID_BANDS, GROUND_BANDS
from astropt_db.simulate.phz import fit
from astropt_db.simulate.population import (
    BRIGHT_LIMIT,
    FAINT_LIMIT,
    age_of_universe,
    draw_galaxies,
    luminosity_distance,
)
from astropt_db.simulate.scene import MORPHOLOGIES, draw_scene
from astropt_db.simulate.seds import photometry, require_galsim

pytest.importorskip("galsim", reason="the simulation needs the extra [sim]")


def test_distances_and_ages_agree_with_astropy() -> None:
    cosmology = FlatLambdaCDM(H0=70.0, Om0=0.3)
    redshift = np.array([0.01, 0.1, 0.5, 1.0, 2.0, 5.5])
    expected = cosmology.luminosity_distance(redshift).value
    np.testing.assert_allclose(luminosity_distance(redshift), expected, rtol=2e-4)
    np.testing.assert_allclose(age_of_universe(redshift), cosmology.age(redshift).value, rtol=2e-4)


def test_stars_have_the_colours_of_their_temperature() -> None:
    light = photometry("EDF-N")
    names = light.bands
    assert names[:4] == ("VIS", "Y", "J", "H")
    assert names[4:] == tuple(band.name for band in GROUND_BANDS["EDF-N"])
    star = light.star_flux(np.array([5800.0, 3200.0]))
    vis_h = -2.5 * np.log10(star[:, 0] / star[:, 3])
    # The Sun has VIS - H near -0.15 AB, an M dwarf 1.5 to 2.5.
    assert -0.5 < vis_h[0] < 0.3
    assert 1.0 < vis_h[1] < 3.0


def test_early_types_are_redder_and_redden_with_redshift() -> None:
    light = photometry("EDF-S")
    kinds = np.array([0.0, 2.0, 4.0])
    for redshift in (0.2, 0.8):
        flux = light.galaxy_flux(np.full(3, redshift), kinds, np.zeros(3))
        colour = -2.5 * np.log10(flux[:, 0] / flux[:, 3])
        assert (np.diff(colour) < -0.2).all()
    dusty = light.galaxy_flux(np.array([0.5, 0.5]), np.array([2.0, 2.0]), np.array([0.0, 0.4]))
    assert dusty[1, 0] / dusty[0, 0] < 0.5 * dusty[1, 3] / dusty[0, 3]


@pytest.fixture(scope="module")
def galaxies() -> Any:
    return draw_galaxies(3000, photometry("EDF-N"), np.random.default_rng(4))


def test_number_counts_are_those_of_the_sky(galaxies: Any) -> None:
    """Weighted counts against 9e3 galaxies per deg2 and magnitude at i = 22 (e.g. COSMOS)."""
    flux = photometry("EDF-N").galaxy_flux(
        galaxies.redshift, galaxies.sed_type, galaxies.reddening
    )[:, 0]
    magnitude = 23.9 - 2.5 * np.log10(flux * galaxies.luminosity)
    assert ((magnitude > BRIGHT_LIMIT) & (magnitude < FAINT_LIMIT)).all()
    at_22 = galaxies.weight[np.abs(magnitude - 22.0) < 0.5].sum()
    at_24 = galaxies.weight[np.abs(magnitude - 24.0) < 0.5].sum()
    assert 4e3 < at_22 < 1.6e4
    assert 2.5e4 < at_24 < 9e4


def test_mass_size_and_activity_go_together(galaxies: Any) -> None:
    heavy = galaxies.log_mass > 10.5
    assert galaxies.quiescent[heavy].mean() > 2 * galaxies.quiescent[~heavy].mean()
    local = (galaxies.redshift < 0.6) & ~galaxies.quiescent
    distance = luminosity_distance(galaxies.redshift)
    kpc = galaxies.half_light_radius * distance / 206.265 / (1 + galaxies.redshift) ** 2
    slope = np.polyfit(galaxies.log_mass[local], np.log10(kpc[local]), 1)[0]
    assert 0.17 < slope < 0.27
    assert galaxies.sed_type[galaxies.quiescent].max() < 1.2
    assert galaxies.sed_type[~galaxies.quiescent].min() >= 0.7


def test_a_scene_holds_every_kind_and_its_components_add_up() -> None:
    light = photometry("EDF-F")
    scene = draw_scene(2000, light, np.random.default_rng(8))
    assert set(scene.truth["morphology"]) >= set(MORPHOLOGIES) - {"artefact"}
    assert scene.flux.shape == (2000, 4, len(light.bands))
    galaxy = (scene.truth["kind"] == "galaxy").to_numpy()
    assert (scene.total[galaxy] > 0).all()
    assert (scene.flux[:, 3] <= 0).all(), "dust takes light away"
    assert (scene.flux[:, :3] >= 0).all()
    spiral = (scene.truth["morphology"] == "spiral").to_numpy()
    arms_share = scene.flux[spiral, 2] / scene.total[spiral]
    assert np.median(arms_share[:, 0] / arms_share[:, 3]) > 1.1, "arms are bluer than the disc"


def test_the_template_fit_finds_redshifts_of_its_own_templates() -> None:
    light = photometry("EDF-N")
    random = np.random.default_rng(2)
    redshift = np.array([0.15, 0.4, 0.8])
    flux = light.galaxy_flux(redshift, np.array([0.0, 1.0, 2.0]), np.zeros(3)) * 30.0
    result = fit(flux, 0.01 * flux, light, random)
    np.testing.assert_allclose(result.pdf.sum(axis=1) * 0.01, 1.0, rtol=1e-4)
    median = (np.cumsum(result.pdf, axis=1) * 0.01 < 0.5).sum(axis=1) * 0.01
    np.testing.assert_allclose(median, redshift, atol=0.08)
    assert (result.best_chi2 < 3.0).all()


def test_a_missing_band_changes_nothing_but_certainty() -> None:
    light = photometry("EDF-N")
    flux = light.galaxy_flux(np.array([0.5]), np.array([0.0]), np.zeros(1)) * 30.0
    holes = np.where(np.arange(flux.shape[1]) < 4, np.nan, flux)
    error = 0.02 * flux
    full = fit(flux, error, light, np.random.default_rng(1)).pdf[0]
    part = fit(holes, error, light, np.random.default_rng(1)).pdf[0]
    grid = np.arange(601) * 0.01
    assert np.isfinite(part).all()

    def spread(pdf: Any) -> float:
        mean = (grid * pdf).sum() * 0.01
        return float(np.sqrt(((grid - mean) ** 2 * pdf).sum() * 0.01))

    assert spread(part) > spread(full)


def test_without_galsim_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "galsim":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"astropt-db\[sim\]"):
        require_galsim()


def test_zero_points_are_those_of_real_mosaics() -> None:
    assert [band.zero_point for band in EUCLID_BANDS] == [24.6, 29.8, 30.0, 29.9]
    # 1 unit in VIS is 0.52 microjansky, 1 unit in Y 0.0044 (FORMATS of the archive).
    assert EUCLID_BANDS[0].ujy_per_unit == pytest.approx(10 ** (-0.4 * 0.7))
