"""Ready-made cut-outs in Parquet: ``object_id``, ``VIS_image``, ``NISP_Y_image``, ...

The layout is that of the data sets msiudek/astroPT_euclid_* on Hugging Face: one row per object,
one column per band (nested lists, flat lists or raw little-endian float32), fluxes in the struct
``sed_data``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from astropt_db.errors import FileError
from astropt_db.images.cutout_names import band_of
from astropt_db.images.cutout_source import Canvas, CutoutSource, Floats
from astropt_db.images.source import BANDS, WINDOW, Cutouts, Float32, Float64, Int64

_ROWS = 64
"""Rows decoded at once: 51 MB in four bands, whatever the file's row groups."""


class ParquetCutouts(CutoutSource):
    """Cut-outs in Parquet files.

    Parameters
    ----------
    files
        Parquet files with a column ``object_id`` (int64, or text) and one image column per band.
    bands, fill, window
        As in :class:`~astropt_db.images.source.ImageSource`.

    Raises
    ------
    FileError
        If a file has no such columns, or floating-point ids.
    """

    def __init__(
        self,
        files: Sequence[Path],
        bands: Sequence[str] = BANDS,
        fill: float = 0.0,
        window: int = WINDOW,
    ) -> None:
        super().__init__(bands, fill, window)
        self.problems = ()
        self.files = list(files)
        self._columns = [_image_columns(path) for path in files]
        ids = [_read_ids(path) for path in files]
        all_ids = np.concatenate(ids)
        owner = np.repeat(np.arange(len(ids)), [len(one) for one in ids])
        row = np.concatenate([np.arange(len(one)) for one in ids])
        self.object_ids, first, count = np.unique(all_ids, return_index=True, return_counts=True)
        self.duplicates = self.object_ids[count > 1]
        self._file, self._row = owner[first], row[first]
        self._all = all_ids, owner

    def files_by_object(self) -> tuple[list[Path], Int64, Int64]:
        """Which files hold which objects; see :meth:`CutoutSource.files_by_object`."""
        return self.files, *self._all

    def reading_order(self, object_id: Int64, ra: Float64, dec: Float64) -> Int64:
        """Objects by file and row."""
        place, _ = self._places(object_id)
        return np.lexsort((self._row[place], self._file[place])).astype(np.int64)

    def cutouts(
        self, object_id: Int64, ra: Float64, dec: Float64, out: Float32 | None = None
    ) -> Cutouts:
        """Windows around objects; see :meth:`ImageSource.cutouts`.

        The row groups that hold the objects are decoded from their beginning.

        Raises
        ------
        FileError
            If a file cannot be read, or an image column does not hold square floating-point
            images.
        """
        canvas = Canvas(object_id, self.bands, out, self.window)
        place, known = self._places(object_id)
        for number in np.unique(self._file[place[known]]):
            here = np.flatnonzero(known & (self._file[place] == number))
            here = here[np.argsort(self._row[place[here]], kind="stable")]
            self._read(int(number), self._row[place[here]], here, canvas)
        return canvas.finish(self.fill)

    def _places(self, object_id: Int64) -> tuple[Int64, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Index of each id in ``object_ids``, and whether it is there at all."""
        place = np.searchsorted(self.object_ids, object_id).clip(0, len(self.object_ids) - 1)
        return place, self.object_ids[place] == object_id

    def _read(self, number: int, rows: Int64, index: Int64, canvas: Canvas) -> None:
        """Paint the ascending ``rows`` of a file into the windows ``index``."""
        path, columns = self.files[number], self._columns[number]
        wanted = {band: name for band, name in columns.items() if band in canvas.bands}
        with _readable(path), pq.ParquetFile(path) as file:
            has_sed = "sed_data" in file.schema_arrow.names
            names = [*wanted.values(), *(["sed_data"] if has_sed else [])]
            for first, batch in _batches(file, rows, names):
                low, high = np.searchsorted(rows, [first, first + len(batch)])
                if low == high:
                    continue
                taken = batch.take(pa.array(rows[low:high] - first))
                for band, name in wanted.items():
                    for some, images in _images(path, name, taken.column(name)):
                        canvas.paint(index[low:high][some], band, images)
                if has_sed:
                    _add_sed(path, taken.column("sed_data"), index[low:high], canvas)


def _batches(
    file: pq.ParquetFile, rows: Int64, names: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Record batches of the row groups that hold ``rows``, with each one's first row."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for group in np.unique(np.searchsorted(starts, rows, side="right") - 1):
        first = int(starts[group])
        for batch in file.iter_batches(_ROWS, row_groups=[int(group)], columns=names):
            yield first, batch
            first += len(batch)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        problem = " ".join(str(error).split())
        raise FileError(path, f"cannot be read as Parquet: {problem}") from error


def _image_columns(path: Path) -> dict[str, str]:
    """Image column of each band."""
    with _readable(path):
        names = pq.read_schema(path).names
    images = [name for name in names if name.lower().endswith("_image")]
    found = {band: name for name in images if (band := band_of(name[: -len("_image")]))}
    if "object_id" not in names or not found:
        raise FileError(
            path,
            "expected the columns object_id and VIS_image, NISP_Y_image, NISP_J_image or "
            f"NISP_H_image, found {', '.join(names[:20])}.",
        )
    return found


def _read_ids(path: Path) -> Int64:
    with _readable(path):
        ids = pq.read_table(path, columns=["object_id"]).column("object_id")
    if not (pa.types.is_integer(ids.type) or pa.types.is_string(ids.type)):
        raise FileError(
            path,
            f"expected object_id as int64 or text, found {ids.type}.",
            "Ids of 18 and 19 digits do not survive in floating point: export them as integers.",
        )
    if ids.null_count:
        raise FileError(path, f"has {ids.null_count} rows without an object_id.")
    with _readable(path):
        return np.asarray(ids.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _images(path: Path, name: str, column: pa.Array) -> Iterator[tuple[Int64, Floats]]:
    """Images of a column by shape: rows that have them, and ``(k, height, width)``."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    row = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    values, height, width = _flatten(path, name, column.drop_null())
    end = np.cumsum(height * width)
    for shape in np.unique(np.stack([height, width], axis=1), axis=0):
        some = np.flatnonzero((height == shape[0]) & (width == shape[1]))
        count = int(shape.prod())
        if count == 0:
            continue
        pixels = values[(end[some] - count)[:, None] + np.arange(count)]
        yield row[some], pixels.reshape(-1, *shape)


def _flatten(path: Path, name: str, column: pa.Array) -> tuple[Floats, Int64, Int64]:
    """All pixels of a column without nulls in one array, and each image's height and width."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        count = pc.binary_length(column).to_numpy().astype(np.int64)
        values = np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8)
        if (count % 4).any():
            raise FileError(path, f"column {name} expected float32 values, found other bytes.")
        return values.view("<f4"), *_square(path, name, count // 4)
    if not _is_list(column.type):
        raise FileError(
            path, f"column {name} expected images as lists or bytes, found {column.type}."
        )
    length = _lengths(column)
    values = column.flatten()
    if not _is_list(values.type):
        return _values(path, name, values), *_square(path, name, length)
    widths = _lengths(values)
    first = np.cumsum(length) - length
    width = np.zeros_like(length)
    width[length > 0] = widths[first[length > 0]]
    if not np.array_equal(np.repeat(width, length), widths):
        raise FileError(path, f"column {name} has an image with rows of different length.")
    return _values(path, name, values.flatten()), length, width


def _values(path: Path, name: str, values: pa.Array) -> Floats:
    if not pa.types.is_floating(values.type):
        raise FileError(path, f"column {name} expected floating-point pixels, found {values.type}.")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _square(path: Path, name: str, count: Int64) -> tuple[Int64, Int64]:
    side = np.rint(np.sqrt(count)).astype(np.int64)
    if not np.array_equal(side * side, count):
        odd = int(count[side * side != count][0])
        raise FileError(path, f"column {name} expected square images, found one of {odd} pixels.")
    return side, side


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _lengths(column: pa.Array) -> Int64:
    return np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(), dtype=np.int64)


def _add_sed(path: Path, column: pa.Array, index: Int64, canvas: Canvas) -> None:
    if not pa.types.is_struct(column.type):
        raise FileError(path, f"column sed_data expected a struct of fluxes, found {column.type}.")
    for field, values in zip(column.type, column.flatten(), strict=True):
        if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
            continue
        target = canvas.sed.setdefault(field.name, np.full(len(canvas.object_id), np.nan))
        target[index] = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
