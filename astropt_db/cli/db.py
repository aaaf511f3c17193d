"""``astropt-db db``: the embedded PostgreSQL server."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from astropt_db.cli.options import database_option
from astropt_db.database.accounts import RIGHTS, new_password, read_password, set_account
from astropt_db.database.backup import backup as save
from astropt_db.database.backup import restore as load
from astropt_db.database.connect import DATABASE, Database, resolve
from astropt_db.database.embedded import EmbeddedServer, ServerStatus, default_home


@click.group()
def db() -> None:
    """Control the embedded PostgreSQL server; back up and restore any database.

    The server lives in ASTROPT_DB_HOME, else in your data folder, and starts by itself whenever
    a command needs a database and neither --db nor ASTROPT_DB_URL names one.
    """


@db.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="ASTROPT_DB_PORT",
    help="Listen on 127.0.0.1 at this port too, with a password, for TOPCAT and other clients.",
)
def start(port: int | None) -> None:
    """Start the server, or join the one that runs; print its address."""
    server = EmbeddedServer(default_home())
    server.start(port)
    server.create_database(DATABASE)
    status = server.status()
    click.echo(f"PostgreSQL {status.version} runs in {server.home} (pid {status.pid})", err=True)
    _print_url(server, tcp=port is not None, show_password=False)


@db.command()
def stop() -> None:
    """Stop the server; open transactions are rolled back."""
    server = EmbeddedServer(default_home())
    stopped = server.stop()
    click.echo(f"{'stopped' if stopped else 'no server runs in'} {server.home}", err=True)


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show whether the server runs, and where."""
    found = EmbeddedServer(default_home()).status()
    facts = asdict(found) | {"data_directory": str(found.data_directory), "log": str(found.log)}
    click.echo(json.dumps(facts) if as_json else _table(found))


@db.command()
@click.option("--tcp", is_flag=True, help="The address on 127.0.0.1 instead of the socket.")
@click.option("--show-password", is_flag=True, help="Print the password as part of it.")
def url(tcp: bool, show_password: bool) -> None:
    """Print the address of the database, for psql, psycopg or SQLAlchemy."""
    server = EmbeddedServer(default_home())
    _print_url(server, tcp=tcp, show_password=show_password)
    if not server.status().running:
        click.echo("the server does not run; start it with: astropt-db db start", err=True)


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@database_option
def backup(file: Path, database: Database) -> None:
    """Write everything in the database to FILE, in pg_dump's custom format.

    The file appears when it is whole. Others may read and write meanwhile; the backup shows the
    moment at which it began.
    """
    size = save(database, file)
    click.echo(f"{file}: {size / 2**20:,.1f} MiB", err=True)


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--replace", is_flag=True, help="Drop what the database holds first.")
@click.option("--db", "address", envvar="ASTROPT_DB_URL", metavar="URL", help="PostgreSQL address.")
def restore(file: Path, replace: bool, address: str | None) -> None:
    """Load a backup, all of it or nothing; older schemas are brought up to date.

    The server may be of a newer major version than the one that the backup came from.
    """
    database = resolve(address)
    load(database, file, replace)
    click.echo(f"{database.safe_name} holds what {file} held", err=True)


@db.command()
@click.argument("name")
@click.option(
    "--right", type=click.Choice(list(RIGHTS)), default="reader", show_default=True, help="May do."
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read the password from this file [default: make one and print it].",
)
@database_option
def account(name: str, right: str, password_file: Path | None, database: Database) -> None:
    """Make the account NAME on the server, or give it another password or right.

    A reader sees, a worker writes what commands compute, an admin owns and upgrades.
    """
    password = new_password() if password_file is None else read_password(password_file)
    is_new = set_account(database, name, right, password)
    click.echo(f"{name} is {'a new account' if is_new else 'changed'}, a {right}", err=True)
    if password_file is None:
        click.echo(password)


@db.command()
def upgrade() -> None:
    """Bring the embedded server's data to the PostgreSQL version of this installation.

    Tables are copied, so there must be room on the disk; the old directory stays until you
    remove it.
    """
    server = EmbeddedServer(default_home())
    kept = server.upgrade()
    version = server.status().version
    if kept is None:
        click.echo(f"nothing to do: {server.home} is of PostgreSQL {version} already", err=True)
    else:
        click.echo(f"{server.home} is of PostgreSQL {version} now; it was {kept}", err=True)
        click.echo(f"once you are content, remove it: rm -r {shlex.quote(str(kept))}", err=True)


def _print_url(server: EmbeddedServer, *, tcp: bool, show_password: bool) -> None:
    click.echo(server.url(DATABASE, tcp=tcp, show_password=show_password))
    if tcp and not show_password:
        click.echo(f"the password is in {server.password_file}", err=True)


def _table(found: ServerStatus) -> str:
    rows = {
        "state": "running" if found.running else "stopped",
        "pid": found.pid,
        "version": f"PostgreSQL {found.version}",
        "data directory": found.data_directory,
        "port": found.port or "none (socket only)",
        "url": found.url,
        "log": found.log,
    }
    return "\n".join(f"{name:<15} {value}" for name, value in rows.items() if value is not None)
