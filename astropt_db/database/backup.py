"""Backups: one file in PostgreSQL's custom format, written and restored as a whole or not at all.

``pg_dump``, ``pg_restore`` and ``psql`` come from the embedded server's package, else from PATH.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from astropt_db.database import migrate
from astropt_db.database.connect import Database, open_connection, schema_version
from astropt_db.database.resources import latest_revision, named_queries
from astropt_db.errors import ConfigurationError, DatabaseError, FileError

SCHEMAS = ("q1", "astropt", "survey")


def backup(database: Database, path: Path) -> int:
    """Write tables, views and functions of our three schemas to a file.

    The file appears under its name when it is whole; an older one is replaced then.

    Returns
    -------
    Size of the file in bytes.

    Raises
    ------
    DatabaseError
        If the database has no schema of ours, or ``pg_dump`` fails.
    ConfigurationError
        If no ``pg_dump`` as new as the server is found, or the folder cannot be written.
    """
    with open_connection(database.url) as connection:
        if schema_version(connection) is None:
            raise DatabaseError(f"{database.safe_name} holds no astropt-db schema: nothing to save")
        major = connection.info.server_version // 10000
    programs = client_programs(major)
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path.parent}: expected a folder to write the backup to")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        dbname, environment = _client(database.url)
        done = subprocess.run(
            [
                *(programs / "pg_dump", "--format=custom", "--no-owner", "--no-privileges"),
                *(f"--schema={schema}" for schema in SCHEMAS),
                *("--extension=vector", f"--file={part}", dbname),
            ],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise DatabaseError(f"pg_dump failed, {path} is as it was: {_last_lines(done.stderr)}")
        _listed(programs, part)
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def restore(database: Database, path: Path, replace: bool = False) -> None:
    """Load a backup in one transaction, then bring its schema up to date.

    Parameters
    ----------
    replace
        Drop what the database holds in our schemas first, in the same transaction.

    Raises
    ------
    DatabaseError
        If the database holds rows and ``replace`` is False, if the backup is newer than this
        code, or the restore fails; the database is then as it was.
    FileError
        If the file is no backup in custom format.
    """
    with open_connection(database.url) as connection:
        major = connection.info.server_version // 10000
        if not replace and schema_version(connection) is not None:
            row = connection.execute(named_queries()["backup_has_rows"]).fetchone()
            if row is not None and row[0]:
                raise DatabaseError(
                    f"{database.safe_name} holds data already; restore into an empty database, "
                    "or give --replace to drop what it holds"
                )
    programs = client_programs(major)
    if not path.is_file():
        raise FileError(path, "no such file")
    _listed(programs, path)
    _require_known_version(programs, path)
    _load(programs, path, database.url)
    migrate.upgrade(database.url)


def client_programs(major: int) -> Path:
    """Folder with the ``pg_dump`` that fits a server: of its version, else the next newer one.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    from astropt_db.database.embedded.cluster import INSTALLATIONS, find_programs

    found: dict[int, Path] = {}
    for version in INSTALLATIONS:
        try:
            found[version] = find_programs(version)
        except ConfigurationError:
            continue
    on_path = shutil.which("pg_dump")
    if on_path is not None:
        said = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False)
        number = re.search(r"\) (\d+)", said.stdout)
        if number:
            found[int(number[1])] = Path(on_path).resolve().parent
    fitting = [version for version in sorted(found) if version >= major]
    if not fitting:
        raise ConfigurationError(
            f"no pg_dump for PostgreSQL {major} found; install the client programs of PostgreSQL "
            f"{major} or newer, so that they are on PATH"
        )
    return found[fitting[0]]


def _client(url: str) -> tuple[str, dict[str, str]]:
    """Option and environment for a client program; the password is not for ``ps`` to see."""
    parts = conninfo_to_dict(url)
    password = parts.pop("password", None)
    secret = {} if password is None else {"PGPASSWORD": str(password)}
    return f"--dbname={make_conninfo('', **parts)}", os.environ | secret | {"LC_ALL": "C"}


def _last_lines(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line]
    return "; ".join(lines[-3:]) or "it said nothing"


def _listed(programs: Path, path: Path) -> None:
    """Raise FileError unless ``pg_restore`` can read the table of contents."""
    done = subprocess.run(
        [programs / "pg_restore", "--list", path],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise FileError(
            path,
            f"expected a backup in pg_dump's custom format: {_last_lines(done.stderr)}.",
            "Write one with: astropt-db db backup FILE",
        )


def _require_known_version(programs: Path, path: Path) -> None:
    done = subprocess.run(
        [
            *(programs / "pg_restore", "--data-only", "--schema=astropt", "--table=version"),
            *("--file=-", path),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    found = re.search(
        r"^COPY astropt\.version \((.*?)\) FROM stdin;\n(.*)$", done.stdout, flags=re.MULTILINE
    )
    if found is None:
        raise FileError(
            path, "the backup holds no astropt-db schema.", "Is it of another database?"
        )
    row = dict(zip(found[1].split(", "), found[2].split("\t"), strict=True))
    if row["schema_revision"] > latest_revision():
        raise DatabaseError(
            f"{path}: has schema {row['schema_revision']}, made by astropt-db "
            f"{row['code_version']}; this astropt-db knows up to {latest_revision()}. Upgrade the "
            "package first"
        )


def _load(programs: Path, path: Path, url: str) -> None:
    """Drop and load in one transaction, which is committed when ``pg_restore`` has ended well."""
    dbname, environment = _client(url)
    script = [str(programs / "pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(path)]
    shell = [str(programs / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", dbname]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(script, stdout=subprocess.PIPE, stderr=said) as reader,
        subprocess.Popen(
            shell, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environment
        ) as writer,
    ):
        assert reader.stdout is not None
        assert writer.stdin is not None
        try:
            # psql leaves at the first error, and nobody reads any more.
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.write(b"BEGIN;\n" + named_queries()["backup_drop"].encode() + b"\n")
                shutil.copyfileobj(reader.stdout, writer.stdin, 1 << 20)
                if reader.wait() == 0:
                    writer.stdin.write(b"\nCOMMIT;\n")
                writer.stdin.close()
        finally:
            reader.kill()
        if writer.wait() != 0 or reader.wait() != 0:
            said.seek(0)
            text = _last_lines(said.read().decode(errors="replace"))
            raise DatabaseError(f"{path}: could not be loaded, nothing was changed: {text}")
