"""The TAP services that hold the Q1 tables: ESA's and IRSA's.

Table names, column names and the tile condition are those of the live services: astroquery's
``esa.euclid`` module and the ESA notebooks for ESA, the irsa-tutorials for IRSA.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from astropt_db.errors import AstroptDbError, ConfigurationError
from astropt_db.q1.products import BY_TABLE

URL_VARIABLE = "ASTROPT_DB_TAP_URL"
"""Environment variable that replaces a service's TAP URL."""


class ArchiveError(AstroptDbError):
    """An archive did not deliver what was asked of it.

    Parameters
    ----------
    service
        Name of the service.
    problem
        What went wrong, as whole sentences.
    query
        The ADQL that was sent; may be empty.
    expected, received
        Rows according to ``COUNT(*)`` and rows that arrived, where that is the problem.
    """

    def __init__(
        self,
        service: str,
        problem: str,
        query: str = "",
        expected: int | None = None,
        received: int | None = None,
    ) -> None:
        self.service = service
        self.problem = problem
        self.query = query
        self.expected = expected
        self.received = received
        text = f"Archive {service}: {problem}"
        if expected is not None:
            text += f" Expected {expected} rows, received {received}."
        super().__init__(text + (f" Query: {query}" if query else ""))

    def __reduce__(self) -> tuple[type[ArchiveError], tuple[object, ...]]:
        return type(self), (self.service, self.problem, self.query, self.expected, self.received)


@dataclass(frozen=True)
class Service:
    """A TAP service that holds the Q1 tables, and how patiently it is asked.

    Attributes
    ----------
    name
        ``esa`` or ``irsa``.
    url
        Base URL, without ``/sync`` or ``/async``.
    table_prefix
        What stands before a product's table name.
    ra, dec
        Position columns of the MER catalogue there, ICRS degrees.
    tile_condition
        ADQL condition on the MER catalogue ``{mer}`` for tile ``{tile}``.
    absent
        Products that the service does not hold as tables.
    response_format
        ``votable``, which marks NULL in every column, or ``fits``, which leaves integer NULLs
        to the service's choice of TNULL but is checked 25 times faster (57,000 rows/s against
        2,300 rows/s, measured with 469 columns).
    page_rows
        Largest number of rows asked for in one job. A VOTable of the MER catalogue takes 19 kB
        of memory per row to check (measured, 469 columns), so the default stays below 1 GB.
    job_limit
        Seconds a job may queue and run.
    read_limit
        Seconds without a byte after which a connection counts as stalled.
    attempts, backoff
        Attempts at each step, and seconds before the second one; the wait doubles every time.
    """

    name: str
    url: str
    table_prefix: str
    ra: str
    dec: str
    tile_condition: str
    absent: frozenset[str]
    response_format: Literal["votable", "fits"] = "votable"
    page_rows: int = 50_000
    job_limit: float = 7200.0
    read_limit: float = 60.0
    attempts: int = 5
    backoff: float = 2.0

    def table(self, product: str) -> str:
        """Name of a product's table in this service.

        Raises
        ------
        ConfigurationError
            If it is no Q1 product, or the service does not hold it.
        """
        if product in BY_TABLE and product not in self.absent:
            return self.table_prefix + product
        reason = "has no table of" if product in BY_TABLE else "has no Q1 product"
        held = ", ".join(table for table in BY_TABLE if table not in self.absent)
        raise ConfigurationError(f"Archive {self.name} {reason} {product!r}. It holds: {held}.")


ESA = Service(
    name="esa",
    url="https://eas.esac.esa.int/tap-server/tap",
    table_prefix="catalogue.",
    ra="right_ascension",
    dec="declination",
    # No TILE_INDEX column there; SEGMENTATION_MAP_ID = TILE_INDEX * 1000000 + running number.
    tile_condition="{mer}.segmentation_map_id / 1000000 = {tile}",
    absent=frozenset({"visual_morphology"}),
)
IRSA = Service(
    name="irsa",
    url="https://irsa.ipac.caltech.edu/TAP",
    table_prefix="euclid_q1_",
    ra="ra",
    dec="dec",
    tile_condition="{mer}.tileid = {tile}",
    absent=frozenset({"visual_morphology", "phz_physical_parameters"}),
)
SERVICES = {service.name: service for service in (ESA, IRSA)}


def find_service(name: str, url: str | None = None) -> Service:
    """Return the service of that name, at ``url`` or ``ASTROPT_DB_TAP_URL`` if given.

    Raises
    ------
    ConfigurationError
        If the name is unknown or the URL cannot be a TAP service's. A URL that carries a
        password is refused without being shown.
    """
    if name not in SERVICES:
        raise ConfigurationError(f"Unknown archive {name!r}. Known: {', '.join(SERVICES)}.")
    service = SERVICES[name]
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        return service
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ConfigurationError(
            "The TAP URL carries a user name, a password or parameters, which would end up in "
            "logs. Give the plain URL; credentials for its host are read from ~/.netrc."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not the http(s) URL of a TAP service.")
    return replace(service, url=url.rstrip("/"))
