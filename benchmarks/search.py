"""Similarity search beside what a user would pick instead, in one run on one server.

    python benchmarks/search.py                          # 100,000 x 768, everything
    python benchmarks/search.py --rows 400000 --skip plain,faiss-hnsw,default-build

Rivals: FAISS flat and HNSW (pip install faiss-cpu), pgvector as its documentation starts
(``vector`` column, every setting at its default), the brute-force cosine of the official scripts
(scikit-learn), and NumPy over unit vectors. Each query is one object that asks for its 10 nearest
others; recall is against exact cosines of the stored (float16) vectors. Times are medians over
the queries after a first round that warms the caches, of one client, as the client sees them;
beside them the fastest 5 per cent, and the mean processor time of client and server process
(without parallel workers), which other work on the machine disturbs least.

The vectors imitate those of the encoders: clusters of low rank with a spectrum that falls as a
power law, far from the origin, with noise in all dimensions; --like PATH.npy prints how their
local intrinsic dimension compares with that of real vectors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from astropt_db.database import migrate
from astropt_db.database.connect import Database, connect
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.provenance import Run
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import copy_vectors
from astropt_db.search.exact import unit
from astropt_db.search.indexes import IndexOptions, build_index
from astropt_db.search.recall import calibrate

K = 10
FIRST_ID = 2_697_000_000_000_000_000


def make_vectors(n: int, dimension: int, seed: int, noise: float) -> np.ndarray:
    """Vectors like an encoder's, float16 (n, dimension)."""
    rng = np.random.default_rng(seed)
    latent = 48
    spectrum = np.arange(1, latent + 1) ** -0.8
    basis = np.linalg.qr(rng.normal(size=(dimension, latent)))[0].T.astype(np.float32)
    centres = rng.normal(size=(300, latent)) * spectrum
    share = rng.dirichlet(np.full(300, 0.7))
    points = centres[rng.choice(300, n, p=share)] + 0.6 * spectrum * rng.normal(size=(n, latent))
    scale = float(np.sqrt((points**2).sum(axis=1).mean()))
    mean = rng.normal(size=dimension)
    mean *= 1.5 * scale / np.linalg.norm(mean)
    vectors = np.empty((n, dimension), np.float16)
    for start in range(0, n, 20_000):
        part = slice(start, start + 20_000)
        block = points[part].astype(np.float32) @ basis + mean.astype(np.float32)
        block += rng.standard_normal(block.shape, np.float32) * (noise * scale / dimension**0.5)
        vectors[part] = block
    return vectors


def intrinsic_dimension(vectors: np.ndarray, k: int = 20, queries: int = 500) -> float:
    """Local intrinsic dimension on the sphere (Levina & Bickel 2004), mean over some rows."""
    rows = unit(vectors)
    chosen = np.linspace(0, len(rows) - 1, min(queries, len(rows))).astype(int)
    similarity = np.sort(rows[chosen] @ rows.T, axis=1)[:, -k - 1 : -1]
    distance = np.sqrt(np.maximum(2 - 2 * similarity, 1e-9))
    return float(1 / np.mean(np.log(distance[:, :1] / distance[:, 1:]).mean(axis=1)))


class Trial:
    """Queries, the truth, and the table of results."""

    def __init__(self, ids: np.ndarray, vectors: np.ndarray, queries: int, allowed: np.ndarray):
        self.ids, self.unit = ids, unit(vectors)
        self.allowed = allowed
        self.chosen = np.random.default_rng(3).choice(len(ids), queries, replace=False)
        similarity = self.unit[self.chosen] @ self.unit.T
        similarity[np.arange(queries), self.chosen] = -np.inf
        self.truth = np.sort(similarity, axis=1)[:, -K:]
        similarity[:, ~allowed] = -np.inf
        self.truth_allowed = np.sort(similarity, axis=1)[:, -K:]
        self.place = {one: i for i, one in enumerate(ids.tolist())}

    def run(
        self, name: str, ask: Callable[[int], Iterable[int]], filtered: bool = False,
        rounds: int = 2, processes: Iterable[int] = (),
    ) -> None:  # fmt: skip
        """Time a way of asking (row number to ids), and compare with the truth."""
        truth = self.truth_allowed if filtered else self.truth
        for _ in range(rounds):
            seconds, recalls, rows = [], [], []
            before = processor_seconds(processes)
            for number, row in enumerate(self.chosen.tolist()):
                start = time.perf_counter()
                found = list(ask(row))
                seconds.append(time.perf_counter() - start)
                similarity = self.unit[[self.place[one] for one in found]] @ self.unit[row]
                recalls.append((similarity >= truth[number, 0] - 1e-6).sum() / K)
                rows.append(len(found))
            used = (processor_seconds(processes) - before) / len(seconds)
        say(
            f"| {name} | {np.mean(recalls):.4f} | {min(rows)} | {1000 * np.median(seconds):.2f} | "
            f"{1000 * np.percentile(seconds, 5):.2f} | {1000 * used:.2f} |"
        )


def head(title: str) -> None:
    say(f"\n{title}\n\n| way | recall@10 | fewest rows | median, ms | 5 %, ms | processor, ms |")
    say("|---|---:|---:|---:|---:|---:|")


def processor_seconds(processes: Iterable[int]) -> float:
    """Processor time so far of this process and of server processes."""
    others = (psutil.Process(pid).cpu_times() for pid in processes)
    return time.process_time() + sum(used.user + used.system for used in others)


def say(text: str) -> None:
    print(text, flush=True)


def load(database: Database, ids: np.ndarray, vectors: np.ndarray) -> EncoderRecord:
    """Encoder, vectors and a catalogue row for each of them."""
    names = ("weights_sha256", "source", "preprocessing", "pooling", "card")
    values: dict[str, Any] = dict.fromkeys(names, Jsonb({})) | {
        "name": "bench", "modalities": "vis", "dimension": vectors.shape[1],
        "weights_sha256": "", "source": "", "run_id": None,
    }  # fmt: skip
    with connect(database) as connection, connection.cursor() as cursor:
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
    """Index by index: build, calibrate, ask."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        allowed = sql.SQL("CREATE TABLE one_percent (object_id bigint PRIMARY KEY)")
        connection.execute(allowed)
        with connection.cursor() as cursor:
            copy_rows(cursor, sql.Identifier("one_percent"),
                      [Field("object_id", "bigint", trial.ids[trial.allowed])])  # fmt: skip
        connection.execute("ANALYZE one_percent")

        query = "SELECT object_id FROM astropt.similar(%s, 10, filter => %s)"

        def ask(row: int, allowed: str | None = None) -> list[int]:
            found = connection.execute(query, [int(trial.ids[row]), allowed], prepare=True)
            return [one for (one,) in found.fetchall()]

        def alike(row: int) -> list[int]:
            return ask(row, "one_percent")

        pids = [connection.info.backend_pid]
        head("astropt.similar, the planner's choice")
        trial.run("ours, exact (no index)", ask, rounds=1, processes=pids)
        trial.run("ours, exact, 1 % filter", alike, filtered=True, processes=pids)
        for kind in ("halfvec", "bit"):
            if kind in skip:
                continue
            built = build_index(database, "bench", IndexOptions(kind=kind), new_run(database))
            size = size_of(connection, built.id)
            say(f"| (built {kind}: {built.seconds:.1f} s, {size}) | | | | | |")
            for one in calibrate(database, "bench", kind, 200, new_run(database)):
                say(f"| (calibration {kind}: k {one.k}, ef {one.ef_search}) | {one.recall:.4f} | "
                    f"{one.fewest_rows} | {one.median_ms:.2f} | | |")  # fmt: skip
            with psycopg.connect(database.url) as fresh:
                plan = fresh.execute(
                    "SELECT method, ef_search, recall, few FROM astropt.search_plan(%s, 10)",
                    [encoder.id],
                ).fetchone()
            say(f"| (plan: {plan}) | | | | | |")
            trial.run(f"ours, {kind}", ask, processes=pids)
            trial.run(f"ours, {kind}, 1 % filter", alike, filtered=True, processes=pids)
            if kind == "halfvec" and "bit" not in skip:
                # So that the next index is asked.
                connection.execute("DELETE FROM astropt.search_recall")
        if "default-build" not in skip:
            default_build(connection, encoder)


def new_run(database: Database) -> Run:
    with connect(database) as connection:
        (number,) = connection.execute("SELECT max(id) FROM astropt.run").fetchone() or (0,)
    return Run(number)


def size_of(connection: psycopg.Connection, number: int) -> str:
    row = connection.execute(
        "SELECT size_bytes / 1000000, memory_bytes / 1048576, workers "
        "FROM astropt.search_index WHERE id = %s", [number]
    ).fetchone()  # fmt: skip
    assert row is not None
    return f"{row[0]:.0f} MB, maintenance_work_mem {row[1]:.0f} MB, {row[2]} workers"


def default_build(connection: psycopg.Connection, encoder: EncoderRecord) -> None:
    """The same index as ours with PostgreSQL's default memory and workers."""
    connection.execute("SET maintenance_work_mem = '64MB'")
    connection.execute("SET max_parallel_maintenance_workers = 2")
    start = time.perf_counter()
    connection.execute(
        sql.SQL("CREATE INDEX by_default ON {} USING hnsw ((embedding::halfvec({})) "
                "halfvec_cosine_ops)").format(encoder.partition, sql.Literal(encoder.dimension))
    )  # fmt: skip
    seconds = time.perf_counter() - start
    say(f"| (the halfvec index by default settings: {seconds:.1f} s) | | | | | |")
    connection.execute("DROP INDEX astropt.by_default")


def plain(database: Database, trial: Trial, vectors: np.ndarray) -> None:
    """pgvector as its documentation starts: a vector column, an HNSW index, default settings."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        kind = sql.SQL("CREATE TABLE plain (object_id bigint PRIMARY KEY, one_percent boolean, "
                       "embedding vector({}))").format(sql.Literal(vectors.shape[1]))  # fmt: skip
        connection.execute(kind)
        with connection.cursor() as cursor:
            for start in range(0, len(vectors), 20_000):
                part = slice(start, start + 20_000)
                copy_rows(cursor, sql.Identifier("plain"), [
                    Field("object_id", "bigint", trial.ids[part]),
                    Field("one_percent", "boolean", trial.allowed[part]),
                    Field("embedding", "vector", vectors[part].astype(np.float32)),
                ])  # fmt: skip
        for name, value in (("maintenance_work_mem", "64MB"),
                            ("max_parallel_maintenance_workers", "2")):  # fmt: skip
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        start = time.perf_counter()
        connection.execute("CREATE INDEX ON plain USING hnsw (embedding vector_cosine_ops)")
        seconds = time.perf_counter() - start
        connection.execute("VACUUM ANALYZE plain")
        head(f"plain pgvector, default settings: built in {seconds:.1f} s")

        query = (
            "SELECT object_id FROM plain WHERE object_id <> %(id)s ORDER BY embedding <=> "
            "(SELECT embedding FROM plain WHERE object_id = %(id)s) LIMIT 10"
        )
        rare = query.replace("WHERE object_id <>", "WHERE one_percent AND object_id <>", 1)

        def ask(row: int, text: str = query) -> list[int]:
            found = connection.execute(text, {"id": int(trial.ids[row])}, prepare=True)
            return [one for (one,) in found.fetchall()]

        pids = [connection.info.backend_pid]
        trial.run("plain pgvector", ask, processes=pids)
        trial.run("plain pgvector, 1 % filter", lambda row: ask(row, rare), True, processes=pids)


def memory(trial: Trial, skip: set[str]) -> None:
    """Rivals without a database: vectors in memory, float32."""
    import faiss
    from sklearn.metrics.pairwise import cosine_similarity

    dimension = trial.unit.shape[1]
    head("in memory, without a database")

    def best(similarity: np.ndarray, row: int) -> list[int]:
        top = np.argpartition(-similarity, K + 1)[: K + 1]
        return [int(trial.ids[i]) for i in top[np.argsort(-similarity[top])] if i != row][:K]

    trial.run("NumPy, unit vectors", lambda row: best(trial.unit @ trial.unit[row], row), rounds=1)
    few = Trial.__new__(Trial)
    vars(few).update(vars(trial) | {"chosen": trial.chosen[:10]})
    few.run(
        "brute-force cosine as in the official scripts (10 queries)",
        lambda row: best(cosine_similarity(trial.unit[row : row + 1], trial.unit)[0], row),
        rounds=1,
    )

    def faiss_ask(index: Any, parameters: Any = None) -> Callable[[int], list[int]]:
        def ask(row: int) -> list[int]:
            _, found = index.search(trial.unit[row : row + 1], K + 1, params=parameters)
            return [int(trial.ids[i]) for i in found[0] if i not in (row, -1)][:K]

        return ask

    flat = faiss.IndexFlatIP(dimension)
    flat.add(trial.unit)
    trial.run("FAISS flat", faiss_ask(flat))
    selector = faiss.IDSelectorBatch(np.flatnonzero(trial.allowed))
    trial.run("FAISS flat, 1 % filter",
              faiss_ask(flat, faiss.SearchParameters(sel=selector)), True)  # fmt: skip
    if "faiss-hnsw" in skip:
        return
    graph = faiss.IndexHNSWFlat(dimension, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 64
    start = time.perf_counter()
    graph.add(trial.unit)
    say(f"| (built FAISS HNSW, M 16, efConstruction 64: {time.perf_counter() - start:.1f} s) "
        "| | | | | |")  # fmt: skip
    for ef in (16, 20, 40, 100):
        parameters = faiss.SearchParametersHNSW(efSearch=ef)
        trial.run(f"FAISS HNSW, ef {ef}", faiss_ask(graph, parameters))
    parameters = faiss.SearchParametersHNSW(efSearch=100, sel=selector)
    trial.run("FAISS HNSW, ef 100, 1 % filter", faiss_ask(graph, parameters), True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.35, help="of the scatter of the vectors")
    parser.add_argument("--skip", default="", help="halfvec, bit, default-build, plain, memory, "
                        "faiss-hnsw; separated by commas")  # fmt: skip
    parser.add_argument("--like", type=Path, help="real vectors to compare with, .npy")
    options = parser.parse_args()
    skip = set(options.skip.split(","))
    vectors = make_vectors(options.rows, options.dimension, 1, options.noise)
    rng = np.random.default_rng(2)
    ids = FIRST_ID + rng.choice(1 << 40, options.rows, replace=False).astype(np.int64)
    say(f"{options.rows:,} x {options.dimension}, load {os.getloadavg()[0]:.1f}, "
        f"{os.cpu_count()} cores, local intrinsic dimension "
        f"{intrinsic_dimension(vectors[:4000]):.1f} among 4,000")  # fmt: skip
    if options.like is not None:
        say(f"real vectors: {intrinsic_dimension(np.load(options.like)[:4000]):.1f}")
    trial = Trial(ids, vectors, options.queries, rng.random(options.rows) < 0.01)
    with tempfile.TemporaryDirectory(prefix="adb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedServer(Path(folder) / "home")
        server.start()
        try:
            server.create_database("bench")
            database = Database(server.url("bench"), server)
            migrate.upgrade(database.url)
            encoder = load(database, ids, vectors)
            ours(database, encoder, trial, skip)
            if "plain" not in skip:
                plain(database, trial, vectors)
        finally:
            server.stop()
    if "memory" not in skip:
        memory(trial, skip)


if __name__ == "__main__":
    main()
