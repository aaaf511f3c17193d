"""The Q1 products that have a table of their own, and what their columns are.

The column lists under ``columns/`` follow the Euclid data-product description (DPDD) and real
archive results. Some lists are known only in part upstream; a file's unknown columns are kept
in the table's ``extra`` column, so a list that falls behind a release loses nothing.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources


@cache
def sql_name(name: str) -> str:
    """Column name in SQL: lower case, every other character than ``[0-9a-z]`` becomes ``_``.

    This is also the rule of IRSA's HATS catalogue, so ``E(B-V)`` is ``e_b_v_`` in both.
    """
    return re.sub(r"[^0-9a-z]", "_", name.lower())


@dataclass(frozen=True)
class Column:
    """One column of a product.

    Attributes
    ----------
    name
        Name in the FITS product, upper or mixed case.
    type
        PostgreSQL type: ``bigint``, ``integer``, ``smallint``, ``double precision``, ``real``,
        ``text``, ``boolean`` or an array of a numeric one (``real[]``).
    length
        Number of values per row of an array column, else ``None``.
    unit
        Unit as the archive writes it (``uJy``, ``mag/arcsec2``), empty if dimensionless.
    ucd
        IVOA unified content descriptor (UCD1+).
    null
        Values that mean "no value" in this column, beside NaN and the file's own TNULL.
    description
        What the column holds.
    """

    name: str
    type: str
    length: int | None
    unit: str
    ucd: str
    null: tuple[int, ...]
    description: str

    @property
    def sql(self) -> str:
        """Name of the column in the database."""
        return sql_name(self.name)


@dataclass(frozen=True)
class Product:
    """A Q1 product with its own table in schema ``q1``.

    Attributes
    ----------
    table
        Table name, as in the ESA archive.
    title
        One line for people.
    key
        SQL names of the primary key's columns.
    file_pattern
        Regular expression on a file's base name, upper case; empty where no product file exists.
    extname
        FITS extension name, where one file holds several products; else empty.
    hats_prefix
        Prefix of the product's columns in IRSA's merged HATS catalogue.
    has_position
        Whether the product itself carries RIGHT_ASCENSION and DECLINATION.
    """

    table: str
    title: str
    key: tuple[str, ...]
    file_pattern: str
    extname: str
    hats_prefix: str
    has_position: bool

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column of the product in the order of its file."""
        return load_columns(self.table)

    @property
    def by_sql_name(self) -> dict[str, Column]:
        """The columns by their name in the database."""
        return _by_sql_name(self.table)


_ONE = ("object_id",)
_RANKED = ("object_id", "spe_rank")
_SPE_FILE = r"EUC_SPE_.*CAT-Z_"

PRODUCTS: tuple[Product, ...] = (
    Product("mer_catalogue", "MER final catalogue", _ONE, r"EUC_MER_FINAL-CAT_", "", "mer_", True),
    Product(
        "mer_morphology",
        "MER morphology",
        _ONE,
        r"EUC_MER_FINAL-MORPH[-_]CAT_",
        "",
        "morph_",
        False,
    ),
    Product(
        "phz_photo_z", "PHZ photometric redshifts", _ONE, r"EUC_PHZ_PHZCAT_", "", "phz_", False
    ),
    Product(
        "phz_classification", "PHZ classification", _ONE, r"EUC_PHZ_CLASSCAT_", "", "class_", False
    ),
    Product(
        "phz_physical_parameters",
        "PHZ physical parameters of galaxies",
        _ONE,
        r"EUC_PHZ_PHYSPARAM_",
        "",
        "physparam_",
        False,
    ),
    Product(
        "spectro_zcatalog_spe_quality",
        "SPE quality",
        _ONE,
        _SPE_FILE,
        "SPE_QUALITY",
        "z_quality_",
        False,
    ),
    Product(
        "spectro_zcatalog_spe_classification",
        "SPE classification",
        _ONE,
        _SPE_FILE,
        "SPE_CLASSIFICATION",
        "z_classification_",
        False,
    ),
    Product(
        "spectro_zcatalog_spe_galaxy_candidates",
        "SPE galaxy redshift solutions",
        _RANKED,
        _SPE_FILE,
        "SPE_GALAXY_CANDIDATES",
        "z_galaxy_candidates_",
        False,
    ),
    Product(
        "spectro_zcatalog_spe_star_candidates",
        "SPE star solutions",
        _RANKED,
        _SPE_FILE,
        "SPE_STAR_CANDIDATES",
        "z_star_candidates_",
        False,
    ),
    Product(
        "spectro_zcatalog_spe_qso_candidates",
        "SPE QSO redshift solutions",
        _RANKED,
        _SPE_FILE,
        "SPE_QSO_CANDIDATES",
        "z_qso_candidates_",
        False,
    ),
    Product(
        "visual_morphology",
        "Visual morphology (Zoobot) catalogue, Zenodo 15106473",
        _ONE,
        r"MORPHOLOGY_CATALOGUE",
        "",
        "",
        True,
    ),
)

BY_TABLE: dict[str, Product] = {product.table: product for product in PRODUCTS}


@cache
def _by_sql_name(table: str) -> dict[str, Column]:
    return {column.sql: column for column in load_columns(table)}


@cache
def load_columns(table: str) -> tuple[Column, ...]:
    """Column list of one product table, from the package data.

    Raises
    ------
    KeyError
        If no product has that table.
    """
    if table not in BY_TABLE:
        raise KeyError(f"{table!r} is not a Q1 product table; known: {', '.join(BY_TABLE)}")
    source = resources.files("astropt_db.q1") / "columns" / f"{table}.csv"
    with source.open("r", encoding="utf-8") as handle:
        return tuple(
            Column(
                name=row["name"],
                type=row["type"],
                length=int(row["length"]) if row["length"] else None,
                unit=row["unit"],
                ucd=row["ucd"],
                null=tuple(int(value) for value in row["null"].split("|") if value),
                description=row["description"],
            )
            for row in csv.DictReader(handle)
        )
