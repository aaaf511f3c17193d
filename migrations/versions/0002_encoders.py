"""Encoders and their embeddings: one partition of vectors for each encoder.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _create_encoder() -> None:
    op.create_table(
        "encoder",
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("modalities", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("weights_sha256", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("preprocessing", pg.JSONB, nullable=False),
        sa.Column("pooling", pg.JSONB, nullable=False),
        sa.Column("card", pg.JSONB, nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id")),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        sa.CheckConstraint("dimension BETWEEN 1 AND 4000", name="encoder_dimension_check"),
        schema="astropt",
    )
    op.create_index("encoder_name", "encoder", ["name"], unique=True, schema="astropt")
    op.create_index(
        "encoder_current",
        "encoder",
        ["is_current"],
        unique=True,
        schema="astropt",
        postgresql_where=sa.text("is_current"),
    )


def _create_embedding() -> None:
    op.create_table(
        "embedding",
        sa.Column("object_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column(
            "encoder_id",
            sa.Integer,
            sa.ForeignKey("astropt.encoder.id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("run_id", sa.BigInteger, nullable=False),
        sa.Column("flags", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("missing_fraction", sa.REAL, nullable=False, server_default="0"),
        sa.Column("embedding", HALFVEC(), nullable=False),
        sa.CheckConstraint("l2_norm(embedding) > 0", name="embedding_norm_check"),
        schema="astropt",
        postgresql_partition_by="LIST (encoder_id)",
    )
    # Vectors are read whole and do not compress: out-of-line storage would only add a look-up.
    op.execute("ALTER TABLE astropt.embedding ALTER COLUMN embedding SET STORAGE PLAIN")


def upgrade() -> None:
    """Create both tables; partitions come with ``astropt.create_embedding_partition``."""
    _create_encoder()
    _create_embedding()


def downgrade() -> None:
    """Drop them, with all vectors."""
    op.execute("DROP TABLE astropt.embedding, astropt.encoder CASCADE")
