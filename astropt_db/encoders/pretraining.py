"""The pre-training job: sources of the database in, an encoder and its curves out.

Under ``torchrun`` every process does this with its share of the batches; the first one alone
writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from astropt_db.astropt.encoder import BANDS as BAND_NAMES
from astropt_db.astropt.encoder import bundled_encoders, load_encoder
from astropt_db.astropt.pretrain import Settings, Trainer, configure
from astropt_db.database.connect import Database
from astropt_db.database.provenance import recorded_run
from astropt_db.encoders.figures import write_losses, write_reconstructions
from astropt_db.encoders.training_data import Selection, fingerprint, training_parts
from astropt_db.encoders.training_images import TrainingImages
from astropt_db.errors import ConfigurationError
from astropt_db.images.source import BANDS, WINDOW

DTYPES = {"float32": torch.float32, "float16": torch.float16}
_VALIDATION_SEED = 1


@dataclass(frozen=True)
class Job:
    """What to pre-train, on what, and where to put it.

    Attributes
    ----------
    folder
        For the run's state, curves and the encoder.
    name
        Of the encoder's file.
    modalities, size
        See :func:`~astropt_db.astropt.pretrain.configure`.
    batch
        Sources in a micro-batch.
    memory
        Bytes of windows in memory, over all processes.
    start
        Encoder whose weights to begin with where they fit; empty for random ones.
    dtype
        ``float32``, or ``float16`` for files of half the size.
    also
        Further databases with sources to learn from. Simulated skies of several seeds lie on the
        same tiles, and a database has room for one of them.
    """

    folder: Path
    name: str
    modalities: str
    size: str = "mini"
    batch: int = 16
    memory: int = 4 << 30
    start: str = ""
    dtype: str = "float32"
    also: tuple[Database, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes
    ----------
    encoder
        Path of the weights.
    files
        Tables and pictures.
    iterations
        Steps done in all.
    training, validation
        Sources of each share.
    """

    encoder: Path
    files: list[Path]
    iterations: int
    training: int
    validation: int


def pretrain(
    database: Database,
    job: Job,
    settings: Settings,
    selection: Selection,
    device: str | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Outcome | None:
    """Pre-train an encoder on the training share of the sources with images.

    A run that was killed goes on exactly where its last state was saved when the same is called
    again.

    Parameters
    ----------
    database
        With registered mosaics or cut-outs.
    job, settings, selection
        What, how, and on which sources.
    device
        ``cpu``, ``cuda``, ...; None takes a GPU if there is one, under ``torchrun`` one for each
        process.
    report
        Called with the losses of each step, in the first process.

    Returns
    -------
    Outcome
        None in all processes but the first.

    Raises
    ------
    ConfigurationError
        If names do not exist, sources are too few, or the folder holds another run.
    """
    with _processes(device) as (rank, world, place):
        trainer, images, check = _prepare(database, job, settings, selection, rank, world, place)
        if rank:
            trainer.run(images)
            return None
        plain = {"folder": str(job.folder), "also": [one.safe_name for one in job.also]}
        arguments = {**asdict(replace(job, also=())), **plain, "settings": asdict(settings)}
        with recorded_run(database, "encoder pretrain", {**arguments, **asdict(selection)}) as run:
            trainer.run(images, check, report=report)
            run.counts = {"iterations": trainer.iteration, "sources": len(images)}
            return _finish(trainer, job, images, check)


def _prepare(
    database: Database,
    job: Job,
    settings: Settings,
    selection: Selection,
    rank: int,
    world: int,
    device: str,
) -> tuple[Trainer, TrainingImages, TrainingImages]:
    """The trainer, and this process's share of the images to train on and to validate on."""
    config, how = configure(job.size, job.modalities)
    if job.dtype not in DTYPES:
        raise ConfigurationError(f"no dtype {job.dtype!r}; there are {', '.join(DTYPES)}")
    with_sed = job.modalities.endswith("sed")
    training, validation = training_parts(
        (database, *job.also), BANDS[: how.bands], with_sed, selection
    )
    images = TrainingImages(training, job.batch, settings.seed, job.memory, rank=rank, world=world)
    # Memory for the validation's windows and no more: they are read once and kept.
    window = how.bands * WINDOW * WINDOW * 2
    once = settings.evaluation_batches * job.batch * window
    check = TrainingImages(validation, job.batch, _VALIDATION_SEED, once, turned=False)
    data: dict[str, Any] = {
        **asdict(selection),
        "batch": job.batch,
        "memory": job.memory,
        "training_sources": len(images),
        "training_sha256": fingerprint(training),
    }
    if not job.start:
        return Trainer(config, how, settings, job.folder, device, data), images, check
    start = load_encoder(job.start, "cpu", "reference")
    data["start"] = {"name": _plain_name(job.start), "sha256": start.sha256}
    trainer = Trainer(config, how, settings, job.folder, device, data)
    trainer.start_from(start.checkpoint.weights)
    return trainer, images, check


def _finish(trainer: Trainer, job: Job, images: TrainingImages, check: TrainingImages) -> Outcome:
    """Write curves, reconstructions and the encoder."""
    files = write_losses(trainer.history, job.folder)
    how, batch = trainer.preprocessing, next(check.batches(0))
    files.append(write_reconstructions(trainer.model, how, batch, job.folder))
    notes = {
        "size": job.size,
        "modalities": job.modalities,
        "bands": list(BAND_NAMES[how.bands]),
        "data": trainer.data,
        "last": {k: v for k, v in trainer.history[-1].items() if k != "iteration"},
    }
    path = trainer.save_encoder(job.folder / job.name, notes, DTYPES[job.dtype])
    return Outcome(path, files, trainer.iteration, len(images), len(check))


@contextmanager
def _processes(device: str | None) -> Iterator[tuple[int, int, str]]:
    """Join the processes of ``torchrun``: number of this one, of all, and its device."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1, place
        return
    if place == "cuda":
        place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.startswith("cuda") else "gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size(), place
    finally:
        distributed.destroy_process_group()


def _plain_name(source: str) -> str:
    return source if source in bundled_encoders() else Path(source).stem
