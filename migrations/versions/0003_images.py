"""Registered images and the queue of the embedding workers.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WCS = ("crval1", "crval2", "crpix1", "crpix2", "cd1_1", "cd1_2", "cd2_1", "cd2_2")


def _required(name: str, kind: type) -> sa.Column:
    return sa.Column(name, kind, nullable=False)


def _key(name: str, kind: type, *constraints: sa.ForeignKey) -> sa.Column:
    return sa.Column(name, kind, *constraints, primary_key=True, autoincrement=False)


def _identity() -> sa.Column:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _moment(name: str, default: bool = False) -> sa.Column:
    now = sa.text("now()") if default else None
    kind = sa.DateTime(timezone=True)
    return sa.Column(name, kind, nullable=not default, server_default=now)


def _count(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _registered() -> list[sa.Column]:
    return [
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id")),
        _moment("registered_at", default=True),
    ]


def _create_mosaic() -> None:
    op.create_table(
        "mosaic",
        _key("tile", sa.BigInteger),
        _key("band", sa.Text),
        _key("kind", sa.Text),
        _required("uri", sa.Text),
        _required("release", sa.Text),
        _required("width", sa.Integer),
        _required("height", sa.Integer),
        *(_required(name, sa.Double) for name in _WCS),
        _required("magzero", sa.Double),
        _required("bitpix", sa.Integer),
        _required("data_offset", sa.BigInteger),
        _required("size", sa.BigInteger),
        _required("tag", sa.Text),
        _required("header_sha256", sa.Text),
        sa.Column("cells", pg.ARRAY(sa.BigInteger), nullable=False),
        *_registered(),
        sa.CheckConstraint("kind IN ('BGSUB', 'RMS')", name="mosaic_kind_check"),
        schema="q1",
    )
    op.create_index("mosaic_cells", "mosaic", ["cells"], schema="q1", postgresql_using="gin")


def _create_cutouts() -> None:
    op.create_table(
        "cutout_file",
        _identity(),
        _required("path", sa.Text),
        _required("kind", sa.Text),
        sa.Column("cube_bands", pg.ARRAY(sa.Text)),
        _required("n_objects", sa.Integer),
        _required("size", sa.BigInteger),
        _required("tag", sa.Text),
        *_registered(),
        sa.CheckConstraint("kind IN ('fits', 'parquet')", name="cutout_file_kind_check"),
        schema="q1",
    )
    op.create_index("cutout_file_path", "cutout_file", ["path"], unique=True, schema="q1")
    op.create_table(
        "cutout",
        _key("object_id", sa.BigInteger),
        _key("file_id", sa.BigInteger, sa.ForeignKey("q1.cutout_file.id", ondelete="CASCADE")),
        schema="q1",
    )
    op.create_index("cutout_file_id", "cutout", ["file_id"], schema="q1")
    op.create_table(
        "sed",
        _key("object_id", sa.BigInteger),
        sa.Column("flux", pg.ARRAY(sa.REAL), nullable=False),
        sa.Column("flux_error", pg.ARRAY(sa.REAL), nullable=False),
        _required("origin", sa.Text),
        *_registered(),
        schema="q1",
    )


def _create_queue() -> None:
    encoder = "astropt.encoder.id"
    op.create_table(
        "embed_chunk",
        _identity(),
        sa.Column(
            "encoder_id",
            sa.Integer,
            sa.ForeignKey(encoder, ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("tile", sa.BigInteger),
        sa.Column("object_ids", pg.ARRAY(sa.BigInteger), nullable=False),
        _required("n_sources", sa.Integer),
        sa.Column("state", sa.Text, nullable=False, server_default="pending"),
        _count("attempts"),
        sa.Column("worker", pg.UUID),
        _moment("lease_until"),
        _moment("not_before", default=True),
        sa.Column("parent_id", sa.BigInteger),
        sa.Column("run_id", sa.BigInteger),
        _count("n_embedded"),
        _count("n_problems"),
        sa.Column("error", sa.Text),
        _moment("started_at"),
        _moment("ended_at"),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'done', 'failed', 'dead')",
            name="embed_chunk_state_check",
        ),
        schema="astropt",
    )
    for name, columns, state in (
        ("embed_chunk_pending", ["encoder_id", "id"], "pending"),
        ("embed_chunk_pending_tile", ["encoder_id", "tile", "id"], "pending"),
        ("embed_chunk_running", ["encoder_id", "lease_until"], "running"),
    ):
        where = sa.text("state = 'pending'" if state == "pending" else "state = 'running'")
        op.create_index(name, "embed_chunk", columns, schema="astropt", postgresql_where=where)
    op.create_table(
        "embed_problem",
        _key("object_id", sa.BigInteger),
        _key("encoder_id", sa.Integer, sa.ForeignKey(encoder, ondelete="CASCADE")),
        _required("reason", sa.Text),
        _required("detail", sa.Text),
        sa.Column("tile", sa.BigInteger),
        _required("run_id", sa.BigInteger),
        _moment("created_at", default=True),
        schema="astropt",
    )


def upgrade() -> None:
    """Create the tables."""
    _create_mosaic()
    _create_cutouts()
    _create_queue()


def downgrade() -> None:
    """Drop them, with what refers to them."""
    op.execute("DROP TABLE astropt.embed_problem, astropt.embed_chunk CASCADE")
    op.execute("DROP TABLE q1.sed, q1.cutout, q1.cutout_file, q1.mosaic CASCADE")
