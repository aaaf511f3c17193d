"""Declared tables of outlier runs, scores, reasons, labels and maps."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata

LABELS = ("interesting", "artefact", "dull")


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
        nullable=False,
        comment="job that computed it, see astropt.run [; meta.id]",
    )


def _encoder() -> sa.Column[int]:
    return sa.Column(
        "encoder_id",
        sa.Integer,
        sa.ForeignKey("astropt.encoder.id"),
        nullable=False,
        comment="encoder of the vectors, see astropt.encoder [; meta.id]",
    )


def _current() -> sa.Column[bool]:
    return sa.Column(
        "is_current",
        sa.Boolean,
        nullable=False,
        comment="true for the one of its encoder that the views show [; meta.code]",
    )


def _key(table: str, name: str = "outlier_run_id") -> sa.Column[int]:
    return sa.Column(
        name,
        sa.BigInteger,
        sa.ForeignKey(f"astropt.{table}.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment=f"see astropt.{table} [; meta.id]",
    )


def _object() -> sa.Column[int]:
    return sa.Column(
        "object_id",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="Euclid source identifier [; meta.id;meta.main]",
    )


def _real(name: str, comment: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.REAL, nullable=nullable, comment=comment)


def _moment(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("now()"),
        comment=comment,
    )


outlier_run = sa.Table(
    "outlier_run",
    metadata,
    _identity(),
    _run(),
    _encoder(),
    sa.Column(
        "methods",
        pg.ARRAY(sa.Text),
        nullable=False,
        comment="what was combined: if, lof, knn [; meta.id]",
    ),
    sa.Column("grid", pg.JSONB, nullable=False, comment="settings of each method [; meta.note]"),
    _real("contamination", "fraction that is flagged [; stat.value]"),
    sa.Column(
        "selection", sa.Text, comment="SQL condition that chose the sources; NULL all [; meta.note]"
    ),
    sa.Column("objects", sa.BigInteger, nullable=False, comment="how many [; meta.number]"),
    sa.Column(
        "threshold",
        sa.Double,
        nullable=False,
        comment="smallest score that is flagged [; stat.value]",
    ),
    sa.Column(
        "graph",
        sa.Text,
        comment="neighbour graph: exact, approximate; NULL if not needed [; meta.code]",
    ),
    _real(
        "graph_recall",
        "measured share of true neighbours in the graph; 1 if exact [; stat.value]",
        nullable=True,
    ),
    sa.Column(
        "recall_rows", sa.Integer, comment="sources that the share was measured on [; meta.number]"
    ),
    _current(),
    _moment("created_at", "when it was stored [; time.creation]"),
    sa.CheckConstraint("graph IN ('exact', 'approximate')", name="outlier_run_graph_check"),
    sa.Index(
        "outlier_run_current",
        "encoder_id",
        unique=True,
        postgresql_where=sa.text("is_current"),
    ),
    schema="astropt",
    comment="Searches for outliers: encoder, methods, settings; one per encoder is current",
)

outlier_score = sa.Table(
    "outlier_score",
    metadata,
    _key("outlier_run"),
    _object(),
    sa.Column(
        "score",
        sa.Double,
        nullable=False,
        comment="mean of the methods' scores; 0 ordinary, 1 odd [; stat.value]",
    ),
    sa.Column(
        "outlier_rank", sa.Integer, nullable=False, comment="1 is the oddest [; meta.number]"
    ),
    sa.Column(
        "is_outlier",
        sa.Boolean,
        nullable=False,
        comment="true in the run's top fraction [; meta.code]",
    ),
    _real("score_if", "isolation forests, 0 to 1; NULL if not run [; stat.value]", nullable=True),
    _real("score_lof", "local outlier factor, 0 to 1; NULL if not run [; stat.value]", True),
    _real("score_knn", "distance of neighbours, 0 to 1; NULL if not run [; stat.value]", True),
    _real(
        "density_percentile",
        "percentage of sources in sparser regions; low is lonely; NULL without graph [%; "
        "stat.rank]",
        nullable=True,
    ),
    sa.Index(
        "outlier_score_flagged",
        "outlier_run_id",
        "outlier_rank",
        postgresql_where=sa.text("is_outlier"),
    ),
    schema="astropt",
    comment="Score, rank and flag of every source of a run",
)

outlier_reason = sa.Table(
    "outlier_reason",
    metadata,
    _key("outlier_run"),
    _object(),
    sa.Column(
        "neighbours",
        pg.ARRAY(sa.BigInteger),
        comment="nearest sources in the embedding, nearest first [; meta.id]",
    ),
    sa.Column(
        "labelled_neighbours",
        pg.ARRAY(sa.BigInteger),
        comment="nearest sources of known class, nearest first [; meta.id]",
    ),
    sa.Column(
        "labelled_classes",
        pg.ARRAY(sa.Text),
        comment="their classes, see astropt.known_class [; src.class]",
    ),
    sa.Column(
        "labelled_distances",
        pg.ARRAY(sa.REAL),
        comment="their cosine distances [; stat.value]",
    ),
    sa.Column(
        "known_lens",
        sa.Text,
        comment="lens catalogue that holds the source itself [; meta.id]",
    ),
    schema="astropt",
    comment="What the embedding says about a flagged source; the view astropt.outliers says more",
)

outlier_label = sa.Table(
    "outlier_label",
    metadata,
    _object(),
    sa.Column(
        "label",
        sa.Text,
        nullable=False,
        comment="interesting, artefact or dull [; meta.code.class]",
    ),
    sa.Column("note", sa.Text, comment="in the labeller's words [; meta.note]"),
    sa.Column("labelled_by", sa.Text, nullable=False, comment="who [; meta.id.PI]"),
    _moment("labelled_at", "when [; time.creation]"),
    sa.CheckConstraint(
        "label IN ('interesting', 'artefact', 'dull')", name="outlier_label_label_check"
    ),
    schema="astropt",
    comment="What people think of outliers; the newest opinion",
)

outlier_interest = sa.Table(
    "outlier_interest",
    metadata,
    _key("outlier_run"),
    _object(),
    _real("interest", "score re-weighted by what was learned from the labels [; stat.value]"),
    sa.Column(
        "interest_rank", sa.Integer, nullable=False, comment="1 is looked at first [; meta.number]"
    ),
    _real("predicted_label", "what a person would say: 0 dull, 1 interesting [; stat.value]"),
    schema="astropt",
    comment="Order of outliers learned from labels, after Lochner & Bassett (2021)",
)

map_run = sa.Table(
    "map_run",
    metadata,
    _identity(),
    _run(),
    _encoder(),
    sa.Column("method", sa.Text, nullable=False, comment="umap or pca [; meta.code]"),
    sa.Column("parameters", pg.JSONB, nullable=False, comment="its settings [; meta.note]"),
    sa.Column("objects", sa.BigInteger, nullable=False, comment="how many [; meta.number]"),
    _current(),
    _moment("created_at", "when it was stored [; time.creation]"),
    sa.Index("map_run_current", "encoder_id", unique=True, postgresql_where=sa.text("is_current")),
    schema="astropt",
    comment="Maps of embeddings; one per encoder is current",
)

map_position = sa.Table(
    "map_position",
    metadata,
    _key("map_run", "map_run_id"),
    _object(),
    _real("x", "first coordinate [; pos.cartesian.x]"),
    _real("y", "second coordinate [; pos.cartesian.y]"),
    schema="astropt",
    comment="Place of every source on a map",
)
