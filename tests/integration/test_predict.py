"""Train and predict on planted truth: splits, heads, tables, resuming, and what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
import qp
from commands import run, select
from conftest import temporary_database
from psycopg import sql
from source_database import Sources, add_sources, draw_sources, write_csv
from vector_database import add_encoder, add_vectors

from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.split import in_split, split_of
from astropt_db.predict.mixture import PROBABILITIES
from astropt_db.predict.mlp import Settings

N, DIMENSION = 1500, 24


@dataclass(frozen=True)
class World:
    """Sources whose vectors and fluxes tell of redshift, mass and class."""

    sources: Sources
    vectors: np.ndarray
    magnitudes: np.ndarray
    z: np.ndarray
    log_mass: np.ndarray
    kind: np.ndarray


def make_world() -> World:
    rng = np.random.default_rng(5)
    sources = draw_sources(N)
    z = rng.uniform(0.05, 1.2, N)
    log_mass = rng.normal(10.3, 0.6, N)
    kind = rng.choice(["galaxy", "star", "qso"], N, p=[0.7, 0.2, 0.1])
    hidden = np.stack([z, log_mass - 10, kind == "star", kind == "qso"], axis=1)
    vectors = hidden @ rng.normal(size=(4, DIMENSION)) + 0.1 * rng.normal(size=(N, DIMENSION))
    bands = np.linspace(-1, 1, 8)
    magnitudes = 21 - 1.5 * (log_mass[:, None] - 10) + 2 * z[:, None] - z[:, None] * bands
    return World(
        sources, vectors.astype(np.float32), magnitudes + rng.normal(0, 0.02, (N, 8)), z,
        log_mass, kind,
    )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def filled(
    server: EmbeddedServer, template: str, world: World, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Name of a database with the world and its labels."""
    with temporary_database(server, template) as url:
        database = Database(url)
        add_sources(database, world.sources, world.magnitudes)
        encoder = add_encoder(database, "one", DIMENSION, current=True)
        add_vectors(database, encoder, world.sources.object_id, world.vectors)
        add_encoder(database, "empty", DIMENSION)
        file = write_csv(
            tmp_path_factory.mktemp("labels") / "truth.csv", object_id=world.sources.object_id,
            z=world.z, log_mass=world.log_mass, kind=world.kind, mine=world.z * 3,
            same=np.ones(N), few=np.where(np.arange(N) < 60, world.z, np.nan),
        )  # fmt: skip
        columns = ["z=z", "log_mass=log_mass", "object_class=kind", "mine=mine", "same=same"]
        arguments = [part for one in [*columns, "few=few"] for part in ("--column", one)]
        outcome = run(
            database, "ingest", "labels", file, "--set", "truth", "--id", "object_id", *arguments
        )
        assert outcome.code == 0, outcome.err
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        yield str(name)


@pytest.fixture
def database(server: EmbeddedServer, filled: str) -> Database:
    with temporary_database(server, filled) as url:
        yield Database(url)


def do(database: Database, *arguments: object) -> str:
    outcome = run(database, *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def metrics(database: Database, task: str) -> dict[str, float]:
    ((found,),) = select(
        database, "SELECT metrics FROM astropt.predictor WHERE task = %s AND is_current", [task]
    )
    return dict(found)


@pytest.mark.parametrize("head", ["linear", "mlp", "knn"])
def test_redshifts_are_learned_and_their_intervals_hold(
    database: Database, world: World, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Settings(members=2, epochs=12, widths=(32, 16), learning_rate=1e-2)
    monkeypatch.setattr("astropt_db.predict.training.settings_for", lambda task: quick)
    out = do(database, "train", "photoz", "--labels", "truth", "--head", head)
    assert "predictor 1 for photoz" in out
    found = metrics(database, "photoz")
    assert found["nmad"] < 0.06
    assert found["coverage_68"] == pytest.approx(68, abs=12)
    assert found["coverage_95"] == pytest.approx(95, abs=5)
    out = do(database, "predict", "photoz")
    assert f"sources {N:,} / known 0 / predicted {N:,}" in out
    rows = select(
        database,
        "SELECT object_id, z_median, z_lower_68, z_upper_68, z_lower_95, z_upper_95, odds, z_mode "
        "FROM astropt.photoz ORDER BY object_id",
    )
    table = np.array(rows, np.float64)
    order = np.argsort(world.sources.object_id)
    np.testing.assert_array_equal([row[0] for row in rows], world.sources.object_id[order])
    assert np.abs(table[:, 1] - world.z[order]).mean() < 0.1
    edges = table[:, [4, 2, 1, 3, 5]]
    assert (np.diff(edges, axis=1) >= 0).all()
    assert ((table[:, 6] >= 0) & (table[:, 6] <= 1)).all()
    ((quantiles, levels),) = select(
        database,
        "SELECT p.z_quantiles, q.probabilities FROM astropt.photoz_all AS p "
        "JOIN astropt.predictor AS q ON q.id = p.predictor_id LIMIT 1",
    )
    assert tuple(levels) == PROBABILITIES
    assert len(quantiles) == len(PROBABILITIES)


def test_qp_reads_the_stored_quantiles_back(database: Database) -> None:
    do(database, "train", "photoz", "--labels", "truth", "--head", "linear")
    do(database, "predict", "photoz")
    ((levels,),) = select(database, "SELECT probabilities FROM astropt.predictor")
    rows = select(
        database,
        "SELECT z_quantiles, z_median, z_lower_68, z_upper_68, z_lower_95, z_upper_95 "
        "FROM astropt.photoz_all",
    )
    stored = np.array([row[0] for row in rows])
    ensemble = qp.Ensemble(qp.quant, data={"quants": np.array(levels), "locs": stored})
    assert ensemble.npdf == N
    wanted = np.array([[0.025, 0.16, 0.5, 0.84, 0.975]])  # qp sorts them
    columns = np.array([[row[4], row[2], row[1], row[3], row[5]] for row in rows])
    np.testing.assert_allclose(ensemble.ppf(wanted), columns, atol=1e-3)
    cumulative = np.array([ensemble[k].cdf(stored[k, [2, 12, 22]]).ravel() for k in range(20)])
    np.testing.assert_allclose(cumulative, np.tile([0.025, 0.5, 0.975], (20, 1)), atol=5e-3)


def test_training_never_reads_the_test_split(
    server: EmbeddedServer, filled: str, world: World
) -> None:
    """Poisoned test labels, vectors and fluxes leave every weight as it was."""
    test = world.sources.object_id[in_split(world.sources.object_id, "test")].tolist()
    hashes = []
    for poisoned in (False, True):
        with temporary_database(server, filled) as url:
            database = Database(url)
            if poisoned:
                with connect(database) as connection:
                    connection.execute(
                        'UPDATE astropt.label SET "values" = ARRAY[-0.9, 99, 1, 7, 7, 7] '
                        "WHERE object_id = ANY(%s)",
                        [test],
                    )
                    connection.execute(
                        "UPDATE astropt.embedding SET embedding = array_fill(60000::real, "
                        "ARRAY[24])::halfvec WHERE object_id = ANY(%s)",
                        [test],
                    )
                    connection.execute(
                        "UPDATE q1.mer_catalogue SET flux_vis_2fwhm_aper = 1e9 "
                        "WHERE object_id = ANY(%s)",
                        [test],
                    )
            for task, head in (("photoz", "linear"), ("object_class", "knn")):
                do(database, "train", task, "--labels", "truth", "--head", head)
            hashes.append(
                select(
                    database, "SELECT weights_sha256, n_train FROM astropt.predictor ORDER BY id"
                )
            )
    assert hashes[0] == hashes[1]
    assert hashes[0][0][1] == (split_of(world.sources.object_id) == "train").sum()


def test_classes_and_masses(database: Database, world: World) -> None:
    do(database, "train", "object_class", "--labels", "truth", "--head", "linear")
    assert metrics(database, "object_class")["star.roc_auc"] > 0.95
    do(database, "predict", "object_class")
    rows = select(database, "SELECT object_id, object_class FROM astropt.object_class")
    truth = dict(zip(world.sources.object_id.tolist(), world.kind.tolist(), strict=True))
    assert np.mean([truth[i] == name for i, name in rows]) > 0.9
    ((least, most, artefact),) = select(
        database,
        "SELECT min(prob_star + prob_galaxy + prob_qso), max(prob_star + prob_galaxy + prob_qso), "
        "max(prob_artefact) FROM astropt.object_class",
    )
    assert (least, most) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert artefact == 0  # no label ever was one
    do(database, "train", "stellar_mass", "--labels", "truth", "--head", "linear")
    assert metrics(database, "stellar_mass")["nmad"] < 0.15
    do(database, "predict", "stellar_mass", "--where", "mag_vis < 21")
    ((some,),) = select(database, "SELECT count(*) FROM astropt.stellar_mass")
    assert 0 < some < N
    rows = select(
        database,
        "SELECT object_class, log_mass IS NOT NULL, count(*) FROM astropt.catalogue GROUP BY 1, 2",
    )
    assert sum(row[2] for row in rows) == N


def test_a_task_of_ones_own(database: Database) -> None:
    do(
        database, "train", "triple", "--labels", "truth", "--label", "mine", "--head", "linear",
        "--features", "embedding",
    )  # fmt: skip
    do(database, "predict", "triple")
    rows = select(
        database, "SELECT task, count(*), min(value_median) FROM astropt.predicted_value_all "
        "GROUP BY 1"
    )  # fmt: skip
    assert rows[0][:2] == ("triple", N)


def test_predicting_fills_only_what_is_missing(database: Database) -> None:
    do(database, "train", "photoz", "--labels", "truth", "--head", "linear")
    do(database, "predict", "photoz", "--where", "mag_vis < 21")
    before = select(database, "SELECT object_id, run_id FROM astropt.prediction_photoz")
    out = do(database, "predict", "photoz")
    assert f"known {len(before):,} / predicted {N - len(before):,}" in out
    after = select(database, "SELECT object_id, run_id FROM astropt.prediction_photoz")
    assert set(before) < set(after)
    assert f"known {N:,} / predicted 0" in do(database, "predict", "photoz")


def test_predictions_do_not_follow_the_order_of_storage(database: Database) -> None:
    """A row's place in a matrix can change the last bit of its products."""
    do(database, "train", "photoz", "--labels", "truth", "--head", "linear")
    values = "SELECT object_id, z_median, z_quantiles FROM astropt.prediction_photoz ORDER BY 1"
    found = []
    for turn in ("", "DESC"):
        with connect(database, role=ADMIN) as connection:
            connection.execute("CREATE TEMP TABLE moved AS TABLE astropt.embedding")
            connection.execute("DELETE FROM astropt.embedding")
            again = sql.SQL("INSERT INTO astropt.embedding TABLE moved ORDER BY object_id {}")
            connection.execute(again.format(sql.SQL(turn)))
            connection.execute("DELETE FROM astropt.prediction_photoz")
        do(database, "predict", "photoz")
        found.append(select(database, values))
    assert len(found[0]) == N
    assert found[0] == found[1]


def test_versions_live_side_by_side_and_one_is_current(database: Database) -> None:
    for head in ("linear", "knn"):
        do(database, "train", "photoz", "--labels", "truth", "--head", head)
    do(database, "predict", "photoz")
    do(database, "predict", "photoz", "--predictor", 1)
    query = "SELECT DISTINCT predictor_id FROM astropt.photoz"
    assert select(database, query) == [(2,)]
    do(database, "predict", "photoz", "--predictor", 1, "--make-current")
    assert select(database, query) == [(1,)]
    assert select(database, "SELECT count(*) FROM astropt.photoz_all") == [(2 * N,)]


def test_sources_unlike_the_training_set_are_flagged(database: Database) -> None:
    with connect(database) as connection:
        connection.execute(
            "UPDATE astropt.embedding SET embedding = (SELECT array_agg(20 * v * (-1) ^ k)"
            "::real[]::halfvec FROM unnest(embedding::real[]) WITH ORDINALITY AS u (v, k)) "
            "WHERE astropt.split(object_id) = 'test'"
        )
    do(database, "train", "photoz", "--labels", "truth", "--head", "linear")
    do(database, "predict", "photoz")
    rows = dict(
        select(
            database,
            "SELECT astropt.split(object_id), avg(is_extrapolated::integer) FROM astropt.photoz "
            "GROUP BY 1",
        )
    )
    assert rows["test"] > 0.95
    assert rows["train"] < 0.05


def test_the_same_seed_gives_the_same_predictor(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Settings(members=2, epochs=3)
    monkeypatch.setattr("astropt_db.predict.training.settings_for", lambda task: quick)
    for seed in (3, 3, 4):
        do(database, "train", "photoz", "--labels", "truth", "--head", "mlp", "--seed", seed)
    one, two, three = (
        row[0] for row in select(database, "SELECT weights FROM astropt.predictor ORDER BY id")
    )
    assert one == two != three


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photoz", "--labels", "none"], "no label set none; there are: truth"),
        (
            ["x", "--labels", "truth", "--label", "few"],
            "label sets truth: 4",  # 42 or so of 60 lie in the training split
        ),
        (
            ["x", "--labels", "truth", "--label", "same"],
            "label sets truth: same is 1 in all 1,0",
        ),
        (
            ["x", "--labels", "truth", "--label", "object_class"],
            "label set truth: object_class holds words ('galaxy', 'qso', 'star')",
        ),
        (
            ["x", "--labels", "truth", "--label", "gone"],
            f"label set truth ({N:,} sources) has the labels z, log_mass",
        ),
        (["morphology", "--labels", "truth"], "needs smooth, featured"),
        (["x", "--labels", "truth"], "there is no task 'x'"),
        (["photoz", "--labels", "truth", "--label", "mine"], "learns from z"),
        (
            ["photoz", "--labels", "truth", "--encoder", "empty"],
            "has a vector of encoder empty; run first: astropt-db embed",
        ),
        (["photoz", "--labels", "truth", "--encoder", "gone"], "no encoder 'gone'"),
        (["photoz", "--labels", "truth", "--where", "nonsense"], "cannot be used"),
    ],
)
def test_what_cannot_be_trained(database: Database, arguments: list[str], message: str) -> None:
    outcome = run(database, "train", *arguments)
    assert outcome.code == 1
    assert message in outcome.err
    assert select(database, "SELECT count(*) FROM astropt.predictor") == [(0,)]


def test_a_predictor_without_its_encoder(database: Database) -> None:
    outcome = run(database, "predict", "photoz")
    assert "there is no current predictor for the task photoz" in outcome.err
    do(database, "train", "photoz", "--labels", "truth", "--head", "linear")
    with connect(database, role=ADMIN) as connection:
        connection.execute("DROP TABLE astropt.embedding_1")
    outcome = run(database, "predict", "photoz")
    assert outcome.code == 1
    assert "predictor 1 needs vectors of encoder one, and there are none" in outcome.err
    with connect(database, role=ADMIN) as connection:
        connection.execute(
            "ALTER TABLE astropt.predictor DROP CONSTRAINT predictor_encoder_id_fkey"
        )
        connection.execute("DELETE FROM astropt.encoder WHERE name = 'one'")
    outcome = run(database, "predict", "photoz")
    assert outcome.code == 1
    assert "predictor 1 needs encoder 1, which is not in the database" in outcome.err


def test_one_class_is_no_task(database: Database, world: World, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "stars.csv", object_id=world.sources.object_id[:200])
    do(
        database, "ingest", "labels", file, "--set", "stars", "--id", "object_id",
        "--column", "object_class='star'",
    )  # fmt: skip
    outcome = run(database, "train", "object_class", "--labels", "stars")
    assert outcome.code == 1
    assert "label sets stars: all 1" in outcome.err
    assert "are of one class (star 1" in outcome.err


# The comparison


@pytest.mark.parametrize(
    ("heads", "seeds"), [("linear", 1), pytest.param("linear,knn", 2, marks=pytest.mark.slow)]
)
def test_evaluation_compares_on_one_test_set(
    database: Database, tmp_path: Path, heads: str, seeds: int
) -> None:
    out = do(
        database, "evaluate", "--tasks", "photoz", "--labels", "photoz=truth", "--heads",
        heads, "--fractions", "10,100", "--seeds", seeds, "--figures", tmp_path,
        "--format", "csv", "--processes", 1,
    )  # fmt: skip
    assert out.startswith("task,model,encoder,features,percent,n_train,n_test,metric,mean")
    rows = select(
        database,
        "SELECT model, features, fraction, count(DISTINCT seed), min(n_test), max(n_test), "
        "min(n_train), avg(value) FROM astropt.evaluation WHERE metric = 'nmad' "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )
    assert len({row[4] for row in rows} | {row[5] for row in rows}) == 1
    assert [row[3] for row in rows] == [seeds] * len(rows)
    figures = {row[:3]: row for row in rows}
    for features in ("embedding", "embedding+flux", "flux"):
        few, all_labels = (figures["linear", features, share] for share in (10, 100))
        assert few[6] < all_labels[6]
    assert figures["linear", "embedding+flux", 100][7] < figures["trees", "flux", 10][7]
    assert (tmp_path / "photoz_nmad.png").stat().st_size > 5000
    assert (
        tmp_path / f"photoz_{heads.split(',')[-1]}_embedding_flux_one_scatter.png"
    ).stat().st_size > 5000


@pytest.mark.slow
def test_evaluation_on_two_processes_gives_the_same_figures(database: Database) -> None:
    query = (
        "SELECT model, features, seed, metric, value FROM astropt.evaluation WHERE run_id = "
        "(SELECT max(run_id) FROM astropt.evaluation) ORDER BY 1, 2, 3, 4"
    )
    found = []
    for processes in (1, 2):
        shown = do(
            database, "evaluate", "--labels", "photoz=truth", "--heads", "linear", "--fractions",
            "20", "--seeds", 2, "--processes", processes,
        )  # fmt: skip
        assert re.search(r"^photoz: 20 % of the labels, \d+; \d+ test sources$", shown, re.M)
        assert re.search(r"^linear +flux +0\.\d+", shown, re.M)
        assert max(map(len, shown.splitlines())) <= 80
        found.append(select(database, query))
    assert [row[:4] for row in found[0]] == [row[:4] for row in found[1]]
    np.testing.assert_allclose(
        [row[4] for row in found[0]], [row[4] for row in found[1]], rtol=1e-3, atol=1e-4
    )


def test_evaluation_refuses_what_it_does_not_know(database: Database) -> None:
    for arguments, message in (
        (["--rivals", "magic"], "no rival magic"),
        (["--encoders", "gone"], "no encoder 'gone'"),
        (["--labels", "truth"], "expected TASK=SET"),
        (["--labels", "photoz=none"], "no label set none"),
    ):
        labels = [] if "--labels" in arguments else ["--labels", "photoz=truth"]
        outcome = run(database, "evaluate", *labels, *arguments)
        assert outcome.code == 1
        assert message in outcome.err
