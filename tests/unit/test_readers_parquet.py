"""Parquet: streamed by batches, every type exact; folders and HATS catalogues."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astropt_db.errors import FileError
from astropt_db.q1.readers.parquet import open_parquet, parquet_files


def write(tmp_path, table, **options):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(table) if isinstance(table, dict) else table, path, **options)
    return path


def read_column(path, name, rows=8192):
    (table,) = open_parquet(path)
    with table:
        (column,) = [column for column in table.columns if column.name == name]
        values = [block.columns[name] for block in table.blocks([name], rows)]
    data = np.concatenate([v.data for v in values])
    null = np.concatenate(
        [np.zeros(len(v.data), bool) if v.null is None else v.null for v in values]
    )
    return column, data, null


@pytest.mark.parametrize(
    ("kind", "values", "dtype", "expected"),
    [
        (pa.int64(), [-532257415282400330, None, 2684805874647806467], "i8", None),
        (pa.int8(), [-128, None, 127], "i1", None),
        (pa.uint8(), [0, None, 255], "i2", None),
        (pa.uint16(), [0, None, 65535], "i4", None),
        (pa.uint32(), [0, None, 2**32 - 1], "i8", None),
        (pa.uint64(), [0, None, 2**63 - 1], "i8", None),
        (pa.float16(), [np.float16(0.5), None, np.float16(2)], "f4", None),
        (pa.float32(), [0.5, None, 1e30], "f4", [np.float32(0.5), None, np.float32(1e30)]),
        (pa.float64(), [0.1, None, 1e300], "f8", None),
        (pa.bool_(), [True, None, False], "?", None),
        (pa.string(), ["naïve", None, "b"], "S", ["naïve".encode(), None, b"b"]),
        (pa.large_string(), ["", None, "b"], "S", [b"", None, b"b"]),
        (pa.binary(), [b"a", None, b"b"], "S", None),
        (pa.dictionary(pa.int8(), pa.string()), ["a", None, "b"], "S", [b"a", None, b"b"]),
        (pa.dictionary(pa.int8(), pa.int64()), [2**60 + 1, None, 3], "i8", None),
        (
            pa.decimal128(20, 0),
            [decimal.Decimal("-532257415282400330"), None, decimal.Decimal(1)],
            "S",
            [b"-532257415282400330", None, b"1"],
        ),
        (
            pa.timestamp("us"),
            [datetime.datetime(2025, 3, 19, 12), None, datetime.datetime(2026, 1, 1)],
            "S",
            [b"2025-03-19 12:00:00.000000", None, b"2026-01-01 00:00:00.000000"],
        ),
        (pa.date32(), [datetime.date(2025, 3, 19), None, None], "S", [b"2025-03-19", None, None]),
    ],
)
def test_types(tmp_path, kind, values, dtype, expected):
    path = write(tmp_path, {"x": pa.array(values, kind)})
    column, data, null = read_column(path, "x", rows=2)
    expected = values if expected is None else expected
    assert column.dtype == np.dtype(dtype)
    assert column.length is None
    assert null.tolist() == [value is None for value in expected]
    assert [d for d, n in zip(data.tolist(), null, strict=True) if not n] == [
        value for value in expected if value is not None
    ]


def test_a_column_of_nothing_but_nulls(tmp_path):
    column, data, null = read_column(write(tmp_path, {"x": pa.nulls(3)}), "x")
    assert column.dtype == np.float64
    assert np.isnan(data).all()
    assert null.all()


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32(), 2), pa.list_(pa.float32()), pa.large_list(pa.float32())],
    ids=str,
)
def test_vectors(tmp_path, kind):
    path = write(tmp_path, {"v": pa.array([None, [1, 2], [3, None], None, [5, 6]], kind)})
    column, data, null = read_column(path, "v", rows=2)
    assert (column.dtype, column.length) == (np.dtype("f4"), 2)
    np.testing.assert_array_equal(
        data, np.array([[np.nan] * 2, [1, 2], [3, np.nan], [np.nan] * 2, [5, 6]], "f4")
    )
    assert null.tolist() == [True, False, False, True, False]


def test_vectors_of_integers_stay_exact(tmp_path):
    path = write(tmp_path, {"v": pa.array([[2**60 + 1, 1], None], pa.list_(pa.int64()))})
    _, data, null = read_column(path, "v")
    assert data.tolist() == [[2**60 + 1, 1], [0, 0]]
    assert null.tolist() == [False, True]


def test_empty_lists_are_no_value(tmp_path):
    path = write(tmp_path, {"v": pa.array([[], [1.0, 2.0], []])})
    column, _, null = read_column(path, "v")
    assert column.length == 2
    assert null.tolist() == [True, False, True]
    path = write(tmp_path, {"v": pa.array([[], None], pa.list_(pa.float64()))})
    column, data, null = read_column(path, "v")
    assert column.length == 1
    assert np.isnan(data).all()
    assert null.all()


def test_lists_of_different_lengths_are_an_error_that_names_the_row(tmp_path):
    path = write(tmp_path, {"v": pa.array([[1.0, 2.0]] * 10_000 + [[1.0]])})
    with pytest.raises(FileError, match=r"row 10001, column 'v': expected 2 values .* found 1"):
        read_column(path, "v")


def test_a_missing_integer_in_a_list_is_an_error_that_names_the_row(tmp_path):
    path = write(tmp_path, {"v": pa.array([[1, 2], None, [1, None]])})
    with pytest.raises(FileError, match=r"row 3, column 'v': .*missing value"):
        read_column(path, "v")


def test_an_unsigned_integer_beyond_bigint_names_the_row(tmp_path):
    path = write(tmp_path, {"SPECOBJID": pa.array([1, None, 2**63], pa.uint64())})
    with pytest.raises(FileError, match=r"row 3, column 'SPECOBJID': .*9223372036854775807"):
        read_column(path, "SPECOBJID")


@pytest.mark.parametrize(
    "values",
    [[{"a": 1}], [[["x"]]], [["x"]], [[{"a": 1}]]],
    ids=["struct", "list of list", "list of text", "list of struct"],
)
def test_nested_columns_are_refused_by_name(tmp_path, values):
    path = write(tmp_path, {"ok": [1], "image": pa.array(values)})
    with pytest.raises(FileError, match=r"column 'image' has type"):
        open_parquet(path)


def test_units_come_from_the_fields(tmp_path):
    schema = pa.schema([pa.field("flux", pa.float32(), metadata={"unit": "uJy"}), ("x", "int64")])
    path = write(tmp_path, pa.table({"flux": [1.0], "x": [1]}, schema))
    (table,) = open_parquet(path)
    assert [column.unit for column in table.columns] == ["uJy", ""]


def test_blocks_have_the_size_asked_for_whatever_the_row_groups_are(tmp_path):
    path = write(tmp_path, {"n": np.arange(1000), "b": np.zeros(1000)}, row_group_size=37)
    (table,) = open_parquet(path)
    assert table.n_rows == 1000
    for rows in (300, 10):
        blocks = list(table.blocks(["n"], rows))
        assert [block.n_rows for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
        assert [block.first_row for block in blocks] == list(range(0, 1000, rows))
        numbers = np.concatenate([block.columns["n"].data for block in blocks])
        np.testing.assert_array_equal(numbers, np.arange(1000))
    assert sum(block.n_rows for block in table.blocks([])) == 1000


def test_names_with_dots_are_names(tmp_path):
    path = write(tmp_path, {"a": [1], "a.b": [2], "E(B-V)": [3.0], "Größe": [4]})
    (table,) = open_parquet(path)
    (block,) = table.blocks(["a", "a.b", "Größe"])
    assert {name: values.data[0] for name, values in block.columns.items()} == {
        "a": 1,
        "a.b": 2,
        "Größe": 4,
    }


def test_dictionaries_that_differ_between_row_groups(tmp_path):
    texts = [f"t{i // 10}" for i in range(1000)]
    path = write(tmp_path, {"x": pa.array(texts).dictionary_encode()}, row_group_size=50)
    _, data, _ = read_column(path, "x", rows=333)
    assert data.tolist() == [text.encode() for text in texts]


def hats(folder, **kinds):
    """A HATS collection: a catalogue, its margin cache and its index."""
    for name, kind in kinds.items():
        root = folder / name
        for part in ("Norder=1/Dir=0/Npix=10", "Norder=1/Dir=0/Npix=9", "Norder=0/Dir=0/Npix=3"):
            path = root / "dataset" / part / "part0.snappy.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.table({"x": [1]}), path)
        for extra in ("_metadata", "_common_metadata", "data_thumbnail.parquet"):
            pq.write_table(pa.table({"x": [1]}), root / "dataset" / extra)
        (root / "partition_info.csv").write_text("Norder,Npix\n")
        (root / "hats.properties").write_text(f"#HATS\nobs_collection=x\ndataproduct_type={kind}\n")
    (folder / "collection.properties").write_text("hats_primary_table_url=euclid\n")
    return folder


@pytest.mark.parametrize("start", ["", "euclid"])
def test_a_hats_catalogue_gives_its_partitions_once_and_in_order(tmp_path, start):
    hats(
        tmp_path, euclid="object", neighbours="margin", euclid_margin_10arcsec="object", ids="index"
    )
    found = [path.relative_to(tmp_path / start) for path in parquet_files(tmp_path / start)]
    expected = ["Norder=0/Dir=0/Npix=3", "Norder=1/Dir=0/Npix=9", "Norder=1/Dir=0/Npix=10"]
    assert [path.parent.as_posix().split("dataset/")[1] for path in found] == expected
    (table,) = open_parquet(tmp_path / start / found[0])
    assert [column.name for column in table.columns] == ["x"]


@pytest.mark.parametrize("kind", ["margin", "index"])
def test_a_margin_cache_by_itself_is_refused(tmp_path, kind):
    hats(tmp_path, repeats=kind)
    with pytest.raises(FileError, match=f"is the {kind} of a HATS catalogue"):
        parquet_files(tmp_path / "repeats")


def test_a_plain_folder_with_hidden_files_and_links(tmp_path):
    folder = tmp_path / "data"
    elsewhere = tmp_path / "elsewhere"
    for path in (folder / "b.parquet", folder / "sub" / "a.pq", elsewhere / "c.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), path)
    (folder / ".hidden.parquet").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (folder / "tiles").symlink_to(elsewhere)
    (folder / "sub" / "loop").symlink_to(folder)
    names = [path.relative_to(folder).as_posix() for path in parquet_files(folder)]
    assert names == ["b.parquet", "sub/a.pq", "tiles/c.parquet"]


def test_a_folder_without_data_is_an_error(tmp_path):
    with pytest.raises(FileError, match="holds no Parquet data files"):
        parquet_files(tmp_path)
