"""VOTable: all serialisations, identifiers exact, nulls kept apart from values."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import votable
from astropy.table import MaskedColumn
from astropy.table import Table as AstropyTable

from astropt_db.errors import FileError
from astropt_db.q1.readers import votable as reader
from astropt_db.q1.readers import votable_pieces
from astropt_db.q1.readers.votable import LongVOTable, open_votable

REAL = Path(os.environ.get("ASTROPT_DB_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="real samples are absent; name their folder in ASTROPT_DB_REAL_DATA"
)
IDS = [-532257415282400330, 2684805874647806467, 9007199254740993]


def document(fields, rows="", *, version="1.4", extra="", attributes="", name="table.vot"):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<VOTABLE version="{version}" '
        'xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">'
        f"{extra}<TABLE {attributes}>{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE>"
        "</RESOURCE></VOTABLE>"
    )


def write(tmp_path, text, name="table.vot"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def row(*cells):
    return "<TR>" + "".join(f"<TD>{cell}</TD>" for cell in cells) + "</TR>"


def read(path):
    (table,) = open_votable(path)
    (block,) = table.blocks()
    return {column.name: column for column in table.columns}, block.columns


@pytest.mark.parametrize("serialisation", ["tabledata", "binary", "binary2"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_serialisation_gives_the_same(tmp_path, serialisation, packed):
    table = AstropyTable(
        [
            MaskedColumn(IDS, name="object_id"),
            MaskedColumn([1.5, np.nan, 2.5], name="flux", unit="uJy", dtype="f4"),
            MaskedColumn([1, 2, 3], mask=[False, True, False], name="flag", dtype="i2"),
            MaskedColumn(["a", "bc", ""], name="name"),
            MaskedColumn(np.arange(6.0).reshape(3, 2), name="interval"),
            MaskedColumn([True, False, True], name="good"),
        ]
    )
    tree = votable.from_table(table)
    tree.get_first_table().get_field_by_id("flag").values.null = -99
    path = tmp_path / "t.vot"
    tree.to_xml(str(path), tabledata_format=serialisation)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    columns, values = read(path)
    assert columns["object_id"].dtype == np.int64
    assert values["object_id"].data.tolist() == IDS
    assert columns["flux"].unit == "uJy"
    assert columns["flux"].dtype == np.float32
    np.testing.assert_array_equal(values["flux"].data, np.array([1.5, np.nan, 2.5], "f4"))
    assert values["flag"].null.tolist() == [False, True, False]
    assert values["flag"].data.dtype == np.int16
    assert columns["flag"].null == -99
    assert values["name"].data.tolist() == [b"a", b"bc", b""]
    assert columns["interval"].length == 2
    assert values["interval"].data.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert values["good"].data.tolist() == [True, False, True]


def test_nulls_texts_and_unsigned_bytes(tmp_path):
    fields = (
        '<FIELD name="object_id" datatype="long"><VALUES null="999999"/></FIELD>'
        '<FIELD name="E(B-V)" datatype="double"/>'
        '<FIELD name="Größe" datatype="unicodeChar" arraysize="*"/>'
        '<FIELD name="n" datatype="unsignedByte"/>'
    )
    rows = row(IDS[0], "0.1", "Ångström", 255) + row(999999, "", "", 0) + row("", "NaN", "x", "")
    columns, values = read(write(tmp_path, document(fields, rows)))
    assert list(columns) == ["object_id", "E(B-V)", "Größe", "n"]
    assert values["object_id"].data[0] == IDS[0]
    assert values["object_id"].null.tolist() == [False, True, True]
    assert np.isnan(values["E(B-V)"].data[1:]).all()
    assert values["Größe"].data[0].decode() == "Ångström"
    assert values["n"].data.dtype == np.int16
    assert values["n"].data[0] == 255
    assert values["n"].null.tolist() == [False, False, True]


def test_words_for_no_value_are_null_and_other_words_are_not(tmp_path):
    fields = '<FIELD name="f" datatype="float"/>'
    empty = "".join(map(row, ["null", "-", "NULL", "N/A", "--"] * 4))
    _, values = read(write(tmp_path, document(fields, empty + row("1.5"))))
    assert np.isnan(values["f"].data[:-1]).all()
    with pytest.raises(FileError, match=r"would lose values: .*'twenty'"):
        open_votable(write(tmp_path, document(fields, empty + row("twenty"))))


def test_variable_arrays_of_one_length_are_vectors(tmp_path):
    fields = '<FIELD name="pdf" datatype="float" arraysize="*"/>'
    rows = row("") + row("1 2 3") + row("4 NaN 6")
    columns, values = read(write(tmp_path, document(fields, rows)))
    assert (columns["pdf"].length, columns["pdf"].dtype) == (3, np.dtype("f4"))
    np.testing.assert_array_equal(
        values["pdf"].data, np.array([[np.nan] * 3, [1, 2, 3], [4, np.nan, 6]], "f4")
    )
    assert values["pdf"].null.tolist() == [True, False, False]


def test_variable_arrays_of_different_lengths_name_the_row(tmp_path):
    fields = '<FIELD name="pdf" datatype="float" arraysize="*"/>'
    path = write(tmp_path, document(fields, row("1 2 3") + row("1 2")))
    with pytest.raises(FileError, match=r"row 2, column 'pdf': expected 3 values .* found 2"):
        read(path)


def test_arrays_of_two_dimensions_are_flattened(tmp_path):
    fields = '<FIELD name="m" datatype="double" arraysize="2x2"/>'
    columns, values = read(write(tmp_path, document(fields, row("1 2 3 4"))))
    assert columns["m"].length == 4
    assert values["m"].data.tolist() == [[1, 2, 3, 4]]


def test_blocks_columns_and_several_tables(tmp_path):
    table = AstropyTable({"a": np.arange(10), "b": np.arange(10.0)})
    tree = votable.from_table(table)
    tree.resources.append(votable.from_table(AstropyTable({"c": [1]})).resources[0])
    tree.resources[0].tables[0].name = "first"
    path = tmp_path / "t.xml"
    tree.to_xml(str(path))
    first, second = open_votable(path)
    assert (first.label, first.n_rows, second.n_rows) == ("first", 10, 1)
    blocks = list(first.blocks(["b"], rows=4))
    assert [(block.first_row, block.n_rows) for block in blocks] == [(0, 4), (4, 4), (8, 2)]
    assert list(blocks[0].columns) == ["b"]


@pytest.fixture
def small_pieces(monkeypatch):
    """Files above 1 kB are long, and a piece has about 300 bytes of rows."""
    monkeypatch.setattr(reader, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(votable_pieces, "PIECE_BYTES", 300)


def long_rows(n):
    return "\n".join(row(IDS[0] + i, i / 4, f"a&lt;{i}") for i in range(n))


LONG_FIELDS = (
    '<FIELD name="object_id" datatype="long"/><FIELD name="flux" datatype="float"/>'
    '<FIELD name="name" datatype="char" arraysize="*"/>'
)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prefix", ["", "v:"])
@pytest.mark.parametrize("n", [99, 100, 101])
def test_a_long_table_is_read_in_pieces(tmp_path, small_pieces, n, packed, prefix):
    text = document(LONG_FIELDS, long_rows(n), attributes=f'name="t" nrows="{n}"')
    if prefix:
        text = re.sub(r"<(/?)([A-Z])", r"<\1v:\2", text).replace("xmlns=", "xmlns:v=")
    path = tmp_path / "t.vot"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    (table,) = open_votable(path)
    assert isinstance(table, LongVOTable)
    assert (table.label, table.n_rows) == ("t", n)
    blocks = list(table.blocks(rows=4))
    assert len(blocks) > n / 4
    assert max(block.n_rows for block in blocks) <= 4
    assert [block.first_row for block in blocks] == [
        sum(block.n_rows for block in blocks[:i]) for i in range(len(blocks))
    ]
    ids = np.concatenate([block.columns["object_id"].data for block in blocks])
    assert ids.tolist() == [IDS[0] + i for i in range(n)]
    names = np.concatenate([block.columns["name"].data for block in blocks])
    assert names[-1] == f"a<{n - 1}".encode()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[:4000], "it ends inside its table"),
        (lambda text: text.replace('nrows="100"', 'nrows="101"'), "announces 101 rows, found 100"),
        (
            lambda text: text.replace("<TD>20.0</TD>", "<TD>twenty</TD>"),
            "after row [78][0-9]: .*'twenty'",
        ),
        (
            lambda text: text.replace(
                "</RESOURCE>", '<INFO name="QUERY_STATUS" value="OVERFLOW"/></RESOURCE>'
            ),
            "QUERY_STATUS is OVERFLOW",
        ),
        (
            lambda text: text.replace("</RESOURCE>", "<TABLE></TABLE></RESOURCE>"),
            "holds several tables and is too large",
        ),
        (lambda text: text.replace("</TR>", "</TRR>"), "holds no complete row"),
    ],
    ids=["cut off", "rows announced", "no number", "overflow", "two tables", "no row"],
)
def test_damage_of_a_long_table(tmp_path, small_pieces, change, expected):
    text = document(LONG_FIELDS, long_rows(100), attributes='nrows="100"')
    with pytest.raises(FileError, match=expected):
        [list(table.blocks()) for table in open_votable(write(tmp_path, change(text)))]


def test_wrong_xml_before_the_rows_is_named(tmp_path):
    fields = "".join(f'<FIELD name="a{i}" datatype="long"/>' for i in range(20))
    text = document(fields + '<FIELD name="b" datatype="long"></FIELDX>', row(*range(21)))
    with pytest.raises(FileError, match="is not valid XML: mismatched tag"):
        open_votable(write(tmp_path, text))


def test_a_table_without_rows(tmp_path):
    (table,) = open_votable(write(tmp_path, document('<FIELD name="a" datatype="long"/>')))
    assert table.n_rows == 0
    assert list(table.blocks()) == []


def test_an_old_style_document_type_without_entities_is_fine(tmp_path):
    text = document('<FIELD name="a" datatype="long"/>', row(1))
    doctype = '<!DOCTYPE VOTABLE SYSTEM "http://us-vo.org/xml/VOTable.dtd">\n<VOTABLE'
    _, values = read(write(tmp_path, text.replace("<VOTABLE", doctype, 1)))
    assert values["a"].data.tolist() == [1]


@needs_real_data
def test_real_gaia_row():
    columns, values = read(REAL / "q1" / "gaia_dr3_row.vot")
    assert len(columns) == 152
    assert values["source_id"].data.tolist() == [5929246508730155392]
    assert values["designation"].data.tolist() == [b"Gaia DR3 5929246508730155392"]
    assert columns["parallax"].unit == "mas"


@needs_real_data
def test_real_product_list():
    _, values = read(REAL / "q1" / "product_list.vot")
    assert len(values["observation_stk_oid"].data) == 4
    assert set(values["instrument_name"].data.tolist()) <= {b"VIS", b"NISP"}
