"""The Python door: what goes in, what comes out, and that it repeats."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from astropt_db.astropt import Pooling, load_encoder, save_checkpoint
from astropt_db.astropt import encoder as encoder_module
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import SIZES, AstroPT, Modality, ModelConfig
from astropt_db.astropt.packing import attend, can_pack_bfloat16
from astropt_db.astropt.sed import SED_SLOTS
from astropt_db.errors import AstroptDbError, ConfigurationError, MissingExtraError

SIDE, PATCH = 48, 4  # 12 x 12 = 144 tokens


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Random encoders of the three kinds, with weights large enough to matter."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, bands, sed in (("vis", 1, False), ("vis_nisp", 4, False), ("vis_nisp_sed", 4, True)):
        modalities = [Modality("images", bands * PATCH**2)]
        modalities += [Modality("sed", 3)] if sed else []
        config = ModelConfig(
            tuple(modalities), n_layer=4, n_head=4, n_embd=32, block_size=144,
            tokeniser="affine", lead=64 if sed else 0,
        )  # fmt: skip
        torch.manual_seed(bands)
        weights = {k: v * 4 if v.ndim > 1 else v for k, v in AstroPT(config).state_dict().items()}
        how = Preprocessing(bands, SIDE, PATCH)
        save_checkpoint(folder / name, config, how, weights, {"iterations": 0})
    return folder


@pytest.fixture(scope="session")
def images():
    rng = np.random.default_rng(3)
    return rng.normal(size=(9, 4, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="session")
def sed():
    rng = np.random.default_rng(4)
    return rng.lognormal(1.0, 1.0, (9, len(SED_SLOTS), 2)).astype(np.float32)


def load(files, name="vis_nisp", **options):
    return load_encoder(files / f"{name}.safetensors", device="cpu", **options)


def test_what_an_encoder_says_of_itself(files):
    encoder = load(files)
    card = json.loads((files / "vis_nisp.json").read_text())
    assert encoder.dim == 32
    assert encoder.modalities == "vis_nisp"
    assert encoder.bands == ("VIS", "Y", "J", "H")
    assert encoder.sha256 == card["sha256"]
    assert load(files, "vis").modalities == "vis"
    assert load(files, "vis_nisp_sed").modalities == "vis_nisp_sed"
    assert load_encoder(files / "vis_nisp.json", device="cpu").sha256 == encoder.sha256


def test_only_64_tokens_are_computed_and_that_is_exact(files, images):
    """Causal identity: the mean of the first 64 states is the same for 64 tokens and for 143."""
    encoder = load(files, mode="reference")
    seen = []
    encoder.model.blocks[0].register_forward_hook(lambda _m, _x, y: seen.append(y.shape[1]))
    paper = encoder.embed(images)
    assert set(seen) == {64}
    seen.clear()
    states = encoder.model.hidden({"images": encoder._image_tokens(
        torch.from_numpy(images), None, Pooling())})  # fmt: skip
    assert seen == [143]
    np.testing.assert_allclose(paper, states[:, :64].mean(dim=1).detach(), rtol=0, atol=2e-6)
    assert np.abs(paper - states.mean(dim=1).detach().numpy()).max() > 1e-3


def test_later_blocks_are_not_computed(files, images):
    encoder = load(files)
    seen = []
    for number, block in enumerate(encoder.model.blocks):
        block.register_forward_hook(lambda _m, _x, _y, number=number: seen.append(number))
    encoder.embed(images[:1], pooling="middle")
    assert seen == [0, 1, 2]  # n_layer // 2 = 2 is the last one needed


def test_poolings_differ_and_are_what_they_say(files, images):
    encoder = load(files, mode="reference")
    tokens = encoder._image_tokens(torch.from_numpy(images), None, Pooling())
    with torch.inference_mode():
        last = encoder.model.hidden({"images": tokens}).numpy()
        middle = encoder.model.hidden({"images": tokens}, block=2).numpy()
    close = {"rtol": 0, "atol": 2e-6}
    np.testing.assert_allclose(encoder.embed(images, pooling="mean"), last.mean(axis=1), **close)
    np.testing.assert_allclose(encoder.embed(images, pooling="last"), last[:, -1], **close)
    found = encoder.embed(images, pooling="middle")
    np.testing.assert_allclose(found, middle.mean(axis=1), **close)
    found = encoder.embed(images, pooling=Pooling(block=2, tokens=10))
    np.testing.assert_allclose(found, middle[:, :10].mean(axis=1), **close)


def test_reference_mode_repeats_and_knows_no_neighbours(files, images):
    first = load(files, mode="reference").embed(images)
    again = load(files, mode="reference", batch_size=5).embed(images)
    np.testing.assert_array_equal(first, again)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(load(files, mode="reference").embed(images[order]), first[order])
    alone = np.concatenate([load(files, mode="reference").embed(images[i : i + 1]) for i in order])
    np.testing.assert_array_equal(alone, first[order])
    assert not torch.are_deterministic_algorithms_enabled()
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            np.testing.assert_array_equal(load(files, mode="reference").embed(images), first)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["vis", "vis_nisp", "vis_nisp_sed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_mode_is_close_to_the_reference(files, images, sed, name, dtype):
    arguments = (images[:, :1] if name == "vis" else images, sed if "sed" in name else None)
    fast = load(files, name, batch_size=4, dtype=dtype)
    assert fast.dtype == dtype
    a = fast.embed(*arguments).astype(float)
    b = load(files, name, mode="reference").embed(*arguments).astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    half = dtype == torch.bfloat16
    assert (1 - cosine).max() <= (1e-3 if half else 1e-9)
    assert half == (np.abs(a - b).max() > 1e-4)


def test_packed_bfloat16_is_autocast_but_for_rounding(files, images, monkeypatch):
    packed = load(files, dtype=torch.bfloat16)
    layers = [type(layer).__name__ for layer in packed.model.modules()]
    number = 4 * len(packed.model.blocks) + 2
    if not can_pack_bfloat16():  # a processor without AVX-512: autocast serves
        assert "PackedBfloat16Linear" not in layers
        assert layers.count("Linear") >= number
        return
    assert layers.count("PackedBfloat16Linear") == number
    assert "Linear" not in layers
    monkeypatch.setattr(encoder_module, "pack_bfloat16", lambda _model, _rows: False)
    usual = load(files, dtype=torch.bfloat16)
    a, b = packed.embed(images), usual.embed(images)
    assert usual.embed(images).tobytes() == b.tobytes()
    scale = np.abs(b).max()
    assert 0 < np.abs(a - b).max() < 0.02 * scale


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_attention_by_products_is_the_usual_one_but_for_rounding(causal, dtype, error):
    torch.manual_seed(3)
    q, k, v = (2 * torch.randn(2, 4, 40, 16).to(dtype) for _ in range(3))
    usual = torch.nn.functional.scaled_dot_product_attention
    wanted = usual(q.double(), k.double(), v.double(), is_causal=causal)
    found = attend(q, k, v, is_causal=causal)
    assert found.dtype == dtype
    assert (found - wanted).abs().max() < error * wanted.abs().max()
    k[:, :, 30:] += 1
    later = (attend(q, k, v, is_causal=causal) - found)[:, :, :30].abs().amax()
    assert (later == 0) == causal


def test_reference_mode_is_float32_whatever_the_processor(files, monkeypatch):
    monkeypatch.setattr(encoder_module, "multiplies_bfloat16", lambda _device: True)
    assert load(files).dtype == torch.bfloat16
    assert load(files, mode="reference").dtype == torch.float32
    assert load(files, mode="reference", dtype=torch.bfloat16).dtype == torch.float32
    with pytest.raises(ConfigurationError, match="must be float32 or bfloat16"):
        load(files, dtype=torch.float16)


def test_sources_without_pixels_are_nan_and_hurt_nobody(files, images):
    encoder = load(files)
    spoilt = images.copy()
    spoilt[2] = np.nan
    spoilt[3, 1] = np.nan
    spoilt[4] = 0.0
    found = encoder.embed(spoilt)
    assert np.isnan(found[2]).all()
    others = [0, 1, 3, 4, 5, 6, 7, 8]
    assert np.isfinite(found[others]).all()
    same = [0, 1, 5, 6, 7, 8]
    np.testing.assert_allclose(found[same], encoder.embed(images)[same], rtol=0, atol=2e-6)


def test_sed_enters_the_vector(files, images, sed):
    encoder = load(files, "vis_nisp_sed", mode="reference")
    alone, chained = encoder.embed(images), encoder.embed(images, sed)
    assert np.abs(alone - chained).max() > 1e-2
    np.testing.assert_array_equal(encoder.embed(images, np.full_like(sed, np.nan)), alone)
    # A band that is absent does not count; one that is present does.
    fewer = sed.copy()
    fewer[:, 2] = np.nan
    assert np.abs(encoder.embed(images, fewer) - chained).max() > 1e-3
    seen = []
    encoder.model.blocks[0].register_forward_hook(lambda _m, _x, y: seen.append(y.shape[1]))
    encoder.embed(images, sed)
    assert set(seen) == {64 + len(SED_SLOTS)}


def test_paper_mode_of_a_chain_equals_the_full_chain(files, images, sed):
    """The SED follows the 64 central tokens, so later image tokens change nothing before them."""
    encoder = load(files, "vis_nisp_sed", mode="reference")
    from astropt_db.astropt.tokens import sed_tokens

    tokens = {"images": encoder._image_tokens(torch.from_numpy(images), None, Pooling())}
    tokens["sed"] = sed_tokens(torch.from_numpy(sed))[0]
    with torch.inference_mode():
        states = encoder.model.hidden(tokens).numpy()
    assert states.shape[1] == 143 + 8
    wanted = (states[:, :64].mean(axis=1) + states[:, 64:72].mean(axis=1)) / 2
    np.testing.assert_allclose(encoder.embed(images, sed), wanted, rtol=0, atol=2e-6)


def test_arrays_of_any_byte_order_or_layout(files, images):
    encoder = load(files)
    wanted = encoder.embed(images)
    swapped = images.astype(">f4")
    frozen = images.copy()
    frozen.flags.writeable = False
    strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(images, 1, 3)), 3, 1)
    for given in (swapped, frozen, strided):
        np.testing.assert_array_equal(encoder.embed(given), wanted)
    assert wanted.dtype == np.float32
    assert encoder.embed(images[:0]).shape == (0, 32)
    batch = encoder.encode(torch.from_numpy(images))
    np.testing.assert_allclose(batch.numpy(), wanted, rtol=0, atol=2e-6)


def test_wrong_input_is_named(files, images, sed):
    encoder, chain = load(files), load(files, "vis_nisp_sed")
    with pytest.raises(AstroptDbError, match=r"shape \(9, 1, 48, 48\).*VIS, Y, J, H"):
        encoder.embed(images[:, :1])
    with pytest.raises(AstroptDbError, match=r"\(9, 4, 40, 48\); expected.*\(n, 4, 48, 48\)"):
        encoder.embed(images[:, :, :40])
    with pytest.raises(AstroptDbError, match="float64"):
        encoder.embed(images.astype(float))
    with pytest.raises(AstroptDbError, match="not list"):
        encoder.embed([1, 2, 3])
    with pytest.raises(AstroptDbError, match="no SED tokens"):
        encoder.embed(images, sed)
    with pytest.raises(AstroptDbError, match=r"sed is \(9, 7, 2\).*g, r, VIS, i"):
        chain.embed(images, sed[:, :7])
    with pytest.raises(AstroptDbError, match="sed is int64"):
        chain.embed(images, np.ones((9, 8, 2), np.int64))


def test_wrong_options_are_named(files, images):
    with pytest.raises(ConfigurationError, match=r"'max'; there are paper, middle, mean, last"):
        load(files).embed(images, pooling="max")
    with pytest.raises(ConfigurationError, match="block 4 asked for, but the model has 4"):
        load(files).embed(images, pooling=Pooling(block=4))
    with pytest.raises(ConfigurationError, match="no mode 'slow'"):
        load(files, mode="slow")
    with pytest.raises(ConfigurationError, match="batch_size is 0"):
        load(files, batch_size=0)
    with pytest.raises(ConfigurationError, match="device 'gpu7' cannot be used"):
        load_encoder(files / "vis.safetensors", device="gpu7")
    with pytest.raises(ConfigurationError, match="neither a file nor a bundled encoder"):
        load_encoder("maxi-vis")


def test_addresses_pin_a_revision():
    for address in ("hf://owner/repo/ckpt.pt", "hf://owner@main/ckpt.pt", "hf://owner/repo@main"):
        with pytest.raises(ConfigurationError, match="owner/repo@revision/path"):
            load_encoder(address)


@pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is not None, reason="huggingface_hub is installed"
)
def test_without_huggingface_hub_the_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"astropt-db\[hf\]"):
        load_encoder("hf://owner/repo@abc/astropt/090M/ckpt.pt")


def test_hugging_face_cache_is_used_offline(files, images, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="extra 'hf' not installed")
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--repo" / "snapshots" / commit / "small"
    snapshot.mkdir(parents=True)
    for suffix in ("safetensors", "json"):
        shutil.copy(files / f"vis_nisp.{suffix}", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = load_encoder(f"hf://owner/repo@{commit}/small/vis_nisp.safetensors", device="cpu")
    np.testing.assert_array_equal(found.embed(images), load(files).embed(images))
    with pytest.raises(AstroptDbError, match="Check the address and the network"):
        load_encoder(f"hf://owner/repo@{commit}/small/vis.safetensors")


@pytest.mark.parametrize(("bands", "wanted"), [(1, 88_300_288), (3, 89_087_232), (4, 89_480_704)])
def test_90m_is_the_size_of_the_released_models(bands, wanted):
    with torch.device("meta"):
        model = AstroPT(ModelConfig((Modality("images", 256 * bands),), **SIZES["90M"]))
    assert model.n_parameters() - 1024 * 768 == wanted


def test_named_sizes():
    counts = {}
    for name, size in SIZES.items():
        modalities = (Modality("images", 1024), Modality("sed", 3))
        with torch.device("meta"):
            model = AstroPT(ModelConfig(modalities, **{"block_size": 196, **size}))
        counts[name] = model.n_parameters()
    assert counts["mini"] <= 3_000_000
    assert SIZES["mini"]["n_embd"] >= 192
    assert 4.5e6 < counts["5M"] < 6e6
    assert 20e6 < counts["21M"] < 23e6
