"""ADQL for the Q1 product tables: what is selected, how it is counted and how it is paged.

A selection (a cone, a tile or the user's own ADQL) and a product give a :class:`Query`: the
statement that returns every row, the one that counts them, and the ones that return them page
by page. Pages follow the product's primary key (``key > last ORDER BY key``), never OFFSET, so
that an interrupted download continues where it stopped and no row falls between two pages.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from astropt_db.errors import ConfigurationError
from astropt_db.q1.archive_services import Service
from astropt_db.q1.products import BY_TABLE

ADQL_LABEL = "adql"
"""Label of a download whose product the user did not name."""


@dataclass(frozen=True)
class Cone:
    """Objects within ``radius`` of a position; all three in ICRS degrees."""

    ra: float
    dec: float
    radius: float

    def __post_init__(self) -> None:
        in_range = 0 <= self.ra < 360 and abs(self.dec) <= 90 and 0 < self.radius <= 180
        if not (in_range and all(map(math.isfinite, (self.ra, self.dec, self.radius)))):
            raise ConfigurationError(
                f"Cone {self.ra},{self.dec},{self.radius}: expected RA in [0, 360), Dec in "
                "[-90, 90] and a radius in (0, 180], in degrees."
            )


@dataclass(frozen=True)
class Tile:
    """Objects of one MER tile, by its TILE_INDEX (9 digits, such as 102158889)."""

    index: int

    def __post_init__(self) -> None:
        if not 100_000_000 <= self.index <= 999_999_999:
            raise ConfigurationError(f"Tile {self.index}: expected 9 digits, such as 102158889.")


@dataclass(frozen=True)
class Adql:
    """The rows of the user's own query: one SELECT statement in ADQL."""

    query: str


Selection = Cone | Tile | Adql

_PER_DEGREE = {"": 1, "d": 1, "deg": 1, "m": 60, "arcmin": 60, "s": 3600, "arcsec": 3600}
_LETTERS = string.ascii_letters + " "


def parse_cone(text: str) -> Cone:
    """Read ``ra,dec,radius``: degrees; the radius may end in ``s``, ``m`` or ``d`` (30s, 5m).

    Raises
    ------
    ConfigurationError
        If the text is not of that form or out of range.
    """
    try:
        ra, dec, size = text.split(",")
        number = size.strip().rstrip(_LETTERS)
        unit = size.strip()[len(number) :].strip()
        values = float(ra), float(dec), float(number) / _PER_DEGREE[unit]
    except (ValueError, KeyError):
        raise ConfigurationError(
            f"Cone {text!r}: expected ra,dec,radius in degrees, such as 269.73,66.02,0.1; "
            "the radius may be in arcseconds or arcminutes (30s, 5m)."
        ) from None
    return Cone(*values)


@dataclass(frozen=True)
class Query:
    """What is asked of a service for one product.

    Attributes
    ----------
    product
        Product table, or :data:`ADQL_LABEL`.
    adql
        Statement that returns every row.
    count
        Statement that returns their number.
    key
        Columns that identify a row and order the pages.
    source, condition
        FROM and WHERE of the pages; the alias ``t`` holds the key.
    """

    product: str
    adql: str
    count: str
    key: tuple[str, ...]
    source: str
    condition: str = ""

    def page(self, rows: int, after: Sequence[int] | None) -> str:
        """Return the statement for the next ``rows`` rows whose key comes after ``after``."""
        terms = [self.condition] if self.condition else []
        if after is not None:
            terms.append(_after(self.key, after))
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        order = ", ".join(f"t.{column}" for column in self.key)
        return _select(f"TOP {rows} t.*", f"{self.source}{where} ORDER BY {order}")


def _select(what: str, body: str) -> str:
    # TAP takes no parameters; what is put together here are our own names and numbers, or the
    # user's own query, which the archive runs with the public's rights.
    return f"SELECT {what} FROM {body}"  # noqa: S608


def _after(key: Sequence[str], last: Sequence[int]) -> str:
    """Condition for keys that follow ``last`` in lexicographic order."""
    first = f"t.{key[0]} > {last[0]}"
    if len(key) == 1:
        return first
    return f"({first} OR (t.{key[0]} = {last[0]} AND {_after(key[1:], last[1:])}))"


def build(service: Service, selection: Selection, product: str) -> Query:
    """Build the query for one product.

    Products without positions are joined with the MER catalogue, whose object_id is unique,
    so that the join neither adds nor repeats rows.

    Parameters
    ----------
    product
        Product table. With :class:`Adql` it only says how the rows are identified, and may
        be :data:`ADQL_LABEL` when nothing is known of them but object_id.

    Raises
    ------
    ConfigurationError
        If the service does not hold the product, or the ADQL is not one SELECT statement.
    """
    if isinstance(selection, Adql):
        return _build_adql(selection.query, product)
    source = f"{service.table(product)} AS t"
    mer = "t"
    if product != "mer_catalogue":
        mer = "m"
        source += f" JOIN {service.table('mer_catalogue')} AS m ON t.object_id = m.object_id"
    if isinstance(selection, Tile):
        condition = service.tile_condition.format(mer=mer, tile=selection.index)
    else:
        centre = f"{float(selection.ra)!r}, {float(selection.dec)!r}, {float(selection.radius)!r}"
        position = f"POINT('ICRS', {mer}.{service.ra}, {mer}.{service.dec})"
        condition = f"CONTAINS({position}, CIRCLE('ICRS', {centre})) = 1"
    body = f"{source} WHERE {condition}"
    return Query(
        product=product,
        adql=_select("t.*", body),
        count=_select("COUNT(*)", body),
        key=BY_TABLE[product].key,
        source=source,
        condition=condition,
    )


_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|\w+|\S")
_COMBINES = {"DISTINCT", "TOP", "GROUP", "HAVING", "UNION", "EXCEPT", "INTERSECT", "OFFSET"}


@dataclass(frozen=True)
class _Word:
    text: str
    start: int


def _top_level(statement: str) -> list[_Word]:
    """Tokens outside of parentheses, upper case; an opening parenthesis stands for its content."""
    words, depth = [], 0
    for token in _TOKEN.finditer(statement):
        text = token.group()
        depth -= text == ")"
        if depth == 0 and text != ")":
            words.append(_Word(text.upper(), token.start()))
        depth += text == "("
        if depth < 0 or text in ("'", '"'):
            raise ConfigurationError(f"ADQL with unbalanced brackets or quotes: {statement}")
    if depth:
        raise ConfigurationError(f"ADQL with unbalanced brackets: {statement}")
    return words


def _statement(text: str) -> str:
    """Return the one SELECT statement of a text, without comments and final semicolon."""
    bare = _TOKEN.sub(lambda token: "" if token.group().startswith("--") else token.group(), text)
    bare = bare.strip().removesuffix(";").rstrip()
    tokens = _TOKEN.findall(bare)
    if not tokens or tokens[0].upper() != "SELECT":
        raise ConfigurationError(f"ADQL must be a SELECT statement; found: {bare or '(nothing)'}")
    if ";" in tokens:
        raise ConfigurationError(f"ADQL must be one statement, without ';'; found: {bare}")
    return bare


def _build_adql(text: str, product: str) -> Query:
    if product != ADQL_LABEL and product not in BY_TABLE:
        known = ", ".join(BY_TABLE)
        raise ConfigurationError(f"Unknown product {product!r}. Known: {known}.")
    statement = _statement(text)
    words = _top_level(statement)
    places: dict[str, int] = {}
    for word in words:
        places.setdefault(word.text, word.start)
    if "FROM" not in places:
        raise ConfigurationError(f"ADQL without FROM: {statement}")
    limited = not places.keys().isdisjoint({"TOP", "OFFSET"})
    # Without a limit the order changes nothing, and ADQL 2.0 forbids it in a subquery.
    rows = statement if limited or "ORDER" not in places else statement[: places["ORDER"]].rstrip()
    # "(" before FROM may be an aggregate, which returns fewer rows than it reads.
    computed = places.get("(", len(statement)) < places["FROM"]
    if computed or not _COMBINES.isdisjoint(places):
        counted = f"({rows}) AS t"
    else:
        counted = rows[places["FROM"] + len("FROM") :].strip()
    key = BY_TABLE[product].key if product in BY_TABLE else ("object_id",)
    return Query(
        product=product,
        adql=statement,
        count=_select("COUNT(*)", counted),
        key=key,
        source=f"({rows}) AS t",
    )
