"""What ``astropt-db demo`` computes after its sky is in the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from astropt_db.astropt.encoder import bundled_encoders
from astropt_db.database.connect import Database, connect
from astropt_db.database.provenance import recorded_run
from astropt_db.embed.job import Settings, refresh_statistics, run_here
from astropt_db.embed.queue import plan
from astropt_db.encoders.registry import add_encoder
from astropt_db.errors import AstroptDbError, DatabaseError
from astropt_db.ingest.images import analyse, find_mosaics, register_mosaics
from astropt_db.ingest.labels import LabelRequest, ingest_labels
from astropt_db.outliers.find import Settings as OutlierSettings
from astropt_db.outliers.find import find_outliers
from astropt_db.outliers.maps import make_map
from astropt_db.predict.predicting import predict
from astropt_db.predict.tasks import find_task
from astropt_db.predict.training import TrainRequest, train
from astropt_db.surveys.load import SurveyRequest, add_survey
from astropt_db.surveys.match import match_survey

Say = Callable[[str], None]

ENCODER = "mini-vis_nisp_sed"
_LABELS = (
    ("desi", "surveys/desi_zcatalog.fits"),
    ("desi_mass", "surveys/desi_stellar_mass.fits"),
    ("gaia_stars", "surveys/gaia_source.fits"),
    ("zoobot", None),
    ("phz_class", None),
)
_TASKS = {
    "photoz": ("desi",),
    "stellar_mass": ("desi_mass",),
    "morphology": ("zoobot",),
    "object_class": ("desi", "gaia_stars", "phz_class"),
}


def compute(database: Database, sky: Path, say: Say) -> None:
    """Register the images, make vectors, learn, predict, look for the odd, match a survey.

    Parameters
    ----------
    sky
        Folder of a simulated release whose catalogues are in the database.
    say
        Told in a line what was done.

    Raises
    ------
    DatabaseError
        If a step did not do what it should.
    """
    register_images(database, sky, say)
    load_labels(database, sky, say)
    embed(database, say)
    for task, label_sets in _TASKS.items():
        learn(database, task, label_sets, say)
    find_odd(database, say)
    match_spectra(database, sky, say)


def register_images(database: Database, sky: Path, say: Say) -> None:
    """Register the mosaics where they lie; no pixel is copied."""
    uris = find_mosaics(str(sky / "MER"))
    with (
        recorded_run(database, "ingest mosaics", {"paths": [str(sky / "MER")]}) as run,
        connect(database, autocommit=True) as connection,
    ):
        reports = list(register_mosaics(connection, uris, run.id, replace=True))
        analyse(connection, ["mosaic"])
    failed = [one for one in reports if one.state == "failed"]
    if failed:
        raise DatabaseError(f"{failed[0].path}: {failed[0].message}")
    say(f"registered {len(uris)} mosaics")


def load_labels(database: Database, sky: Path, say: Say) -> None:
    """Load what the heads learn from: spectra, masses, moving stars, volunteers' votes, classes."""
    counts = []
    for name, path in _LABELS:
        request = LabelRequest(
            name, None if path is None else sky / path, recipe=name, replace=True
        )
        with recorded_run(database, "ingest labels", {"recipe": name}) as run:
            counts.append(f"{name} {ingest_labels(database, request, run.id).matched:,}")
    say(f"labels: {', '.join(counts)}")


def embed(database: Database, say: Say) -> None:
    """Make the vectors of all sources with the bundled encoder."""
    if ENCODER not in bundled_encoders():
        raise DatabaseError(f"this installation lacks its encoder {ENCODER}; reinstall the package")
    record = add_encoder(database, ENCODER, make_current=True).record
    with connect(database, autocommit=True) as connection:
        planned = plan(connection, record)
    settings = Settings(encoder=record.name)
    with recorded_run(database, "embed", settings.described()) as run:
        run_here(database, settings, run.id)
        refresh_statistics(database, record)
    say(f"embedded {planned.sources:,} sources with {record.name}, {record.dimension} numbers each")


def learn(database: Database, task: str, label_sets: Sequence[str], say: Say) -> None:
    """Train a head and predict for all sources; a sky too small to learn from is no error."""
    request = TrainRequest(find_task(task), label_sets)
    try:
        with recorded_run(database, "train", {"task": task, "labels": list(label_sets)}) as run:
            trained = train(database, request, run.id)
    except AstroptDbError as error:
        say(f"{task} left out: {error}")
        return
    with recorded_run(database, "predict", {"task": task}) as run:
        predicted = predict(database, task, run.id)
    say(f"{task}: learned from {trained.n_train:,} sources, predicted {predicted.written:,}")


def find_odd(database: Database, say: Say) -> None:
    """Flag outliers and place all sources on a map; too few sources are no error."""
    try:
        found = find_outliers(database, OutlierSettings())
        made = make_map(database, method="pca")
    except AstroptDbError as error:
        say(f"outliers left out: {error}")
        return
    count = len(made.object_id)
    say(f"outliers: {found.flagged} of {found.objects:,} flagged; a map of {count:,} sources")


def match_spectra(database: Database, sky: Path, say: Say) -> None:
    """Load the DESI-like spectra as a survey and match them with the sources."""
    request = SurveyRequest(
        "desi", (sky / "surveys/desi_zcatalog.fits",), recipe="desi", replace=True
    )
    with recorded_run(database, "survey add", {"name": "desi"}) as run:
        add_survey(database, request, run.id)
    with recorded_run(database, "survey match", {"name": "desi"}):
        report = match_survey(database, "desi", None, "best")
    say(
        f"survey.desi: {report.matched} of {report.rows} spectra match within "
        f"{report.radius:g} arcsec, median {report.median:.3f} arcsec"
    )
