"""A Parquet file that is a VOParquet too: its metadata hold a VOTable that describes it.

VOParquet (IVOA note, convention 1.0) asks for the keys ``IVOA.VOTable-Parquet.version`` and
``IVOA.VOTable-Parquet.content``; readers that do not know them see a plain Parquet file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

from astropt_db.deliver.fixed import Size
from astropt_db.deliver.selection import ExportColumn, Selection
from astropt_db.deliver.votable_file import votable_text


def write_parquet(
    stream: BinaryIO,
    selection: Selection,
    batches: Iterable[pa.RecordBatch],
    sizes: Mapping[str, Size],
) -> int:
    """Write batches; returns the number of rows."""
    schema = parquet_schema(selection)
    count = 0
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema))
            count += batch.num_rows
    return count


def parquet_schema(selection: Selection) -> pa.Schema:
    """Fields with unit, UCD and description; provenance and VOTable in the file's metadata."""
    metadata = {f"astropt-db.{key}": value for key, value in selection.provenance.items()}
    metadata["IVOA.VOTable-Parquet.version"] = "1.0"
    metadata["IVOA.VOTable-Parquet.content"] = votable_text(selection)
    fields = [
        pa.field(c.name, c.out.arrow_type, metadata=field_metadata(c)) for c in selection.columns
    ]
    return pa.schema(fields, metadata)


def field_metadata(column: ExportColumn) -> dict[str, str]:
    """Unit, UCD and description of a column, where there are any."""
    facts = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
    return {key: value for key, value in facts.items() if value}
