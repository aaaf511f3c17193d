"""FITS binary tables: the same values as astropy reads, and what a file may get wrong."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from astropt_db.errors import FileError
from astropt_db.q1.readers import FileColumn, Values, open_tables
from astropt_db.q1.readers.fits import open_fits

DTYPES = ["?", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def write(path: Path, *columns: fits.Column, **cards: object) -> Path:
    """A file with an empty primary HDU and one table."""
    table = fits.BinTableHDU.from_columns(list(columns))
    for name, value in cards.items():
        table.header[name] = value
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    return path


def read(path: Path, rows: int = 8192) -> dict[str, Values]:
    """All columns of the only table of a file, read in blocks of so many rows."""
    (table,) = open_fits(path)
    with table:
        blocks = list(table.blocks(rows=rows))
    return {column.name: _join([block.columns[column.name] for block in blocks])
            for column in table.columns}  # fmt: skip


def _join(parts: list[Values]) -> Values:
    data = np.concatenate([part.data for part in parts])
    if parts[0].null is None:
        return Values(data)
    return Values(data, np.concatenate([part.null for part in parts if part.null is not None]))


def columns_of(path: Path) -> dict[str, FileColumn]:
    (table,) = open_fits(path)
    with table:
        return {column.name: column for column in table.columns}


# The same as astropy


@st.composite
def record_arrays(draw: st.DrawFn) -> np.ndarray:
    n_rows = draw(st.integers(1, 7))
    fields = []
    for number in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from([*DTYPES, "S1", "S7"]))
        vector = () if dtype in ("?", "S1", "S7") else draw(st.sampled_from([(), (2,), (5,)]))
        fields.append((f"COLUMN_{number}", dtype, vector))
    table = np.zeros(n_rows, fields)
    for name, dtype, vector in fields:
        letters = st.text("aZ 0-", max_size=np.dtype(dtype).itemsize).map(str.encode)
        elements = letters if dtype.startswith("S") else None
        table[name] = draw(hnp.arrays(dtype, (n_rows, *vector), elements=elements))
    return table


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=record_arrays(), rows=st.integers(1, 8), packed=st.booleans())
def test_values_are_those_that_astropy_reads(
    tmp_path: Path, table: np.ndarray, rows: int, packed: bool
) -> None:
    path = tmp_path / "table.fits"
    fits.BinTableHDU(table).writeto(path, overwrite=True)
    wanted = fits.getdata(path, 1, memmap=False)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    found = read(path, rows)
    assert list(found) == list(table.dtype.names)
    for name, values in found.items():
        column = wanted[name]
        if column.dtype.kind == "U":
            column = np.char.rstrip(np.char.encode(column, "ascii"))
        np.testing.assert_array_equal(values.data, column, name)


def test_types_as_the_file_declares_them(tmp_path: Path) -> None:
    path = tmp_path / "table.fits"
    written = np.zeros(2, [(f"C_{kind}", kind) for kind in ("?", "i2", "i8", "f4", "f8", "u4")])
    fits.BinTableHDU(written).writeto(path)
    declared = {name: column.dtype.str for name, column in columns_of(path).items()}
    assert declared == {
        "C_?": "|b1",
        "C_i2": "<i2",
        "C_i8": "<i8",
        "C_f4": "<f4",
        "C_f8": "<f8",
        "C_u4": "<u4",
    }


def test_object_ids_are_exact(tmp_path: Path) -> None:
    ids = [2684805874647806467, -532257415282400330]
    path = write(tmp_path / "t.fits", fits.Column("OBJECT_ID", "K", array=np.array(ids)))
    assert read(path)["OBJECT_ID"].data.tolist() == ids


# NULLs and scaling


def test_tnull_is_null(tmp_path: Path) -> None:
    array = np.array([5, -99, 7], "i2")
    path = write(tmp_path / "t.fits", fits.Column("FLAG", "I", null=-99, array=array))
    values = read(path)["FLAG"]
    assert values.null is not None
    assert values.null.tolist() == [False, True, False]
    assert columns_of(path)["FLAG"].null == -99


def test_tnull_in_vectors(tmp_path: Path) -> None:
    array = np.array([[1, -99], [-99, -99], [3, 4]], "i4")
    path = write(tmp_path / "t.fits", fits.Column("V", "2J", null=-99, array=array))
    values = read(path)["V"]
    assert values.null is not None
    assert values.null.tolist() == [False, True, False]
    np.testing.assert_array_equal(values.data[[0, 2]], [[1, np.nan], [3, 4]])
    assert columns_of(path)["V"].dtype == np.float64


def test_scaled_columns(tmp_path: Path) -> None:
    column = fits.Column("MAG", "I", null=-1, array=np.array([4, 21, -1], "i2"))
    path = write(tmp_path / "t.fits", column, XSCAL1=0.5, XZERO1=10.0)
    edited(edited(path, "XSCAL1", "TSCAL1"), "XZERO1", "TZERO1")
    values = read(path)["MAG"]
    assert values.data.tolist()[:2] == fits.getdata(path, 1)["MAG"].tolist()[:2] == [12.0, 20.5]
    assert values.null is not None
    assert values.null.tolist() == [False, False, True]
    assert columns_of(path)["MAG"].dtype == np.float64


def test_logicals_have_a_third_state(tmp_path: Path) -> None:
    path = write(tmp_path / "t.fits", fits.Column("L", "L", array=np.array([True, False, True])))
    content = path.read_bytes()
    at = content.rindex(b"TFT")
    path.write_bytes(content[:at] + b"TF\0" + content[at + 3 :])
    values = read(path)["L"]
    assert values.data.tolist()[:2] == [True, False]
    assert values.null is not None
    assert values.null.tolist() == [False, False, True]


def test_vectors_of_logicals(tmp_path: Path) -> None:
    array = np.array([[True, False, True], [False, False, True]])
    path = write(tmp_path / "t.fits", fits.Column("L", "3L", array=array))
    assert read(path)["L"].data.tolist() == array.tolist()
    assert columns_of(path)["L"].length == 3


def test_texts_lose_their_padding_and_blank_ones_are_null(tmp_path: Path) -> None:
    array = np.array([" EDF-N", "", "x  "])
    path = write(tmp_path / "t.fits", fits.Column("FIELD", "9A", array=array))
    values = read(path)["FIELD"]
    assert values.data.tolist() == [b" EDF-N", b"", b"x"]
    assert values.null is not None
    assert values.null.tolist() == [False, True, False]
    assert columns_of(path)["FIELD"].length is None


# Structure


def test_units_names_and_tile(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.fits",
        fits.Column("E(B-V)", "E", unit="mag", array=np.zeros(1)),
        EXTNAME="MER",
        **{"HIERARCH TILE_INDEX": 102158889},
    )
    (table,) = open_fits(path)
    with table:
        assert (table.label, table.tile, table.n_rows) == ("MER", 102158889, 1)
        assert (table.columns[0].name, table.columns[0].unit) == ("E(B-V)", "mag")


def test_every_table_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "spe.fits"
    tables = [
        fits.BinTableHDU(np.array([(i,)], [("SPE_RANK", "i4")]), name=f"PART_{i}") for i in range(3)
    ]
    image = fits.ImageHDU(np.zeros((7, 9), "f4"), name="PICTURE")
    fits.HDUList([fits.PrimaryHDU(), tables[0], image, *tables[1:]]).writeto(path)
    opened = open_fits(path)
    assert [table.label for table in opened] == ["PART_0", "PART_1", "PART_2"]
    opened[0].close()
    ranks = [next(iter(table.blocks())).columns["SPE_RANK"].data.tolist() for table in opened[1:]]
    assert ranks == [[1], [2]]
    for table in opened[1:]:
        table.close()


def test_only_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.fits",
        *(fits.Column(name, "J", array=np.arange(5) * k) for k, name in enumerate("ABC")),
    )
    (table,) = open_fits(path)
    with table:
        blocks = list(table.blocks(["C"], rows=2))
        again = list(table.blocks(["A"]))
    assert [(block.first_row, block.n_rows, list(block.columns)) for block in blocks] == [
        (0, 2, ["C"]),
        (2, 2, ["C"]),
        (4, 1, ["C"]),
    ]
    assert again[0].n_rows == 5


def test_columns_of_no_width_are_skipped(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.fits",
        fits.Column("EMPTY", "1A", array=np.array(["", ""])),
        fits.Column("BB", "4B", array=np.ones((2, 4))),
    )
    edited(path, "TFORM1  = '1A", "TFORM1  = '0A")
    edited(path, "TFORM2  = '4B", "TFORM2  = '5B")
    assert {name: values.data.shape for name, values in read(path).items()} == {"BB": (2, 5)}


def test_a_table_without_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "t.fits", fits.Column("B", "J", array=np.empty(0)))
    (table,) = open_fits(path)
    with table:
        assert table.n_rows == 0
        assert list(table.blocks()) == []


def test_padding_after_the_last_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.fits", fits.Column("B", "J", array=np.array([4, 5])))
    path.write_bytes(path.read_bytes() + bytes(2880))
    assert read(path)["B"].data.tolist() == [4, 5]


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.fits", fits.Column("B", "J", array=np.array([4])))
    renamed = path.rename(tmp_path / "catalogue.csv")
    packed = tmp_path / "catalogue"
    packed.write_bytes(gzip.compress(renamed.read_bytes()))
    for one in (renamed, packed):
        (table,) = open_tables(one)
        with table:
            assert [column.name for column in table.columns] == ["B"]


def test_a_real_file_that_holds_images_only(real_data: Path) -> None:
    cutout = real_data / "q1" / "cutout_8band_102018665_NEG570040238507752998.fits"
    with pytest.raises(FileError, match="holds no binary table"):
        open_fits(cutout)


# Errors


def refusal(path: Path) -> str:
    with pytest.raises(FileError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def edited(path: Path, old: str, new: str) -> Path:
    """Replace the value of one header card, which keeps its length."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert content.count(old.encode()) == 1
    path.write_bytes(content.replace(old.encode(), new.encode()))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(
        tmp_path / "plain.fits",
        fits.Column("FIRST", "K", array=np.arange(1000)),
        fits.Column("SECOND", "E", array=np.arange(1000.0)),
    )


@pytest.mark.parametrize("missing", [2881, 5000, 12_000])
def test_a_truncated_file(plain: Path, missing: int) -> None:
    os.truncate(plain, plain.stat().st_size - missing)
    assert "is truncated: its headers promise" in refusal(plain)


def test_missing_padding_is_no_truncation(plain: Path) -> None:
    os.truncate(plain, 3 * 2880 + 12_000)
    assert read(plain)["FIRST"].data.tolist() == list(range(1000))


def test_a_file_that_shrinks_while_it_is_read(plain: Path) -> None:
    (table,) = open_fits(plain)
    with table:
        blocks = table.blocks(rows=100)
        next(blocks)
        os.truncate(plain, 3 * 2880 + 1500)
        with pytest.raises(FileError, match="bytes early while it was being read"):
            list(blocks)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_gzip_file_that_ends_early(plain: Path, keep: float) -> None:
    packed = gzip.compress(plain.read_bytes())
    plain.write_bytes(packed[: int(len(packed) * keep)])
    assert "damaged gzip file" in refusal(plain)


def test_two_columns_of_one_name(plain: Path) -> None:
    edited(plain, "'SECOND  '", "'first   '")
    assert "two columns named 'FIRST'" in refusal(plain)


def test_columns_that_are_wider_than_a_row(plain: Path) -> None:
    edited(plain, "TFORM2  = 'E ", "TFORM2  = '9E")
    assert "columns need 44 bytes a row, NAXIS1 says 12" in refusal(plain)


@pytest.mark.parametrize(
    ("form", "message"),
    [("1PE(5)", "FITS type '1PE(5)'"), ("2C", "FITS type '2C'"), ("16X", "FITS type '16X'")],
)
def test_types_that_no_catalogue_has(tmp_path: Path, form: str, message: str) -> None:
    if form == "1PE(5)":
        array = np.array([np.ones(5, "f4"), np.ones(2, "f4")], dtype=object)
    else:
        array = np.ones((2, 16), bool) if form == "16X" else np.ones((2, 2), "c8")
    path = write(tmp_path / "t.fits", fits.Column("ODD", form, array=array))
    assert message in refusal(path)
    assert "'ODD'" in refusal(path)


def test_a_type_that_does_not_exist(plain: Path) -> None:
    edited(plain, "TFORM2  = 'E ", "TFORM2  = 'Z ")
    assert "column 'SECOND' has no valid TFORM ('Z')" in refusal(plain)


def test_a_header_without_end(plain: Path) -> None:
    content = plain.read_bytes()
    plain.write_bytes(content[: 2 * 2880 - 80])
    assert "has no readable FITS header at byte 2880" in refusal(plain)
