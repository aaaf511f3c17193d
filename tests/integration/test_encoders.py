"""Encoders of the database: added by name, found again, never mixed up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run, select

from astropt_db.astropt import read_checkpoint, save_checkpoint
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import AstroPT, Modality, ModelConfig
from astropt_db.astropt.pooling import POOLINGS
from astropt_db.cli.main import main
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.encoders.registry import open_encoder, pooling_of
from astropt_db.errors import ConfigurationError

CONFIG = ModelConfig(
    (Modality("images", 256),), n_layer=2, n_head=2, n_embd=16, block_size=4, tokeniser="affine"
)
HOW = Preprocessing(bands=1, image_size=32)


def weights(path: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    return save_checkpoint(path, CONFIG, HOW, AstroPT(CONFIG).state_dict(), {"data": "none"})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return weights(tmp_path / "small")


def test_the_first_is_current_and_adding_again_changes_nothing(
    ready_database: Database, small: Path
) -> None:
    first = run(ready_database, "encoder", "add", small)
    assert first.code == 0, first.err
    assert "small: added, the current one; vis, 16 numbers" in first.out
    again = run(ready_database, "encoder", "add", small)
    assert "small: unchanged" in again.out
    other = run(ready_database, "encoder", "add", small, "--pooling", "middle")
    assert "small-middle: added; vis" in other.out
    ((partitions,),) = select(
        ready_database,
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'astropt.embedding'::regclass",
    )
    assert partitions == 2
    with connect(ready_database) as connection:
        record = find_encoder(connection)
        assert record.name == "small"
        assert pooling_of(record) == POOLINGS["paper"]
        assert pooling_of(find_encoder(connection, "small-middle")) == POOLINGS["middle"]
    assert Preprocessing(**record.preprocessing) == HOW
    assert record.card["data"] == "none"
    images = np.random.default_rng(1).normal(size=(2, 1, 32, 32)).astype(np.float32)
    assert open_encoder(record, "cpu").embed(images).shape == (2, 16)


def test_list_show_use(ready_database: Database, small: Path) -> None:
    assert "add one: astropt-db encoder add" in run(ready_database, "encoder", "list").err
    missing = run(ready_database, "encoder", "show")
    assert (missing.code, missing.out) == (1, "")
    assert "there are none yet" in missing.err
    run(ready_database, "encoder", "add", small)
    run(ready_database, "encoder", "add", small, "--name", "two", "--pooling", "last", "--use")
    listed = json.loads(run(ready_database, "encoder", "list", "--format", "json").out)
    assert [(one["name"], one["is_current"]) for one in listed] == [
        ("small", False),
        ("two", True),
    ]
    assert "small is the current" in run(ready_database, "encoder", "use", "small").out
    (shown,) = json.loads(run(ready_database, "encoder", "show", "--format", "json").out)
    assert (shown["name"], shown["vectors"]) == ("small", "0")
    table = run(ready_database, "encoder", "show", "two").out
    assert "pooling.reduce" in table
    unknown = run(ready_database, "encoder", "use", "three")
    assert unknown.code == 1
    assert "no encoder 'three' in the database; there are: small, two" in unknown.err


def test_a_name_stands_for_one_encoder(
    ready_database: Database, small: Path, tmp_path: Path
) -> None:
    run(ready_database, "encoder", "add", small)
    other = weights(tmp_path / "other" / "small", seed=2)
    refused = run(ready_database, "encoder", "add", other)
    assert refused.code == 1
    assert "'small' is there with another weights" in refused.err
    refused = run(ready_database, "encoder", "add", small, "--name", "small", "--pooling", "last")
    assert "another pooling" in refused.err
    assert "cannot name" in run(ready_database, "encoder", "add", small, "--name", "a b").err
    assert "neither a file nor" in run(ready_database, "encoder", "add", "nothing").err


def test_weights_that_moved_or_changed(
    ready_database: Database, small: Path, tmp_path: Path
) -> None:
    run(ready_database, "encoder", "add", small)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (small, small.with_suffix(".json")):
        shutil.move(path, moved)
    with connect(ready_database) as connection:
        record = find_encoder(connection)
    with pytest.raises(ConfigurationError, match=r"not at .*encoder add PATH --name small"):
        open_encoder(record, "cpu")
    assert "small: moved" in run(ready_database, "encoder", "add", moved / small.name).out
    with connect(ready_database) as connection:
        record = find_encoder(connection)
    open_encoder(record, "cpu")
    weights(moved / "small", seed=3)
    with pytest.raises(ConfigurationError, match="other weights"):
        open_encoder(record, "cpu")


def test_convert_needs_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTROPT_DB_URL", "postgresql://nowhere.invalid/x")
    model = AstroPT(CONFIG)
    state = {
        f"transformer.wte.images.{key}": value
        for key, value in {"c_fc.weight": model.encoders["images"][0].weight}.items()
    }
    state["transformer.wpe.images.wpe.weight"] = model.positions["images"].weight
    state["lm_head.images.c_fc.weight"] = model.decoders["images"][0].weight
    state |= {f"transformer.h.{key}": value for key, value in model.blocks.state_dict().items()}
    state["transformer.ln_f.weight"] = model.ln_f.weight
    source = tmp_path / "ckpt.pt"
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_chan": 1, "patch_size": 16}
    torch.save({"model": state, "model_args": arguments, "config": {"image_size": 32}}, source)
    with pytest.raises(SystemExit) as ended:
        main(["encoder", "convert", str(source), str(tmp_path / "mine.safetensors")])
    assert ended.value.code == 0
    assert "mine.safetensors; add it: astropt-db encoder add" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "mine.safetensors").layout == "native"
