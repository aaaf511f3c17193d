"""Declared tables of schema ``q1``, made from the column lists.

Beside its product's columns each table has ``extra`` (a file's unknown columns), the number of
the file that the row came from, and, where the product has a position, ``healpix29``.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata
from astropt_db.q1.products import PRODUCTS, Column, Product

_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "bigint": sa.BigInteger,
    "integer": sa.Integer,
    "smallint": sa.SmallInteger,
    "double precision": sa.Double,
    "real": sa.REAL,
    "text": sa.Text,
    "boolean": sa.Boolean,
}

HEALPIX_COMMENT = "HEALPix cell, order 29, nested, of the position [; pos.healpix]"
EXTRA_COMMENT = (
    "columns of the file that the column list does not know; 64-bit integers as text [; meta.note]"
)
FILE_COMMENT = "file of the row, see astropt.ingest_file [; meta.id]"


def sql_type(name: str) -> sa.types.TypeEngine[Any]:
    """SQLAlchemy type of a column list's PostgreSQL type.

    Raises
    ------
    KeyError
        If the column list names a type that no reader delivers.
    """
    if name.endswith("[]"):
        return pg.ARRAY(_TYPES[name[:-2]]())
    return _TYPES[name]()


def comment(description: str, unit: str, ucd: str) -> str:
    """Column comment in the project's form: ``description [unit; ucd]``."""
    return f"{description} [{unit}; {ucd}]"


def product_table(product: Product) -> sa.Table:
    """Declare the table of one product in the shared metadata.

    Indexed columns stand first: to index column 470, PostgreSQL unpacks the 469 before it, which
    cost loading about a tenth of its speed.
    """
    columns = [_column(product, column) for column in product.columns]
    own: list[sa.Column[Any]] = [
        sa.Column("ingest_file_id", sa.BigInteger, nullable=False, comment=FILE_COMMENT)
    ]
    indexes = [
        # Rows of a file lie together, so a block-range index finds them at no cost to COPY.
        sa.Index(f"{product.table}_file", "ingest_file_id", postgresql_using="brin")
    ]
    if product.has_position:
        own.insert(
            0, sa.Column("healpix29", sa.BigInteger, nullable=False, comment=HEALPIX_COMMENT)
        )
        indexes.append(sa.Index(f"{product.table}_healpix29", "healpix29"))
    return sa.Table(
        product.table,
        metadata,
        *(column for column in columns if column.primary_key),
        *own,
        *(column for column in columns if not column.primary_key),
        sa.Column("extra", pg.JSONB, comment=EXTRA_COMMENT),
        *indexes,
        schema="q1",
        comment=product.title,
    )


def _column(product: Product, column: Column) -> sa.Column[Any]:
    return sa.Column(
        column.sql,
        sql_type(column.type),
        primary_key=column.sql in product.key,
        autoincrement=False,
        comment=comment(column.description, column.unit, column.ucd),
    )


TABLES: dict[str, sa.Table] = {product.table: product_table(product) for product in PRODUCTS}
"""Table of each product, by name."""
