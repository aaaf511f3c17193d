"""Options that several verbs share: the database, and how results are shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from astropt_db.database.connect import Database, open_connection, resolve, schema_version
from astropt_db.database.resources import latest_revision

F = TypeVar("F", bound=Callable[..., Any])


def database_option(function: F) -> F:
    """Add ``--db`` and pass the :class:`Database` as ``database``.

    The embedded database is made ready when it is new or older than the code; somebody else's
    server is never changed without ``astropt-db init``.
    """

    @click.option(
        "--db",
        "url",
        envvar="ASTROPT_DB_URL",
        metavar="URL",
        help="PostgreSQL address, postgresql://user@host/name [default: the embedded server].",
    )
    @wraps(function)
    def wrapper(*args: Any, url: str | None, **kwargs: Any) -> Any:
        return function(*args, database=ready_database(url), **kwargs)

    return wrapper  # type: ignore[return-value]  # click's decorators lose the signature


def ready_database(url: str | None) -> Database:
    """Resolve the address; bring the embedded database up to date."""
    database = resolve(url)
    if database.embedded is not None:
        with open_connection(database.url) as connection:
            version = schema_version(connection)
        if version is None or version[0] < latest_revision():
            # Alembic takes longer to import than most commands to run.
            from astropt_db.database import migrate

            migrate.upgrade(database.url)
    return database


def format_option(function: F) -> F:
    """Add ``--format table|csv|json``."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "csv", "json"]),
        default="table",
        show_default=True,
        help="How results are shown; 64-bit integers are strings in JSON.",
    )(function)
