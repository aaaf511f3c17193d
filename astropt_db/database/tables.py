"""Declared tables of schema ``astropt``: runs, ingested files, quarantine.

The migrations create them; a test proves that the migrated schema equals this declaration.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData()
"""Everything that migrations create; other packages add their tables to it."""

_now = sa.text("now()")


def _identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


run = sa.Table(
    "run",
    metadata,
    _identity(),
    sa.Column("command", sa.Text, nullable=False, comment="command line verb, e.g. ingest"),
    sa.Column("arguments", pg.JSONB, nullable=False, comment="options of the command"),
    sa.Column("code_version", sa.Text, nullable=False, comment="version of astropt-db"),
    sa.Column("host", sa.Text, nullable=False, comment="machine that ran it"),
    sa.Column("pid", sa.Integer, nullable=False, comment="process id on that machine"),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("ended_at", sa.DateTime(timezone=True), comment="NULL while running or killed"),
    sa.Column("state", sa.Text, nullable=False, comment="running, done or failed"),
    sa.Column("counts", pg.JSONB, comment="what the run did"),
    sa.CheckConstraint("state IN ('running', 'done', 'failed')", name="run_state_check"),
    schema="astropt",
    comment="Every job that changed the database, with the code that ran it",
)

ingest_file = sa.Table(
    "ingest_file",
    metadata,
    _identity(),
    sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), nullable=False),
    sa.Column("path", sa.Text, nullable=False, comment="file as the user named it"),
    sa.Column("sha256", sa.Text, comment="hash of the file; NULL if it could not be read"),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("product", sa.Text, comment="product table in schema q1"),
    sa.Column("release", sa.Text, nullable=False, comment="data release, e.g. Q1"),
    sa.Column("tile", sa.BigInteger, comment="MER tile; NULL where the file names none"),
    sa.Column("rows_read", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_inserted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_updated", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_unchanged", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_rejected", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_removed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_repaired", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("unknown_columns", pg.ARRAY(sa.Text), comment="kept in the table's extra column"),
    sa.Column("missing_columns", pg.ARRAY(sa.Text), comment="listed, but not in the file: NULL"),
    sa.Column("state", sa.Text, nullable=False, comment="done, failed or replaced"),
    sa.Column("error", sa.Text, comment="why the file failed"),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    sa.CheckConstraint("state IN ('done', 'failed', 'replaced')", name="ingest_file_state_check"),
    sa.Index(
        "ingest_file_done",
        "sha256",
        "product",
        "release",
        unique=True,
        postgresql_where=sa.text("state = 'done'"),
    ),
    schema="astropt",
    comment="Every file that was ingested, and what became of its rows; one row per product",
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    _identity(),
    sa.Column(
        "ingest_file_id", sa.BigInteger, sa.ForeignKey("astropt.ingest_file.id"), nullable=False
    ),
    sa.Column("product", sa.Text, nullable=False, comment="product table in schema q1"),
    sa.Column("row_number", sa.BigInteger, nullable=False, comment="row in the file, from 1"),
    sa.Column("object_id", sa.BigInteger, comment="as read; NULL if it is no 64-bit integer"),
    sa.Column("reason", sa.Text, nullable=False, comment="short code, e.g. id_not_exact"),
    sa.Column("detail", sa.Text, nullable=False, comment="what was expected and found"),
    sa.Column("row", pg.JSONB, nullable=False, comment="the row as read; 64-bit ids as strings"),
    sa.Column("state", sa.Text, nullable=False, server_default="open", comment="open or resolved"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("resolved_at", sa.DateTime(timezone=True)),
    sa.CheckConstraint("state IN ('open', 'resolved')", name="quarantine_state_check"),
    sa.Index("quarantine_file", "ingest_file_id"),
    sa.Index("quarantine_object", "object_id"),
    schema="astropt",
    comment="Rows that could not be loaded, each with its reason",
)

version = sa.Table(
    "version",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("schema_revision", sa.Text, nullable=False, comment="newest migration applied"),
    sa.Column("code_version", sa.Text, nullable=False, comment="astropt-db that applied sql/"),
    sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.CheckConstraint("singleton", name="version_singleton_check"),
    schema="astropt",
    comment="Schema revision and code version; one row",
)
