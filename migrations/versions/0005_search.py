"""Vector indexes, their measured recall, and evaluations of similarity.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _own(moment: str) -> list[sa.Column]:
    """Columns that each of the tables ends with."""
    return [
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id")),
        sa.Column(
            moment, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")
        ),
    ]


def _identity() -> sa.Column:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _encoder() -> sa.Column:
    return sa.Column("encoder_id", sa.Integer, sa.ForeignKey("astropt.encoder.id"), nullable=False)


def _required(kind: type, *names: str) -> list[sa.Column]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _create_index_tables() -> None:
    op.create_table(
        "search_index",
        _identity(),
        _encoder(),
        *_required(sa.Text, "kind", "index_name"),
        *_required(sa.Integer, "m", "ef_construction"),
        sa.Column("centre", HALFVEC()),
        *_required(sa.BigInteger, "row_count", "size_bytes"),
        *_required(sa.REAL, "build_seconds"),
        *_required(sa.BigInteger, "memory_bytes"),
        *_required(sa.Integer, "workers"),
        sa.Column("lookup_us", sa.REAL),
        sa.Column("visit_us", sa.REAL),
        *_own("built_at"),
        sa.CheckConstraint("kind IN ('halfvec', 'bit')", name="search_index_kind_check"),
        schema="astropt",
    )
    op.create_index(
        "search_index_encoder",
        "search_index",
        ["encoder_id", "kind"],
        unique=True,
        schema="astropt",
    )
    op.create_table(
        "search_recall",
        _identity(),
        sa.Column(
            "search_index_id",
            sa.BigInteger,
            sa.ForeignKey("astropt.search_index.id", ondelete="CASCADE"),
            nullable=False,
        ),
        *_required(sa.Integer, "k"),
        sa.Column("ef_search", sa.Integer),
        sa.Column("filter", sa.Text),
        *_required(sa.REAL, "fraction"),
        *_required(sa.Integer, "queries"),
        *_required(sa.REAL, "recall"),
        *_required(sa.Integer, "fewest_rows"),
        *_required(sa.REAL, "median_ms"),
        *_required(sa.BigInteger, "row_count"),
        *_own("measured_at"),
        schema="astropt",
    )
    op.create_index(
        "search_recall_index", "search_recall", ["search_index_id", "k"], schema="astropt"
    )


def _create_evaluation() -> None:
    op.create_table(
        "search_evaluation",
        _identity(),
        _encoder(),
        *_required(sa.Text, "label_set", "class"),
        *_required(sa.Integer, "k", "objects", "members"),
        *_required(sa.REAL, "precision_at_k", "precision_error", "random_precision", "enrichment"),
        *_own("evaluated_at"),
        schema="astropt",
    )
    op.create_index(
        "search_evaluation_encoder",
        "search_evaluation",
        ["encoder_id", "label_set", "class"],
        schema="astropt",
    )


def upgrade() -> None:
    """Create the tables; the indexes themselves come with ``astropt-db index build``."""
    _create_index_tables()
    _create_evaluation()


def downgrade() -> None:
    """Drop them, and the vector indexes that nothing would know of any more."""
    op.execute(
        "DO $$ DECLARE one record; BEGIN "
        "FOR one IN SELECT index_name FROM astropt.search_index LOOP "
        "EXECUTE format('DROP INDEX IF EXISTS astropt.%I', one.index_name); "
        "END LOOP; END $$"
    )
    op.execute(
        "DROP TABLE astropt.search_evaluation, astropt.search_recall, astropt.search_index CASCADE"
    )
