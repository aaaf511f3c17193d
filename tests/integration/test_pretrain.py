"""Pre-training from the database, by the command that users run."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CHECKOUT, Outcome, run, select

from astropt_db.astropt import load_encoder
from astropt_db.cli.encoder import SETTINGS
from astropt_db.database.connect import Database, connect
from astropt_db.database.split import in_split
from astropt_db.encoders.seds import catalogue_seds
from astropt_db.encoders.training_data import Selection, training_parts

FEW = ("--iterations", 4, "--batch", 4, "--accumulate", 2, "--warmup", 1, "--evaluate-every", 2,
       "--evaluation-batches", 1, "--tokens", 20, "--full-every", 2, "--memory", 0.05)  # fmt: skip


def pretrain(database: Database, folder: Path, *options: object) -> Outcome:
    return run(database, "encoder", "pretrain", folder, *FEW, "--device", "cpu", *options)


def test_the_options_are_the_settings_of_the_trainer() -> None:
    from astropt_db.astropt.pretrain import Settings

    defaults = vars(Settings())
    assert {name: defaults[name] for name in SETTINGS} == SETTINGS


def test_shares_and_turns(sky_database: Database) -> None:
    selection = Selection("vis_det = 1", "segmentation_area > 300", 3)
    training, validation = training_parts((sky_database,), ("VIS",), True, selection)
    twice, _ = training_parts((sky_database, sky_database), ("VIS",), False, selection)
    assert len(twice) == 2 * len(training)
    ids = np.concatenate([part.object_id for part in training])
    held = np.concatenate([part.object_id for part in validation])
    assert in_split(ids, "train").all()
    assert in_split(held, "calibration").all()
    everything = select(
        sky_database, "SELECT object_id, segmentation_area > 300 FROM astropt.source "
        "WHERE vis_det = 1 AND astropt.split(object_id) IN ('train', 'calibration')"
    )  # fmt: skip
    assert sorted([*ids.tolist(), *held.tolist()]) == sorted(one for one, _ in everything)
    turns = np.concatenate([part.turn for part in (*training, *validation)])
    both = np.concatenate([ids, held])
    large = dict(everything)
    assert [large[one] for one in both.tolist()] == (turns == 1).tolist()
    assert set(turns.tolist()) == {1, 3}
    seds = np.concatenate([part.sed for part in training if part.sed is not None])
    assert np.isfinite(seds[:, 2, 0]).mean() > 0.9


def test_seds_in_any_order(sky_database: Database) -> None:
    ids = np.array([row[0] for row in select(sky_database, "SELECT object_id FROM astropt.source")])
    with connect(sky_database) as connection:
        some = np.append(ids[7:2:-1], 99)
        connection.execute(
            "INSERT INTO q1.sed (object_id, flux, flux_error, origin, run_id) "
            "VALUES (99, array_fill(2.0, ARRAY[8]), array_fill(0.5, ARRAY[8]), 'a test', 1)"
        )
        seds = catalogue_seds(connection, some)
        np.testing.assert_array_equal(seds[:5], catalogue_seds(connection, ids)[7:2:-1])
        ((flux,),) = connection.execute(
            "SELECT flux_vis_2fwhm_aper FROM q1.mer_catalogue WHERE object_id = %s",
            [some[0].item()],
        )
    assert seds[0, 2, 0] == np.float32(flux)
    assert (seds[5] == [2.0, 0.5]).all()


@pytest.mark.slow
def test_a_run_in_two_pieces_and_its_encoder(sky_database: Database, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    options = ("--modalities", "vis", "--where", "segmentation_area > 50", "--store", "float16")
    whole = pretrain(sky_database, tmp_path / "whole", *options)
    assert whole.code == 0, whole.err
    assert "step 2: " in whole.err
    for name in ("losses.csv", "losses.png", "reconstructions.png", "state.pt", "mini-vis.json"):
        assert (tmp_path / "whole" / name).stat().st_size > 0
    rows = list(csv.DictReader((tmp_path / "whole" / "losses.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows] == ["1.0", "2.0", "3.0", "4.0"]
    assert [bool(row["validation_images"]) for row in rows] == [False, True, False, True]

    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path / "pieces"), sky_database.url],
        cwd=CHECKOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert killed.returncode == 9
    assert (tmp_path / "pieces" / "state.pt").exists()
    again = pretrain(sky_database, tmp_path / "pieces", *options)
    assert again.code == 0, again.err
    assert "step 2: " not in again.err
    digest = load_encoder(tmp_path / "whole" / "mini-vis.safetensors").sha256
    assert load_encoder(tmp_path / "pieces" / "mini-vis.safetensors").sha256 == digest
    refused = pretrain(sky_database, tmp_path / "whole", *options, "--seed", 5)
    assert (refused.code, "another model, other settings" in refused.err) == (1, True)

    begun = pretrain(
        sky_database, tmp_path / "four", "--modalities", "vis_nisp",
        "--start", tmp_path / "whole" / "mini-vis.safetensors",
    )  # fmt: skip
    assert begun.code == 0, begun.err
    notes = load_encoder(tmp_path / "four" / "mini-vis_nisp.safetensors").checkpoint.notes
    assert notes["data"]["start"] == {"name": "mini-vis", "sha256": digest}
    ((state, counts),) = select(
        sky_database, "SELECT state, counts FROM astropt.run WHERE command = 'encoder pretrain' "
        "ORDER BY id DESC LIMIT 1"
    )  # fmt: skip
    assert (state, counts["iterations"]) == ("done", 4)


DIES = f"""
import os, sys
from astropt_db.astropt import pretrain
from astropt_db.cli.main import main
step = pretrain.Trainer._step
def dying(self, batches):
    if self.iteration == 3:
        os._exit(9)
    return step(self, batches)
pretrain.Trainer._step = dying
main(["encoder", "pretrain", sys.argv[1], *{[str(one) for one in FEW]!r}, "--device", "cpu",
      "--modalities", "vis", "--where", "segmentation_area > 50", "--store", "float16",
      "--db", sys.argv[2]])
"""


@pytest.mark.slow
def test_two_processes_equal_one(sky_database: Database, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ASTROPT_DB_URL": sky_database.url}
    found = []
    for number in ("1", "2"):
        folder = tmp_path / number
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", number,
             "--master-addr", "127.0.0.1", "--master-port", "29533",
             "-m", "astropt_db", "encoder", "pretrain", str(folder),
             *map(str, FEW), "--device", "cpu", "--modalities", "vis_nisp_sed"],
            cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Add it:") == 1
        rows = csv.DictReader((folder / "losses.csv").read_text().splitlines())
        found.append(np.array([float(row["training"]) for row in rows]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
