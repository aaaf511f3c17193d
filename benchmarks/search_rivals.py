"""What a user would pick instead of ``astropt.similar``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from search_trial import K, Trial, head, note

from astropt_db.database.connect import Database
from astropt_db.database.copy import Field, copy_rows


def load_plain(database: Database, trial: Trial, vectors: np.ndarray, memory: str) -> None:
    """pgvector as its documentation starts: a vector column and an HNSW index."""
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
        for name, value in (("maintenance_work_mem", memory),
                            ("max_parallel_maintenance_workers", "2")):  # fmt: skip
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        start_time = time.perf_counter()
        connection.execute("CREATE INDEX ON plain USING hnsw (embedding vector_cosine_ops)")
        note(f"built plain pgvector with {memory}: {time.perf_counter() - start_time:.1f} s")
        connection.execute("VACUUM ANALYZE plain")


def ask_plain(database: Database, trial: Trial) -> None:
    """Ask it with default settings."""
    query = (
        "SELECT object_id FROM plain WHERE object_id <> %(id)s ORDER BY embedding <=> "
        "(SELECT embedding FROM plain WHERE object_id = %(id)s) LIMIT 10"
    )
    rare = query.replace("WHERE object_id <>", "WHERE one_percent AND object_id <>", 1)
    head("plain pgvector, default settings")
    with psycopg.connect(database.url, autocommit=True) as connection:

        def ask(row: int, text: str = query) -> list[int]:
            found = connection.execute(text, {"id": int(trial.ids[row])}, prepare=True)
            return [one for (one,) in found.fetchall()]

        pids = [connection.info.backend_pid]
        trial.run("plain pgvector", ask, processes=pids)
        trial.run("plain pgvector, 1 % filter", lambda row: ask(row, rare), True, processes=pids)


def build_faiss(trial: Trial, file: Path) -> None:
    """Write a graph with the settings of ours."""
    import faiss

    graph = faiss.IndexHNSWFlat(trial.unit.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 64
    start = time.perf_counter()
    graph.add(trial.unit)
    note(f"built FAISS HNSW, M 16, efConstruction 64: {time.perf_counter() - start:.1f} s")
    faiss.write_index(graph, str(file))


def in_memory(trial: Trial, graph: Path, skip: set[str]) -> None:
    """Rivals without a database: vectors in memory, float32."""
    import faiss
    from sklearn.metrics.pairwise import cosine_similarity

    head("in memory, without a database")

    def best(similarity: np.ndarray, row: int) -> list[int]:
        top = np.argpartition(-similarity, K + 1)[: K + 1]
        return [int(trial.ids[i]) for i in top[np.argsort(-similarity[top])] if i != row][:K]

    trial.run("NumPy, unit vectors, 50 queries",
              lambda row: best(trial.unit @ trial.unit[row], row), queries=50)  # fmt: skip
    trial.run(
        "brute-force cosine as in the official scripts, 10 queries",
        lambda row: best(cosine_similarity(trial.unit[row : row + 1], trial.unit)[0], row),
        rounds=1, queries=10,
    )  # fmt: skip

    def asker(index: Any, parameters: Any = None) -> Callable[[int], list[int]]:
        def ask(row: int) -> list[int]:
            _, found = index.search(trial.unit[row : row + 1], K + 1, params=parameters)
            return [int(trial.ids[i]) for i in found[0] if i not in (row, -1)][:K]

        return ask

    flat = faiss.IndexFlatIP(trial.unit.shape[1])
    flat.add(trial.unit)
    trial.run("FAISS flat", asker(flat))
    selector = faiss.IDSelectorBatch(np.flatnonzero(trial.allowed))
    trial.run("FAISS flat, 1 % filter",
              asker(flat, faiss.SearchParameters(sel=selector)), True)  # fmt: skip
    if "faiss-hnsw" in skip:
        return
    index = faiss.read_index(str(graph))
    for ef in (16, 20, 40, 100):
        trial.run(f"FAISS HNSW, ef {ef}", asker(index, faiss.SearchParametersHNSW(efSearch=ef)))
    parameters = faiss.SearchParametersHNSW(efSearch=100, sel=selector)
    trial.run("FAISS HNSW, ef 100, 1 % filter", asker(index, parameters), True)
