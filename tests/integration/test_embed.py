"""From registered images to vectors: the worker and its command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commands import CHECKOUT, process, run, select
from embed_sky import DIMENSION, problems, states, tiny_encoder, tiny_weights, vectors

from astropt_db.astropt import bundled_encoders, load_encoder
from astropt_db.astropt.encoder import multiplies_bfloat16
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.database.vectors import load_vectors
from astropt_db.embed.inputs import Inputs, catalogue_seds, positions
from astropt_db.embed.job import Settings, make_worker
from astropt_db.embed.outcome import EmbeddingFlag
from astropt_db.embed.queue import Queue, plan
from astropt_db.embed.worker import Worker
from astropt_db.encoders.registry import open_encoder, pooling_of
from astropt_db.images.registered import open_tile, read_cutouts

REFERENCE = ("--mode", "reference", "--threads", 1)


def embed(database: Database, encoder, *arguments):
    return run(database, "embed", "--encoder", encoder.name, *arguments)


@pytest.fixture
def encoder(sky_database, tmp_path):
    return tiny_encoder(sky_database, tmp_path, bands=4)


def n_sources(database) -> int:
    ((number,),) = select(database, "SELECT count(*) FROM q1.mer_catalogue")
    return number


def test_every_source_gets_the_vector_of_its_pixels(sky_database, encoder):
    outcome = embed(sky_database, encoder, "--chunk-size", 40, *REFERENCE)
    assert outcome.code == 0, outcome.err
    n = n_sources(sky_database)
    assert outcome.out.strip() == (
        f"{encoder.name}: embedded {n} / without a vector 0 / given up 0 / waiting 0"
    )
    assert f"{n} sources to embed" in outcome.err
    assert "(100 %)" in outcome.err
    with connect(sky_database) as connection, connection.cursor() as cursor:
        found = load_vectors(cursor, encoder)
        cutouts = read_cutouts(connection, found.object_id, fill=np.nan)
        flags = dict(select(sky_database, "SELECT object_id, flags FROM astropt.embedding"))
    model = open_encoder(encoder, "cpu", "reference")
    expected = model.embed(cutouts.pixels, None, pooling_of(encoder))
    assert len(found) == n
    assert np.array_equal(found.vectors, expected.astype(np.float16))
    assert set(flags.values()) <= {0, 1, 2, 3, 8, 9, 10, 11}
    again = embed(sky_database, encoder)
    assert "0 sources to embed" in again.err
    assert again.code == 0
    rows = select(
        sky_database,
        "SELECT state, counts, arguments FROM astropt.run WHERE command = 'embed' ORDER BY id",
    )
    assert [row[0] for row in rows] == ["done", "done"]
    assert rows[0][1] == {"embedded": n, "problems": 0, "dead": 0}
    assert rows[0][2]["mode"] == "reference"
    assert rows[0][2]["torch"] == torch.__version__


def test_any_cut_into_chunks_and_either_device_path_gives_the_same(sky_database, encoder, tmp_path):
    embed(sky_database, encoder, "--chunk-size", 1000, *REFERENCE)
    expected = vectors(sky_database, encoder)
    record = tiny_encoder(sky_database, tmp_path / "other", bands=4)
    assert record.name == encoder.name
    with connect(sky_database, autocommit=True) as connection:
        connection.execute("DELETE FROM astropt.embedding")
        plan(connection, record, size=7)
    model = open_encoder(record, "cpu", "reference")
    pooling = pooling_of(record)
    inputs = Inputs(model, pooling, batch_bytes=1, whole_tiles=True)
    assert inputs.window == 128
    assert inputs.batch_size == 16
    worker = Worker(sky_database, Queue(record, 1), model, pooling, inputs, 120)
    worker.run()
    assert vectors(sky_database, record) == expected


def test_the_fast_mode_stays_close_to_the_reference(sky_database, encoder):
    embed(sky_database, encoder, *REFERENCE)
    with connect(sky_database, autocommit=True) as connection:
        with connection.cursor() as cursor:
            reference = load_vectors(cursor, encoder).vectors.astype(np.float32)
        connection.execute("DELETE FROM astropt.embedding")
    embed(sky_database, encoder, "--threads", 1)
    with connect(sky_database) as connection, connection.cursor() as cursor:
        fast = load_vectors(cursor, encoder).vectors.astype(np.float32)
    lengths = np.linalg.norm(reference, axis=1), np.linalg.norm(fast, axis=1)
    cosine = np.einsum("ij,ij->i", reference, fast) / lengths[0] / lengths[1]
    assert (1 - cosine).max() < 1e-3
    half = multiplies_bfloat16(torch.device("cpu"))  # then the fast mode has 8 bits of precision
    assert np.abs((fast - reference) / lengths[0][:, None]).max() < (1e-2 if half else 2e-3)


def test_where_and_new_sources(sky_database, encoder):
    first = embed(sky_database, encoder, "--where", "mag_vis < 21", *REFERENCE)
    assert first.code == 0, first.err
    bright = select(sky_database, "SELECT object_id FROM astropt.source WHERE mag_vis < 21")
    assert set(vectors(sky_database, encoder)) == {row[0] for row in bright}
    wrong = embed(sky_database, encoder, "--where", "magvis < 21")
    assert wrong.code == 1
    assert 'column "magvis" does not exist' in wrong.err
    assert "astropt.column_info" in wrong.err
    assert embed(sky_database, encoder, *REFERENCE).code == 0
    assert len(vectors(sky_database, encoder)) == n_sources(sky_database)


def test_several_workers_in_processes_of_their_own(sky_database, encoder):
    outcome = subprocess.run(
        [sys.executable, "-m", "astropt_db", "embed", "--encoder", encoder.name, "--workers", "2",
         "--chunk-size", "20", "--progress-every", "0.5", "--db", sky_database.url],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    assert len(vectors(sky_database, encoder)) == n_sources(sky_database)
    ((workers,),) = select(sky_database, "SELECT count(DISTINCT worker) FROM astropt.embed_chunk")
    assert workers >= 1


def test_the_partition_is_analysed(sky_database, encoder):
    embed(sky_database, encoder, *REFERENCE)
    ((rows,),) = select(
        sky_database,
        "SELECT reltuples FROM pg_class WHERE oid = %s::regclass",
        [f"astropt.embedding_{encoder.id}"],
    )
    assert rows == n_sources(sky_database)


def test_seds_of_the_catalogue(sky_database, tmp_path):
    record = tiny_encoder(sky_database, tmp_path, bands=4, with_sed=True)
    with connect(sky_database, autocommit=True) as connection:
        ids = np.array(
            [
                row[0]
                for row in connection.execute(
                    "SELECT object_id FROM q1.mer_catalogue ORDER BY object_id DESC"
                ).fetchall()
            ]
        )
        # One source without any flux, one whose SED came in a file of its own.
        connection.execute(
            "UPDATE q1.mer_catalogue SET flux_g_ext_hsc_2fwhm_aper = NULL, "
            "flux_g_ext_decam_2fwhm_aper = NULL, flux_r_ext_megacam_2fwhm_aper = NULL, "
            "flux_r_ext_decam_2fwhm_aper = NULL, flux_vis_2fwhm_aper = NULL, "
            "flux_i_ext_panstarrs_2fwhm_aper = NULL, flux_i_ext_decam_2fwhm_aper = NULL, "
            "flux_z_ext_hsc_2fwhm_aper = NULL, flux_z_ext_decam_2fwhm_aper = NULL, "
            "flux_y_2fwhm_aper = NULL, flux_j_2fwhm_aper = NULL, flux_h_2fwhm_aper = NULL "
            "WHERE object_id = ANY(%s)",
            [ids[:2].tolist()],
        )
        connection.execute(
            "INSERT INTO q1.sed (object_id, flux, flux_error, origin) VALUES (%s, %s, %s, 'x')",
            [int(ids[1]), [1.0] * 8, [0.1] * 8],
        )
        sed = catalogue_seds(connection, ids)
        vis = dict(
            connection.execute(
                "SELECT object_id, flux_vis_2fwhm_aper FROM q1.mer_catalogue"
            ).fetchall()
        )
    assert np.isnan(sed[0, :, 0]).all()
    assert (sed[1, :, 0] == 1).all()
    assert np.allclose(sed[2:, 2, 0], [vis[int(one)] for one in ids[2:]], equal_nan=True)
    assert embed(sky_database, record, *REFERENCE).code == 0
    found = vectors(sky_database, record)
    flagged = {one for one, row in found.items() if row[1] & EmbeddingFlag.NO_SED}
    assert flagged == {int(ids[0])}
    assert len(found) == len(ids)


def test_status_retry_and_cancel(sky_database, encoder):
    planned = embed(sky_database, encoder, "--plan-only", "--chunk-size", 50)
    assert planned.code == 0
    shown = run(sky_database, "embed", "status", "--format", "csv")
    n = n_sources(sky_database)
    assert f"{encoder.name},pending,{states(sky_database)['pending'][0]},{n},0,0" in shown.out
    cancelled = run(sky_database, "embed", "cancel", "--encoder", encoder.name)
    assert cancelled.out.strip() == f"{n} sources taken out of the queue"
    assert embed(sky_database, encoder, "--no-plan").code == 0
    assert vectors(sky_database, encoder) == {}
    retried = run(sky_database, "embed", "retry")
    assert retried.out.strip() == "0 sources wait again; 0 left the quarantine"
    assert "queue" in run(sky_database, "embed", "--help").out


def test_an_encoder_that_is_not_there(sky_database):
    outcome = run(sky_database, "embed", "--encoder", "nothing")
    assert outcome.code == 1
    assert "no encoder 'nothing'" in outcome.err
    assert run(sky_database, "embed").code == 1


def test_a_device_that_is_not_there(sky_database, encoder):
    outcome = embed(sky_database, encoder, "--device", "cuda:99")
    assert outcome.code == 1
    assert "cuda:99" in outcome.err


def test_sigterm_hands_everything_back(sky_database, encoder):
    """Slurm sends it before it kills."""
    arguments = ("embed", "--encoder", encoder.name, *REFERENCE, "--chunk-size", 10, "--watch")
    with process(sky_database, *arguments) as running:
        deadline = time.monotonic() + 60
        while not states(sky_database).get("done") and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        running.wait(30)
    assert "running" not in states(sky_database)
    assert embed(sky_database, encoder, *REFERENCE).code == 0
    assert len(vectors(sky_database, encoder)) == n_sources(sky_database)


def test_watching_workers_take_what_comes_later(sky_database, encoder):
    settings = Settings(encoder.name, "cpu", watch=True)
    worker = make_worker(sky_database, settings, 1)
    import threading

    thread = threading.Thread(target=worker.run)
    thread.start()
    with connect(sky_database, autocommit=True) as connection:
        time.sleep(0.3)
        sources = plan(connection, encoder, size=30).sources
    deadline = time.monotonic() + 60
    while worker.counts.embedded < sources and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert len(vectors(sky_database, encoder)) == sources


class Spoiler:
    """An encoder that fails for one source, known by a value among its pixels."""

    def __init__(self, encoder, needle: float) -> None:
        self._encoder, self._needle = encoder, needle

    def __getattr__(self, name: str):
        return getattr(self._encoder, name)

    def embed(self, images, sed, pooling):
        if (images == np.float32(self._needle)).any():
            raise RuntimeError("a kernel choked")
        return self._encoder.embed(images, sed, pooling)


def test_a_source_that_breaks_the_encoder_is_found(sky_database, encoder):
    model, pooling = open_encoder(encoder, "cpu", "reference"), pooling_of(encoder)
    with connect(sky_database, autocommit=True) as connection:
        sources = plan(connection, encoder, size=1000).sources
        ((poison, ra, dec, tile),) = connection.execute(
            "SELECT object_id, right_ascension, declination, tile_index FROM astropt.source "
            "ORDER BY segmentation_area DESC LIMIT 1"
        ).fetchall()
        window = open_tile(connection, tile, ("VIS",), window=2).cutouts(
            np.array([poison]), np.array([ra]), np.array([dec])
        )
    spoiler = Spoiler(model, float(window.pixels[0, 0, 0, 0]))
    worker = Worker(sky_database, Queue(encoder, 1), spoiler, pooling, Inputs(model, pooling), 120)
    counts = worker.run()
    found = problems(sky_database)
    assert found[poison] == "error"
    # Neighbours whose windows hold the same pixel break it, too.
    assert len(found) < 20
    assert counts.problems == len(found)
    assert len(vectors(sky_database, encoder)) == sources - len(found)
    ((detail,),) = select(
        sky_database, "SELECT detail FROM astropt.embed_problem WHERE object_id = %s", [poison]
    )
    assert detail == "RuntimeError: a kernel choked"


def test_positions_come_from_the_catalogue_or_the_id(sky_database):
    with connect(sky_database) as connection:
        ((known, ra, dec),) = connection.execute(
            "SELECT object_id, right_ascension, declination FROM q1.mer_catalogue LIMIT 1"
        ).fetchall()
        found = positions(connection, np.array([-570040238507752998, known, 5]))
    assert np.allclose(found[0][:2], [57.0040238, ra])
    assert np.allclose(found[1][:2], [-50.7752998, dec])
    assert np.isnan(found[0][2])


@pytest.mark.skipif(not bundled_encoders(), reason="no encoders are bundled")
def test_a_real_cutout_gets_its_vectors_from_all_bundled_encoders(ready_database, real_data):
    """100 x 100 real pixels in four bands: the rest of the window is padding, and flagged."""
    object_id = -570040238507752998
    assert run(ready_database, "ingest", "cutouts", *real_data.glob("q1/cutout_8band*")).code == 0
    for name in bundled_encoders():
        outcome = run(ready_database, "embed", "--encoder", name, "--mode", "reference")
        assert outcome.code == 0, outcome.err
        with connect(ready_database) as connection:
            record = find_encoder(connection, name)
        found = vectors(ready_database, record)
        assert list(found) == [object_id]
        _, flags, missing = found[object_id]
        assert flags & EmbeddingFlag.PADDED
        assert flags & EmbeddingFlag.MANY_MISSING
        assert bool(flags & EmbeddingFlag.NO_SED) == ("sed" in name)
        assert 0.38 < missing < 0.9
    assert len(bundled_encoders()) == 3


def test_weights_of_the_same_layout_load(tmp_path):
    model = load_encoder(tiny_weights(tmp_path, 4, with_sed=True), "cpu")
    assert model.dim == DIMENSION
    assert model.window("paper", True) == 128
    assert model.window("mean") == 224
    images = np.random.default_rng(1).normal(size=(2, 4, 224, 224)).astype(np.float32)
    sed = np.ones((2, 8, 2), np.float32)
    middle = np.ascontiguousarray(images[:, :, 48:176, 48:176])
    assert np.array_equal(model.embed(images, sed), model.embed(middle, sed))
