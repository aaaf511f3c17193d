"""The embedding worker beside the encoder alone, a user's own script, and the queue's cost.

    python benchmarks/embed.py --sky SKY            everything
    python benchmarks/embed.py --sky SKY --only rate

SKY is a folder that ``astropt-db simulate`` wrote. What is compared runs in turn, in the same run,
on the same sources; ratios are taken round by round. Parts:

rate    mosaics on disk to committed vectors, against the encoder on windows in memory
script  what a user would write: Cutout2D for each source and band, torch in a loop, one INSERT
        for each vector; the model over the whole sequence of patches, as the official code runs
        it, and over the 64 that the paper's vector needs, as only our encoder does
write   committing vectors of 768 numbers, fence included; a bare binary COPY of the same rows into
        a table without index or check; two such workers at once
queue   claim, heartbeat and finish of empty chunks with up to 1,000 workers holding chunks
scale   one worker against two, each with one thread, and their memory; the same for processes that
        only encode
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import numpy as np
import psycopg
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from psycopg import sql

from astropt_db.astropt import load_encoder
from astropt_db.database import migrate
from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.provenance import recorded_run
from astropt_db.embed.job import Settings, make_worker, run_processes
from astropt_db.embed.outcome import Outcome
from astropt_db.embed.queue import Chunk, Queue, plan
from astropt_db.encoders.registry import add_encoder, open_encoder
from astropt_db.images.registered import find_places, read_cutouts, tile_mosaics

WORKERS = (1, 10, 100, 1000)


@contextmanager
def prepared(sky: Path, names: list[str]) -> Iterator[Database]:
    """A fresh private server with the sky's catalogue and mosaics, and the encoders."""
    with tempfile.TemporaryDirectory(prefix="adb-") as folder:
        server = EmbeddedServer(Path(folder) / "home")
        server.start()
        try:
            server.create_database("astropt")
            database = Database(server.url("astropt"))
            migrate.upgrade(database.url)
            for kind, inside in (("catalogue", "catalogs/MER_FINAL_CATALOG"), ("mosaics", "MER")):
                command = [sys.executable, "-m", "astropt_db", "ingest", kind, str(sky / inside)]
                subprocess.run([*command, "--db", database.url], check=True, capture_output=True)
            for name in names:
                add_encoder(database, name)
            yield database
        finally:
            server.stop()


def some_sources(database: Database, n: int) -> np.ndarray:
    """Sources of one tile, so that its strips are dense as in a real run."""
    with connect(database) as connection:
        rows = connection.execute(
            "SELECT object_id FROM astropt.image_place WHERE tile = (SELECT min(tile) "
            "FROM q1.mosaic) ORDER BY declination LIMIT %s", [n]).fetchall()  # fmt: skip
    return np.array([row[0] for row in rows], np.int64)


def clear(database: Database, record: EncoderRecord, ids: np.ndarray, size: int) -> None:
    """Plan the sources anew."""
    with connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM astropt.embed_chunk")
        connection.execute("DELETE FROM astropt.embedding")
        plan(connection, record, ids, size)


def rate(database: Database, name: str, ids: np.ndarray, rounds: int) -> float:
    """End to end against the encoder alone; the best end-to-end rate."""
    with connect(database) as connection:
        record = find_encoder(connection, name)
        encoder = open_encoder(record, "cpu")
        bands = ("VIS", "NIR_Y", "NIR_J", "NIR_H")[: len(encoder.bands)]
        with_sed = encoder.takes_sed
        side = encoder.window("paper", with_sed)
        windows = read_cutouts(connection, ids, bands, np.nan, side).pixels
    sed = np.ones((len(ids), 8, 2), np.float32) if with_sed else None
    encoder.embed(windows[:64], None if sed is None else sed[:64])
    alone, whole = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        encoder.embed(windows, sed)
        alone.append(len(ids) / (time.perf_counter() - started))
        clear(database, record, ids, 1000)
        worker = make_worker(database, Settings(name, "cpu"), 1)
        started = time.perf_counter()
        counts = worker.run()
        whole.append(len(ids) / (time.perf_counter() - started))
        assert counts.embedded == len(ids), counts
    ratios = [one / other for one, other in zip(whole, alone, strict=True)]
    print(f"{name:<18} encoder alone {statistics.median(alone):6.0f}/s   end to end "
          f"{statistics.median(whole):6.0f}/s   ratio {spread(ratios)}")  # fmt: skip
    return max(whole)


def script(database: Database, name: str, ids: np.ndarray, rounds: int, pooling: str) -> None:
    """A user's own script on the same sources, against the worker.

    ``mean`` needs all patches, which takes the time of the official code's way to the paper's
    vector: it averages 64 of the outputs after computing all.
    """
    with connect(database, autocommit=True) as connection:
        record = find_encoder(connection, name)
        encoder = open_encoder(record, "cpu")
        bands = ("VIS", "NIR_Y", "NIR_J", "NIR_H")[: len(encoder.bands)]
        places = find_places(connection, ids)
        paths = {one.band: one.uri for one in tile_mosaics(connection, int(places.tile[0]), bands)}
        connection.execute("CREATE TABLE theirs (object_id bigint PRIMARY KEY, embedding vector)")
        ratios, rates = [], []
        for _ in range(rounds):
            connection.execute("TRUNCATE theirs")
            started = time.perf_counter()
            tile = {}
            for band in bands:
                hdus = fits.open(paths[band], memmap=True)
                tile[band] = hdus[0].data, WCS(hdus[0].header)
            for number, one in enumerate(ids.tolist()):
                where = SkyCoord(places.ra[number], places.dec[number], unit="deg")
                stamps = [
                    Cutout2D(*(tile[band][0], where, (224, 224)), wcs=tile[band][1],
                             mode="partial", fill_value=np.nan).data
                    for band in bands
                ]  # fmt: skip
                image = np.ascontiguousarray(np.stack(stamps), np.float32)[None]
                vector = encoder.embed(image, pooling=pooling)[0]
                connection.execute("INSERT INTO theirs VALUES (%s, %s)",
                                   [one, str(vector.tolist())])  # fmt: skip
            theirs = len(ids) / (time.perf_counter() - started)
            clear(database, record, ids, 1000)
            worker = make_worker(database, Settings(name, "cpu"), 1)
            started = time.perf_counter()
            worker.run()
            ours = len(ids) / (time.perf_counter() - started)
            ratios.append(ours / theirs)
            rates.append((ours, theirs))
        connection.execute("DROP TABLE theirs")
    ours, theirs = rates[-1]
    patches = {"mean": "all", "paper": "64"}[pooling]
    print(f"{name:<18} script, {patches:>3} patches {theirs:6.1f}/s   worker {ours:6.1f}/s   "
          f"ratio {spread(ratios)}")  # fmt: skip


def fake_encoder(database: Database, dimension: int) -> EncoderRecord:
    """An encoder's row and partition without weights."""
    name = f"fake-{uuid.uuid4()}"
    with connect(database, autocommit=True, role=ADMIN) as connection:
        connection.execute(
            "INSERT INTO astropt.encoder (name, modalities, dimension, weights_sha256, source, "
            "preprocessing, pooling, card) VALUES (%s, 'vis', %s, '', '', '{}', '{}', '{}')",
            [name, dimension])  # fmt: skip
        record = find_encoder(connection, name)
        connection.execute("SELECT astropt.create_embedding_partition(%s)", [record.id])
    return record


def write(database: Database, chunk: int, rounds: int) -> None:
    """Commit chunks of vectors of 768 numbers as the worker does, beside a bare COPY."""
    record = fake_encoder(database, 768)
    rng = np.random.default_rng(1)
    n, rates, bare = 20_000, [], []
    vectors = rng.normal(size=(chunk, 768)).astype(np.float16)
    with (
        connect(database, autocommit=True, role=ADMIN) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS astropt.bare (object_id bigint, embedding halfvec)"
        )
        for number in range(rounds):
            ids = np.arange(n, dtype=np.int64) + number * n + 10**15
            started = time.perf_counter()
            for first in range(0, n, chunk):
                copy_rows(cursor, sql.Identifier("astropt", "bare"), [
                    Field("object_id", "bigint", ids[first : first + chunk]),
                    Field("embedding", "halfvec", vectors),
                ])  # fmt: skip
            bare.append(n / (time.perf_counter() - started))
            cursor.execute("TRUNCATE astropt.bare")
            add_chunks(connection, record, n // chunk, chunk)
            rates.append(store(connection, record, ids, vectors))
    ratios = [one / other for one, other in zip(rates, bare, strict=True)]
    print(f"chunks of {chunk:<6} {statistics.median(rates):8,.0f} vectors/s "
          f"({min(rates):,.0f}-{max(rates):,.0f}), each chunk committed and fenced; bare COPY "
          f"{statistics.median(bare):,.0f}/s, ratio {spread(ratios)}")  # fmt: skip


def write_at_once(database: Database, chunk: int, rounds: int, workers: int = 2) -> None:
    """The same from several connections, which share the server's processors."""
    record = fake_encoder(database, 768)
    vectors = np.random.default_rng(1).normal(size=(chunk, 768)).astype(np.float16)
    n, rates = 20_000, []

    def work(number: int) -> None:
        with connect(database, autocommit=True) as connection:
            store(connection, record, np.arange(n, dtype=np.int64) + number * n + 10**15, vectors)

    for turn in range(rounds):
        with connect(database, autocommit=True) as connection:
            add_chunks(connection, record, workers * n // chunk, chunk)
        threads = [Thread(target=work, args=(turn * workers + one,)) for one in range(workers)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates.append(workers * n / (time.perf_counter() - started))
    print(f"{workers} workers       {statistics.median(rates):8,.0f} vectors/s together "
          f"({min(rates):,.0f}-{max(rates):,.0f})")  # fmt: skip


def add_chunks(connection: psycopg.Connection, record: EncoderRecord, n: int, size: int) -> None:
    """Chunks that wait."""
    connection.execute(
        "INSERT INTO astropt.embed_chunk (encoder_id, object_ids, n_sources) SELECT "
        "%s, '{}', %s FROM generate_series(1, %s)", [record.id, size, n])  # fmt: skip


def store(
    connection: psycopg.Connection, record: EncoderRecord, ids: np.ndarray, vectors: np.ndarray
) -> float:
    """Claim a chunk for each part of the ids and commit its vectors; vectors per second."""
    queue, chunk = Queue(record, 1), len(vectors)
    outcomes = []
    for first in range(0, len(ids), chunk):
        outcome = Outcome.of(ids[first : first + chunk], vectors.shape[1])
        outcome.put(np.arange(chunk), vectors)
        outcome.empty[:] = False
        outcomes.append(outcome)
    started = time.perf_counter()
    for outcome in outcomes:
        claimed = queue.claim(connection)
        assert claimed is not None
        assert queue.finish(connection, claimed, outcome)
    return len(ids) / (time.perf_counter() - started)


def queue(database: Database, worker_rate: float) -> None:
    """Claims of up to 1,000 workers: all but one hold a chunk while that one takes the next."""
    record = fake_encoder(database, 8)
    with connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO astropt.embed_chunk (encoder_id, tile, object_ids, n_sources) SELECT %s, "
            "n / 20, ARRAY(SELECT generate_series(n * 1000::bigint, n * 1000::bigint + 999)), 1000 "
            "FROM generate_series(1, 20000) AS n", [record.id])  # fmt: skip
        connection.execute("ANALYZE astropt.embed_chunk")
        empty = Outcome.of(np.empty(0, np.int64), 8)
        for n_workers in WORKERS:
            workers = [Queue(record, 1) for _ in range(n_workers)]
            held: list[Chunk | None] = [one.claim(connection) for one in workers]
            cycles = 1500
            started = time.perf_counter()
            for number in range(cycles):
                place = number % n_workers
                owner, chunk = workers[place], held[place]
                assert chunk is not None
                owner.heartbeat(connection)
                assert owner.finish(connection, chunk, empty)
                held[place] = owner.claim(connection, chunk.tile)
            each = (time.perf_counter() - started) / cycles
            share = 100 * each / (1000 / worker_rate)
            for owner in workers:
                owner.release(connection)
            print(f"{n_workers:>5} workers: {1e3 * each:5.2f} ms for claim, heartbeat and finish "
                  f"of a chunk; {share:.3f} % of the time of a worker with {worker_rate:.0f} "
                  f"sources/s; one connection serves {1 / each:,.0f} chunks/s")  # fmt: skip


def scale(database: Database, name: str, ids: np.ndarray) -> None:
    """Rates of one and of two workers with a thread each, from first claim to last commit."""
    rates = {}
    for workers in (1, 2):
        with connect(database) as connection:
            record = find_encoder(connection, name)
        clear(database, record, ids, 50)
        settings = Settings(name, "cpu", threads=1)
        with recorded_run(database, "benchmark", {}) as run:
            run_processes(database, settings, run.id, workers, lambda: 0)
        with connect(database) as connection:
            ((seconds, used),) = connection.execute(
                "SELECT extract(epoch FROM max(ended_at) - max(first))::float8, count(DISTINCT "
                "worker) FROM (SELECT *, min(started_at) OVER (PARTITION BY worker) AS first "
                "FROM astropt.embed_chunk) AS c").fetchall()  # fmt: skip
            ((late,),) = connection.execute(
                "SELECT sum(n_sources) FROM astropt.embed_chunk WHERE started_at >= (SELECT "
                "max(first) FROM (SELECT min(started_at) AS first FROM astropt.embed_chunk "
                "GROUP BY worker) AS c)").fetchall()  # fmt: skip
        rates[workers] = late / seconds
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{name:<18} {used} workers, one thread each: {rates[workers]:6.0f}/s while all "
              f"work, largest worker {peak:,.0f} MB")  # fmt: skip
    alone = {workers: encoders_alone(name, workers) for workers in (1, 2)}
    print(f"{'':<18} two / one: {rates[2] / rates[1]:.2f}; the same for processes that only encode "
          f"windows in memory: {alone[2] / alone[1]:.2f}")  # fmt: skip


def encoders_alone(name: str, processes: int, batches: int = 12) -> float:
    """Images per second of processes that encode the same windows again and again."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return sum(pool.map(encode_alone, [name] * processes, [batches] * processes))


def encode_alone(name: str, batches: int) -> float:
    """Images per second of this process with one thread, after a batch to get ready."""
    torch.set_num_threads(1)
    encoder = load_encoder(name)
    windows = np.random.default_rng(0).normal(size=(64, encoder.preprocessing.bands, 224, 224))
    encoder.embed(windows.astype(np.float32))
    started = time.perf_counter()
    for _ in range(batches):
        encoder.embed(windows.astype(np.float32))
    return batches * len(windows) / (time.perf_counter() - started)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sky", type=Path, required=True, help="a simulated release")
    parser.add_argument("--sources", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoders", default="mini-vis,mini-vis_nisp")
    parser.add_argument("--only", default="rate,script,write,queue,scale")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    names, parts = options.encoders.split(","), options.only.split(",")
    with prepared(options.sky, names) as database:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load "
              f"{os.getloadavg()[0]:.1f}, {options.sources} sources of one tile\n")  # fmt: skip
        ids = some_sources(database, options.sources)
        best = 100.0
        if "rate" in parts:
            best = max(rate(database, name, ids, options.rounds) for name in names)
        if "script" in parts:
            for name in names:
                for pooling in ("mean", "paper"):
                    script(database, name, ids[:300], options.rounds, pooling)
        if "write" in parts:
            for size in (1000, 5000):
                write(database, size, 3)
            write_at_once(database, 1000, 3)
        if "queue" in parts:
            queue(database, best)
        if "scale" in parts:
            scale(database, names[0], ids)


if __name__ == "__main__":
    main()
