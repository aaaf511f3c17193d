"""Bring the embedded server's data directory to another major version of PostgreSQL.

``pg_upgrade`` copies the tables into a new directory, which takes the old one's place when it is
whole; the old directory stays beside it until its owner removes it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from astropt_db.database.embedded.cluster import (
    INSTALLATIONS,
    SETTINGS_FILE,
    SUPERUSER,
    Cluster,
    find_programs,
)
from astropt_db.database.embedded.place import (
    ServerUser,
    make_private_folder,
    server_user,
    socket_directory,
    write_private,
)
from astropt_db.database.embedded.settings import Machine, render, server_settings
from astropt_db.errors import ConfigurationError, DatabaseError

UPGRADED = "pgdata-upgraded"
"""Name of a directory that is whole and waits to take the place of ``pgdata``."""

_TIMEOUT = 24 * 3600.0


def finish_upgrade(home: Path) -> None:
    """Do the last step of an upgrade whose process died between its two renames."""
    if (home / UPGRADED).exists() and not (home / "pgdata").exists():
        (home / UPGRADED).rename(home / "pgdata")


def upgrade_cluster(home: Path, version: int, lock: int) -> Path | None:
    """Upgrade ``home/pgdata``; the caller holds the home's lock.

    Returns
    -------
    Where the old directory lies now; None if nothing was to do.

    Raises
    ------
    ConfigurationError
        If there are no programs of the old version, or the disk has no room for a copy.
    DatabaseError
        If ``pg_upgrade`` fails; the old directory is then as it was.
    """
    new = Cluster(home, version)
    stored = new.stored_version()
    if stored is None or stored == version:
        return None
    if stored > version or stored not in INSTALLATIONS:
        raise ConfigurationError(
            f"{new.data_directory}: belongs to PostgreSQL {stored}; expected one of "
            f"{', '.join(map(str, INSTALLATIONS))}, not newer than {version}. Dump it with "
            f"PostgreSQL {stored} (pg_dump --format=custom) and load it with: astropt-db db restore"
        )
    _require_room(new.data_directory)
    old = Cluster(home, stored)
    # Started once, so that a server that crashed before has recovered; pg_upgrade needs it clean.
    if old.settled() is None:
        old.start(None, lock)
    old.stop()
    user = server_user(new.data_directory, home)
    fresh = new.make_fresh(user, lock)
    try:
        settings = server_settings(Machine.measure(home))
        write_private(fresh / SETTINGS_FILE, render(settings), user)
        _pg_upgrade(home, stored, version, fresh, user)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    (home / UPGRADED).unlink(missing_ok=True)
    fresh.rename(home / UPGRADED)
    kept = home / f"pgdata-{stored}"
    new.data_directory.rename(kept)
    finish_upgrade(home)
    return kept


def _pg_upgrade(home: Path, old: int, new: int, fresh: Path, user: ServerUser) -> None:
    work = home / "upgrade"
    make_private_folder(work, user)
    try:
        # Relative names where possible: they go through a shell.
        result = user.run(
            [
                str(find_programs(new) / "pg_upgrade"),
                *("--old-bindir", str(find_programs(old)), "--new-bindir", str(find_programs(new))),
                *("--old-datadir", "../pgdata", "--new-datadir", f"../{fresh.name}"),
                *(
                    "--username",
                    SUPERUSER,
                    "--socketdir",
                    str(socket_directory(home)),
                    "--jobs",
                    "2",
                ),
            ],
            work,
            timeout=_TIMEOUT,
        )
        if result.returncode != 0:
            lines = "\n".join(f"    {line}" for line in result.stdout.splitlines()[-15:])
            raise DatabaseError(
                f"{home}: pg_upgrade failed; the data directory is as it was. The last lines of "
                f"its output:\n{lines}"
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_room(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < size * 1.1:
        raise ConfigurationError(
            f"{folder}: the upgrade makes a copy of {size / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free on this disk. Free some space, or move "
            "ASTROPT_DB_HOME to a larger disk"
        )
