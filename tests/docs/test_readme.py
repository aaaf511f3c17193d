"""What the README and the docs say is true: the commands exist, and the main job runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import CHECKOUT

from astropt_db.cli.main import cli

PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *(CHECKOUT / "docs").rglob("*.md")]


def shell_lines(page: Path) -> list[str]:
    """Commands of a page's code blocks, prompts removed."""
    found = re.findall(r"```(\w*)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    blocks = [text for language, text in found if language in ("", "sh", "console")]
    whole = [re.sub(r"\\\n\s*", "", block) for block in blocks]
    lines = [line.removeprefix("$ ") for block in whole for line in block.splitlines()]
    return [line for line in lines if re.match(r"(pip|astropt-db|export|pytest)\b", line)]


def our_commands() -> list[tuple[str, str]]:
    parts = [
        (page.name, part)
        for page in PAGES
        for line in shell_lines(page)
        for part in re.split(r"\s&&?\s|\s#\s", line)
    ]
    return [(name, part) for name, part in parts if part.startswith("astropt-db ")]


@pytest.mark.parametrize(("page", "command"), our_commands())
def test_every_command_of_the_docs_exists(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    # As a user meets it: click keeps the help option of the first context it sees.
    context = click.Context(cli, info_name="astropt-db", **cli.context_settings)
    found: click.Command = cli
    while isinstance(found, click.Group):
        child = found.get_command(context, words[0])
        if child is None and found.invoke_without_command:
            break  # a verb with options of its own beside its sub-verbs
        assert child is not None, f"{page}: no verb {words[0]!r} in {command!r}"
        found, words = child, words[1:]
        context = click.Context(
            found, parent=context, info_name=found.name, **found.context_settings
        )
    # Raises click.UsageError on an option that does not exist.
    found.make_parser(context).parse_args(words)


def test_the_docs_show_commands() -> None:
    assert len(our_commands()) >= 10


def readme_commands() -> list[str]:
    marked = re.findall(
        r"<!-- command -->\n```sh\n(.*?)\n```", (CHECKOUT / "README.md").read_text()
    )
    return marked


def test_two_commands_do_all_the_set_up() -> None:
    job, tests = readme_commands()
    assert job.startswith("pip install ")
    assert job.endswith("&& astropt-db demo")
    assert tests.startswith("pip install ")
    assert tests.endswith("&& pytest")
    assert all("-c constraints.txt" in command for command in (job, tests))


def demo(environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "astropt_db", "demo", "--sources", "80"]
    home = {"ASTROPT_DB_HOME": str(folder / "home")}
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | home | environment, cwd=folder
    )


def shown_rows(output: str) -> dict[str, int]:
    """Rows per product table, from the demo's first table."""
    pairs = re.findall(r"^(\w+)\s+(\d+)\s+\d+$", output, flags=re.MULTILINE)
    return {name: int(rows) for name, rows in pairs}


def works(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done.stderr
    rows = shown_rows(done.stdout)
    assert rows["mer_catalogue"] == rows["phz_photo_z"] > 40
    assert "The brightest galaxies" in done.stdout
    assert "What looks like the first" in done.stdout
    assert "astropt-db similar" in done.stdout
    assert "</html>" in (folder / "report.html").read_text()


def test_the_main_job_runs_on_a_given_server(database_url16: str, tmp_path: Path) -> None:
    works(demo({"ASTROPT_DB_URL": database_url16}, tmp_path), tmp_path)


@pytest.mark.slow
def test_the_main_job_runs_on_a_private_server(tmp_path: Path) -> None:
    """As ``.ci/run`` does, with 600 sources."""
    works(demo({}, tmp_path), tmp_path)


@pytest.mark.slow
def test_the_main_job_runs_twice(database_url16: str, tmp_path: Path) -> None:
    first, second = (demo({"ASTROPT_DB_URL": database_url16}, tmp_path) for _ in range(2))
    works(second, tmp_path)
    assert shown_rows(second.stdout) == shown_rows(first.stdout)
    assert "same content as before" in second.stderr


def test_the_demo_replaces_no_foreign_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    foreign = subprocess.run(
        [sys.executable, "-m", "astropt_db", "demo", "-o", str(mine)],
        capture_output=True,
        text=True,
    )
    assert foreign.returncode == 1
    assert "is no report of astropt-db" in foreign.stderr
