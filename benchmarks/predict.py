"""How fast heads learn and predict: a linear head on 300,000 x 768, and sources per second.

    python benchmarks/predict.py [--rows 300000] [--dimension 768] [--rival]

Everything goes through the command line and an embedded server, as a user has it; times and peak
memory are those of the command's process, its start included. Rates without reading and writing
are measured in this process on vectors in memory. Rival: scikit-learn's Ridge on the same matrix
in memory, one penalty, as a notebook would have it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from astropt_db.database import migrate
from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import find_encoder
from astropt_db.database.resources import named_queries
from astropt_db.database.split import split_of
from astropt_db.database.vectors import copy_vectors
from astropt_db.predict.features import Batch
from astropt_db.predict.store import find

FIRST_ID = 2_697_000_000_000_000_000
BLOCK = 20_000
HIDDEN = 64
"""Directions that vectors differ in most, as in those of an encoder."""


def draw(rows: int) -> np.ndarray:
    """Ids: as many to learn from as asked for, and a thirtieth each to calibrate and to test."""
    ids = FIRST_ID + np.arange(2 * rows + 1000, dtype=np.int64)
    split = split_of(ids)
    few = max(rows // 30, 100)
    chosen = [
        ids[split == "train"][:rows],
        ids[split == "calibration"][:few],
        ids[split == "test"][:few],
    ]
    return np.sort(np.concatenate(chosen))


def fill(database: Database, ids: np.ndarray, dimension: int) -> None:
    """Vectors, and a redshift hidden in them, as a label set."""
    rng = np.random.default_rng(1)
    basis = rng.standard_normal((HIDDEN, dimension), np.float32) / np.float32(dimension**0.5)
    names = ("preprocessing", "pooling", "card")
    values: dict[str, Any] = dict.fromkeys(names, Jsonb({})) | {
        "name": "bench", "modalities": "vis", "dimension": dimension,
        "weights_sha256": "", "source": "", "run_id": None,
    }  # fmt: skip
    with connect(database, role=ADMIN) as connection, connection.cursor() as cursor:
        (number,) = cursor.execute(named_queries()["encoder_insert"], values).fetchone() or (0,)
        cursor.execute(named_queries()["encoder_partition"], {"id": number})
        cursor.execute(named_queries()["encoder_use"], {"id": number})
        encoder = find_encoder(connection, "bench")
        (labels,) = cursor.execute(
            "INSERT INTO astropt.label_set (name, source, column_names, categories, n_read, "
            "n_selected, n_matched) VALUES ('truth', '', ARRAY['z'], '{}', 0, 0, %s) RETURNING id",
            [len(ids)],
        ).fetchone() or (0,)
        for start in range(0, len(ids), BLOCK):
            some = ids[start : start + BLOCK]
            n = len(some)
            hidden = rng.standard_normal((n, HIDDEN), np.float32)
            vectors = hidden @ basis + 0.1 * rng.standard_normal((n, dimension), np.float32)
            z = 0.6 + 0.1 * hidden[:, :8].sum(axis=1) + 0.02 * rng.standard_normal(n)
            copy_vectors(cursor, encoder, 0, some, vectors)
            copy_rows(cursor, sql.Identifier("astropt", "label"), [
                Field("label_set_id", "integer", np.full(n, labels, np.int32)),
                Field("object_id", "bigint", some),
                Field("values", "double precision[]", np.clip(z, 0.01, None)[:, None]),
            ])  # fmt: skip
        cursor.execute(
            "INSERT INTO astropt.label_set (name, source, column_names, categories, n_read, "
            "n_selected, n_matched) VALUES ('few', '', ARRAY['z'], '{}', 0, 0, 5000)"
        )
        cursor.execute(
            'INSERT INTO astropt.label (label_set_id, object_id, "values") SELECT currval('
            "pg_get_serial_sequence('astropt.label_set', 'id')), object_id, \"values\" "
            "FROM astropt.label ORDER BY object_id LIMIT 5000"
        )
        connection.commit()
        connection.autocommit = True
        cursor.execute("VACUUM ANALYZE astropt.embedding, astropt.label")


def command(database: Database, *arguments: str) -> str:
    """Run a verb; prints its time and peak memory, returns its output."""
    line = [sys.executable, "-m", "astropt_db", *arguments, "--db", database.url]
    started = time.perf_counter()
    child = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    print(f"{' '.join(arguments)}: {seconds:.1f} s, peak {usage.ru_maxrss / 1024**2:.2f} GB")
    print("    " + out.strip().replace("\n", "\n    "), flush=True)
    return out


def rate(database: Database, number: int, dimension: int) -> None:
    """Sources per second without reading and writing."""
    with connect(database, role=ADMIN) as connection:
        predictor = find(connection, "photoz", number).predictor
    vectors = np.random.default_rng(2).standard_normal((50_000, dimension), np.float32)
    ids, none = np.arange(len(vectors)), np.empty((len(vectors), 0), np.float32)
    batch = Batch(ids, (vectors / dimension**0.5).astype(np.float16), none)
    predictor.predict(batch.take(slice(0, 4096)))
    found = []
    for _ in range(3):
        started = time.perf_counter()
        for start in range(0, len(batch), 16_384):
            predictor.predict(batch.take(slice(start, start + 16_384)))
        found.append(len(batch) / (time.perf_counter() - started))
    print(f"{predictor.head}: {np.median(found):,.0f} sources/s without reading and writing "
          f"({min(found):,.0f}-{max(found):,.0f})", flush=True)  # fmt: skip


def rival(rows: int, dimension: int) -> None:
    """scikit-learn's Ridge, the matrix already in memory."""
    from sklearn.linear_model import Ridge

    x = np.random.default_rng(3).standard_normal((rows, dimension), np.float32)
    started = time.perf_counter()
    Ridge(1.0).fit(x, x[:, 0])
    print(f"scikit-learn Ridge, one penalty, in memory: {time.perf_counter() - started:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--rival", action="store_true", help="Ridge in memory, too.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adb-") as folder:
        server = EmbeddedServer(Path(folder) / "home")
        server.start()
        try:
            server.create_database("bench")
            database = Database(server.url("bench"), server)
            migrate.upgrade(database.url)
            ids = draw(options.rows)
            fill(database, ids, options.dimension)
            print(f"{len(ids):,} vectors of {options.dimension}, {options.rows:,} to learn from")
            train = ("train", "photoz", "--features", "embedding", "--labels")
            command(database, *train, "truth", "--head", "linear")
            command(database, *train, "few", "--head", "mlp")
            for number in (1, 2):
                rate(database, number, options.dimension)
            for number in (1, 2):
                command(database, "predict", "photoz", "--predictor", str(number))
        finally:
            server.stop()
    if options.rival:
        rival(options.rows, options.dimension)


if __name__ == "__main__":
    main()
