"""What a row costs: vectors by COPY, their disk, their HNSW index, from 10⁴ to 10⁶ rows.

    python benchmarks/scale.py [--rows 10000 100000 1000000] [--index-rows 10000 100000]

docs/howto/scale.md projects a whole survey from these figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from astropt_db.database import migrate
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import find_encoder
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import copy_vectors

DIMENSION = 192
BLOCK = 10_000


def add_encoder(connection: psycopg.Connection, name: str) -> int:
    values = dict.fromkeys(("preprocessing", "pooling", "card"), "{}")
    row = connection.execute(
        named_queries()["encoder_insert"],
        values
        | {
            "name": name,
            "modalities": "vis",
            "dimension": DIMENSION,
            "weights_sha256": "",
            "source": "benchmark",
            "run_id": None,
        },
    ).fetchone()
    assert row is not None
    connection.execute(named_queries()["encoder_partition"], {"id": row[0]})
    return int(row[0])


def size(connection: psycopg.Connection, function: str, relation: str) -> int:
    query = sql.SQL("SELECT {}(%s::regclass)").format(sql.Identifier(function))
    row = connection.execute(query, [relation]).fetchone()
    assert row is not None
    return int(row[0])


def load(connection: psycopg.Connection, rows: int, index: bool) -> str:
    """Load ``rows`` vectors in blocks, each committed; a line of the table."""
    number = add_encoder(connection, f"rows{rows}")
    encoder = find_encoder(connection, f"rows{rows}")
    chance = np.random.default_rng(1)
    # A low-dimensional cloud, as embeddings are: pure noise has no neighbours to find.
    basis = chance.normal(size=(16, DIMENSION))
    taken = 0.0
    for first in range(0, rows, BLOCK):
        count = min(BLOCK, rows - first)
        vectors = chance.normal(size=(count, 16)) @ basis
        vectors += 0.1 * chance.normal(size=(count, DIMENSION))
        started = time.perf_counter()
        with connection.cursor() as cursor:
            ids = np.arange(first, first + count)
            copy_vectors(cursor, encoder, 0, ids, vectors.astype(np.float32))
        connection.commit()
        taken += time.perf_counter() - started
    table = f"astropt.embedding_{number}"
    heap = size(connection, "pg_table_size", table) / rows
    key = size(connection, "pg_indexes_size", table) / rows
    line = f"| {rows:,} | {rows / taken:,.0f} | {heap:.0f} | {key:.0f} |"
    if not index:
        return line + " | |"
    connection.execute("SET maintenance_work_mem = '1GB'")
    started = time.perf_counter()
    connection.execute(
        sql.SQL(
            "CREATE INDEX ON {} USING hnsw ((embedding::halfvec(192)) halfvec_cosine_ops)"
        ).format(sql.Identifier("astropt", f"embedding_{number}"))
    )
    connection.commit()
    taken = time.perf_counter() - started
    own = size(connection, "pg_indexes_size", table) / rows - key
    return line + f" {taken:.1f} | {own:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--index-rows", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adb-") as name:
        Path(name).chmod(0o755)
        server = EmbeddedServer(Path(name) / "home")
        server.start()
        try:
            server.create_database("scale")
            migrate.upgrade(server.url("scale"))
            print("| rows | COPY, rows/s | table, B/row | key, B/row | HNSW, s | HNSW, B/row |")
            print("|---:|---:|---:|---:|---:|---:|")
            with psycopg.connect(server.url("scale")) as connection:
                for rows in options.rows:
                    print(load(connection, rows, rows in options.index_rows), flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
