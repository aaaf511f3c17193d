"""Surveys: the registry of other catalogues.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COUNTS = ("n_read", "n_rows", "n_without_position", "n_cut", "n_duplicates")


def upgrade() -> None:
    """Create the registry, and the schema of the surveys where it is missing."""
    op.execute("CREATE SCHEMA IF NOT EXISTS survey")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "survey",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), nullable=False),
        sa.Column("recipe", sa.Text),
        sa.Column("paths", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("sha256", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("id_column", sa.Text, nullable=False),
        sa.Column("radius", sa.Double, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
        sa.Column("created_at", moment, nullable=False, server_default=sa.text("now()")),
        sa.Column("match_radius", sa.Double),
        sa.Column("match_kind", sa.Text),
        sa.Column("n_pairs", sa.BigInteger),
        sa.Column("n_matched", sa.BigInteger),
        sa.Column("n_chance", sa.Double),
        sa.Column("matched_at", moment),
        sa.CheckConstraint("match_kind IN ('best', 'all')", name="survey_match_kind_check"),
        schema="astropt",
    )


def downgrade() -> None:
    """Drop the surveys with their registry, and the functions of the sky."""
    op.execute("DROP TABLE astropt.survey CASCADE")
    op.execute("DROP SCHEMA survey CASCADE")
    op.execute(
        "DROP FUNCTION IF EXISTS astropt.crossmatch, astropt.position_columns, astropt.nearest("
        "double precision, double precision, double precision, integer), astropt.cone, "
        "astropt.sky_ranges, astropt.healpix29 CASCADE"
    )
