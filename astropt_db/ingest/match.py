"""Which product a table holds, and which of its columns feed which column of the database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from astropt_db.errors import ConfigurationError, FileError
from astropt_db.q1.products import BY_TABLE, PRODUCTS, Column, Product, sql_name
from astropt_db.q1.readers import Table

_ID_NAMES = ("object_id", "objectid", "object_id_euclid", "euclid_id", "euclid_id_x", "mer_id")
_RA_NAMES = ("right_ascension", "ra", "mer_right_ascension")
_DEC_NAMES = ("declination", "dec", "mer_declination")
_TILE_NAMES = ("tileid", "tile_index", "tile_id")
_RANKS = range(5)
# Columns that archives add for their own bookkeeping; they say nothing of the source.
_BOOKKEEPING = re.compile(r"_healpix_\d+|norder|dir|npix|cntr|spt_ind|htm20|x|y|z")
_MIN_COLUMNS = 2
_LISTED = {column.sql for product in PRODUCTS for column in product.columns} | {
    *_ID_NAMES,
    *_RA_NAMES,
    *_DEC_NAMES,
}


@dataclass(frozen=True)
class Target:
    """What one table of a file brings to one product table.

    Attributes
    ----------
    product
        The product.
    sources
        File columns by database column; several where a vector arrives as scalars.
    constants
        Database columns with one value for all rows (the rank, where it is in column names).
    extra
        File columns that the product does not know; they go into ``extra``.
    missing
        Database columns that the file lacks; they become NULL.
    id_column, ra_column, dec_column
        File columns of the identifier and, if any, of the position to check it against.
    sparse
        Whether a row with nothing but NULL means "no such row" (merged catalogues).
    """

    product: Product
    sources: dict[str, tuple[str, ...]]
    id_column: str
    ra_column: str | None = None
    dec_column: str | None = None
    constants: dict[str, int] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    sparse: bool = False

    @property
    def value_columns(self) -> set[str]:
        """File columns that carry values of this product."""
        return {name for names in self.sources.values() for name in names}


def targets(tables: Sequence[Table], product: str | None = None) -> list[tuple[Table, Target]]:
    """Pair the tables of a file with the products that they hold.

    Parameters
    ----------
    tables
        All tables of one file.
    product
        Table name of the product if the user named it; otherwise it is recognised from the
        file name, the extension name or the columns.

    Raises
    ------
    ConfigurationError
        If the named product does not exist.
    FileError
        If no table holds a known product, or several products fit equally well.
    """
    if product is not None and product not in BY_TABLE:
        raise ConfigurationError(
            f"--product {product}: no such product; known are {', '.join(BY_TABLE)}"
        )
    found = [(table, target) for table in tables for target in _recognise(table, product)]
    if not found:
        raise FileError(tables[0].path, *_nothing_known(tables))
    for table, target in found:
        _require_scalars(table, target)
    return found


def _require_scalars(table: Table, target: Target) -> None:
    """Refuse a vector where the product has one value per row."""
    columns = target.product.by_sql_name
    wanted = {target.id_column, target.ra_column, target.dec_column}
    for name, sources in target.sources.items():
        if columns[name].length is None or len(sources) > 1:
            wanted.update(sources)
    for column in table.columns:
        if column.length is not None and column.name in wanted:
            raise FileError(
                table.path,
                f"column {column.name!r} has {column.length} values per row, expected one.",
                "Split it into columns of its own, or drop it.",
            )


def _recognise(table: Table, named: str | None) -> list[Target]:
    names = _names(table)
    if named is not None:
        return [_plain_target(table, BY_TABLE[named], names)]
    if _first(names, _ID_NAMES) is None and not _by_file_name(table):
        return []
    merged = _merged_targets(table, names)
    counts = {p.table: _count(p, names) for p in PRODUCTS}
    best = max(counts.values())
    if merged and sum(len(target.sources) for target in merged) > best:
        return merged
    by_name = [p for p in _by_file_name(table) if counts[p.table] > 0]
    if len(by_name) == 1:
        return [_plain_target(table, by_name[0], names)]
    candidates = [p for p in by_name or PRODUCTS if counts[p.table] == best]
    if best < _MIN_COLUMNS or not candidates:
        return []
    if len(candidates) > 1:
        raise FileError(
            table.path,
            f"fits {len(candidates)} products equally well "
            f"({', '.join(p.table for p in candidates)}).",
            "Say which with --product.",
        )
    return [_plain_target(table, candidates[0], names)]


def _names(table: Table) -> dict[str, str]:
    """File columns by their database name.

    Two columns that differ in case or punctuation only cannot both be the product's column.
    """
    names: dict[str, str] = {}
    for column in table.columns:
        key = sql_name(column.name)
        if key in names and key in _LISTED:
            raise FileError(
                table.path,
                f"has two columns for {key}: {names[key]!r} and {column.name!r}.",
                "Drop or rename one of them.",
            )
        names.setdefault(key, column.name)
    return names


def _by_file_name(table: Table) -> list[Product]:
    name = table.path.name.upper()
    return [
        product
        for product in PRODUCTS
        if product.file_pattern
        and re.search(product.file_pattern, name)
        and (not product.extname or product.extname == table.label.upper())
    ]


def _count(product: Product, names: dict[str, str]) -> int:
    """How many of the product's own columns (keys aside) a file has."""
    return sum(
        1
        for c in product.columns
        if c.sql not in product.key and _sources(c, names, "") is not None
    )


def _sources(column: Column, names: dict[str, str], prefix: str) -> tuple[str, ...] | None:
    key = prefix + column.sql
    if key in names:
        return (names[key],)
    if column.length is not None:
        parts = [names.get(f"{key}{i + 1}") for i in range(column.length)]
        if all(parts):
            return tuple(part for part in parts if part)
    return None


def _first(names: dict[str, str], wanted: Iterable[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _plain_target(table: Table, product: Product, names: dict[str, str]) -> Target:
    id_column = _first(names, _ID_NAMES)
    if id_column is None:
        raise FileError(
            table.path,
            f"looks like {product.title} but has no OBJECT_ID column.",
            f"Expected one of {', '.join(_ID_NAMES)}.",
        )
    ra, dec = _first(names, _RA_NAMES), _first(names, _DEC_NAMES)
    sources: dict[str, tuple[str, ...]] = {"object_id": (id_column,)}
    for column in product.columns:
        source = _sources(column, names, "")
        if column.sql != "object_id" and source is not None:
            sources[column.sql] = source
    if product.has_position:
        if ra is None or dec is None:
            raise FileError(
                table.path,
                f"looks like {product.title} but has no RIGHT_ASCENSION and DECLINATION.",
                "Select these columns too.",
            )
        sources.setdefault("right_ascension", (ra,))
        sources.setdefault("declination", (dec,))
    _require_keys(table, product, sources)
    used = {name for source in sources.values() for name in source}
    return Target(
        product=product,
        sources=sources,
        id_column=id_column,
        ra_column=ra if dec else None,
        dec_column=dec if ra else None,
        extra=tuple(c.name for c in table.columns if c.name not in used),
        missing=tuple(c.sql for c in product.columns if c.sql not in sources),
    )


def _require_keys(table: Table, product: Product, sources: dict[str, tuple[str, ...]]) -> None:
    absent = [key for key in product.key if key not in sources]
    if absent:
        raise FileError(
            table.path,
            f"looks like {product.title} but has no column {absent[0].upper()}, "
            "which is part of its key.",
            "Select this column too.",
        )


def _merged_targets(table: Table, names: dict[str, str]) -> list[Target]:
    """Targets of a merged catalogue, whose columns carry their product as a prefix (HATS)."""
    id_column = _first(names, _ID_NAMES)
    if id_column is None:
        return []
    ra, dec = _first(names, _RA_NAMES), _first(names, _DEC_NAMES)
    found = []
    for product in PRODUCTS:
        if not product.hats_prefix:
            continue
        suffixes = [f"_rank{rank}" for rank in _RANKS] if "spe_rank" in product.key else [""]
        for rank, suffix in enumerate(suffixes):
            sources = _merged_sources(product, names, suffix)
            if not sources or (product.has_position and not (ra and dec)):
                continue
            sources["object_id"] = (id_column,)
            if product.has_position and ra and dec:
                sources["right_ascension"], sources["declination"] = (ra,), (dec,)
            found.append(
                Target(
                    product=product,
                    sources=sources,
                    id_column=id_column,
                    ra_column=ra,
                    dec_column=dec,
                    constants={"spe_rank": rank} if suffix else {},
                    extra=_merged_extra(product, names, sources, suffix),
                    missing=tuple(
                        c.sql for c in product.columns if c.sql not in sources | {"spe_rank": 0}
                    ),
                    sparse=not product.has_position,
                )
            )
    return found


def _merged_sources(
    product: Product, names: dict[str, str], suffix: str
) -> dict[str, tuple[str, ...]]:
    trimmed = {
        name.removesuffix(suffix): original
        for name, original in names.items()
        if name.endswith(suffix)
    }
    pairs = ((c.sql, _sources(c, trimmed, product.hats_prefix)) for c in product.columns)
    return {name: source for name, source in pairs if source is not None}


def _merged_extra(
    product: Product, names: dict[str, str], sources: dict[str, tuple[str, ...]], suffix: str
) -> tuple[str, ...]:
    used = {name for source in sources.values() for name in source}
    return tuple(
        original
        for name, original in names.items()
        if name.startswith(product.hats_prefix) and name.endswith(suffix) and original not in used
    )


def unclaimed(table: Table, found: Sequence[Target]) -> list[str]:
    """Columns that no target takes: products without a table here, archive bookkeeping."""
    taken = {name for t in found for name in (*t.value_columns, *t.extra)}
    return [
        column.name
        for column in table.columns
        if column.name not in taken
        and not _BOOKKEEPING.fullmatch(sql_name(column.name))
        and sql_name(column.name) not in _TILE_NAMES
    ]


def tile_of(path: Path, table: Table) -> int | None:
    """MER tile of a file: from its header, its name or its folder; ``None`` if none says so."""
    if table.tile is not None:
        return table.tile
    match = re.search(r"TILE(\d{9})", path.name.upper()) or re.search(
        r"WIDE-CAT-[A-Z]+_(\d{9})_", path.name.upper()
    )
    if match:
        return int(match[1])
    parent = path.resolve().parent.name
    return int(parent) if re.fullmatch(r"\d{9}", parent) else None


def _nothing_known(tables: Sequence[Table]) -> tuple[str, str]:
    names = {sql_name(c.name) for table in tables for c in table.columns}
    if _first({name: name for name in names}, _ID_NAMES) is None:
        return (
            "has no OBJECT_ID column, so it is no Euclid catalogue.",
            "Other surveys' catalogues are not ingested by this command.",
        )
    return (
        f"holds no known product ({len(names)} columns, none of them enough for a product table).",
        f"Known products: {', '.join(BY_TABLE)}; name one with --product.",
    )
