"""Damaged, misleading and malicious Parquet, text and VOTable files.

Each must end in an error that names the file and the place, never in fewer or other values.
"""

import contextlib
import gzip
import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astropt_db.errors import FileError
from astropt_db.q1.readers.parquet import open_parquet, parquet_files
from astropt_db.q1.readers.text import open_csv, open_ecsv
from astropt_db.q1.readers.votable import open_votable

REAL = Path(os.environ.get("ASTROPT_DB_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="real samples are absent; name their folder in ASTROPT_DB_REAL_DATA"
)
OPENERS = pytest.mark.parametrize("opener", [open_csv, open_ecsv, open_parquet, open_votable])


def read_all(opener, path):
    for table in opener(path):
        with table:
            for _ in table.blocks():
                pass


def refusal(opener, path):
    """The message of the error; it is one line and names the file."""
    with pytest.raises(FileError) as caught:
        read_all(opener, path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
    return message


def write(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def votable(body, head=""):
    return (
        f'<?xml version="1.0"?>{head}<VOTABLE version="1.4" '
        f'xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">{body}'
        "</RESOURCE></VOTABLE>"
    )


def table(fields, rows="", attributes="", infos=""):
    return f"<TABLE {attributes}>{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA>{infos}</TABLE>"


LONG = '<FIELD name="object_id" datatype="long"/>'
ROW = "<TR><TD>1</TD></TR>"


@OPENERS
def test_nothing_but_bytes_of_another_kind(tmp_path, opener):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("table.csv", "a,b\n1,2\n")
    rng = np.random.default_rng(1)
    for content in (b"", packed.getvalue(), rng.bytes(5000), b"\0" * 3000, b"\n\n\n"):
        refusal(opener, write(tmp_path, content, "file"))


@OPENERS
def test_gzip_that_ends_early_or_is_damaged(tmp_path, opener):
    rows = "".join(f"{i},{i * 7919 % 1000003}\n" for i in range(50_000))
    packed = gzip.compress(("a,b\n" + rows).encode())
    refusal(opener, write(tmp_path, packed[: len(packed) // 2], "cut.csv.gz"))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    refusal(opener, write(tmp_path, bytes(damaged), "damaged.csv.gz"))


@OPENERS
def test_a_file_that_is_not_there(tmp_path, opener):
    refusal(opener, tmp_path / "absent")


# Text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b,a\n1,2,3\n", r"same name: 'a'"),
        ("a,b\n1,2\n\n3\n", r"row 2: expected 2 values as in the header line, found 1"),
        ("a,b\n1,2\n3,4,5\n", r"row 2: expected 2 values as in the header line, found 3"),
        ("1,2\n3,4\n", r"found the number '1'"),
        ("-532257415282400330,x\n1,y\n", r"found the number '-532257415282400330'"),
        ("# only\n# comments\n", r"found only empty and comment lines"),
        (b"a,b\n1,Andr\xe9\n", r"byte 0xE9 at byte offset 10"),
        (b"a,b\n1,x\0y\n", r"NUL byte at byte offset 7"),
        ("a,b\n1,2\n".encode("utf-16"), r"byte 0xFF at byte offset 0"),
        ('a,b\n1,"x\n2,y\n3,z\n', r"row that starts at line 2, a quoted value is not closed"),
        ('a,b\n1,"x\n2,"y\n3,z\n', r"row that starts at line 2, a quoted value is not closed"),
        ('a,b\n1,"x"y\n2,z\n', r"row that starts at line 2, a quoted value is not closed"),
        ("a,b\n1," + "x" * 6_000_000 + "\n", r"a row is longer than"),
        ("x" * 6_000_000, r"expected a line of column names"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_bad_text_files(tmp_path, content, expected):
    assert re.search(expected, refusal(open_csv, write(tmp_path, content)))


def test_the_bad_row_is_named_far_into_the_file(tmp_path):
    rows = "".join(f'{i},"x{i}\ny"\n' for i in range(200_000))
    path = write(tmp_path, "#c\na,b\n" + rows + "1\n")
    assert "row 200001: expected 2 values" in refusal(open_csv, path)


@pytest.mark.parametrize("before", [0, 2**20 - 8, 2**20 - 7, 2**20 - 1, 2**21])
def test_the_bad_byte_is_named_across_the_chunks_it_is_looked_for_in(tmp_path, before):
    content = b"a\n" + b"x" * 70 + b"\n" * before + "é".encode() + b"\n" + b"\xe9\n"
    offset = len(content) - 2
    assert f"byte offset {offset}." in refusal(open_csv, write(tmp_path, content))


def test_a_text_of_a_megabyte_does_not_fill_the_memory(tmp_path):
    rows = "a,b\n" + "1,x\n" * 8000 + "2," + "y" * 1_000_000 + "\n"
    message = refusal(open_csv, write(tmp_path, rows))
    assert "row 8001, column 'b': a text of 1000000 bytes" in message


def test_quotes_inside_unquoted_values_are_harmless(tmp_path):
    (found,) = open_csv(write(tmp_path, 'name,seeing\nB\\"ohringer,0.8"\n5" dome,1"\n"x",2\n'))
    (block,) = found.blocks()
    assert block.columns["name"].data.tolist() == [b'B\\"ohringer', b'5" dome', b"x"]


def test_names_that_look_like_sql_are_names(tmp_path):
    name = "x'; DROP TABLE q1.mer_catalogue; --"
    path = write(tmp_path, f'"{name}",b\n1,2\n', "'; DROP TABLE x; --.csv")
    (found,) = open_csv(path)
    assert [column.name for column in found.columns] == [name, "b"]


@pytest.mark.parametrize("quote_at", range(2**20 - 4, 2**20 + 4))
def test_quotes_pair_up_across_the_chunks_they_are_looked_for_in(tmp_path, quote_at):
    start = b"a,b\n"
    content = start + b"\n" * (quote_at - len(start)) + b'"x,""y""",2\n'
    (found,) = open_csv(write(tmp_path, content))
    (block,) = found.blocks()
    assert block.columns["a"].data.tolist() == [b'x,"y"']


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text('a1,;\n\r\t" "\ufeffé[]', max_size=60))
def test_no_text_file_ends_in_another_exception(tmp_path, text):
    path = write(tmp_path, text)
    with contextlib.suppress(FileError):
        read_all(open_csv, path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["", "5.1e17", "1.5", "x"])),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_an_identifier_is_exact_whatever_else_its_column_holds(tmp_path, cells, named):
    name = "object_id" if named else "other"
    written = [other or str(number) for number, other in cells]
    path = write(tmp_path, f"{name},b\n" + "".join(f"{text},1\n" for text in written))
    (found,) = open_csv(path)
    (block,) = found.blocks()
    data = block.columns[name].data
    if data.dtype.kind == "f":
        assert not named
        assert data.tolist() == list(map(float, written))
        assert all(abs(number) < 2**53 for number, other in cells if not other)
    else:
        texts = data.tolist() if data.dtype.kind == "S" else map(str, data.tolist())
        assert [t.decode() if isinstance(t, bytes) else t for t in texts] == written


# Parquet


def parquet(tmp_path, columns=None, **options):
    path = tmp_path / "table.parquet"
    rng = np.random.default_rng(1)
    pq.write_table(pa.table(columns or {"x": rng.normal(size=20_000)}), path, **options)
    return path


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_truncated_parquet_file(tmp_path, keep):
    path = parquet(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert "not a complete Parquet file" in refusal(open_parquet, path)


def test_a_parquet_file_with_a_hole_in_the_middle(tmp_path):
    path = parquet(tmp_path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(bytes(content))
    assert "cannot be read beyond row" in refusal(open_parquet, path)


def test_parquet_columns_of_the_same_name(tmp_path):
    path = tmp_path / "table.parquet"
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["ra", "ra"])
    pq.write_table(twice, path)
    assert "columns of the same name: 'ra'" in refusal(open_parquet, path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["a", "b\0"]), "row 2, column 'x': the text holds a NUL byte"),
        (pa.array([b"a", b"\xe9"]), "column 'x' is not UTF-8"),
        (pa.array([1, 2**64 - 1], pa.uint64()), "row 2, column 'x': an unsigned integer"),
        (pa.array([[1.0], [1.0, 2.0]]), "row 2, column 'x': expected 1 values"),
    ],
)
def test_parquet_values_that_have_no_place_in_a_database(tmp_path, values, expected):
    assert expected in refusal(open_parquet, parquet(tmp_path, {"x": values}))


def test_a_row_group_larger_than_memory_should_be_is_streamed(tmp_path):
    """Two million rows in one row group, 160 MB of floats, within 100 MB."""
    path = tmp_path / "table.parquet"
    rng = np.random.default_rng(1)
    schema = pa.schema([(f"c{i}", pa.float64()) for i in range(10)])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        columns = [rng.normal(size=2_000_000) for _ in range(10)]
        writer.write_table(pa.table(columns, schema), row_group_size=2_000_000)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from astropt_db.q1.readers.parquet import open_parquet\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(table,) = open_parquet(Path(sys.argv[1]))\n"
        "before = peak()\n"
        "rows = sum(block.n_rows for block in table.blocks())\n"
        "print(rows, peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    rows, grown_kb = map(int, done.stdout.split())
    assert rows == 2_000_000
    assert grown_kb < 100_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    parquet(tmp_path)
    closed.chmod(0)
    try:
        with pytest.raises(FileError, match="closed: cannot be listed"):
            parquet_files(tmp_path)
    finally:
        closed.chmod(0o700)


# VOTable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (votable(table(LONG, ROW))[:-40], "not a valid VOTable"),
        (votable(table(LONG, ROW)).replace("</TR>", "</TD>"), "mismatched tag"),
        (votable(table(LONG, "<TR><TD>1.5</TD></TR>")), "not a valid VOTable"),
        (
            votable(table(LONG, "<TR><TD>9223372036854775808</TD></TR>")),
            "would lose values: line 1, W51",
        ),
        (votable(table(LONG, ROW, 'nrows="5"')), "would lose values: line 1, W18"),
        (votable(table('<FIELD name="a" datatype="char" arraysize="100x"/>')), "E01"),
        (
            votable(
                table('<FIELD name="a" datatype="char" arraysize="2"/>', "<TR><TD>long</TD></TR>")
            ),
            "would lose values: line 1, W46",
        ),
        (votable(table(LONG + LONG, "<TR><TD>1</TD><TD>2</TD></TR>")), "same name: 'object_id'"),
        (votable(table('<FIELD name="c" datatype="doubleComplex"/>')), "column 'c' has datatype"),
        (votable(""), "holds no table"),
        ("<html><body>504 Gateway Time-out</body></html>", "root element VOTABLE, found html"),
        (
            votable('<INFO name="QUERY_STATUS" value="ERROR">no table\n"x"</INFO>'),
            'query failed: no table "x"',
        ),
        (
            votable(
                '<INFO name="QUERY_STATUS" value="OK"/>'
                + table(LONG, ROW)
                + '<INFO name="QUERY_STATUS" value="OVERFLOW"/>'
            ),
            "the archive cut the result",
        ),
        (
            votable(table(LONG, ROW, infos='<INFO name="QUERY_STATUS" value="OVERFLOW"/>')),
            "the archive cut the result",
        ),
        (
            votable(table(LONG, "<TR><TD/></TR>")).replace('version="1.4"', 'version="1.2"'),
            "empty cells in a column of integers",
        ),
    ],
)
def test_bad_votables(tmp_path, text, expected):
    assert expected in refusal(open_votable, write(tmp_path, text, "table.vot"))


def test_entities_are_refused_before_they_grow(tmp_path):
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = votable(
        table('<FIELD name="a" datatype="char" arraysize="*"/>', "<TR><TD>&l9;</TD></TR>"),
        f'<!DOCTYPE VOTABLE [<!ENTITY l0 "lol">{entities}]>',
    )
    assert "declares the XML entity 'l0'" in refusal(open_votable, write(tmp_path, bomb, "b.vot"))


def test_a_gzip_bomb_is_refused_by_its_uncompressed_size(tmp_path, monkeypatch):
    monkeypatch.setattr("astropt_db.q1.readers.votable.MAX_BYTES", 10**6)
    binary = f'<TABLE>{LONG}<DATA><BINARY><STREAM encoding="base64"/></BINARY></DATA></TABLE>'
    text = votable(binary) + " " * 2 * 10**6
    path = write(tmp_path, gzip.compress(text.encode()), "b.vot.gz")
    assert "Convert it to FITS or Parquet" in refusal(open_votable, path)


@needs_real_data
def test_the_real_malformed_product_list():
    message = refusal(open_votable, REAL / "q1" / "malformed_product_list.vot")
    assert "100x" in message
    assert "checksum_list" in message


def test_an_ecsv_column_without_datatype(tmp_path):
    head = "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datat9pe: int64}\na\n1\n"
    path = write(tmp_path, head, "a.ecsv")
    assert "column 'a' has datatype ''" in refusal(open_ecsv, path)
