"""Tokens are what AstroPT was trained on: order, arithmetic, missing pixels, SEDs."""

import numpy as np
import pytest
import torch

from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.sed import SED_SLOTS, sed_from_columns
from astropt_db.astropt.tokens import (
    image_tokens,
    missing_fraction,
    patchify,
    pixel_weights,
    sed_tokens,
    spiral_order,
    spiral_rank,
    standardise,
    unpatchify,
)

ROW_6 = [149, 104, 67, 38, 17, 4, 3, 2, 11, 28, 53, 86, 127, 176]
ROW_7 = [150, 105, 68, 39, 18, 5, 0, 1, 10, 27, 52, 85, 126, 175]


def walk(n: int) -> np.ndarray:
    """The spiral by its rule: from the centre 1, 1, 2, 2, 3, 3, ... steps, turning left."""
    table = np.full((n, n), -1)
    row, column = (n // 2, n // 2 - 1) if n % 2 == 0 else (n // 2, n // 2)
    turns = [(0, 1), (-1, 0), (0, -1), (1, 0)] if n % 2 == 0 else [(0, -1), (1, 0), (0, 1), (-1, 0)]
    table[row, column], rank, leg = 0, 1, 0
    while rank < n * n:
        for _ in range(leg // 2 + 1):
            row, column = row + turns[leg % 4][0], column + turns[leg % 4][1]
            if rank < n * n:
                table[row, column] = rank
            rank += 1
        leg += 1
    return table


def test_spiral_tables():
    assert spiral_rank(3).tolist() == [[8, 7, 6], [1, 0, 5], [2, 3, 4]]
    assert spiral_rank(4).tolist() == [
        [15, 14, 13, 12],
        [4, 3, 2, 11],
        [5, 0, 1, 10],
        [6, 7, 8, 9],
    ]
    table = spiral_rank(14)
    assert table[0].tolist() == list(range(195, 181, -1))
    assert table[6].tolist() == ROW_6
    assert table[7].tolist() == ROW_7


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 14, 32])
def test_spiral_obeys_the_walk(n):
    np.testing.assert_array_equal(spiral_rank(n), walk(n))


def test_first_64_patches_are_the_central_128_pixels():
    table = spiral_rank(14)
    assert sorted(table[3:11, 3:11].ravel()) == list(range(64))
    images = torch.full((1, 4, 224, 224), torch.nan)
    images[:, :, 48:176, 48:176] = torch.randn(1, 4, 128, 128)
    assert torch.isfinite(patchify(images, 16, 64)).all()
    assert torch.isnan(patchify(images, 16, 65)[:, 64]).all()


def test_order_of_patches_and_of_numbers_inside():
    """On an image whose pixels are their own address."""
    bands, side, patch = 3, 8, 4
    image = torch.arange(bands * side * side, dtype=torch.float32).view(1, bands, side, side)
    raster = patchify(image, patch, spiral=False)[0]
    assert raster.shape == (4, patch * patch * bands)
    row, column, band, index = 1, 2, 2, 1  # patch 1 is top right: columns 4 to 7
    assert raster[index, (row * patch + column) * bands + band] == image[0, band, row, 4 + column]
    spiral = patchify(image, patch)[0]
    assert spiral_rank(2).tolist() == [[3, 2], [0, 1]]
    assert torch.equal(spiral, raster[[2, 3, 1, 0]])


@pytest.mark.parametrize("spiral", [True, False])
@pytest.mark.parametrize("side", [24, 28])
def test_unpatchify_undoes_patchify(side, spiral):
    image = torch.randn(2, 4, side, side)
    assert torch.equal(unpatchify(patchify(image, 4, spiral=spiral), 4, spiral), image)
    with pytest.raises(ValueError, match="35 patches"):
        unpatchify(torch.zeros(1, 35, 64), 4)


@pytest.mark.parametrize("tokens", [1, 5, 16, 20, 35])
def test_fewer_tokens_are_the_first_of_all(tokens):
    image = torch.randn(2, 2, 24, 24)
    assert torch.equal(patchify(image, 4, tokens), patchify(image, 4)[:, :tokens])


def test_standardisation_is_joint_and_unbiased():
    patch = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    wanted = (patch - 3.0) / (np.sqrt((4 + 1 + 0 + 9) / 3) + 1e-8)
    torch.testing.assert_close(standardise(patch), wanted)
    # Both bands of a pixel share one mean and deviation, so their contrast survives.
    image = torch.stack([torch.rand(16, 16), 100 + torch.rand(16, 16)])[None]
    token = image_tokens(image, 16)[0, 0].view(256, 2)
    assert float(token[:, 0].max()) < -0.9
    assert float(token[:, 1].min()) > 0.9


def test_brightness_and_background_do_not_matter_but_constant_patches_are_zero():
    image = torch.randn(1, 2, 32, 32)
    torch.testing.assert_close(
        image_tokens(image * 1000 + 7, 16), image_tokens(image, 16), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(image_tokens(torch.full((1, 1, 32, 32), 3.0), 16), torch.zeros(1, 4, 256))


def test_missing_pixels_leave_the_others_alone():
    whole = torch.randn(2, 2, 32, 32)
    holed = whole.clone()
    holed[0, 1, :3, :3] = torch.nan
    holed[0, 0, 20, 20] = torch.inf
    tokens, weights = image_tokens(holed, 16), pixel_weights(holed, 16)
    clean = patchify(torch.isfinite(holed), 16).all(dim=-1)
    assert clean.sum() == 6
    assert torch.equal(tokens[clean], image_tokens(whole, 16)[clean])
    spoilt = patchify(holed, 16)[~clean].numpy()
    for found, raw, weight in zip(tokens[~clean], spoilt, weights[~clean], strict=True):
        known = np.isfinite(raw)
        assert np.array_equal(weight.numpy() == 1, known)
        wanted = (raw[known] - raw[known].mean()) / raw[known].std(ddof=1)
        np.testing.assert_allclose(found.numpy()[known], wanted, rtol=0, atol=1e-5)
        assert (found.numpy()[~known] == 0).all()
    assert pixel_weights(whole, 16) is None


def test_patches_with_no_or_one_pixel_are_zero():
    image = torch.full((1, 1, 32, 32), torch.nan)
    image[0, 0, 0, 0] = 5.0
    tokens = image_tokens(image, 16)
    assert torch.equal(tokens, torch.zeros_like(tokens))


def test_missing_fraction():
    images = np.zeros((3, 4, 8, 8), np.float32)
    images[1, 0] = np.nan
    images[2] = np.inf
    np.testing.assert_allclose(missing_fraction(images), [0.0, 0.25, 1.0])
    assert missing_fraction(torch.from_numpy(images)).dtype == np.float32


def test_spiral_order_is_cached():
    assert spiral_order(14) is spiral_order(14)
    assert spiral_order(4).tolist() == np.argsort(spiral_rank(4).ravel()).tolist()


NORTH = ["u_ext_megacam", "r_ext_megacam", "g_ext_hsc", "z_ext_hsc", "i_ext_panstarrs"]
SOUTH = [f"{band}_ext_decam" for band in "griz"]
EUCLID = ["vis", "y", "j", "h"]
FLUX = {"u": 0.5, "g": 1.0, "r": 2.0, "v": 3.0, "i": 4.0, "z": 5.0, "y": 6.0, "j": 7.0, "h": 8.0}


def columns(bands: list[str], error: float = 0.01) -> dict[str, np.ndarray]:
    names = {f"flux_{b}_2fwhm_aper": np.array([FLUX[b[0]]], np.float32) for b in bands}
    errors = {f"fluxerr_{b}_2fwhm_aper": np.array([error], np.float32) for b in bands}
    return {key.upper(): value for key, value in (names | errors).items()}


def test_north_and_south_give_the_same_sed():
    north, south = (
        sed_from_columns(columns(NORTH + EUCLID)),
        sed_from_columns(columns(SOUTH + EUCLID)),
    )
    np.testing.assert_array_equal(north, south)
    assert north.shape == (1, len(SED_SLOTS), 2)
    assert north[0, :, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    tokens, _ = sed_tokens(torch.from_numpy(north))
    assert (tokens[..., 2] == 1).all()


def test_depth_of_the_survey_hardly_shows_for_well_measured_bands():
    deep, _ = sed_tokens(torch.tensor([[[5.0, 0.02]]]))
    shallow, _ = sed_tokens(torch.tensor([[[5.0, 0.2]]]))
    noise, _ = sed_tokens(torch.tensor([[[0.1, 1.0]]]))
    assert float((deep - shallow).abs().max()) < 1e-4
    assert float(noise[0, 0, 1]) < 0.05


def test_absent_bands_keep_their_place():
    sed = sed_from_columns(columns(EUCLID))
    assert np.isnan(sed[0, [0, 1, 3, 4]]).all()
    tokens, weights = sed_tokens(torch.from_numpy(sed))
    assert (tokens[0, [0, 1, 3, 4]] == 0).all()
    assert weights[0, :, 0].tolist() == [0, 0, 1, 0, 0, 1, 1, 1]
    assert (weights[..., 1:] == 0).all()


def test_sed_values():
    sed = torch.tensor([[[1.0, 0.1], [-0.5, 0.1], [1e5, torch.nan], [3.0, -1.0]]])
    tokens, _ = sed_tokens(sed)
    flux = sed[0, :, 0].double().numpy()
    np.testing.assert_allclose(tokens[0, :, 0], (np.arcsinh(flux / 0.1) - 4) / 2, rtol=1e-5)
    np.testing.assert_allclose(tokens[0, :, 1], [np.tanh(2), -np.tanh(1), 1, 1], rtol=1e-5)


def test_sed_columns_that_are_masked_or_of_another_photometry():
    data = columns(SOUTH + EUCLID)
    data["FLUX_Y_2FWHM_APER"] = np.ma.masked_all(1, np.float32)
    sed = sed_from_columns(data)
    assert np.isnan(sed[0, 5, 0])
    with pytest.raises(ValueError, match="FLUX_VIS_1FWHM_APER"):
        sed_from_columns(data, measure="1fwhm_aper")
    with pytest.raises(ValueError, match="no column named like"):
        sed_from_columns({"object_id": np.zeros(2)})


def test_scaled_bands():
    images = torch.randn(2, 4, 32, 32)
    scale = (0.5, 0.004, 0.003, 2.0)
    factors = torch.tensor(scale)[:, None, None]
    torch.testing.assert_close(
        image_tokens(images, 8, scale=scale), image_tokens(images * factors, 8)
    )
    with pytest.raises(ValueError, match="2 factors for 4 bands"):
        Preprocessing(4, scale=(1.0, 2.0))
    with pytest.raises(ValueError, match="positive and finite"):
        Preprocessing(1, scale=(0.0,))
    assert Preprocessing(**Preprocessing(4, scale=scale).to_dict()).scale == scale
