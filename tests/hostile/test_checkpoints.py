"""Checkpoints made to hurt, or merely broken: refused, nothing executed, the reason said."""

import io
import json
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from astropt_db.astropt import load_encoder, read_checkpoint, save_checkpoint
from astropt_db.astropt.convert import convert
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import AstroPT, Modality, ModelConfig
from astropt_db.errors import ConfigurationError, FileError

CONFIG = ModelConfig((Modality("images", 64),), n_layer=2, n_head=2, n_embd=16, block_size=36)
ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_chan": 1, "block_size": 36, "patch_size": 8}


def official(**changes) -> dict:
    """A sound v1 checkpoint's content."""
    torch.manual_seed(0)
    state = {}
    for key, value in AstroPT(CONFIG).state_dict().items():
        for ours, theirs in (
            ("encoders.images", "transformer.wte"),
            ("positions.images", "transformer.wpe"),
            ("decoders.images", "lm_head"),
            ("blocks", "transformer.h"),
            ("ln_f", "transformer.ln_f"),
        ):
            if key.startswith(ours):
                state[theirs + key.removeprefix(ours)] = value
    config = {"image_size": 48}
    return {"model": state, "model_args": dict(ARGS), "config": config, **changes}


def saved(path: Path, **changes) -> Path:
    torch.save(official(**changes), path)
    return path


def rewrite(path: Path, target: Path, replace=None, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, replace(entry.filename, data) if replace else data)
    return target


@pytest.fixture
def native(tmp_path):
    torch.manual_seed(0)
    how = Preprocessing(bands=1, image_size=48, patch_size=8)
    return save_checkpoint(tmp_path / "small", CONFIG, how, AstroPT(CONFIG).state_dict())


def resign(path: Path, **changes) -> Path:
    """Change a native checkpoint's description, and make its digest right again."""
    from astropt_db.astropt.checkpoint import sha256

    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": sha256(path), **changes}))
    return path


def test_sound_files_are_read(tmp_path, native):
    found = read_checkpoint(saved(tmp_path / "ckpt.pt"))
    assert found.layout == "v1"
    plain = read_checkpoint(native)
    assert all(torch.equal(found.weights[k], plain.weights[k]) for k in plain.weights)


class Bomb:
    """Unpickled without care, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return eval, (f"open({str(self.mark)!r}, 'w').write('ran')",)


@pytest.mark.parametrize("place", ["model_args", "optimizer", "model"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code(tmp_path, place, protocol):
    mark = tmp_path / "ran"
    content = official(**{place: {"n_layer": Bomb(mark)}})
    torch.save(content, tmp_path / "ckpt.pt", pickle_protocol=protocol)
    # torch does not read pickles of protocol 4 far enough to name what they want.
    reason = r"needs more than tensors.*" + ("eval" if protocol == 2 else "Unsupported operand")
    with pytest.raises(FileError, match=reason + ".*encoder convert"):
        read_checkpoint(tmp_path / "ckpt.pt")
    with pytest.raises(FileError, match=reason):
        convert(tmp_path / "ckpt.pt", tmp_path / "out.safetensors")
    # Allowed by its user, the name is still only a stand-in.
    for allow in (("builtins.eval",), ("builtins.eval", "builtins.open")):
        try:
            convert(tmp_path / "ckpt.pt", tmp_path / "out.safetensors", allow=allow)
        except FileError:
            continue
    assert not mark.exists()
    with open(tmp_path / "naked.pkl", "wb") as stream:  # noqa: PTH123
        pickle.dump(content, stream)
    with pytest.raises(FileError, match="not a complete torch archive"):
        read_checkpoint(tmp_path / "naked.pkl")
    assert not mark.exists()


def test_os_system_stays_out_even_when_allowed(tmp_path):
    mark = tmp_path / "ran"
    pickled = (
        b"cposix\nsystem\n(X"
        + struct.pack("<I", len(f"touch {mark}"))
        + (f"touch {mark}".encode() + b"tR.")
    )
    path = rewrite(
        saved(tmp_path / "good.pt"),
        tmp_path / "ckpt.pt",
        lambda name, data: pickled if name.endswith("data.pkl") else data,
    )
    with pytest.raises(FileError, match="posix"):
        read_checkpoint(path)
    with pytest.raises(FileError):
        convert(path, tmp_path / "out.safetensors", allow=["posix.system"])
    assert not mark.exists()
    with pytest.raises(ConfigurationError, match=r"module\.Class"):
        convert(path, tmp_path / "out.safetensors", allow=["system; rm"])


@pytest.mark.parametrize("keep", [0, 10, 3000, 0.5, 0.99])
def test_truncated_archive(tmp_path, keep):
    data = saved(tmp_path / "good.pt").read_bytes()
    path = tmp_path / "ckpt.pt"
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(FileError, match=r"not a complete torch archive.*fetch it again"):
        read_checkpoint(path)


def test_flipped_bytes_never_escape_as_other_errors(tmp_path):
    data = saved(tmp_path / "good.pt").read_bytes()
    rng = np.random.default_rng(5)
    path = tmp_path / "ckpt.pt"
    refused = 0
    for position in rng.integers(0, min(len(data), 6000), 150):
        broken = bytearray(data)
        broken[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            read_checkpoint(path)
        except FileError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, native, value):
    content = official()
    content["model"]["transformer.h.1.mlp.c_fc.weight"][3, 4] = value
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(FileError, match=r"'blocks.1.mlp.c_fc.weight' has 1 NaN or infinite"):
        read_checkpoint(tmp_path / "ckpt.pt")
    weights = read_checkpoint(native).weights
    weights["ln_f.weight"][2] = value
    how = Preprocessing(bands=1, image_size=48, patch_size=8)
    save_checkpoint(native, CONFIG, how, weights)
    with pytest.raises(FileError, match=r"'ln_f.weight' has 1 NaN or infinite"):
        load_encoder(native)


def without(key: str) -> dict:
    state = official()["model"]
    del state[key]
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "no state dictionary"),
        ({"model": {"weight": 3}}, "'weight' of its model is not a tensor"),
        (
            {"model": {"conv.weight": torch.zeros(2, 2)}},
            r"not a known AstroPT layout.*\n.*conv.weig",
        ),
        ({"model": without("transformer.h.0.ln_1.weight")}, "blocks.0.ln_1.weight is missing"),
        ({"model": without("transformer.ln_f.weight")}, "'ln_f.weight'.*is missing"),
        (
            {"model": official()["model"] | {"transformer.h.7.ln_1.weight": torch.ones(16)}},
            "model_args give n_layer = 2, the shapes 3",
        ),
        (
            {"model": official()["model"] | {"transformer.wpe.weight": torch.zeros(36, 8)}},
            r"positions.images.weight is \(36, 8\), expected \(36, 16\)",
        ),
        (
            {"model": official()["model"] | {"transformer.wpe.weight": torch.zeros(36)}},
            "not 2 dimensions",
        ),
        ({"model": official()["model"] | {"extra": torch.zeros(1)}}, "extra is not part"),
        (
            {"model": official()["model"] | {"lm_head.4.bias": torch.zeros(64, dtype=torch.int32)}},
            "not dense floating point",
        ),
        ({"model_args": ARGS | {"n_embd": 32}}, "model_args give n_embd = 32, the shapes 16"),
        ({"model_args": ARGS | {"n_head": 3}}, "not a multiple of n_head 3"),
        ({"model_args": ARGS | {"n_head": "two"}}, "n_head = 'two'"),
        ({"model_args": {}}, "n_head = None"),
        ({"model_args": ARGS | {"attn_type": "sliding"}}, "unknown attention type 'sliding'"),
        ({"model_args": ARGS | {"patch_size": 6}}, "an image token has 64 numbers"),
        ({"model_args": ARGS | {"modalities": [3]}}, "make no sense"),
        ({"model_args": ARGS | {"lora_r": 8}}, "LoRA"),
        ({"model_args": ARGS | {"backbone": "llm"}}, "language model"),
        ({"config": {"image_size": 64}}, "64 tokens, but the model has 36 positions"),
        ({"config": {"image_size": 50}}, "not a multiple of patch_size"),
        ({"config": {"image_size": "big"}}, "make no sense"),
    ],
)
def test_content_that_does_not_fit_together(tmp_path, changes, message):
    path = saved(tmp_path / "ckpt.pt", **changes)
    with pytest.raises(FileError, match=message) as refusal:
        read_checkpoint(path)
    assert str(path) in str(refusal.value)


def test_tensors_that_claim_more_than_is_stored(tmp_path):
    """A view with stride 0 makes a terabyte of one number."""
    content = official()
    content["model"]["transformer.wpe.weight"] = torch.zeros(1).expand(36, 16)
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(FileError, match="claims more numbers than are stored"):
        read_checkpoint(tmp_path / "ckpt.pt")
    content["model"]["transformer.wpe.weight"] = torch.zeros(1).expand(1 << 36, 16)
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(FileError, match=r"block_size = 36, the shapes 68719476736"):
        read_checkpoint(tmp_path / "ckpt.pt")


def test_zip_bomb(tmp_path):
    path = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(64):
                entry.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FileError, match=r"claim 67,108,8\d\d bytes in a file of .*not opened"):
        read_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kB


def test_compressed_or_overlapping_entries(tmp_path):
    good = saved(tmp_path / "good.pt")
    squeezed = rewrite(good, tmp_path / "small.pt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FileError, match="compressed"):
        read_checkpoint(squeezed)
    data = bytearray(rewrite(good, tmp_path / "fifth.pt").read_bytes())
    at = data.rfind(b"PK\x01\x02")  # the last entry's record in the central directory
    data[at + 20 : at + 28] = struct.pack("<II", 1 << 31, 1 << 31)
    (tmp_path / "claims.pt").write_bytes(data)
    with pytest.raises(FileError, match="claim 2,147"):
        read_checkpoint(tmp_path / "claims.pt")
    with zipfile.ZipFile(tmp_path / "none.pt", "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    with pytest.raises(FileError, match=r"expected one data\.pkl"):
        read_checkpoint(tmp_path / "none.pt")


def test_pickles_that_hold_themselves_or_grow(tmp_path):
    """Ten nested lists of ten times the same list: 10**10 items if walked naively."""
    laugh: list = ["ha"]
    for _ in range(10):
        laugh = [laugh] * 10
    own: dict = {}
    own["self"] = own
    path = saved(tmp_path / "ckpt.pt", config={"image_size": 48, "laugh": laugh, "own": own})
    assert read_checkpoint(path).layout == "v1"
    assert read_checkpoint(convert(path, tmp_path / "out")).layout == "native"


def test_other_files(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_checkpoint(tmp_path / "ckpt.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FileError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pt")
    stream = io.BytesIO()
    torch.save(official(), stream, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes(stream.getvalue())
    with pytest.raises(FileError, match="not a complete torch archive"):
        read_checkpoint(tmp_path / "old.pt")


def header_of(native: Path) -> tuple[dict, bytes]:
    data = native.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def test_safetensors_with_a_huge_header(native):
    data = native.read_bytes()
    for claimed in (len(data), 50 << 20, 1 << 62, (1 << 64) - 1):
        native.write_bytes(struct.pack("<Q", claimed) + data[8:])
        with pytest.raises(FileError, match="header claims"):
            read_checkpoint(resign(native))
    native.write_bytes(b"\x01")
    with pytest.raises(FileError, match="header claims"):
        read_checkpoint(resign(native))


def test_safetensors_with_wrong_offsets_or_shapes(native):
    header, body = header_of(native)

    def write(**entry) -> Path:
        changed = {**header, "ln_f.weight": {**header["ln_f.weight"], **entry}}
        text = json.dumps(changed).encode()
        native.write_bytes(struct.pack("<Q", len(text)) + text + body)
        return resign(native)

    with pytest.raises(FileError, match="not a safetensors file"):
        read_checkpoint(write(data_offsets=[0, 1 << 40]))
    with pytest.raises(FileError, match="not a safetensors file"):
        read_checkpoint(write(shape=[1 << 40]))
    with pytest.raises(FileError, match=r"ln_f.weight is \(4, 4\), expected \(16,\)"):
        read_checkpoint(write(shape=[4, 4]))
    native.write_bytes(native.read_bytes()[:-10])
    with pytest.raises(FileError, match="not a safetensors file"):
        read_checkpoint(resign(native))


def test_native_weights_that_are_not_the_described_ones(native):
    data = bytearray(native.read_bytes())
    data[-1] ^= 1
    native.write_bytes(data)
    with pytest.raises(FileError, match=r"its SHA-256 is .* says"):
        read_checkpoint(native)
    native.with_suffix(".json").unlink()
    with pytest.raises(FileError, match=r"small.json: missing; an encoder is"):
        read_checkpoint(native)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not the description of an encoder"),
        ({"version": 2}, "not the description of an encoder"),
        ({"model": {"modalities": []}}, "at least one modality"),
        ({"model": {"modalities": [{"name": "images"}]}}, "cannot be used"),
        ({"model": {**CONFIG.to_dict(), "n_layer": 10**9}}, "1000000000 blocks are declared"),
        ({"model": {**CONFIG.to_dict(), "n_embd": 1 << 62}}, "no model can have its sizes|fit tog"),
        ({"model": {**CONFIG.to_dict(), "n_head": 0}}, "not a multiple of n_head 0"),
        ({"model": {**CONFIG.to_dict(), "n_layer": "2"}}, "cannot be used"),
        ({"model": {**CONFIG.to_dict(), "dropout": 0.1}}, "dropout"),
        ({"preprocessing": {"bands": 4, "image_size": 48, "patch_size": 8}}, "make 256"),
        ({"preprocessing": {"bands": 1, "image_size": 48, "patch_size": 0}}, "must be positive"),
        ({"preprocessing": 5}, "cannot be used"),
        ({"model": None}, "cannot be used"),
    ],
)
def test_descriptions_that_do_not_fit(native, changes, message):
    with pytest.raises(FileError, match=message):
        read_checkpoint(resign(native, **changes))


def test_descriptions_that_are_not_json(native):
    card = native.with_suffix(".json")
    for text in ("", "{", "[" * 100_000, '{"format": 1}'):
        card.write_text(text, encoding="utf-8")
        with pytest.raises(FileError, match=r"not JSON|not the description"):
            read_checkpoint(native)
    card.write_bytes(b"\xff\xfe{}")
    with pytest.raises(FileError, match="not JSON"):
        read_checkpoint(native)
    card.write_bytes(b" " * (9 << 20))
    with pytest.raises(FileError, match="larger than 8 MiB"):
        read_checkpoint(native)
