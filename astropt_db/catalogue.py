"""The database from Python: a few verbs that give astropy tables or pandas frames.

>>> from astropt_db import Catalogue
>>> catalogue = Catalogue()                                        # doctest: +SKIP
>>> catalogue.similar(2696340584660174669, 5)                      # doctest: +SKIP
>>> catalogue.query("SELECT * FROM astropt.catalogue LIMIT 5")     # doctest: +SKIP
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from astropy.table import Column, MaskedColumn, Table
from numpy.typing import NDArray
from psycopg import sql

from astropt_db.database.connect import resolve
from astropt_db.database.copy_out import stream
from astropt_db.database.encoders import EncoderRecord, find_encoder
from astropt_db.database.reading import query_errors, reading
from astropt_db.deliver.pictures import take_pictures
from astropt_db.deliver.selection import ExportColumn, select
from astropt_db.errors import AstroptDbError, ConfigurationError

_PICTURED_ROWS = 40
_PICTURE_ARCSEC = 12.8
_NULLABLE = {
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


class Sources(Table):  # type: ignore[misc]  # astropy has no types
    """An astropy table that shows pictures of its sources in a notebook, where there are any."""

    _catalogue: Catalogue | None = None

    def __getitem__(self, item: Any) -> Any:
        """As of any table; some of its rows or columns have their pictures too."""
        part = super().__getitem__(item)
        if isinstance(part, Sources):
            part._catalogue = self._catalogue
        return part

    def _repr_html_(self) -> str:
        """The first rows, each with its picture."""
        pictures: dict[int, bytes] = {}
        if self._catalogue is not None and "object_id" in self.colnames:
            pictures = self._catalogue.pictures(self["object_id"][:_PICTURED_ROWS])
        if not pictures:
            return str(super()._repr_html_())
        flat = [name for name in self.colnames if self[name].ndim == 1]
        head = "".join(f"<th>{escape(name)}</th>" for name in flat)
        rows = []
        for row in self[:_PICTURED_ROWS]:
            png = pictures.get(int(row["object_id"]))
            picture = f"<img width=72 src='{_data_url(png)}'>" if png else ""
            cells = "".join(f"<td>{escape(_short(row[name]))}</td>" for name in flat)
            rows.append(f"<tr><td>{picture}</td>{cells}</tr>")
        more = f"<p>… {len(self):,} rows</p>" if len(self) > _PICTURED_ROWS else ""
        return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>{more}"


class Catalogue:
    """A database of sources.

    Parameters
    ----------
    url
        PostgreSQL address; by default ``ASTROPT_DB_URL``, else the embedded server.
    frame
        ``astropy`` for tables with units, ``pandas`` for data frames.
    timeout_s
        Seconds after which the server stops a query; 0 means never.

    Raises
    ------
    DatabaseError
        If the server cannot be reached.
    """

    def __init__(
        self,
        url: str | None = None,
        frame: Literal["astropy", "pandas"] = "astropy",
        timeout_s: float = 600,
    ) -> None:
        if frame not in ("astropy", "pandas"):
            raise ConfigurationError(f"frame is {frame!r}; expected astropy or pandas")
        self.database = resolve(url)
        self.frame = frame
        self.timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"Catalogue({self.database.safe_name})"

    def query(self, statement: str) -> Any:
        """Rows of one read-only SQL statement, with the units of the columns that it shows."""
        columns, table = self._read(statement)
        return _to_pandas(table) if self.frame == "pandas" else self._to_astropy(columns, table)

    def similar(
        self, object_id: int, k: int = 10, where: str | None = None, encoder: str | None = None
    ) -> Any:
        """The ``k`` sources most alike a source, with their cosine similarity.

        Parameters
        ----------
        object_id
            The source.
        where
            SQL condition on ``astropt.catalogue`` that the others must meet, e.g.
            ``z_median < 0.5``; there are always ``k`` if so many meet it.
        encoder
            Name; by default the current one.
        """
        condition = None if where is None else _chosen(where).as_string()
        query = sql.SQL("SELECT * FROM astropt.similar({}, {}, {}, {})")
        return self._composed(
            query.format(int(object_id), int(k), sql.Literal(encoder), sql.Literal(condition))
        )

    def photoz(self, objects: Iterable[int] | None = None, where: str | None = None) -> Any:
        """Photometric redshifts with intervals, of some sources or of those with a condition."""
        return self._view("photoz", objects, where)

    def sources(self, objects: Iterable[int] | None = None, where: str | None = None) -> Any:
        """Rows of ``astropt.catalogue``: the best of everything."""
        return self._view("catalogue", objects, where)

    def cone(self, ra: float, dec: float, radius_arcsec: float) -> Any:
        """Sources of ``astropt.catalogue`` within a radius, nearest first.

        Parameters
        ----------
        ra, dec
            ICRS degrees.
        radius_arcsec
            Largest distance.
        """
        query = sql.SQL(
            "SELECT c.*, n.separation FROM astropt.cone({}, {}, {}) AS n "
            "JOIN astropt.catalogue AS c USING (object_id) ORDER BY n.separation"
        )
        return self._composed(query.format(float(ra), float(dec), float(radius_arcsec)))

    def embeddings(
        self,
        objects: Iterable[int] | None = None,
        where: str | None = None,
        encoder: str | None = None,
    ) -> Any:
        """Vectors of an encoder: columns ``object_id`` and ``embedding``."""
        record = self._encoder(encoder)
        query = sql.SQL("SELECT v.object_id, v.embedding FROM {} AS v{}")
        return self._composed(query.format(record.partition, _condition("v", objects, where)))

    def pictures(
        self, objects: Iterable[int], size_arcsec: float = _PICTURE_ARCSEC
    ) -> dict[int, bytes]:
        """PNG pictures by id, of the sources whose images can be read now."""
        ids = np.array([int(one) for one in objects], np.int64)
        try:
            with reading(self.database) as cursor:
                found = take_pictures(cursor.connection, ids, size_arcsec)
        except AstroptDbError:
            return {}
        return {one: picture.png for one, picture in found.items()}

    def _view(self, view: str, objects: Iterable[int] | None, where: str | None) -> Any:
        query = sql.SQL("SELECT v.* FROM {} AS v{}")
        table = sql.Identifier("astropt", view)
        return self._composed(query.format(table, _condition("v", objects, where)))

    def _composed(self, query: sql.Composed) -> Any:
        return self.query(query.as_string())

    def _encoder(self, name: str | None) -> EncoderRecord:
        with reading(self.database) as cursor:
            return find_encoder(cursor.connection, name)

    def _read(self, statement: str) -> tuple[Sequence[ExportColumn], pa.Table]:
        with query_errors(self.timeout_s), reading(self.database, self.timeout_s) as cursor:
            selection = select(cursor, None, statement)
            out = [column.out for column in selection.columns]
            batches = list(stream(cursor, selection.query, out))
        schema = pa.schema([(column.name, column.arrow_type) for column in out])
        return selection.columns, pa.Table.from_batches(batches, schema)

    def _to_astropy(self, columns: Sequence[ExportColumn], table: pa.Table) -> Sources:
        made = Sources([_column(c, table[c.name].combine_chunks()) for c in columns])
        made._catalogue = self
        return made


def _condition(alias: str, objects: Iterable[int] | None, where: str | None) -> sql.Composable:
    """``WHERE`` for chosen sources, or for those of astropt.catalogue with a condition."""
    parts: list[sql.Composable] = []
    column = sql.Identifier(alias, "object_id")
    if objects is not None:
        ids = [int(one) for one in objects]
        parts.append(sql.SQL("{} = ANY({}::bigint[])").format(column, ids))
    if where is not None:
        parts.append(sql.SQL("{} IN ({})").format(column, _chosen(where)))
    return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(parts) if parts else sql.SQL("")


def _chosen(where: str) -> sql.Composed:
    """Ids of the sources that meet the user's own condition; read-only, of least role."""
    query = sql.SQL("SELECT catalogue.object_id FROM astropt.catalogue WHERE {}")
    return query.format(sql.SQL(where))


def _column(column: ExportColumn, values: pa.Array) -> Column | MaskedColumn:
    """An astropy column with unit and description; ids never pass through floats."""
    facts: dict[str, Any] = {"name": column.name, "description": column.description or None}
    if column.unit:
        facts["unit"] = column.unit
    if column.ucd:
        facts["meta"] = {"ucd": column.ucd}
    mask = values.is_null().to_numpy(zero_copy_only=False)
    data = _numpy(values)
    if mask.any() and data.ndim == 1:
        return MaskedColumn(data, mask=mask, **facts)
    return Column(data, **facts)


def _numpy(values: pa.Array) -> NDArray[Any]:
    if pa.types.is_list(values.type):
        lengths = pc.list_value_length(values)
        if values.null_count == 0 and len(pc.unique(lengths)) <= 1:
            flat = values.flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat).reshape(len(values), -1)
        return np.array([None if v is None else np.array(v) for v in values.to_pylist()], object)
    if pa.types.is_string(values.type):
        return np.array(values.fill_null("").to_pylist(), dtype=np.str_)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    fill: float = np.nan if pa.types.is_floating(values.type) else 0
    if pa.types.is_boolean(values.type):
        fill = False
    return np.asarray(values.fill_null(pa.scalar(fill, values.type)).to_numpy(zero_copy_only=False))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper=_NULLABLE.get)  # type: ignore[no-any-return]


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
