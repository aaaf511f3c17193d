"""Similarity search beside what a user would pick instead, in one run on one server.

    python benchmarks/search.py                          # 100,000 x 768, everything
    python benchmarks/search.py --rows 400000 --home PATH --prepare --plain-memory 4GB
    python benchmarks/search.py --rows 400000 --home PATH --skip default-build

The second line loads and builds only, so that the third, of queries alone, is short. Rivals: FAISS
flat and HNSW (pip install faiss-cpu), pgvector as its documentation starts (``vector`` column,
every setting at its default; --plain-memory changes that of the build), the brute-force cosine of
the official scripts (scikit-learn), and NumPy over unit vectors. Each query is one object that asks
for its 10 nearest others; recall is against exact cosines of the stored (float16) vectors. Times
are medians over the queries after a first round that warms the caches, of one client, as the client
sees them; beside them the slowest 5 per cent, and the mean processor time of client and server
process (without parallel workers), which other work on the machine disturbs least. --like PATH.npy
prints how the local intrinsic dimension compares with that of real vectors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from search_rivals import ask_plain, build_faiss, in_memory, load_plain
from search_trial import Trial, head, intrinsic_dimension, make_ids, make_vectors, note, say

from astropt_db.database import migrate
from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.provenance import Run
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import copy_vectors
from astropt_db.search.indexes import IndexOptions, build_index
from astropt_db.search.recall import calibrate


def load(database: Database, ids: np.ndarray, vectors: np.ndarray) -> EncoderRecord:
    """Encoder, vectors and a catalogue row for each of them."""
    names = ("weights_sha256", "source", "preprocessing", "pooling", "card")
    values: dict[str, Any] = dict.fromkeys(names, Jsonb({})) | {
        "name": "bench", "modalities": "vis", "dimension": vectors.shape[1],
        "weights_sha256": "", "source": "", "run_id": None,
    }  # fmt: skip
    with connect(database, role=ADMIN) as connection, connection.cursor() as cursor:
        (number,) = cursor.execute(named_queries()["encoder_insert"], values).fetchone() or (0,)
        cursor.execute(named_queries()["encoder_partition"], {"id": number})
        cursor.execute(named_queries()["encoder_use"], {"id": number})
        encoder = find_encoder(connection, "bench")
        copy_vectors(cursor, encoder, 0, ids, vectors)
        cursor.execute(
            "INSERT INTO astropt.run (command, arguments, code_version, host, pid, state) "
            "VALUES ('bench', '{}', '', '', 0, 'done')"
        )
        cursor.execute(
            "INSERT INTO astropt.ingest_file (run_id, path, release, state) "
            "SELECT max(id), '', 'Q1', 'done' FROM astropt.run"
        )
        rng = np.random.default_rng(1)
        n = len(ids)
        (file_id,) = cursor.execute("SELECT max(id) FROM astropt.ingest_file").fetchone() or (0,)
        fields = [
            Field("object_id", "bigint", ids),
            Field("right_ascension", "double precision", 269.7 + rng.uniform(-1, 1, n)),
            Field("declination", "double precision", 66 + rng.uniform(-1, 1, n)),
            Field("healpix29", "bigint", rng.integers(1 << 60, size=n)),
            Field("vis_det", "smallint", np.ones(n, np.int16)),
            Field("flux_detection_total", "real", rng.uniform(1, 9, n)),
            Field("ingest_file_id", "bigint", np.full(n, file_id, np.int64)),
        ]
        copy_rows(cursor, sql.Identifier("q1", "mer_catalogue"), fields)
        connection.commit()
        connection.autocommit = True
        cursor.execute("VACUUM ANALYZE astropt.embedding, q1.mer_catalogue")
    return encoder


def ours(database: Database, encoder: EncoderRecord, trial: Trial, skip: set[str]) -> None:
    """Index by index: build if there is none, calibrate, ask."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        query = "SELECT object_id FROM astropt.similar(%s, 10, filter => %s, exact => %s)"

        def ask(row: int, allowed: str | None = None, exact: bool = False) -> list[int]:
            values = [int(trial.ids[row]), allowed, exact]
            return [one for (one,) in connection.execute(query, values, prepare=True).fetchall()]

        def alike(row: int) -> list[int]:
            return ask(row, "one_percent")

        pids = [connection.info.backend_pid]
        head("astropt.similar, the planner's choice")
        trial.run("ours, exact, 50 queries", lambda row: ask(row, exact=True), processes=pids,
                  queries=50)  # fmt: skip
        trial.run("ours, exact, 1 % filter", lambda row: ask(row, "one_percent", True),
                  filtered=True, processes=pids)  # fmt: skip
        for kind in ("halfvec", "bit"):
            if kind in skip:
                continue
            # So that this index is asked.
            connection.execute("DELETE FROM astropt.search_recall")
            number = build(database, connection, kind)
            for one in calibrate(database, "bench", kind, 200, new_run(database)):
                say(f"| (calibration {kind}: k {one.k}, ef {one.ef_search}) | {one.recall:.4f} | "
                    f"{one.fewest_rows} | {one.median_ms:.2f} | | |")  # fmt: skip
            with psycopg.connect(database.url) as fresh:
                plan = fresh.execute(
                    "SELECT method, ef_search, recall, few FROM astropt.search_plan(%s, 10)",
                    [encoder.id],
                ).fetchone()
            note(f"plan: {plan}, costs: {costs(connection, number)}")
            trial.run(f"ours, {kind}", ask, processes=pids)
            trial.run(f"ours, {kind}, 1 % filter", alike, filtered=True, processes=pids)
            if kind == "halfvec" and plan is not None:
                bare(database, encoder, trial, plan[1])
        if "default-build" not in skip:
            default_build(connection, encoder)


def build(database: Database, connection: psycopg.Connection, kind: str) -> int:
    """Number of the index of a kind, built if there is none."""
    query = "SELECT id FROM astropt.search_index WHERE kind = %s"
    found = connection.execute(query, [kind]).fetchone()
    if found is not None:
        note(f"{kind} index as it was built before: {size_of(connection, found[0])}")
        return int(found[0])
    built = build_index(database, "bench", IndexOptions(kind=kind), new_run(database))
    note(f"built {kind}: {built.seconds:.1f} s, {size_of(connection, built.id)}")
    return built.id


def bare(database: Database, encoder: EncoderRecord, trial: Trial, ef: int) -> None:
    """The least that an answer of this index costs: one prepared query, nothing but ids."""
    vector = sql.SQL("embedding::halfvec({})").format(sql.Literal(encoder.dimension))
    query = sql.SQL(
        "SELECT object_id FROM {0} ORDER BY {1} <=> (SELECT {1} FROM {0} WHERE object_id = %s) "
        "LIMIT 11"
    ).format(encoder.partition, vector)
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("SELECT '[1]'::vector")
        connection.execute("SELECT set_config('hnsw.ef_search', %s, false)", [str(ef)])

        def ask(row: int) -> list[int]:
            found = connection.execute(query, [int(trial.ids[row])], prepare=True).fetchall()
            return [one for (one,) in found if one != trial.ids[row]][:10]

        trial.run("the bare ORDER BY query, prepared", ask, processes=[connection.info.backend_pid])


def new_run(database: Database) -> Run:
    with connect(database, role=ADMIN) as connection:
        (number,) = connection.execute("SELECT max(id) FROM astropt.run").fetchone() or (0,)
    return Run(number)


def size_of(connection: psycopg.Connection, number: int) -> str:
    row = connection.execute(
        "SELECT build_seconds, size_bytes / 1000000, memory_bytes / 1048576, workers "
        "FROM astropt.search_index WHERE id = %s", [number]
    ).fetchone()  # fmt: skip
    assert row is not None
    return (f"{row[0]:.0f} s, {row[1]:.0f} MB, maintenance_work_mem {row[2]:.0f} MB, "
            f"{row[3]} workers")  # fmt: skip


def costs(connection: psycopg.Connection, number: int) -> str:
    row = connection.execute(
        "SELECT lookup_us, visit_us FROM astropt.search_index WHERE id = %s", [number]
    ).fetchone()
    assert row is not None
    return f"lookup {row[0]:.1f} us, visit {row[1]:.1f} us"


def default_build(connection: psycopg.Connection, encoder: EncoderRecord) -> None:
    """The same index as ours with PostgreSQL's default memory and workers."""
    connection.execute("SET maintenance_work_mem = '64MB'")
    connection.execute("SET max_parallel_maintenance_workers = 2")
    start = time.perf_counter()
    connection.execute(
        sql.SQL("CREATE INDEX by_default ON {} USING hnsw ((embedding::halfvec({})) "
                "halfvec_cosine_ops)").format(encoder.partition, sql.Literal(encoder.dimension))
    )  # fmt: skip
    note(f"the halfvec index by default settings: {time.perf_counter() - start:.1f} s")
    connection.execute("DROP INDEX astropt.by_default")


def prepare(database: Database, trial: Trial, vectors: np.ndarray, graph: Path,
            options: argparse.Namespace, skip: set[str]) -> EncoderRecord:  # fmt: skip
    """Load what is not there yet; with --prepare build the indexes as well."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        there = {
            name
            for name in ("astropt.embedding_1", "one_percent", "plain")
            if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,)
        }
        if "astropt.embedding_1" not in there:
            load(database, trial.ids, vectors)
        if "one_percent" not in there:
            connection.execute("CREATE TABLE one_percent (object_id bigint PRIMARY KEY)")
            with connection.cursor() as cursor:
                copy_rows(cursor, sql.Identifier("one_percent"),
                          [Field("object_id", "bigint", trial.ids[trial.allowed])])  # fmt: skip
            connection.execute("ANALYZE one_percent")
        if options.prepare:
            for kind in sorted({"halfvec", "bit"} - skip):
                build(database, connection, kind)
    if "plain" not in skip | there:
        load_plain(database, trial, vectors, options.plain_memory)
    if not skip & {"memory", "faiss-hnsw"} and not graph.exists():
        build_faiss(trial, graph)
    with connect(database, role=ADMIN) as connection:
        return find_encoder(connection, "bench")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.35, help="of the scatter of the vectors")
    parser.add_argument("--skip", default="", help="halfvec, bit, default-build, plain, memory, "
                        "faiss-hnsw; separated by commas")  # fmt: skip
    parser.add_argument("--like", type=Path, help="real vectors to compare with, .npy")
    parser.add_argument(
        "--home", type=Path, help="keep server and indexes here, and use them again"
    )
    parser.add_argument("--prepare", action="store_true", help="load and build only; needs --home")
    parser.add_argument("--plain-memory", default="64MB", help="to build the plain index")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    options = arguments()
    skip = set(options.skip.split(","))
    vectors = make_vectors(options.rows, options.dimension, 1, options.noise)
    ids, allowed = make_ids(options.rows)
    say(f"{options.rows:,} x {options.dimension}, load {os.getloadavg()[0]:.1f}, "
        f"{os.cpu_count()} cores, local intrinsic dimension "
        f"{intrinsic_dimension(vectors[:4000]):.1f} among 4,000")  # fmt: skip
    if options.like is not None:
        say(f"real vectors: {intrinsic_dimension(np.load(options.like)[:4000]):.1f}")
    trial = Trial(ids, vectors, options.queries, allowed)
    with tempfile.TemporaryDirectory(prefix="adb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        home = options.home or Path(folder) / "home"
        graph = Path(folder if options.home is None else f"{home}.faiss") / "graph.index"
        graph.parent.mkdir(exist_ok=True)
        server = EmbeddedServer(home)
        server.start()
        try:
            database = Database(server.url("bench"), server)
            server.create_database("bench")
            migrate.upgrade(database.url)
            encoder = prepare(database, trial, vectors, graph, options, skip)
            if not options.prepare:
                ours(database, encoder, trial, skip)
                if "plain" not in skip:
                    ask_plain(database, trial)
        finally:
            server.stop()
        if "memory" not in skip and not options.prepare:
            in_memory(trial, graph, skip)


if __name__ == "__main__":
    main()
