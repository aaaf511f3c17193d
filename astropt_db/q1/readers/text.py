"""CSV, TSV and ECSV, streamed; columns are typed without losing a digit of an identifier.

CSV says nothing about types, so the file is read twice: once to find the type of each column
over all rows (``kinds``), then in blocks. ECSV declares its types and is read once.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from astropt_db.errors import FileError
from astropt_db.q1.readers.arrow import TEXT, blocks, numpy_type, pick
from astropt_db.q1.readers.base import BLOCK_ROWS, Block, FileColumn, Table
from astropt_db.q1.readers.dialect import Dialect, examine, is_gzip, open_bytes
from astropt_db.q1.readers.kinds import (
    FALSE_WORDS,
    NULL_WORDS,
    TRUE_WORDS,
    Kind,
    NeedsTextError,
    Seen,
    expect,
    find_kinds,
    parse_vectors,
    settle,
    without_null_words,
)

_CSV_BLOCK = 2**21
"""Bytes parsed at a time, and so the longest row that can be read."""

_ROWS = "\0rows"
"""A column name that no text file can hold."""

_KINDS = {
    Kind.EMPTY: np.dtype(np.float64),
    Kind.BOOL: np.dtype(np.bool_),
    Kind.INT: np.dtype(np.int64),
    Kind.FLOAT: np.dtype(np.float64),
    Kind.VECTOR: np.dtype(np.float64),
    Kind.TEXT: TEXT,
}

_ECSV_TYPES = {
    "bool": pa.bool_(),
    **{f"int{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
    "float16": pa.float32(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}


@dataclass(kw_only=True)
class TextTable(Table):
    """A text file whose column types are settled.

    Attributes
    ----------
    dialect
        How the file is written.
    types
        Arrow type of the values of each column, of one element for vectors.
    """

    dialect: Dialect = field(repr=False)
    types: dict[str, pa.DataType] = field(repr=False)

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield the rows in order; see ``Table.blocks``.

        Without a value are the empty text in text columns and ``NULL_WORDS`` in all others.
        """
        columns = pick(self.columns, names)
        # The parser takes an empty choice of columns for all of them.
        read = {column.name: self._read_as(column) for column in columns or self.columns[:1]}
        batches = _batches(self.path, self.dialect, read, text_nulls=False)
        return blocks(self.path, columns, self._with_nulls(columns, batches), rows)

    def _read_as(self, column: FileColumn) -> pa.DataType:
        return pa.string() if column.length is not None else self.types[column.name]

    def _with_nulls(
        self, columns: Sequence[FileColumn], batches: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        first_row = 0
        for batch in batches:
            arrays = [self._array(batch, column, first_row) for column in columns]
            # An array of nulls keeps the number of rows where no column is wanted.
            names = [column.name for column in columns]
            yield pa.RecordBatch.from_arrays(
                [*arrays, pa.nulls(batch.num_rows)], names=[*names, _ROWS]
            )
            first_row += batch.num_rows

    def _array(self, batch: pa.RecordBatch, column: FileColumn, first_row: int) -> pa.Array:
        array = batch.column(column.name)
        if column.length is not None:
            vectors = parse_vectors(without_null_words(array), self.types[column.name])
            if vectors is None:
                raise FileError(
                    self.path,
                    f"column {column.name!r}, between rows {first_row + 1} and "
                    f"{first_row + batch.num_rows}: expected vectors such as [0.1,0.2].",
                )
            return vectors
        if pa.types.is_string(array.type):
            return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
        return array


def open_csv(path: Path) -> list[Table]:
    """Open a CSV or TSV file, plain or gzipped; comma, tabulator or semicolon is found out.

    Columns are int64, float64, bool, float64 vectors (``"[0.269,4.884]"``) or text; a column
    without any value is float64. Identifiers are int64, or text if any of them is not a plain
    integer (see ``kinds.settle``).

    Raises
    ------
    FileError
        If the file is empty, no UTF-8 text, cut short, without a header line, or if a column
        name repeats, a row has too many or too few values, or a quote is not closed.
    """
    dialect = examine(path)
    columns = tuple(
        _csv_column(name, settle(name, seen)) for name, seen in _csv_kinds(path, dialect).items()
    )
    types = {column.name: _arrow_type(column.dtype) for column in columns}
    return [TextTable(path=path, columns=columns, dialect=dialect, types=types)]


def open_ecsv(path: Path) -> list[Table]:
    """Open an ECSV file (Enhanced Character Separated Values, astropy APE 6), plain or gzipped.

    Declared types and units are taken as they are. One-dimensional vectors of fixed length are
    vector columns; other structured values stay the JSON text that the file holds.

    Raises
    ------
    FileError
        As ``open_csv``; and if the YAML header is invalid or does not fit the data.
    """
    header = _ecsv_header(path)
    dialect = examine(path, header.get("delimiter", " "))
    declared = [item["name"] for item in header["datatype"]]
    if tuple(declared) != dialect.names:
        raise FileError(
            path,
            f"the header declares the columns {', '.join(declared)}, but the line of column "
            f"names says {', '.join(dialect.names)}.",
        )
    found = [_ecsv_column(path, item) for item in header["datatype"]]
    types = {column.name: kind for column, kind in found}
    columns = tuple(column for column, _ in found)
    return [TextTable(path=path, columns=columns, dialect=dialect, types=types)]


def _csv_kinds(path: Path, dialect: Dialect) -> dict[str, Seen]:
    """What the columns hold over the whole file."""

    def batches(types: dict[str, pa.DataType]) -> Generator[pa.RecordBatch, None, None]:
        return _batches(path, dialect, types, text_nulls=True)

    texts = dict.fromkeys(dialect.names, pa.string())
    with closing(batches(texts)) as beginning:
        first = find_kinds(dialect.names, islice(beginning, 1))
    try:
        return find_kinds(dialect.names, batches(expect(first)))
    except (FileError, NeedsTextError):
        # A column goes on differently from how it began; or the file is at fault, which shows
        # again.
        return find_kinds(dialect.names, batches(texts))


def _csv_column(name: str, seen: Seen) -> FileColumn:
    length = seen.length if seen.kind is Kind.VECTOR else None
    return FileColumn(name, _KINDS[seen.kind], length)


def _arrow_type(dtype: np.dtype) -> pa.DataType:
    return pa.string() if dtype == TEXT else pa.from_numpy_dtype(dtype)


def _ecsv_header(path: Path) -> dict[str, Any]:
    from astropy.table.meta import YamlParseError, get_header_from_yaml

    lines = []
    try:
        with open_bytes(path) as file:
            for line in file:
                text = line.decode("utf-8-sig").rstrip("\r\n")
                if not text.startswith("#"):
                    break
                lines.append(text[2:])
        header: dict[str, Any] = get_header_from_yaml(lines[1:])
        names = [str(item["name"]) for item in header["datatype"]]
    except (OSError, EOFError, UnicodeDecodeError, YamlParseError, LookupError, TypeError) as error:
        raise FileError(path, f"the ECSV header cannot be read: {_one_line(error)}.") from error
    if not names or not lines[0].startswith("%ECSV"):
        raise FileError(path, "expected an ECSV header that begins with '# %ECSV 1.0'.")
    return header


def _ecsv_column(path: Path, item: dict[str, Any]) -> tuple[FileColumn, pa.DataType]:
    # A damaged header may lack it; the message below then says what was found instead.
    name, datatype = str(item["name"]), str(item.get("datatype", ""))
    unit = str(item.get("unit") or "")
    vector = re.fullmatch(r"(\w+)\[(\d+)\]", str(item.get("subtype", "")))
    if vector and vector[1] in _ECSV_TYPES and vector[1] not in {"string", "bool"}:
        kind = _ECSV_TYPES[vector[1]]
        return FileColumn(name, _numpy(kind), int(vector[2]), unit), kind
    if datatype not in _ECSV_TYPES:
        expected = ", ".join(_ECSV_TYPES)
        raise FileError(
            path, f"column {name!r} has datatype {datatype!r}; expected one of {expected}."
        )
    kind = _ECSV_TYPES[datatype]
    return FileColumn(name, _numpy(kind), None, unit), kind


def _numpy(kind: pa.DataType) -> np.dtype:
    dtype = numpy_type(kind)
    assert dtype is not None  # every type of _ECSV_TYPES has one
    return dtype


def _batches(
    path: Path, dialect: Dialect, types: dict[str, pa.DataType], *, text_nulls: bool
) -> Generator[pa.RecordBatch, None, None]:
    """Parse the file; only the columns in ``types``, and null words in texts if asked."""
    if not dialect.has_rows:
        return
    ragged: list[Any] = []
    parse = pyarrow.csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char='"' if dialect.quoted else False,
        newlines_in_values=dialect.quoted,
        invalid_row_handler=partial(_note, ragged),
    )
    # One thread: two gain a fifth, and only one knows the number of a bad row.
    read = pyarrow.csv.ReadOptions(
        use_threads=False,
        block_size=_CSV_BLOCK,
        skip_rows=dialect.header_lines,
        column_names=dialect.names,
    )
    try:
        with (
            closing(_source(path)) as source,
            pyarrow.csv.open_csv(
                source,
                read_options=read,
                parse_options=parse,
                convert_options=_conversion(types, text_nulls),
            ) as reader,
        ):
            yield from reader
    except (pa.ArrowException, OSError) as error:
        raise _explain(path, dialect, error, ragged) from error


def _conversion(types: dict[str, pa.DataType], text_nulls: bool) -> pyarrow.csv.ConvertOptions:
    return pyarrow.csv.ConvertOptions(
        check_utf8=False,  # the whole file was checked before
        column_types=types,
        include_columns=list(types),
        null_values=NULL_WORDS,
        true_values=TRUE_WORDS,
        false_values=FALSE_WORDS,
        strings_can_be_null=text_nulls,
    )


def _note(ragged: list[Any], row: Any) -> str:
    ragged.append(row)
    return "error"


def _source(path: Path) -> pa.NativeFile:
    file = pa.OSFile(str(path))
    return pa.CompressedInputStream(file, "gzip") if is_gzip(path) else file


def _explain(path: Path, dialect: Dialect, error: Exception, ragged: list[Any]) -> FileError:
    if ragged:
        row = ragged[0]
        return FileError(
            path,
            f"row {row.number - dialect.header_lines}: expected {row.expected_columns} values "
            f"as in the header line, found {row.actual_columns}.",
            "Look for a delimiter inside a value, or a file that was cut off.",
        )
    text = _one_line(error)
    if "straddling" in text:
        return FileError(
            path,
            f"a row is longer than {_CSV_BLOCK} bytes.",
            "Look for a quoted value that is not closed.",
        )
    if found := re.search(r"In CSV column #(\d+): Row #(\d+): (.*)", text):
        row, name = int(found[2]) - dialect.header_lines, dialect.names[int(found[1])]
        return FileError(path, f"row {row}, column {name!r}: {found[3]}.")
    return FileError(path, f"cannot be parsed: {text}.")


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip().rstrip(".")
