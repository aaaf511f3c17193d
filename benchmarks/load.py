"""Sixteen readers with and without writers: latencies of cone, similar and catalogue page.

    python benchmarks/load.py [--seconds 30] [--sources 20000]

The embedded server holds simulated positions and random vectors. Each reader takes one of the
three queries in turn, on a connection of its own, as a web page would; the writers load catalogue
files and vectors meanwhile, in the transactions that `ingest` and `embed` use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psycopg

from astropt_db.database import migrate
from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import find_encoder
from astropt_db.database.vectors import copy_vectors

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from q1_files import TILE, make_rows, write_product
from vector_database import add_encoder, add_vectors

READERS = 16
DIMENSION = 192
QUERIES = {
    "cone": "SELECT * FROM astropt.cone(%(ra)s, %(dec)s, 60.0 / 3600)",
    "similar": "SELECT * FROM astropt.similar(%(id)s, 20)",
    "catalogue page": "SELECT * FROM astropt.source WHERE object_id > %(id)s "
    "ORDER BY object_id LIMIT 50",
}


class Readers:
    """Threads that ask and note how long each answer took."""

    def __init__(self, url: str, rows: np.ndarray, queries: dict[str, str]) -> None:
        self.url, self.rows, self.queries = url, rows, queries
        self.times: dict[str, list[float]] = defaultdict(list)
        self.errors = 0
        self.lock = threading.Lock()

    def run(self, seconds: float) -> dict[str, np.ndarray]:
        self.times.clear()
        stop = time.monotonic() + seconds
        threads = [threading.Thread(target=self._read, args=(n, stop)) for n in range(READERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {name: np.array(times) for name, times in self.times.items()}

    def _read(self, number: int, stop: float) -> None:
        chance = np.random.default_rng(number)
        own: dict[str, list[float]] = defaultdict(list)
        names = list(self.queries)
        turn = number
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET ROLE astropt_reader")
            while time.monotonic() < stop:
                name = names[turn % len(names)]
                turn += 1
                object_id, ra, dec = self.rows[chance.integers(len(self.rows))]
                values = {"id": object_id, "ra": ra, "dec": dec}
                started = time.perf_counter()
                try:
                    connection.execute(self.queries[name], values).fetchall()
                except psycopg.Error:
                    with self.lock:
                        self.errors += 1
                    continue
                own[name].append(time.perf_counter() - started)
        with self.lock:
            for name, times in own.items():
                self.times[name] += times


def write_vectors(database: Database, stop: threading.Event, done: list[int]) -> None:
    """Vectors of a second encoder, a thousand in each transaction."""
    chance = np.random.default_rng(9)
    encoder = add_encoder(database, "second", DIMENSION)
    first = 0
    with psycopg.connect(database.url) as connection:
        encoder = find_encoder(connection, "second")
        while not stop.is_set():
            ids = np.arange(first, first + 1000)
            vectors = chance.normal(size=(1000, DIMENSION)).astype(np.float32)
            with connection.cursor() as cursor:
                copy_vectors(cursor, encoder, 0, ids, vectors)
            connection.commit()
            first += 1000
            done[0] = first


def ingest_files(database: Database, folder: Path, stop: threading.Event, done: list[int]) -> None:
    """New tiles, one command after another."""
    tile = TILE + 50
    while not stop.is_set():
        tile += 1
        place = folder / str(tile)
        write_product(place, "mer_catalogue", make_rows("mer_catalogue", 5000, tile), tile)
        subprocess.run(
            [sys.executable, "-m", "astropt_db", "ingest", "catalogue", str(place)],
            env=os.environ | {"ASTROPT_DB_URL": database.url},
            capture_output=True,
            check=True,
        )
        done[0] += 5000


def fill(database: Database, folder: Path, sources: int) -> np.ndarray:
    """Sources and vectors of one encoder; id and position of each source."""
    for tile in range(TILE, TILE + max(1, sources // 5000)):
        write_product(folder, "mer_catalogue", make_rows("mer_catalogue", 5000, tile), tile)
    subprocess.run(
        [sys.executable, "-m", "astropt_db", "ingest", "catalogue", str(folder)],
        env=os.environ | {"ASTROPT_DB_URL": database.url},
        check=True,
    )
    with psycopg.connect(database.url) as connection:
        rows = connection.execute(
            "SELECT object_id, right_ascension, declination FROM q1.mer_catalogue"
        ).fetchall()
    encoder = add_encoder(database, "first", DIMENSION, current=True)
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    vectors = np.random.default_rng(1).normal(size=(len(ids), DIMENSION)).astype(np.float32)
    add_vectors(database, encoder, ids, vectors)
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE q1.mer_catalogue, astropt.embedding")
    return np.array(rows, dtype=object)


def weigh(url: str, rows: int) -> None:
    """Bytes of a row of MER on disk; the values are random, which no compression shortens."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT pg_table_size('q1.mer_catalogue'), pg_indexes_size('q1.mer_catalogue')"
        ).fetchone()
    assert found is not None
    table, indexes = found
    print(f"q1.mer_catalogue: {table / rows:,.0f} B/row and {indexes / rows:,.0f} B/row of indexes")


def report(title: str, found: dict[str, np.ndarray], seconds: float) -> None:
    print(f"\n{title}")
    print("| query | per second | median, ms | 95 %, ms | 99 %, ms | slowest, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, times in found.items():
        p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1e3
        rate = len(times) / seconds
        print(
            f"| {name} | {rate:.0f} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {times.max() * 1e3:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--sources", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adb-") as name:
        Path(name).chmod(0o755)
        server = EmbeddedServer(Path(name) / "home")
        server.start()
        try:
            server.create_database("load")
            database = Database(server.url("load"))
            migrate.upgrade(database.url)
            rows = fill(database, Path(name) / "files", options.sources)
            readers = Readers(database.url, rows, QUERIES)
            weigh(database.url, len(rows))
            readers.run(3)
            print(f"{len(rows):,} sources, {DIMENSION} dimensions, {READERS} readers")
            report("Readers alone", readers.run(options.seconds), options.seconds)
            stop, vectors, catalogue = threading.Event(), [0], [0]
            writers = [
                threading.Thread(target=write_vectors, args=(database, stop, vectors)),
                threading.Thread(
                    target=ingest_files, args=(database, Path(name) / "more", stop, catalogue)
                ),
            ]
            for writer in writers:
                writer.start()
            report("With both writers", readers.run(options.seconds), options.seconds)
            stop.set()
            for writer in writers:
                writer.join()
            print(
                f"\nmeanwhile {vectors[0]:,} vectors and {catalogue[0]:,} catalogue rows were "
                f"written; {readers.errors} errors"
            )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
