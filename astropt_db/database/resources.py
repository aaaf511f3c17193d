"""Where ``migrations/`` and ``sql/`` lie: beside the package, or inside it in a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import astropt_db
from astropt_db.errors import ConfigurationError


@cache
def _folder(name: str) -> Path:
    package = Path(astropt_db.__file__).parent
    for candidate in (package / f"_{name}", package.parent / name):
        if candidate.is_dir():
            return candidate
    raise ConfigurationError(
        f"the folder {name!r} is missing from this installation of astropt-db ({package}); "
        "reinstall the package"
    )


def migrations_folder() -> Path:
    """Folder of the Alembic migrations."""
    return _folder("migrations")


def sql_folder() -> Path:
    """Folder of the SQL files."""
    return _folder("sql")


def latest_revision() -> str:
    """Newest schema revision that this code knows; revisions are numbered ``0001``, ``0002``…"""
    return max(path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py"))


@cache
def named_queries() -> dict[str, str]:
    """SQL statements of ``sql/queries/*.sql`` by name.

    A statement begins at a line ``-- name: NAME`` and ends at the next one.
    """
    queries: dict[str, str] = {}
    for path in sorted((sql_folder() / "queries").glob("*.sql")):
        for part in path.read_text(encoding="utf-8").split("-- name: ")[1:]:
            name, _, statement = part.partition("\n")
            if name.strip() in queries:
                raise ConfigurationError(f"{path}: the query {name.strip()!r} is defined twice")
            queries[name.strip()] = statement.strip()
    return queries
