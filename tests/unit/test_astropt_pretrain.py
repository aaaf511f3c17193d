"""Pre-training: a run that is stopped and continued is the run that was not."""

import numpy as np
import pytest
import torch

from astropt_db.astropt import load_encoder
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import Modality, ModelConfig
from astropt_db.astropt.pretrain import Batch, Settings, Trainer, configure
from astropt_db.errors import ConfigurationError

CONFIG = ModelConfig(
    (Modality("images", 64), Modality("sed", 3)),
    n_layer=2, n_head=2, n_embd=32, block_size=36, tokeniser="affine", lead=16,
)  # fmt: skip
HOW = Preprocessing(bands=4, image_size=24, patch_size=4)
SETTINGS = Settings(
    iterations=12, accumulate=2, warmup=3, learning_rate=3e-3, evaluate_every=4,
    evaluation_batches=2,
)  # fmt: skip


class Galaxies:
    """Smooth bumps with SEDs that follow their flux; batch number k is always the same."""

    def __init__(self, seed: int, end: int = 1000) -> None:
        self.seed, self.end = seed, end
        self.starts: list[int] = []

    def batches(self, start):
        self.starts.append(start)
        for number in range(start, self.end):
            rng = np.random.default_rng([self.seed, number])
            y, x = np.mgrid[0:24, 0:24] - 11.5
            size, flux = rng.uniform(2, 8, (8, 1, 1, 1)), rng.lognormal(0, 1, (8, 1, 1, 1))
            images = flux * np.exp(-np.hypot(x, y) / size) * np.arange(1, 5)[:, None, None]
            images = images + rng.normal(0, 0.01, images.shape)
            images[0, 1, :5] = np.nan
            sed = np.repeat(flux[:, 0, :, :] * 5, 8, axis=1)
            sed = np.concatenate([sed, np.full_like(sed, 0.1)], axis=2)
            yield Batch(torch.from_numpy(images).float(), torch.from_numpy(sed).float())


def trainer(folder, **changes) -> Trainer:
    return Trainer(CONFIG, HOW, Settings(**{**vars(SETTINGS), **changes}), folder)


def test_a_run_in_pieces_equals_the_run_in_one(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run(Galaxies(1), Galaxies(2))
    for stop in (3, 4, 9, None):
        torch.manual_seed(stop or 0)  # whatever else happens in the process
        pieces = trainer(tmp_path / "pieces")
        source = Galaxies(1)
        begun = pieces.iteration
        pieces.run(source, Galaxies(2), until=stop)
        assert source.starts == [2 * begun]
    assert pieces.iteration == 12
    assert pieces.history == whole.history
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, pieces.model.state_dict()[name]), name


def test_a_killed_run_continues_from_its_last_state(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run(Galaxies(1), Galaxies(2))

    def kill(row):
        if row["iteration"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "killed").run(Galaxies(1), Galaxies(2), report=kill)
    again = trainer(tmp_path / "killed")
    assert again.iteration == 4
    again.run(Galaxies(1), Galaxies(2))
    assert again.history == whole.history
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_it_learns_and_its_encoder_embeds(tmp_path):
    run = trainer(tmp_path / "run", iterations=60, evaluate_every=30)
    before = run.evaluate(Galaxies(2))
    rows = []
    run.run(Galaxies(1), Galaxies(2), report=rows.append)
    after = run.evaluate(Galaxies(2))
    assert set(after) == {"images", "sed"}
    assert after["images"] < 0.7 * before["images"]
    assert after["sed"] < 0.5 * before["sed"]
    assert rows == run.history
    assert rows[-1]["validation_images"] == pytest.approx(after["images"])
    encoder = load_encoder(run.save_encoder(tmp_path / "small", {"data": "bumps"}), device="cpu")
    batch = next(Galaxies(3).batches(0))
    vectors = encoder.embed(batch.images.numpy(), batch.sed.numpy())
    assert np.isfinite(vectors).all()
    assert encoder.modalities == "vis_nisp_sed"
    assert encoder.checkpoint.notes["iterations"] == 60
    assert encoder.checkpoint.notes["data"] == "bumps"


def test_a_half_written_state_is_not_believed(tmp_path):
    run = trainer(tmp_path)
    run.run(Galaxies(1), until=2)
    (tmp_path / "state.pt.partial").write_bytes(b"killed while writing")
    assert trainer(tmp_path).iteration == 2


def test_another_run_in_the_folder_is_refused(tmp_path):
    trainer(tmp_path).run(Galaxies(1), until=1)
    with pytest.raises(ConfigurationError, match="another model, other settings or other images"):
        trainer(tmp_path, seed=5)


def test_data_that_end_early_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="ended at step 1"):
        trainer(tmp_path).run(Galaxies(1, end=3))


def test_learning_rate():
    settings = Settings(iterations=100, warmup=10, learning_rate=1.0, final_rate=0.1)
    assert settings.rate(0) == pytest.approx(0.1)
    assert settings.rate(9) == pytest.approx(1.0)
    assert settings.rate(55) == pytest.approx(0.55)
    assert settings.rate(100) == pytest.approx(0.1)


def test_weight_decay_spares_vectors(tmp_path):
    groups = trainer(tmp_path).optimiser.param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert groups[0]["weight_decay"] == 0.1
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert groups[1]["weight_decay"] == 0.0


def test_named_configurations():
    config, how = configure("mini", "vis_nisp_sed")
    assert [m.name for m in config.modalities] == ["images", "sed"]
    assert (config.lead, how.bands, config.block_size) == (64, 4, 196)
    config, how = configure("90M", "vis")
    assert (config.lead, how.bands, config.tokeniser) == (0, 1, "relu")
    with pytest.raises(ConfigurationError, match="sizes are mini, 5M"):
        configure("1M", "vis")
