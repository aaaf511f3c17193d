"""Our numbers are the official package's: same weights, same pixels, other code."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from astropt_db.astropt import Pooling, load_encoder, read_checkpoint
from astropt_db.astropt.convert import convert
from astropt_db.astropt.tokens import image_tokens
from astropt_db.errors import FileError

DATA = Path(__file__).parent / "data"
REFERENCE = SimpleNamespace(**runpy.run_path(str(DATA / "make_reference.py"), run_name="reference"))
CASES = [
    (layout, name) for layout in ("v1", "v2", "v3")
    for name in json.loads((DATA / f"astropt_{layout}.json").read_text())
]  # fmt: skip
LATER = [case for case in CASES if case[0] != "v1"]
TOLERANCE = 1e-5
FIRST_16 = Pooling(block=-1, tokens=16)
MIDDLE, LAST = Pooling(block=None), Pooling(block=-1)


def expected(layout: str, name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"astropt_{layout}.npz") as arrays:
        return {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{name}/")}


def official_content(layout: str, name: str) -> dict:
    """What the official training script would have saved, with the reference's weights."""
    card = json.loads((DATA / f"astropt_{layout}.json").read_text())[name]
    state = {key: REFERENCE.seeded_weight(key, shape) for key, shape in card["shapes"].items()}
    return {
        "model": state,
        "model_args": card["model_args"],
        "iter_num": 2500,
        "best_val_loss": torch.tensor(0.25),
        "config": {"image_size": REFERENCE.SIDE, "spiral": True},
    }


def official_file(folder: Path, layout: str, name: str) -> Path:
    path = folder / "ckpt.pt"
    torch.save(official_content(layout, name), path)
    return path


def close(found, wanted) -> bool:
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max()) <= TOLERANCE


def chain_inputs(checkpoint, images: np.ndarray) -> tuple[dict, dict]:
    tokens = {"images": image_tokens(torch.from_numpy(images), REFERENCE.PATCH)}
    if len(checkpoint.model.modalities) == 1:
        return {"images": tokens["images"]}, {}
    spectra = REFERENCE.seeded_spectra()
    tokens["spectra"] = spectra["spectra"]
    return tokens, {"spectra": spectra["spectra_positions"]}


@pytest.mark.parametrize("name", ["vis", "vis_nisp"])
def test_tokens_are_the_official_ones(name):
    images = torch.from_numpy(REFERENCE.seeded_images(1 if name == "vis" else 4))
    wanted = expected("v1", name)
    plain = image_tokens(images[:1], REFERENCE.PATCH)[0].numpy()
    np.testing.assert_allclose(plain, wanted["tokens"], rtol=0, atol=1e-6)
    rounded = image_tokens(images[:1], REFERENCE.PATCH, bfloat16=True)[0].numpy()
    np.testing.assert_array_equal(rounded, wanted["tokens_bfloat16"])
    assert np.abs(plain - rounded).max() > 1e-3  # the option does something


@pytest.mark.parametrize("name", ["vis", "vis_nisp", "bias"])
@pytest.mark.parametrize("mode", ["fast", "reference"])
def test_v1_embeddings(tmp_path, name, mode):
    path = official_file(tmp_path, "v1", name)
    encoder = load_encoder(path, device="cpu", mode=mode, batch_size=4, dtype=torch.float32)
    images = REFERENCE.seeded_images(encoder.preprocessing.bands)
    wanted = expected("v1", name)
    assert encoder.checkpoint.layout == "v1"
    assert encoder.preprocessing.bfloat16
    assert close(encoder.embed(images, pooling=FIRST_16), wanted["first16_bfloat16"])
    tokens = image_tokens(torch.from_numpy(images), REFERENCE.PATCH, 35)
    with torch.inference_mode():
        states = encoder.model.hidden({"images": tokens})
    assert close(states.mean(dim=1), wanted["all35"])
    assert close(states[:, :16].mean(dim=1), wanted["first16"])
    assert not close(states[:, :15].mean(dim=1), wanted["first16"])


@pytest.mark.parametrize("name", ["vis", "vis_nisp", "bias"])
def test_v1_loss(tmp_path, name):
    checkpoint = read_checkpoint(official_file(tmp_path, "v1", name))
    images = torch.from_numpy(REFERENCE.seeded_images(checkpoint.preprocessing.bands))
    with torch.inference_mode():
        loss = checkpoint.build()({"images": image_tokens(images, REFERENCE.PATCH)})
    assert float(loss) == pytest.approx(float(expected("v1", name)["loss"]), abs=TOLERANCE)


@pytest.mark.parametrize(("layout", "name"), LATER)
def test_v2_and_v3_states_and_loss(tmp_path, layout, name):
    checkpoint = read_checkpoint(official_file(tmp_path, layout, name))
    assert checkpoint.layout == layout
    wanted = expected(layout, name)
    model = checkpoint.build()
    tokens, positions = chain_inputs(checkpoint, REFERENCE.seeded_images(4))
    seen = dict(tokens)
    if len(tokens) == 1:
        seen["images"] = tokens["images"][:, :-1]
    with torch.inference_mode():
        middle = model.hidden(seen, positions, block=1)
        last = model.ln_f(model.hidden(seen, positions))
        for s in model.segments(seen):
            part = slice(s.offset, s.offset + s.length)
            assert close(middle[:, part].mean(dim=1), wanted[f"middle_{s.name}"])
            assert close(last[:, part].mean(dim=1), wanted[f"normed_{s.name}"])
        if "loss" in wanted:
            loss = float(model(tokens, positions))
            assert loss == pytest.approx(float(wanted["loss"]), abs=TOLERANCE)


@pytest.mark.parametrize("layout", ["v2", "v3"])
def test_v2_and_v3_default_embedding_through_the_door(tmp_path, layout):
    encoder = load_encoder(official_file(tmp_path, layout, "aim"), device="cpu", mode="reference")
    found = encoder.embed(REFERENCE.seeded_images(4), pooling="middle")
    assert close(found, expected(layout, "aim")["middle_images"])
    assert encoder.modalities == "vis_nisp"
    assert not encoder.preprocessing.bfloat16


def test_compiled_and_wrapped_keys_are_the_same_model(tmp_path):
    content = official_content("v1", "vis")
    content["model"] = {f"module._orig_mod.{k}": v for k, v in content["model"].items()}
    torch.save(content, tmp_path / "wrapped.pt")
    wrapped = read_checkpoint(tmp_path / "wrapped.pt")
    plain = read_checkpoint(official_file(tmp_path, "v1", "vis"))
    assert wrapped.weights.keys() == plain.weights.keys()
    assert all(torch.equal(wrapped.weights[k], plain.weights[k]) for k in plain.weights)
    assert wrapped.notes == {"iter_num": 2500, "best_val_loss": 0.25}


def test_v1_prefix_models_attend_without_a_mask(tmp_path):
    """The official code builds a prefix mask and drops it; every state sees every token."""
    content = official_content("v1", "vis")
    content["model_args"]["attn_type"] = "prefix"
    torch.save(content, tmp_path / "ckpt.pt")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    assert checkpoint.model.attention == "full"
    model = checkpoint.build()
    tokens = torch.randn(1, 20, 64)
    changed = tokens.clone()
    changed[:, -1] += 1
    with torch.inference_mode():
        moved = model.hidden({"images": changed})[:, 0] - model.hidden({"images": tokens})[:, 0]
    assert float(moved.abs().max()) > 1e-4


def test_v1_chain_layout(tmp_path):
    """The multi-encoder branch: one position table, images first, numbers by direct formula."""
    rng = torch.Generator().manual_seed(1)
    plain = official_content("v1", "vis_nisp")
    state = {}
    for key, value in plain["model"].items():
        key = key.replace("wte.", "wte.images.encode.").replace("wpe.", "wpe.images.wpe.")
        state[key.replace("lm_head.", "lm_head.images.decode.")] = value
    shapes = {f"transformer.wte.spectra.encode.{i}": (16, size) for i, size in ((0, 12), (2, 16))}
    head = {0: (32, 16), 2: (16, 32), 4: (12, 16)}
    shapes |= {f"lm_head.spectra.decode.{i}": shape for i, shape in head.items()}
    for key, shape in shapes.items():
        state[f"{key}.weight"] = torch.randn(shape, generator=rng) / 4
        state[f"{key}.bias"] = torch.randn(shape[0], generator=rng) / 4
    state["transformer.wpe.spectra.wpe.weight"] = torch.full((40, 16), torch.nan)  # never read
    del plain["model_args"]["bias"]
    torch.save({**plain, "model": state}, tmp_path / "ckpt.pt")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    assert checkpoint.layout == "v1-chain"
    assert [(m.name, m.loss_weight) for m in checkpoint.model.modalities] == [
        ("images", 1.0),
        ("spectra", 0.5),
    ]
    model = checkpoint.build()
    tokens = {"images": torch.randn(2, 6, 256), "spectra": torch.randn(2, 3, 12)}
    with torch.inference_mode():
        chain = model.embed_tokens(tokens)
        x = torch.relu(tokens["spectra"] @ state["transformer.wte.spectra.encode.0.weight"].T
                       + state["transformer.wte.spectra.encode.0.bias"])  # fmt: skip
        x = torch.relu(x @ state["transformer.wte.spectra.encode.2.weight"].T
                       + state["transformer.wte.spectra.encode.2.bias"])  # fmt: skip
        assert close(chain[:, 6:], x + state["transformer.wpe.images.wpe.weight"][6:9])
        losses = model.losses(tokens)
        assert float(model(tokens)) == pytest.approx(
            (float(losses["images"]) + 0.5 * float(losses["spectra"])) / 2
        )
    encoder = load_encoder(tmp_path / "ckpt.pt", device="cpu", mode="reference")
    (tmp_path / "single").mkdir()
    alone = official_file(tmp_path / "single", "v1", "vis_nisp")
    single = load_encoder(alone, "cpu", "reference")
    images = REFERENCE.seeded_images(4)
    np.testing.assert_array_equal(encoder.embed(images), single.embed(images))


@pytest.fixture
def official_classes(monkeypatch):
    """Classes of the names that v2 pickles, importable only while the file is written."""

    def make(name: str) -> type:
        def init(self, **values):
            self.__dict__.update(values)

        return type(name, (), {"__init__": init, "__module__": "astropt.model"})

    module = ModuleType("astropt.model")
    module.ModalityConfig, module.ModalityRegistry = (
        make("ModalityConfig"),
        make("ModalityRegistry"),
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "astropt", ModuleType("astropt"))
        patch.setitem(sys.modules, "astropt.model", module)
        yield module, patch


@pytest.mark.parametrize("described_in", ["model_args", "registry"])
def test_a_pickled_v2_checkpoint_is_refused_then_converted(
    tmp_path, official_classes, described_in
):
    module, patch = official_classes
    content = official_content("v2", "affine_chain")
    configs = [module.ModalityConfig(**m) for m in content["model_args"].pop("modalities")]
    if described_in == "model_args":
        content["model_args"]["modalities"] = configs
    registry = module.ModalityRegistry(modalities={c.name: c for c in configs})
    content |= {"modality_registry": registry, "best_val_loss": np.float64(0.5)}
    torch.save(content, tmp_path / "ckpt.pt")
    patch.undo()

    with pytest.raises(FileError, match=r"numpy.*scalar.*encoder convert") as refusal:
        read_checkpoint(tmp_path / "ckpt.pt")
    assert "astropt.model.ModalityConfig" in str(refusal.value)
    written = convert(tmp_path / "ckpt.pt", tmp_path / "v2.safetensors")
    found = read_checkpoint(written)
    plain = read_checkpoint(official_file(tmp_path, "v2", "affine_chain"))
    assert found.model == plain.model
    assert found.preprocessing == plain.preprocessing
    assert all(torch.equal(found.weights[k], plain.weights[k]) for k in plain.weights)
    assert found.layout == "native"
    assert found.notes["converted_from"]["layout"] == "v2"
    assert found.notes["best_val_loss"] == 0.5
    assert "astropt" not in sys.modules
