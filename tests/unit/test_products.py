"""The column lists of the Q1 products."""

from __future__ import annotations

import re

import astropy.units as u
import pytest
from astropy.io.votable.ucd import parse_ucd

from astropt_db.q1.products import BY_TABLE, PRODUCTS, Column, Product, load_columns, sql_name
from astropt_db.q1.tables import TABLES, comment, sql_type

COUNTS = {
    "mer_catalogue": 469,
    "mer_morphology": 104,
    "phz_photo_z": 61,
    "phz_classification": 13,
    # Known only in part: 42 of 93, 12 of 25 and 3 of 8 columns.
    "phz_physical_parameters": 42,
    "spectro_zcatalog_spe_quality": 12,
    "spectro_zcatalog_spe_star_candidates": 3,
    "spectro_zcatalog_spe_classification": 5,
    "spectro_zcatalog_spe_galaxy_candidates": 12,
    "spectro_zcatalog_spe_qso_candidates": 12,
    "visual_morphology": 74,
}
# Logarithms of quantities, which astropy writes as decades.
LOGARITHMIC = {"log10(Msun)": "dex(Msun)", "log10(Msun/yr)": "dex(Msun/yr)"}

every_product = pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.table)
every_column = [(product, column) for product in PRODUCTS for column in product.columns]


def test_numbers_of_columns() -> None:
    assert {table: len(load_columns(table)) for table in BY_TABLE} == COUNTS


def test_types_of_the_mer_catalogue() -> None:
    """As in the data-product description: 5 K, 4 D, 428 E, 23 J and 9 I columns."""
    kinds = [column.type for column in load_columns("mer_catalogue")]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "bigint": 5,
        "double precision": 4,
        "real": 428,
        "integer": 23,
        "smallint": 9,
    }


@every_product
def test_names_are_unique_in_sql(product: Product) -> None:
    assert len(product.by_sql_name) == len(product.columns)
    assert all(re.fullmatch("[a-z_][a-z0-9_]{0,62}", name) for name in product.by_sql_name)


@every_product
def test_keys_and_positions_are_columns(product: Product) -> None:
    names = set(product.by_sql_name)
    assert set(product.key) <= names
    assert product.key[0] == "object_id"
    assert product.by_sql_name["object_id"].type == "bigint"
    assert product.has_position == ({"right_ascension", "declination"} <= names)


def test_every_column_has_a_valid_ucd() -> None:
    def problem(column: Column) -> str | None:
        try:
            parse_ucd(column.ucd, check_controlled_vocabulary=True)
        except ValueError as error:
            return str(error)
        return None if column.ucd else "no UCD"

    found = {(p.table, c.name): problem(c) for p, c in every_column}
    assert {name: text for name, text in found.items() if text} == {}


def test_one_column_of_a_product_is_its_main_identifier() -> None:
    for product in PRODUCTS:
        main = [c.sql for c in product.columns if c.ucd == "meta.id;meta.main"]
        assert main == ["object_id"]


def test_every_unit_can_be_read_by_astropy() -> None:
    units = {column.unit for _, column in every_column} - {""}
    assert "NA" not in units
    for unit in units:
        assert u.Unit(LOGARITHMIC.get(unit, unit)) != u.dimensionless_unscaled
    assert u.Unit("uJy").is_equivalent("Jy")


def test_every_column_is_described() -> None:
    assert [(p.table, c.name) for p, c in every_column if not c.description.strip()] == []


def test_vectors_have_a_length_and_scalars_none() -> None:
    assert [c.name for _, c in every_column if c.type.endswith("[]") != bool(c.length)] == []
    vectors = {c.name: c.length for c in load_columns("phz_photo_z") if c.length}
    assert vectors == {"PHZ_PDF": 601, "PHZ_70_INT": 2, "PHZ_90_INT": 2, "PHZ_95_INT": 2}


def test_sentinels_fit_their_columns() -> None:
    with_sentinels = {c.name: c for _, c in every_column if c.null}
    assert "GALAXYCLASS" in with_sentinels
    assert with_sentinels["GALAXYCLASS"].null == (-99, -1)
    assert {c.type for c in with_sentinels.values()} <= {"smallint", "integer", "real"}


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("OBJECT_ID", "object_id"),
        ("E(B-V)", "e_b_v_"),
        ("classification.QSO_prob", "classification_qso_prob"),
        ("smooth-or-featured_smooth_fraction", "smooth_or_featured_smooth_fraction"),
        ("Größe", "gr__e"),
    ],
)
def test_sql_names(name: str, sql: str) -> None:
    assert sql_name(name) == sql


def test_an_unknown_product() -> None:
    with pytest.raises(KeyError, match="'mer' is not a Q1 product table; known: mer_catalogue"):
        load_columns("mer")
    with pytest.raises(KeyError):
        sql_type("numeric")


@every_product
def test_tables_repeat_the_column_lists(product: Product) -> None:
    table = TABLES[product.table]
    # Indexed columns first, the product's other columns in its own order, then the unknown ones.
    indexed = [*product.key, *["healpix29"] * product.has_position, "ingest_file_id"]
    others = [name for name in product.by_sql_name if name not in product.key]
    assert [column.name for column in table.columns] == [*indexed, *others, "extra"]
    assert [column.name for column in table.primary_key] == list(product.key)
    for name, column in product.by_sql_name.items():
        assert table.c[name].comment == comment(column.description, column.unit, column.ucd)
