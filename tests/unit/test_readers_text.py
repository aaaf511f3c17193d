"""CSV, TSV and ECSV: every digit kept, every type settled over the whole file."""

import csv
import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Column, MaskedColumn
from astropy.table import Table as AstropyTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astropt_db.errors import FileError
from astropt_db.q1.readers.text import open_csv, open_ecsv

REAL = Path(os.environ.get("ASTROPT_DB_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="real samples are absent; name their folder in ASTROPT_DB_REAL_DATA"
)


def read(path, opener=open_csv, names=None, rows=8192):
    """All rows of a file: columns declared, data, and nulls, by column name."""
    (table,) = opener(path)
    found = list(table.blocks(names, rows))
    assert [block.first_row for block in found] == [i * rows for i in range(len(found))]
    data, null = {}, {}
    for name in found[0].columns if found else ():
        values = [block.columns[name] for block in found]
        data[name] = np.concatenate([v.data for v in values])
        null[name] = np.concatenate(
            [np.zeros(len(v.data), bool) if v.null is None else v.null for v in values]
        )
    return {column.name: column for column in table.columns}, data, null


def write(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def kinds(columns):
    return {name: (column.dtype.kind, column.length) for name, column in columns.items()}


def test_each_column_gets_the_narrowest_type_that_holds_all_of_it(tmp_path):
    path = write(
        tmp_path,
        "object_id,n,flux,flag,name,interval,nothing\n"
        '-532257415282400330,1,0.5,True,a,"[0.269,4.884]",\n'
        '2684805874647806467,2,,false,,"[NaN,NaN]",\n'
        '-1,,NaN,,"x, y",,\n',
    )
    columns, data, null = read(path)
    assert kinds(columns) == {
        "object_id": ("i", None),
        "n": ("i", None),
        "flux": ("f", None),
        "flag": ("b", None),
        "name": ("S", None),
        "interval": ("f", 2),
        "nothing": ("f", None),
    }
    assert data["object_id"].tolist() == [-532257415282400330, 2684805874647806467, -1]
    assert null["n"].tolist() == [False, False, True]
    assert data["n"].dtype == np.int64
    assert null["flux"].tolist() == [False, True, True]
    assert data["flag"][:2].tolist() == [True, False]
    assert null["flag"].tolist() == [False, False, True]
    assert data["name"].tolist() == [b"a", b"", b"x, y"]
    assert null["name"].tolist() == [False, True, False]
    np.testing.assert_array_equal(
        data["interval"], [[0.269, 4.884], [np.nan, np.nan], [np.nan, np.nan]]
    )
    assert null["interval"].tolist() == [False, False, True]
    assert null["nothing"].all()


@pytest.mark.parametrize("word", ["", "NaN", "nan", "null", "NULL", "--", "N/A", '""'])
def test_words_for_no_value_are_nulls_of_numbers(tmp_path, word):
    _, data, null = read(write(tmp_path, f"n,f\n1,1.5\n{word},{word}\n"))
    assert data["n"].dtype == np.int64
    assert data["f"][0] == 1.5
    assert null["n"].tolist() == null["f"].tolist() == [False, True]


def test_words_for_no_value_stay_in_columns_of_text(tmp_path):
    _, data, null = read(write(tmp_path, "name,z\nN/A,0.5\n--,-\nM 31,1\n"))
    assert data["name"].tolist() == [b"N/A", b"--", b"M 31"]
    assert data["z"].tolist() == [b"0.5", b"-", b"1"]
    assert not null["name"].any()


@pytest.mark.parametrize(
    "destroyed",
    ["-5.14806E+17", "1,262,232", "5.1e17", "", "NaN", "none", "007", "5.0", "+5", "-0"],
)
@pytest.mark.parametrize(
    "name",
    ["object_id", "OBJECTID", "Euclid_ID_x", "source_id", "id", "object_id_euclid", "anything"],
)
def test_identifiers_are_whole_numbers_or_the_text_as_written(tmp_path, destroyed, name):
    path = write(tmp_path, f'{name},x\n-532257415282400330,1\n"{destroyed}",2\n')
    columns, data, _ = read(path)
    assert columns[name].dtype == np.dtype("S")
    assert data[name].tolist() == [b"-532257415282400330", destroyed.encode()]


@pytest.mark.parametrize("late", ["1.5", "5.1e17", "text"])
def test_large_whole_numbers_never_become_floats(tmp_path, late):
    rows = "\n".join(["9007199254740993"] * 20_000)
    _, data, _ = read(write(tmp_path, f"number\n{rows}\n{late}\n"))
    assert data["number"][0] == b"9007199254740993"
    assert data["number"][-1] == late.encode()


def test_a_large_whole_number_late_in_a_column_of_floats_makes_it_text(tmp_path):
    _, data, _ = read(write(tmp_path, "number\n1.5\n9007199254740993\n1e30\n"))
    assert data["number"].tolist() == [b"1.5", b"9007199254740993", b"1e30"]


def test_large_floats_stay_floats(tmp_path):
    _, data, _ = read(write(tmp_path, "luminosity\n1.5\n1e30\ninf\n-Infinity\n"))
    assert data["luminosity"].tolist() == [1.5, 1e30, math.inf, -math.inf]


def test_unsigned_identifiers_beyond_int64_stay_text(tmp_path):
    _, data, _ = read(write(tmp_path, "SPECOBJID\n1\n10000000000000000001\n"))
    assert data["SPECOBJID"].tolist() == [b"1", b"10000000000000000001"]


@pytest.mark.parametrize(
    ("late", "kind"), [("0.1", "f"), ("x", "S"), ("", "i"), ("true", "S"), ('"[1,2]"', "S")]
)
def test_types_hold_for_rows_far_beyond_the_first_block(tmp_path, late, kind):
    n = 600_000  # more than one parsed block
    path = write(tmp_path, "a,b\n" + "1,2\n" * n + f"{late},2\n")
    columns, data, _ = read(path)
    assert columns["a"].dtype.kind == kind
    assert len(data["a"]) == n + 1
    assert data["a"][0] == (b"1" if kind == "S" else 1)


def test_vectors_of_different_lengths_stay_text(tmp_path):
    _, data, _ = read(write(tmp_path, 'v\n"[1,2]"\n"[1,2,3]"\n'))
    assert data["v"].tolist() == [b"[1,2]", b"[1,2,3]"]


def test_missing_elements_of_a_vector_are_nan(tmp_path):
    columns, data, null = read(write(tmp_path, 'v\n"[1, null]"\nnull\n" [2.5,3 ] "\n'))
    assert columns["v"].length == 2
    np.testing.assert_array_equal(data["v"], [[1, np.nan], [np.nan, np.nan], [2.5, 3]])
    assert null["v"].tolist() == [False, True, False]


def test_blanks_around_numbers_do_not_matter(tmp_path):
    _, data, _ = read(write(tmp_path, "a,b\n 1 , 0.5\n2,\t1e3 \n"))
    assert data["a"].tolist() == [1, 2]
    assert data["b"].tolist() == [0.5, 1000.0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_delimiters_line_ends_and_byte_order_mark(tmp_path, end, delimiter, bom):
    lines = [["naïve", '"E(B-V), mag"'], ["Ångström", "0.5"], ['"two\nlines ""quoted"""', "1"]]
    content = bom + end.join(delimiter.join(line) for line in lines) + end
    _, data, _ = read(write(tmp_path, content))
    assert [name.decode() for name in data["naïve"]] == ["Ångström", 'two\nlines "quoted"']
    assert data["E(B-V), mag"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_is_recognised_by_content(tmp_path, members):
    parts = [b"id,x\n", b"1,2\n", b"3,4\n"]
    content = b"".join(parts)
    packed = gzip.compress(content) if members == 1 else b"".join(map(gzip.compress, parts))
    for name in ("table.csv.gz", "table.csv"):
        _, data, _ = read(write(tmp_path, packed, name))
        assert data["id"].tolist() == [1, 3]


def test_comment_lines_before_the_header_are_passed_over(tmp_path):
    _, data, _ = read(write(tmp_path, "#Table1\n\nra,dec\n1.5,2.5\n"))
    assert data["dec"].tolist() == [2.5]


def test_only_the_wanted_columns_are_read_and_again_from_the_start(tmp_path):
    path = write(tmp_path, "c,a,b\n" + "x,1,2\n" * 10)
    (table,) = open_csv(path)
    for _ in range(2):
        blocks = list(table.blocks(["b", "c"], rows=4))
        assert [block.n_rows for block in blocks] == [4, 4, 2]
        assert list(blocks[0].columns) == ["c", "b"]
    assert [block.n_rows for block in table.blocks([], rows=6)] == [6, 4]


@pytest.mark.parametrize("content", ["a,b\n", "a,b", "a,b\n\n\n"])
def test_a_header_without_rows_is_an_empty_table(tmp_path, content):
    (table,) = open_csv(write(tmp_path, content))
    assert [column.name for column in table.columns] == ["a", "b"]
    assert list(table.blocks()) == []


def ecsv(tmp_path, table, **options):
    path = tmp_path / "table.ecsv"
    table.write(path, format="ascii.ecsv", **options)
    return path


@pytest.mark.parametrize("delimiter", [" ", ","])
def test_ecsv_keeps_declared_types_and_units(tmp_path, delimiter):
    flux = MaskedColumn([0.1, np.nan, 3], mask=[False, False, True], unit="uJy", name="flux")
    table = AstropyTable(
        [
            Column(np.array([-532257415282400330, 2, 3]), name="object_id"),
            Column(["00123", "", "x y"], name="text_id"),
            flux,
            Column(np.array([1, 2, 3], np.int16), name="flag"),
            Column([True, False, True], name="good"),
            Column(np.arange(6, dtype=np.float32).reshape(3, 2), name="interval", unit="mag"),
            Column(np.array([1, 2**63, 3], np.uint64), name="big"),
        ]
    )
    path = ecsv(tmp_path, table, delimiter=delimiter)
    (opened,) = open_ecsv(path)
    columns = {column.name: column for column in opened.columns}
    assert columns["flux"].unit == "uJy"
    assert columns["interval"].unit == "mag"
    names = [name for name in columns if name != "big"]
    _, data, null = read(path, open_ecsv, names)
    assert data["object_id"].tolist() == [-532257415282400330, 2, 3]
    assert data["text_id"].tolist() == [b"00123", b"", b"x y"]
    assert data["flux"][0] == 0.1
    assert null["flux"].tolist()[2]
    assert data["flag"].dtype == np.int16
    assert data["good"].tolist() == [True, False, True]
    assert data["interval"].dtype == np.float32
    assert data["interval"].tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(FileError, match=r"row 2, column 'big': .*largest bigint"):
        list(opened.blocks(["big"]))


def test_ecsv_values_against_their_declared_type_are_errors(tmp_path):
    path = ecsv(tmp_path, AstropyTable({"object_id": [1, 2, 3], "x": [1.5, 2.5, 3.5]}))
    path.write_text(path.read_text().replace("\n2 2.5", "\n5.1e17 2.5"))
    (table,) = open_ecsv(path)
    with pytest.raises(FileError, match=r"row 2, column 'object_id'.*5\.1e17"):
        list(table.blocks())


def test_ecsv_header_must_fit_the_data(tmp_path):
    path = ecsv(tmp_path, AstropyTable({"a": [1], "b": [2]}))
    path.write_text(path.read_text().replace("\na b\n", "\na c\n"))
    with pytest.raises(FileError, match=r"declares the columns a, b, .* says a, c"):
        open_ecsv(path)


@pytest.mark.parametrize(
    "header", ["# %ECSV 1.0\n# ---\n# datatype: [\n", "# %ECSV 1.0\n# ---\n# {a: 1}\n", "# x\n"]
)
def test_ecsv_with_a_broken_header_is_an_error(tmp_path, header):
    with pytest.raises(FileError, match="ECSV header"):
        open_ecsv(write(tmp_path, header + "a\n1\n", "t.ecsv"))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30),
    data=st.data(),
)
def test_identifiers_and_floats_come_back_bit_for_bit(tmp_path, ids, data):
    floats = data.draw(st.lists(st.floats(allow_nan=False), min_size=len(ids), max_size=len(ids)))
    lines = [f"{i},{x!r}" for i, x in zip(ids, floats, strict=True)]
    _, read_back, _ = read(write(tmp_path, "object_id,x\n" + "\n".join(lines) + "\n"))
    assert read_back["object_id"].dtype == np.int64
    assert read_back["object_id"].tolist() == ids
    assert list(map(repr, read_back["x"].astype(float).tolist())) == list(map(repr, floats))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
        min_size=1,
        max_size=10,
    )
)
def test_any_text_comes_back_as_it_was(tmp_path, texts):
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    rows = "".join(f"{text},word\n" for text in ["not a number", *quoted])
    path = write(tmp_path, "name,b\n" + rows)
    _, data, null = read(path)
    assert [value.decode() for value in data["name"][1:]] == texts
    assert null["name"][1:].tolist() == [not text for text in texts]


@needs_real_data
def test_real_morphology_rows_keep_every_identifier():
    path = REAL / "q1" / "mer_morphology_edff_523rows.csv"
    _, data, _ = read(path)
    assert len(data["object_id"]) == 523
    assert len(set(data["object_id"].tolist())) == 521
    with path.open(newline="") as file:
        written = [row["object_id"] for row in csv.DictReader(file)]
    assert list(map(str, data["object_id"].tolist())) == written
    ra, dec = data["right_ascension"], data["declination"]
    expected = [
        (1 if d > 0 else -1) * (int(a * 1e7) * 10**9 + int(abs(d) * 1e7))
        for a, d in zip(ra.tolist(), dec.tolist(), strict=True)
    ]
    assert data["object_id"].tolist() == expected


@needs_real_data
def test_real_destroyed_identifiers_stay_as_written():
    path = REAL / "q1" / "phz_physical_destroyed_ids.csv"
    columns, data, _ = read(path)
    assert columns["Euclid_ID_x"].dtype == np.dtype("S")
    written = [line.split(",")[1].encode() for line in path.read_text().splitlines()[1:]]
    assert data["Euclid_ID_x"].tolist() == written
    assert kinds(columns)["phz_pp_68_sfhage"] == ("f", 2)
    assert kinds(columns)["MATCH"] == ("b", None)


@needs_real_data
@pytest.mark.parametrize(
    ("name", "rows", "column", "kind"),
    [
        ("openngc.csv", 13969, "Redshift", "f"),
        ("lenscat.csv", 32838, "zlens", "S"),
        ("stein2022_new_lenses.tsv", 1192, "ra", "f"),
    ],
)
def test_real_survey_tables(name, rows, column, kind):
    columns, data, _ = read(REAL / "surveys" / name)
    assert len(data[column]) == rows
    assert columns[column].dtype.kind == kind
