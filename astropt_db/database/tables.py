"""Declared tables of schema ``astropt``: runs, ingested files, quarantine.

The migrations create them; a test proves that the migrated schema equals this declaration.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData()
"""Everything that migrations create; other packages add their tables to it."""

_now = sa.text("now()")


def _identity() -> sa.Column[int]:
    return sa.Column(
        "id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="running number [; meta.id;meta.main]",
    )


def _moment(name: str, comment: str) -> sa.Column[datetime]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=False, server_default=_now, comment=comment
    )


def _count(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0", comment=comment)


run = sa.Table(
    "run",
    metadata,
    _identity(),
    sa.Column(
        "command", sa.Text, nullable=False, comment="command line verb, e.g. ingest [; meta.title]"
    ),
    sa.Column(
        "arguments", pg.JSONB, nullable=False, comment="options of the command [; meta.note]"
    ),
    sa.Column(
        "code_version", sa.Text, nullable=False, comment="version of astropt-db [; meta.version]"
    ),
    sa.Column("host", sa.Text, nullable=False, comment="machine that ran it [; meta.id]"),
    sa.Column("pid", sa.Integer, nullable=False, comment="process id on that machine [; meta.id]"),
    _moment("started_at", "start [; time.start]"),
    sa.Column(
        "ended_at",
        sa.DateTime(timezone=True),
        comment="end; NULL while running or killed [; time.end]",
    ),
    sa.Column(
        "state", sa.Text, nullable=False, comment="running, done or failed [; meta.code.status]"
    ),
    sa.Column("counts", pg.JSONB, comment="what the run did [; meta.note]"),
    sa.CheckConstraint("state IN ('running', 'done', 'failed')", name="run_state_check"),
    schema="astropt",
    comment="Every job that changed the database, with the code that ran it",
)

ingest_file = sa.Table(
    "ingest_file",
    metadata,
    _identity(),
    sa.Column(
        "run_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.run.id"),
        nullable=False,
        comment="run that read the file, see astropt.run [; meta.id]",
    ),
    sa.Column(
        "path", sa.Text, nullable=False, comment="file as the user named it [; meta.id;meta.file]"
    ),
    sa.Column(
        "sha256",
        sa.Text,
        comment="SHA-256 of the file; NULL if it could not be read [; meta.checksum]",
    ),
    sa.Column("size_bytes", sa.BigInteger, comment="size of the file [byte; meta.number]"),
    sa.Column("product", sa.Text, comment="product table in schema q1 [; meta.id;meta.table]"),
    sa.Column("release", sa.Text, nullable=False, comment="data release, e.g. Q1 [; meta.version]"),
    sa.Column(
        "tile", sa.BigInteger, comment="MER tile; NULL where the file names none [; meta.id]"
    ),
    _count("rows_read", "rows read [; meta.number]"),
    _count("rows_inserted", "rows that are new [; meta.number]"),
    _count("rows_updated", "rows that replaced older values [; meta.number]"),
    _count("rows_unchanged", "rows that were there already [; meta.number]"),
    _count("rows_rejected", "rows in quarantine [; meta.number]"),
    _count("rows_removed", "rows of replaced files that this one lacks [; meta.number]"),
    _count("rows_repaired", "rows whose object id was rebuilt [; meta.number]"),
    sa.Column("unknown_columns", pg.ARRAY(sa.Text), comment="columns kept in extra [; meta.note]"),
    sa.Column(
        "missing_columns",
        pg.ARRAY(sa.Text),
        comment="columns of the product that the file lacks [; meta.note]",
    ),
    sa.Column(
        "state", sa.Text, nullable=False, comment="done, failed or replaced [; meta.code.status]"
    ),
    sa.Column("error", sa.Text, comment="why the file failed [; meta.note]"),
    _moment("started_at", "start [; time.start]"),
    sa.Column(
        "ended_at",
        sa.DateTime(timezone=True),
        comment="end [; time.end]",
    ),
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
        "ingest_file_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.ingest_file.id"),
        nullable=False,
        comment="file that the row came from, see astropt.ingest_file [; meta.id]",
    ),
    sa.Column(
        "product",
        sa.Text,
        nullable=False,
        comment="product table in schema q1 [; meta.id;meta.table]",
    ),
    sa.Column(
        "row_number",
        sa.BigInteger,
        nullable=False,
        comment="row in the file, from 1 [; meta.record]",
    ),
    sa.Column(
        "object_id", sa.BigInteger, comment="as read; NULL if it is no 64-bit integer [; meta.id]"
    ),
    sa.Column(
        "reason",
        sa.Text,
        nullable=False,
        comment="short code, e.g. id_not_exact [; meta.code.error]",
    ),
    sa.Column(
        "detail", sa.Text, nullable=False, comment="what was expected and found [; meta.note]"
    ),
    sa.Column(
        "row",
        pg.JSONB,
        nullable=False,
        comment="the row as read; 64-bit ids as strings [; meta.record]",
    ),
    sa.Column(
        "state",
        sa.Text,
        nullable=False,
        server_default="open",
        comment="open or resolved [; meta.code.status]",
    ),
    _moment("created_at", "when the row was put here [; time.creation]"),
    sa.Column(
        "resolved_at",
        sa.DateTime(timezone=True),
        comment="when the row could be loaded, or its file was replaced [; time.end]",
    ),
    sa.CheckConstraint("state IN ('open', 'resolved')", name="quarantine_state_check"),
    sa.Index("quarantine_file", "ingest_file_id"),
    sa.Index("quarantine_object", "object_id"),
    schema="astropt",
    comment="Rows that could not be loaded, each with its reason",
)

version = sa.Table(
    "version",
    metadata,
    sa.Column(
        "singleton",
        sa.Boolean,
        primary_key=True,
        server_default=sa.true(),
        comment="always true: the table has one row [; meta.code]",
    ),
    sa.Column(
        "schema_revision",
        sa.Text,
        nullable=False,
        comment="newest migration applied [; meta.version]",
    ),
    sa.Column(
        "code_version",
        sa.Text,
        nullable=False,
        comment="astropt-db that applied sql/ [; meta.version]",
    ),
    _moment("applied_at", "when it was applied [; time.processing]"),
    sa.CheckConstraint("singleton", name="version_singleton_check"),
    schema="astropt",
    comment="Schema revision and code version; one row",
)
