"""Vector indexes: build them with enough memory, list and drop them.

pgvector builds an HNSW graph in memory while it fits into ``maintenance_work_mem`` and about five
times slower afterwards, so the memory is estimated from the table first. Sources: pgvector's
README, "Index Build Time"; sizes of ``HnswElementData`` and ``HnswNeighborArray`` in ``hnsw.h``.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
from psycopg import sql

from astropt_db.database.connect import ADMIN, Database, connect
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.provenance import Run
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError, DatabaseError

logger = logging.getLogger(__name__)

KINDS = ("halfvec", "bit")
MIB = 1 << 20
_LINK_BYTES = 24
_NODE_BYTES = 320
_LOCK = 7_219_541_503_000


@dataclass(frozen=True)
class IndexOptions:
    """How to build an index.

    Attributes
    ----------
    kind
        ``halfvec`` (the vectors) or ``bit`` (their signs about the mean, a fifth of the size,
        candidates re-ranked exactly).
    m, ef_construction
        Of HNSW: links of a node, candidates while it is linked. With 48 in place of pgvector's
        64 the build is a quarter shorter, and the searches that reach the same recall as fast.
    memory
        Bytes of ``maintenance_work_mem``; ``None`` for what the graph needs, up to half of the
        machine.
    workers
        Parallel workers beside the leader; ``None`` for one less than the server allows.
    replace
        Build anew an index that exists.
    """

    kind: str = "halfvec"
    m: int = 16
    ef_construction: int = 48
    memory: int | None = None
    workers: int | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"no index kind {self.kind!r}; expected {' or '.join(KINDS)}")
        if not 2 <= self.m <= 100 or not max(4, 2 * self.m) <= self.ef_construction <= 1000:
            raise ConfigurationError(
                f"m is {self.m} and ef_construction {self.ef_construction}; expected m from 2 to "
                "100, and ef_construction from 2 m to 1000"
            )


@dataclass(frozen=True)
class BuiltIndex:
    """An index that was built: its row of ``astropt.search_index`` and what it took."""

    id: int
    encoder: EncoderRecord
    kind: str
    rows: int
    seconds: float


def build_index(
    database: Database, encoder_name: str | None, options: IndexOptions, run: Run
) -> BuiltIndex:
    """Build a vector index; a killed build leaves nothing behind.

    Raises
    ------
    ConfigurationError
        If the encoder does not exist, or the index does already.
    DatabaseError
        If there are no vectors, or somebody else is building.
    """
    with connect(database, autocommit=True, role=ADMIN) as connection:
        encoder = find_encoder(connection, encoder_name)
        key = _LOCK + encoder.id
        if not _value(connection, "SELECT pg_try_advisory_lock(%s)", key):
            raise DatabaseError(f"an index of encoder {encoder.name} is being built already")
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(encoder.partition))
        rows = _value(connection, sql.SQL("SELECT count(*) FROM {}").format(encoder.partition))
        if not rows:
            raise DatabaseError(
                f"encoder {encoder.name} has no embeddings to index; make them first: "
                "astropt-db embed"
            )
        _make_room(connection, encoder, options)
        memory = options.memory or default_memory(connection, database, encoder, rows, options)
        workers = default_workers(connection) if options.workers is None else options.workers
        connection.execute("SELECT set_config('maintenance_work_mem', %s, false)",
                           [f"{max(1, memory // 1024)}kB"])  # fmt: skip
        with connection.transaction():
            started = time.monotonic()
            centre = _centre(connection, encoder) if options.kind == "bit" else None
            workers = _create(connection, encoder, options, centre, workers)
            seconds = time.monotonic() - started
            values = {
                "encoder_id": encoder.id,
                "kind": options.kind,
                "index_name": index_name(encoder, options.kind),
                "m": options.m,
                "ef_construction": options.ef_construction,
                "centre": centre,
                "row_count": rows,
                "build_seconds": seconds,
                "memory_bytes": memory,
                "workers": workers,
                "run_id": run.id,
            }
            number = _value(connection, named_queries()["search_index_insert"], values)
            connection.execute(named_queries()["search_candidate_function"], {"id": number})
    run.counts |= {"rows": rows, "build_ms": round(1000 * seconds)}
    return BuiltIndex(number, encoder, options.kind, rows, seconds)


def drop_index(database: Database, encoder_name: str | None, kind: str | None) -> list[str]:
    """Drop an encoder's indexes, all or of one kind; returns their names.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    with connect(database, role=ADMIN) as connection:
        encoder = find_encoder(connection, encoder_name)
        found = find_indexes(connection, encoder, kind)
        for number, _, name in found:
            connection.execute(
                sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier("astropt", name))
            )
            _drop_function(connection, name)
            connection.execute(named_queries()["search_index_delete"], {"id": number})
    return [name for _, _, name in found]


def find_indexes(
    connection: psycopg.Connection[Any], encoder: EncoderRecord, kind: str | None = None
) -> list[tuple[int, str, str]]:
    """Number, kind and name of an encoder's indexes.

    Raises
    ------
    ConfigurationError
        If there is none such.
    """
    found = connection.execute(
        named_queries()["search_index_find"], {"encoder_id": encoder.id, "kind": kind}
    ).fetchall()
    if not found:
        which = f"{kind} index" if kind else "vector index"
        raise ConfigurationError(
            f"encoder {encoder.name} has no {which}; see: astropt-db index list, or build one: "
            f"astropt-db index build --encoder {encoder.name}"
        )
    return found


def index_name(encoder: EncoderRecord, kind: str) -> str:
    """Name of an index in schema ``astropt``."""
    return f"embedding_{encoder.id}_{kind}"


def graph_bytes(rows: int, dimension: int, options: IndexOptions) -> int:
    """Memory of the graph while it is built, a little more than what was measured."""
    vector = 8 + (2 * dimension if options.kind == "halfvec" else dimension // 8)
    return int(1.25 * rows * (vector + 2 * options.m * _LINK_BYTES + _NODE_BYTES)) + 64 * MIB


def default_memory(
    connection: psycopg.Connection[Any],
    database: Database,
    encoder: EncoderRecord,
    rows: int,
    options: IndexOptions,
) -> int:
    """What the graph needs, up to half of the machine, never less than the server's setting."""
    needed = graph_bytes(rows, encoder.dimension, options)
    if database.embedded is not None:
        limit = psutil.virtual_memory().available // 2
    else:
        # The server may run elsewhere; this setting is what its owner says of its memory.
        limit = _setting_bytes(connection, "effective_cache_size") // 2
    if needed > limit:
        logger.warning(
            "the graph of %s vectors needs about %s MB while it is built, %s MB are allowed: the "
            "build will take longer. Allow more with --memory",
            *(f"{rows:,}", f"{needed // MIB:,}", f"{limit // MIB:,}"),
        )
    return max(min(needed, limit), _setting_bytes(connection, "maintenance_work_mem"))


def default_workers(connection: psycopg.Connection[Any]) -> int:
    """One less than the parallel workers of the server, for the leader works too; at least 1."""
    return max(1, int(_value(connection, "SHOW max_parallel_workers")) - 1)


def _make_room(
    connection: psycopg.Connection[Any], encoder: EncoderRecord, options: IndexOptions
) -> None:
    """Drop the index that is replaced, or what a hand left of it."""
    name = index_name(encoder, options.kind)
    with connection.transaction():
        try:
            ((number, _, _),) = find_indexes(connection, encoder, options.kind)
        except ConfigurationError:
            number = None
        there = _value(connection, "SELECT to_regclass(%s)", f"astropt.{name}")
        if number is not None and there is not None and not options.replace:
            raise ConfigurationError(
                f"encoder {encoder.name} has a {options.kind} index already; build it anew with "
                "--replace, or measure it: astropt-db index recall"
            )
        connection.execute(
            sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier("astropt", name))
        )
        if number is not None:
            connection.execute(named_queries()["search_index_delete"], {"id": number})


def _drop_function(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop what ``astropt.create_candidate_function`` made for an index."""
    connection.execute(
        sql.SQL("DROP FUNCTION IF EXISTS {}").format(sql.Identifier("astropt", f"{name}_nearest"))
    )


def _centre(connection: psycopg.Connection[Any], encoder: EncoderRecord) -> str:
    query = sql.SQL("SELECT avg(embedding::vector)::halfvec::text FROM {}")
    return str(_value(connection, query.format(encoder.partition)))


def _create(
    connection: psycopg.Connection[Any],
    encoder: EncoderRecord,
    options: IndexOptions,
    centre: str | None,
    workers: int,
) -> int:
    """Run CREATE INDEX; returns the workers that it could have."""
    statement = _statement(encoder, options, centre)
    try:
        with connection.transaction():
            _set_workers(connection, workers)
            connection.execute(statement)
        return workers
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory):
        # A parallel build keeps the graph in shared memory, of which containers often have 64 MB.
        if workers == 0:
            raise
        logger.warning("no room for a parallel build in shared memory; building with one process")
        _set_workers(connection, 0)
        connection.execute(statement)
        return 0


def _statement(encoder: EncoderRecord, options: IndexOptions, centre: str | None) -> sql.Composed:
    size = sql.Literal(encoder.dimension)
    vector = sql.SQL("(embedding::halfvec({}))").format(size)
    operators = "halfvec_cosine_ops"
    if centre is not None:
        # As astropt.candidate_query writes it: the planner compares expressions.
        vector = sql.SQL(
            "(binary_quantize(embedding::halfvec({0}) - {1}::halfvec({0}))::bit({0}))"
        ).format(size, sql.Literal(centre))
        operators = "bit_hamming_ops"
    return sql.SQL(
        "CREATE INDEX {} ON {} USING hnsw ({} {}) WITH (m = {}, ef_construction = {})"
    ).format(
        sql.Identifier(index_name(encoder, options.kind)),
        encoder.partition,
        vector,
        sql.SQL(operators),
        sql.Literal(options.m),
        sql.Literal(options.ef_construction),
    )


def _set_workers(connection: psycopg.Connection[Any], workers: int) -> None:
    connection.execute(
        "SELECT set_config('max_parallel_maintenance_workers', %s, false)", [str(workers)]
    )


def _setting_bytes(connection: psycopg.Connection[Any], name: str) -> int:
    return int(_value(connection, "SELECT pg_size_bytes(current_setting(%s))", name))


def _value(connection: psycopg.Connection[Any], query: Any, values: Any = None) -> Any:
    """The one value of a query; a single parameter may come bare."""
    if values is not None and not isinstance(values, dict):
        values = [values]
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]
