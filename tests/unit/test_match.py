"""Which product a table is, and which of its columns go where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from memory_table import empty_table, memory_table

from astropt_db.errors import ConfigurationError, FileError
from astropt_db.ingest.match import Target, targets, tile_of, unclaimed
from astropt_db.q1.products import BY_TABLE, PRODUCTS, Product

TILE_FILE = "EUC_MER_FINAL-CAT_TILE102158889-ABC_20241018T214045.289017Z_00.00.fits"
SPE_FILE = "EUC_SPE_WIDE-CAT-Z_102158889_N_20241018T000000.0Z.fits"
FILES = {
    "mer_catalogue": TILE_FILE,
    "mer_morphology": "EUC_MER_FINAL-MORPH-CAT_TILE102158889-ABC.fits",
    "phz_photo_z": "EUC_PHZ_PHZCAT__20241018T000000.0Z.fits",
    "phz_classification": "EUC_PHZ_CLASSCAT__20241018T000000.0Z.fits",
    "phz_physical_parameters": "EUC_PHZ_PHYSPARAM__20241018T000000.0Z.fits",
    "visual_morphology": "morphology_catalogue.parquet",
}
UNCERTAIN = {
    "spectro_zcatalog_spe_galaxy_candidates": "fits 2 products equally well .*--product",
    "spectro_zcatalog_spe_qso_candidates": "fits 2 products equally well .*--product",
    "spectro_zcatalog_spe_star_candidates": "holds no known product .*--product",
}


def names(product: Product) -> list[str]:
    return [column.name for column in product.columns]


def only(table_columns: list[str], path: str = "x.fits", label: str = "") -> Target:
    ((_, target),) = targets([empty_table(table_columns, path, label)])
    return target


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.table)
def test_products_are_known_by_their_file_name(product: Product) -> None:
    path = FILES.get(product.table, SPE_FILE)
    key_and_one = [*product.key, "RIGHT_ASCENSION", "DECLINATION", names(product)[-1]]
    target = only(list(dict.fromkeys(key_and_one)), path, product.extname.lower())
    assert target.product is product


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.table)
def test_products_are_known_by_their_columns(product: Product) -> None:
    lower = [name.lower() for name in names(product)]
    if product.table in UNCERTAIN:
        with pytest.raises(FileError, match=UNCERTAIN[product.table]):
            only(lower)
        return
    target = only(lower)
    assert target.product is product
    assert target.missing == target.extra == ()
    assert set(target.sources) == {column.sql for column in product.columns}


@pytest.mark.parametrize("table", UNCERTAIN)
def test_uncertain_tables_are_named_by_the_user(table: str) -> None:
    product = BY_TABLE[table]
    ((_, target),) = targets([empty_table(names(product))], product.table)
    assert target.product is product


def test_the_tables_of_a_spectroscopic_file_are_told_apart_by_their_extension() -> None:
    products = [product for product in PRODUCTS if product.extname]
    tables = [empty_table(names(p), SPE_FILE, p.extname) for p in products]
    tables.append(empty_table(["OBJECT_ID", "SPE_LINE_ID"], SPE_FILE, "SPE_LINES_CATALOG"))
    assert [target.product for _, target in targets(tables)] == products


def test_a_product_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match="no such product; known are mer_catalogue"):
        targets([empty_table(["OBJECT_ID"])], "mer_catalog")


def test_a_catalogue_of_something_else() -> None:
    with pytest.raises(FileError, match="has no OBJECT_ID column, so it is no Euclid catalogue"):
        targets([empty_table(["TARGETID", "Z", "ZWARN"])])
    with pytest.raises(FileError, match=r"holds no known product \(3 columns"):
        targets([empty_table(["OBJECT_ID", "A", "B"])])


def test_known_files_with_missing_columns_say_which() -> None:
    with pytest.raises(FileError, match="looks like MER final catalogue but has no OBJECT_ID"):
        only(["RIGHT_ASCENSION", "DECLINATION", "VIS_DET"], TILE_FILE)
    with pytest.raises(FileError, match="has no RIGHT_ASCENSION and DECLINATION"):
        only(["OBJECT_ID", "RIGHT_ASCENSION", "VIS_DET"], TILE_FILE)
    with pytest.raises(FileError, match="has no column SPE_RANK, which is part of its key"):
        only(["OBJECT_ID", "SPE_Z"], SPE_FILE, "SPE_GALAXY_CANDIDATES")


def test_unknown_and_missing_columns() -> None:
    product = BY_TABLE["phz_classification"]
    given = [*names(product)[:-1], "MY_FLAG", "E(B-V)"]
    target = only(given)
    assert target.extra == ("MY_FLAG", "E(B-V)")
    assert target.missing == (product.columns[-1].sql,)


def test_spellings_of_the_id_and_the_position() -> None:
    target = only(["Euclid_ID", "ra", "dec", "GINI", "ASYMMETRY", "CONCENTRATION"])
    assert (target.id_column, target.ra_column, target.dec_column) == ("Euclid_ID", "ra", "dec")
    # The product has no position of its own: it serves to check the ids, and is kept.
    assert target.extra == ("ra", "dec")
    assert only(["objectid", "GINI", "ASYMMETRY"]).id_column == "objectid"


def test_a_position_needs_both_coordinates() -> None:
    target = only(["object_id", "ra", "GINI", "ASYMMETRY"])
    assert target.ra_column is None
    assert target.extra == ("ra",)


def test_vectors_in_columns_of_their_own() -> None:
    target = only(
        ["object_id", "phz_90_int1", "phz_90_int2", "phz_70_int1", "phz_median", "phz_mode_1"]
    )
    assert target.product.table == "phz_photo_z"
    assert target.sources["phz_90_int"] == ("phz_90_int1", "phz_90_int2")
    assert "phz_70_int" in target.missing
    assert "phz_70_int1" in target.extra


@pytest.mark.parametrize("twice", ["OBJECT_ID", "GINI", "ra"])
def test_a_vector_where_one_value_belongs(twice: str) -> None:
    one, two = np.zeros(1), np.zeros((1, 2))
    columns = dict.fromkeys(["OBJECT_ID", "ra", "dec", "GINI", "ASYMMETRY", "CONCENTRATION"], one)
    table = memory_table(**(columns | {twice: two}))
    with pytest.raises(FileError, match=f"column '{twice}' has 2 values per row, expected one"):
        targets([table])


# Merged catalogues (HATS)

MERGED = [
    *("object_id", "ra", "dec", "tileid", "_healpix_29", "Norder", "cntr"),
    *("mer_flux_vis_2fwhm_aper", "mer_flux_detection_total", "mer_vis_det", "mer_something_new"),
    *("morph_gini", "phz_phz_median", "phz_phz_90_int1", "phz_phz_90_int2"),
    *("z_galaxy_candidates_spe_z_rank0", "z_galaxy_candidates_spe_z_rank1", "galaxysed_flux_4900"),
]


def test_merged_catalogues_give_a_target_per_product_and_rank() -> None:
    table = empty_table(MERGED)
    found = [target for _, target in targets([table])]
    assert [(t.product.table, t.constants, t.sparse) for t in found] == [
        ("mer_catalogue", {}, False),
        ("mer_morphology", {}, True),
        ("phz_photo_z", {}, True),
        ("spectro_zcatalog_spe_galaxy_candidates", {"spe_rank": 0}, True),
        ("spectro_zcatalog_spe_galaxy_candidates", {"spe_rank": 1}, True),
    ]
    assert {t.id_column for t in found} == {"object_id"}
    assert {t.ra_column for t in found} == {"ra"}
    mer, morphology, photo_z, best, second = found
    assert mer.sources["right_ascension"] == ("ra",)
    assert mer.extra == ("mer_something_new",)
    assert morphology.sources["gini"] == ("morph_gini",)
    assert photo_z.sources["phz_90_int"] == ("phz_phz_90_int1", "phz_phz_90_int2")
    assert best.sources["spe_z"] == ("z_galaxy_candidates_spe_z_rank0",)
    assert second.sources["spe_z"] == ("z_galaxy_candidates_spe_z_rank1",)
    assert "spe_rank" not in second.missing


def test_columns_without_a_table_here_are_reported() -> None:
    table = empty_table(MERGED)
    found = [target for _, target in targets([table])]
    assert unclaimed(table, found) == ["galaxysed_flux_4900"]


def test_a_plain_table_has_no_unclaimed_column() -> None:
    table = empty_table(["OBJECT_ID", "GINI", "ASYMMETRY", "mine"])
    assert unclaimed(table, [target for _, target in targets([table])]) == []


# Tiles


def test_the_tile_of_a_file() -> None:
    table = empty_table(["OBJECT_ID"])
    assert tile_of(Path(TILE_FILE), table) == 102158889
    assert tile_of(Path(SPE_FILE), table) == 102158889
    assert tile_of(Path("/data/102018211/EUC_PHZ_PHZCAT__2024.fits"), table) == 102018211
    assert tile_of(Path("/data/2024/EUC_PHZ_PHZCAT__2024.fits"), table) is None
    table.tile = 102018666
    assert tile_of(Path(TILE_FILE), table) == 102018666


def test_columns_that_differ_in_case_only_are_refused() -> None:
    table = memory_table(OBJECT_ID=[1], CONCENTRATION=[1.0], concentration=[2.0], GINI=[0.5])
    with pytest.raises(FileError, match="two columns for concentration"):
        targets([table])
