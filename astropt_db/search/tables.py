"""Declared tables of the search: vector indexes, their measured recall, and evaluations."""

from __future__ import annotations

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC

from astropt_db.database.tables import metadata

_now = sa.text("now()")


def _identity() -> sa.Column[int]:
    return sa.Column(
        "id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="running number [; meta.id;meta.main]",
    )


def _run() -> sa.Column[int]:
    return sa.Column(
        "run_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.run.id"),
        comment="run that made it, see astropt.run [; meta.id]",
    )


def _encoder() -> sa.Column[int]:
    return sa.Column(
        "encoder_id",
        sa.Integer,
        sa.ForeignKey("astropt.encoder.id"),
        nullable=False,
        comment="encoder, see astropt.encoder [; meta.id]",
    )


search_index = sa.Table(
    "search_index",
    metadata,
    _identity(),
    _encoder(),
    sa.Column(
        "kind",
        sa.Text,
        nullable=False,
        comment="halfvec: the vectors; bit: signs about the centre, re-ranked [; meta.code]",
    ),
    sa.Column("index_name", sa.Text, nullable=False, comment="in schema astropt [; meta.id]"),
    sa.Column("m", sa.Integer, nullable=False, comment="links of a node of HNSW [; meta.number]"),
    sa.Column(
        "ef_construction",
        sa.Integer,
        nullable=False,
        comment="candidates kept while a node is linked [; meta.number]",
    ),
    sa.Column("centre", HALFVEC(), comment="subtracted before the signs; bit only [; meta.record]"),
    sa.Column(
        "row_count",
        sa.BigInteger,
        nullable=False,
        comment="vectors at the build [; meta.number]",
    ),
    sa.Column(
        "size_bytes",
        sa.BigInteger,
        nullable=False,
        comment="size at the build [byte; meta.number]",
    ),
    sa.Column(
        "build_seconds",
        sa.REAL,
        nullable=False,
        comment="time of CREATE INDEX [s; time.duration]",
    ),
    sa.Column(
        "memory_bytes",
        sa.BigInteger,
        nullable=False,
        comment="maintenance_work_mem of the build [byte; meta.number]",
    ),
    sa.Column(
        "workers",
        sa.Integer,
        nullable=False,
        comment="parallel workers asked for in the build [; meta.number]",
    ),
    sa.Column(
        "lookup_us",
        sa.REAL,
        comment="measured time of one exact comparison by object id [us; time.duration]",
    ),
    sa.Column(
        "visit_us",
        sa.REAL,
        comment="measured time of one candidate from the index [us; time.duration]",
    ),
    _run(),
    sa.Column(
        "built_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=_now,
        comment="end of the build [; time.creation]",
    ),
    sa.CheckConstraint("kind IN ('halfvec', 'bit')", name="search_index_kind_check"),
    sa.Index("search_index_encoder", "encoder_id", "kind", unique=True),
    schema="astropt",
    comment="Vector indexes, one of each kind for an encoder at most, with size and cost",
)

search_recall = sa.Table(
    "search_recall",
    metadata,
    _identity(),
    sa.Column(
        "search_index_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.search_index.id", ondelete="CASCADE"),
        nullable=False,
        comment="index, see astropt.search_index [; meta.id]",
    ),
    sa.Column("k", sa.Integer, nullable=False, comment="rows asked for [; meta.number]"),
    sa.Column(
        "ef_search",
        sa.Integer,
        comment="candidates taken from the index; NULL: chosen by astropt.search_plan "
        "[; meta.number]",
    ),
    sa.Column(
        "filter", sa.Text, comment="query of the objects that were allowed; NULL: all [; meta.note]"
    ),
    sa.Column(
        "fraction",
        sa.REAL,
        nullable=False,
        comment="of the vectors that the filter allows [; stat.value]",
    ),
    sa.Column("queries", sa.Integer, nullable=False, comment="objects asked for [; meta.number]"),
    sa.Column(
        "recall",
        sa.REAL,
        nullable=False,
        comment="mean fraction of the exact answer that was returned [; stat.value]",
    ),
    sa.Column(
        "fewest_rows",
        sa.Integer,
        nullable=False,
        comment="rows of the shortest answer [; meta.number]",
    ),
    sa.Column(
        "median_ms",
        sa.REAL,
        nullable=False,
        comment="median time of an answer [ms; time.duration]",
    ),
    sa.Column(
        "row_count",
        sa.BigInteger,
        nullable=False,
        comment="vectors at that time [; meta.number]",
    ),
    _run(),
    sa.Column(
        "measured_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=_now,
        comment="when it was measured [; time.creation]",
    ),
    sa.Index("search_recall_index", "search_index_id", "k"),
    schema="astropt",
    comment="Measured recall of vector indexes against the exact answer on the same table",
)

search_evaluation = sa.Table(
    "search_evaluation",
    metadata,
    _identity(),
    _encoder(),
    sa.Column(
        "label_set",
        sa.Text,
        nullable=False,
        comment="where the labels are from [; meta.id]",
    ),
    sa.Column("class", sa.Text, nullable=False, comment="merger, edge_on, ... [; src.class]"),
    sa.Column("k", sa.Integer, nullable=False, comment="rows of an answer [; meta.number]"),
    sa.Column(
        "objects",
        sa.Integer,
        nullable=False,
        comment="labelled objects with a vector [; meta.number]",
    ),
    sa.Column(
        "members",
        sa.Integer,
        nullable=False,
        comment="of them in the class; each is a query [; meta.number]",
    ),
    sa.Column(
        "precision_at_k",
        sa.REAL,
        nullable=False,
        comment="mean fraction of an answer in the class of its query [; stat.value]",
    ),
    sa.Column(
        "precision_error",
        sa.REAL,
        nullable=False,
        comment="standard error of that mean over the queries [; stat.error]",
    ),
    sa.Column(
        "random_precision",
        sa.REAL,
        nullable=False,
        comment="what answers by chance would reach [; stat.value]",
    ),
    sa.Column(
        "enrichment",
        sa.REAL,
        nullable=False,
        comment="precision over that of chance [; stat.value]",
    ),
    _run(),
    sa.Column(
        "evaluated_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=_now,
        comment="when it was computed [; time.creation]",
    ),
    sa.Index("search_evaluation_encoder", "encoder_id", "label_set", "class"),
    schema="astropt",
    comment="How often the answers to a galaxy of a class are of its class, by encoder",
)
