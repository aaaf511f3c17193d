"""CSV, and ECSV: CSV with a header that astropy reads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from astropt_db.deliver.fixed import Size
from astropt_db.deliver.selection import ExportColumn, Selection

_DATATYPES = {
    "boolean": "bool",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "real": "float32",
    "double precision": "float64",
    "text": "string",
}


def write_csv(
    stream: BinaryIO,
    selection: Selection,
    batches: Iterable[pa.RecordBatch],
    sizes: Mapping[str, Size],
) -> int:
    """Write CSV (RFC 4180, line ends ``\\n``); NULL is nothing, an empty text ``""``."""
    return _write_rows(stream, selection, batches, "true", "false")


def write_ecsv(
    stream: BinaryIO,
    selection: Selection,
    batches: Iterable[pa.RecordBatch],
    sizes: Mapping[str, Size],
) -> int:
    """Write ECSV 1.0; returns the number of rows."""
    lines = ["%ECSV 1.0", "---", "delimiter: ','", "datatype:"]
    lines += [f"- {json.dumps(_ecsv_column(column))}" for column in selection.columns]
    meta = dict(selection.provenance)
    if selection.title:
        meta["description"] = selection.title
    lines += [f"meta: {json.dumps(meta)}", "schema: astropy-2.0"]
    stream.write("".join(f"# {line}\n" for line in lines).encode())
    return _write_rows(stream, selection, batches, "True", "False")


def _ecsv_column(column: ExportColumn) -> dict[str, object]:
    facts: dict[str, object] = {"name": column.name, "datatype": _DATATYPES[column.type]}
    if column.array:
        facts["subtype"] = f"{_DATATYPES[column.array[:-2]]}[null]"
    if column.unit:
        facts["unit"] = column.unit
    if column.description:
        facts["description"] = column.description
    if column.ucd:
        facts["meta"] = {"ucd": column.ucd}
    return facts


def _write_rows(
    stream: BinaryIO,
    selection: Selection,
    batches: Iterable[pa.RecordBatch],
    true: str,
    false: str,
) -> int:
    head = io.StringIO()
    csv.writer(head, lineterminator="\n").writerow([c.name for c in selection.columns])
    stream.write(head.getvalue().encode())
    count = 0
    schema = pa.schema(
        [
            (c.name, pa.string() if c.type == "boolean" else c.out.arrow_type)
            for c in selection.columns
        ]
    )
    options = arrow_csv.WriteOptions(include_header=False, quoting_style="needed")
    with arrow_csv.CSVWriter(pa.PythonFile(stream, "w"), schema, write_options=options) as writer:
        for batch in batches:
            columns = [
                pc.if_else(values, true, false) if pa.types.is_boolean(values.type) else values
                for values in batch.columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            count += batch.num_rows
    return count
