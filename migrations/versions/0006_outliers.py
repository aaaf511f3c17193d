"""Outlier runs, scores, reasons and labels; maps.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _parent(name: str, *columns: sa.Column | sa.CheckConstraint) -> None:
    """A table of runs: number, job, encoder, own columns, current or not."""
    op.create_table(
        name,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), nullable=False),
        sa.Column("encoder_id", sa.Integer, sa.ForeignKey("astropt.encoder.id"), nullable=False),
        *columns,
        sa.Column("is_current", sa.Boolean, nullable=False),
        _moment("created_at"),
        schema="astropt",
    )
    op.create_index(
        f"{name}_current",
        name,
        ["encoder_id"],
        unique=True,
        schema="astropt",
        postgresql_where=sa.text("is_current"),
    )


def _child(name: str, parent: str, *columns: sa.Column) -> None:
    """A table with one row per source of a run."""
    op.create_table(
        name,
        sa.Column(
            f"{parent}_id",
            sa.BigInteger,
            sa.ForeignKey(f"astropt.{parent}.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        _object(),
        *columns,
        schema="astropt",
    )


def _object() -> sa.Column:
    return sa.Column("object_id", sa.BigInteger, primary_key=True, autoincrement=False)


def _moment(name: str) -> sa.Column:
    moment = sa.DateTime(timezone=True)
    return sa.Column(name, moment, nullable=False, server_default=sa.text("now()"))


def _create_runs() -> None:
    _parent(
        "outlier_run",
        sa.Column("methods", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("grid", pg.JSONB, nullable=False),
        sa.Column("contamination", sa.REAL, nullable=False),
        sa.Column("selection", sa.Text),
        sa.Column("objects", sa.BigInteger, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("graph", sa.Text),
        sa.Column("graph_recall", sa.REAL),
        sa.Column("recall_rows", sa.Integer),
        sa.CheckConstraint("graph IN ('exact', 'approximate')", name="outlier_run_graph_check"),
    )
    _parent(
        "map_run",
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("parameters", pg.JSONB, nullable=False),
        sa.Column("objects", sa.BigInteger, nullable=False),
    )


def _create_scores() -> None:
    _child(
        "outlier_score",
        "outlier_run",
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("outlier_rank", sa.Integer, nullable=False),
        sa.Column("is_outlier", sa.Boolean, nullable=False),
        sa.Column("score_if", sa.REAL),
        sa.Column("score_lof", sa.REAL),
        sa.Column("score_knn", sa.REAL),
        sa.Column("density_percentile", sa.REAL),
    )
    op.create_index(
        "outlier_score_flagged",
        "outlier_score",
        ["outlier_run_id", "outlier_rank"],
        schema="astropt",
        postgresql_where=sa.text("is_outlier"),
    )
    _child(
        "outlier_interest",
        "outlier_run",
        sa.Column("interest", sa.REAL, nullable=False),
        sa.Column("interest_rank", sa.Integer, nullable=False),
        sa.Column("predicted_label", sa.REAL, nullable=False),
    )
    _child(
        "map_position",
        "map_run",
        sa.Column("x", sa.REAL, nullable=False),
        sa.Column("y", sa.REAL, nullable=False),
    )


def _create_reasons() -> None:
    _child(
        "outlier_reason",
        "outlier_run",
        sa.Column("neighbours", pg.ARRAY(sa.BigInteger)),
        sa.Column("labelled_neighbours", pg.ARRAY(sa.BigInteger)),
        sa.Column("labelled_classes", pg.ARRAY(sa.Text)),
        sa.Column("labelled_distances", pg.ARRAY(sa.REAL)),
        sa.Column("known_lens", sa.Text),
    )
    op.create_table(
        "outlier_label",
        _object(),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("labelled_by", sa.Text, nullable=False),
        _moment("labelled_at"),
        sa.CheckConstraint(
            "label IN ('interesting', 'artefact', 'dull')", name="outlier_label_label_check"
        ),
        schema="astropt",
    )


def upgrade() -> None:
    """Create the tables."""
    _create_runs()
    _create_scores()
    _create_reasons()


def downgrade() -> None:
    """Drop them, with all scores, labels and maps."""
    op.execute(
        "DROP TABLE astropt.outlier_interest, astropt.outlier_reason, astropt.outlier_score, "
        "astropt.outlier_label, astropt.map_position, astropt.outlier_run, astropt.map_run CASCADE"
    )
