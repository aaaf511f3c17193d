"""``astropt-db train``: labels and features to a stored predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.predict.data import check_trainable, find_label_sets, load_labelled
from astropt_db.predict.features import Features, View
from astropt_db.predict.fitting import HeadName, fit, settings_for
from astropt_db.predict.metrics import Metrics
from astropt_db.predict.scoring import score
from astropt_db.predict.store import Training, store
from astropt_db.predict.tasks import Task


@dataclass(frozen=True)
class TrainRequest:
    """What to train.

    Attributes
    ----------
    task
        What to predict.
    label_sets
        Sets to learn from; the first that knows a source decides.
    encoder
        Name; ``None`` for the current one.
    head, features
        See :mod:`.fitting` and :mod:`.features`.
    where
        SQL condition on ``astropt.source``.
    seed
        Same seed and data, same predictor.
    make_current
        Whether the views shall show it.
    """

    task: Task
    label_sets: Sequence[str]
    encoder: str | None = None
    head: HeadName = "mlp"
    features: Features = "embedding+flux"
    where: str = ""
    seed: int = 0
    make_current: bool = True


@dataclass(frozen=True)
class TrainReport:
    """What came of it."""

    predictor_id: int
    n_train: int
    n_calibration: int
    n_test: int
    metrics: Metrics


def train(
    database: Database,
    request: TrainRequest,
    run_id: int,
    say: Callable[[str], None] = lambda line: None,
) -> TrainReport:
    """Train on the train split, calibrate on the calibration split, then look at the test split.

    Raises
    ------
    TrainingError
        If the labels do not make a training set.
    ConfigurationError
        If a set, encoder, head or feature does not exist.
    """
    task = request.task
    with connect(database) as connection:
        with connection.cursor() as cursor:
            sets = find_label_sets(cursor, request.label_sets)
        encoder = None
        if request.features != "flux":
            encoder = find_encoder(connection, request.encoder)
        view = View(request.features, encoder)
        learn = load_labelled(connection, task, view, sets, ["train"], request.where)
        check_trainable(task, request.label_sets, learn)
        rest = load_labelled(connection, task, view, sets, ["calibration"], request.where)
    say(f"learning {task.name} from {len(learn):,} sources, calibrating on {len(rest):,}")
    settings = settings_for(task)
    fitted = fit(task, request.head, learn, rest, request.seed, settings)
    chosen = dict(fitted.notes) | (asdict(settings) if request.head == "mlp" else {})
    ids, n_calibration = learn.batch.object_id, len(rest)
    del learn
    with connect(database) as connection:
        # Only now that nothing can change any more is the test split read.
        test = load_labelled(connection, task, view, sets, ["test"], request.where)
        metrics = score(fitted.predictor, test)
        training = Training(
            view, request.label_sets, request.where, ids, n_calibration, request.seed, chosen,
            metrics,
        )  # fmt: skip
        with connection.cursor() as cursor:
            number = store(cursor, fitted.predictor, training, run_id, request.make_current)
    return TrainReport(number, len(ids), n_calibration, len(test), metrics)
