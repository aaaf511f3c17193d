"""Write docs/reference/schema.md and cli.md from the code: ``python docs/make_reference.py``.

A test (tests/docs/test_reference.py) fails where the pages and the code differ.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg

from astropt_db.cli.main import VERBS, cli
from astropt_db.database import migrate
from astropt_db.database.embedded import EmbeddedServer

FOLDER = Path(__file__).parent / "reference"
WIDTH = 96
MADE = "<!-- Written by `python docs/make_reference.py`; edits here are lost. -->\n"

RELATIONS = """
SELECT n.nspname, c.relname, c.relkind = 'v', obj_description(c.oid, 'pg_class'), (
    SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))
    FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = c.oid AND i.indisprimary)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p', 'v', 'm')
    AND NOT c.relispartition AND c.relname <> 'alembic_version'
ORDER BY n.nspname, c.relname
"""
COLUMNS = """
SELECT column_name, data_type, coalesce(unit, ''), coalesce(ucd, ''), coalesce(description, '')
FROM astropt.column_info WHERE table_schema = %s AND table_name = %s ORDER BY position
"""
FUNCTIONS = """
SELECT p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
    pg_get_function_arguments(p.oid), obj_description(p.oid, 'pg_proc')
FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text IN ('astropt', 'survey')
ORDER BY p.proname, 2
"""


def cell(text: object) -> str:
    """Text in a cell of a Markdown table."""
    return " ".join(str(text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def schema_page(connection: psycopg.Connection) -> str:
    """Tables, views, functions."""
    lines = ["# Schema\n", MADE]
    lines.append(
        "Every table, view and column has this text as its COMMENT in the database, and "
        "`astropt.column_info` is the same as a table.\n"
    )
    for schema, name, is_view, comment, key in connection.execute(RELATIONS).fetchall():
        kind = "view" if is_view else "table"
        lines.append(f"## {schema}.{name}\n")
        keys = f" Primary key: {', '.join(f'`{one}`' for one in key)}." if key else ""
        lines.append(f"{kind.capitalize()}. {cell(comment)}.{keys}\n".replace("..", "."))
        lines.append("| column | type | unit | UCD | description |\n|---|---|---|---|---|")
        for row in connection.execute(COLUMNS, [schema, name]).fetchall():
            lines.append("| " + " | ".join([f"`{row[0]}`", *map(cell, row[1:])]) + " |")
        lines.append("")
    lines.append("## Functions\n")
    for name, _, result, arguments, comment in connection.execute(FUNCTIONS).fetchall():
        lines.append(f"### astropt.{name}\n")
        lines.append(f"```text\nastropt.{name}({arguments})\nreturns {result}\n```\n")
        lines.append(f"{cell(comment)}.\n")
    return "\n".join(lines).rstrip() + "\n"


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Context, click.Command]]:
    """A command and those below it."""
    yield context, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                below = click.Context(child, parent=context, info_name=name, terminal_width=WIDTH)
                yield from commands(child, below)


def cli_page() -> str:
    """What ``--help`` says, for every command."""
    lines = ["# Command line\n", MADE]
    top = click.Context(cli, info_name="astropt-db", terminal_width=WIDTH, **cli.context_settings)
    for context, command in commands(cli, top):
        level = "##" if context.parent in (None, top) else "###"
        lines.append(f"{level} {context.command_path}\n")
        lines.append(f"```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(lines).rstrip() + "\n"


def pages(url: str) -> dict[str, str]:
    """Name and text of both pages; the database at ``url`` has the newest schema."""
    with psycopg.connect(url) as connection:
        return {"schema.md": schema_page(connection), "cli.md": cli_page()}


def main() -> None:
    """Write both pages."""
    with tempfile.TemporaryDirectory(prefix="adb-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedServer(Path(folder) / "home")
        server.start()
        try:
            server.create_database("reference")
            migrate.upgrade(server.url("reference"))
            for name, text in pages(server.url("reference")).items():
                (FOLDER / name).write_text(text, encoding="utf-8")
        finally:
            server.stop()
    sys.stderr.write(f"wrote {FOLDER} ({len(VERBS)} verbs)\n")


if __name__ == "__main__":
    main()
