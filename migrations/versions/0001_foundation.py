"""Runs, ingested files, quarantine, and the Q1 product tables.

Revision ID: 0001
Revises:
"""

import csv
from itertools import groupby
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The column lists of the package may grow; what this migration once created must not change.
_FROZEN = Path(__file__).parent.parent / "frozen" / "0001_q1_columns.csv"
_WITH_POSITION = {"mer_catalogue", "visual_morphology"}
_TYPES = {
    "bigint": sa.BigInteger(),
    "integer": sa.Integer(),
    "smallint": sa.SmallInteger(),
    "double precision": sa.Double(),
    "real": sa.REAL(),
    "text": sa.Text(),
    "boolean": sa.Boolean(),
    "real[]": pg.ARRAY(sa.REAL()),
}


def _product_tables() -> dict[str, list[dict[str, str]]]:
    with _FROZEN.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {table: list(group) for table, group in groupby(rows, key=lambda row: row["table"])}


def _identity() -> sa.Column:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _time(name: str, **options: object) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), **options)


def _count(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _create_provenance() -> None:
    now = sa.text("now()")
    op.create_table(
        "run",
        _identity(),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("arguments", pg.JSONB, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        _time("started_at", nullable=False, server_default=now),
        _time("ended_at"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("counts", pg.JSONB),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name="run_state_check"),
        schema="astropt",
    )
    op.create_table(
        "ingest_file",
        _identity(),
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("product", sa.Text),
        sa.Column("release", sa.Text, nullable=False),
        sa.Column("tile", sa.BigInteger),
        *(
            _count(f"rows_{name}")
            for name in (
                "read",
                "inserted",
                "updated",
                "unchanged",
                "rejected",
                "removed",
                "repaired",
            )
        ),
        sa.Column("unknown_columns", pg.ARRAY(sa.Text)),
        sa.Column("missing_columns", pg.ARRAY(sa.Text)),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        _time("started_at", nullable=False, server_default=now),
        _time("ended_at"),
        sa.CheckConstraint(
            "state IN ('done', 'failed', 'replaced')", name="ingest_file_state_check"
        ),
        schema="astropt",
    )
    op.create_index(
        "ingest_file_done",
        "ingest_file",
        ["sha256", "product", "release"],
        unique=True,
        schema="astropt",
        postgresql_where=sa.text("state = 'done'"),
    )
    op.create_table(
        "quarantine",
        _identity(),
        sa.Column(
            "ingest_file_id",
            sa.BigInteger,
            sa.ForeignKey("astropt.ingest_file.id"),
            nullable=False,
        ),
        sa.Column("product", sa.Text, nullable=False),
        sa.Column("row_number", sa.BigInteger, nullable=False),
        sa.Column("object_id", sa.BigInteger),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("row", pg.JSONB, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="open"),
        _time("created_at", nullable=False, server_default=now),
        _time("resolved_at"),
        sa.CheckConstraint("state IN ('open', 'resolved')", name="quarantine_state_check"),
        schema="astropt",
    )
    op.create_index("quarantine_file", "quarantine", ["ingest_file_id"], schema="astropt")
    op.create_index("quarantine_object", "quarantine", ["object_id"], schema="astropt")
    op.create_table(
        "version",
        sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("schema_revision", sa.Text, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        _time("applied_at", nullable=False, server_default=now),
        sa.CheckConstraint("singleton", name="version_singleton_check"),
        schema="astropt",
    )


def _product_column(column: dict[str, str]) -> sa.Column:
    return sa.Column(
        column["column"],
        _TYPES[column["type"]],
        primary_key=column["key"] == "1",
        autoincrement=False,
    )


def _create_product(table: str, columns: list[dict[str, str]]) -> None:
    # Indexed columns stand first: to index column 470, PostgreSQL unpacks the 469 before it.
    own = [sa.Column("healpix29", sa.BigInteger, nullable=False)] * (table in _WITH_POSITION)
    own.append(sa.Column("ingest_file_id", sa.BigInteger, nullable=False))
    op.create_table(
        table,
        *(_product_column(column) for column in columns if column["key"] == "1"),
        *own,
        *(_product_column(column) for column in columns if column["key"] == "0"),
        sa.Column("extra", pg.JSONB),
        schema="q1",
    )
    op.create_index(
        f"{table}_file", table, ["ingest_file_id"], schema="q1", postgresql_using="brin"
    )
    if table in _WITH_POSITION:
        op.create_index(f"{table}_healpix29", table, ["healpix29"], schema="q1")


def upgrade() -> None:
    """Create both schemas' tables."""
    op.execute("CREATE SCHEMA IF NOT EXISTS q1")
    _create_provenance()
    for table, columns in _product_tables().items():
        _create_product(table, columns)


def downgrade() -> None:
    """Drop them; views on them go along, ``astropt-db init`` makes those anew."""
    op.execute("DROP SCHEMA q1 CASCADE")
    op.execute(
        "DROP TABLE astropt.version, astropt.quarantine, astropt.ingest_file, astropt.run CASCADE"
    )
