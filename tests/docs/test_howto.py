"""Every code block of the README, the quickstart and the how-to pages runs, or says why not.

The blocks of a page run in order, in one folder with a small sky and one private server; those of
the README after the demo, as there. A block may follow a comment: ``<!-- not run: why -->``;
``<!-- command -->`` (``.ci/run`` runs it, in a fresh environment); ``<!-- ends with 1 -->`` (as a
command does that could not do all of it); ``<!-- file: PATH -->`` (the block is this file's
content).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from astropy.table import Table
from conftest import CHECKOUT, MEMORY_DISK, temporary_home
from q1_files import make_rows

from astropt_db.database import migrate
from astropt_db.database.connect import DATABASE
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.q1.products import load_columns

DOCS = CHECKOUT / "docs"
README = CHECKOUT / "README.md"
PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "howto").glob("*.md"))]
# Output and figures, not code.
PLAIN = {"text", ""}
RUN = {"sh", "console", "sql", "python"}
MARKS = re.compile(r"not run: .{10,}|file: .+|command|ends with 1|")
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```", re.M | re.S
)
SHIM = '#!/bin/sh\nexec "{python}" -m astropt_db "$@"\n'


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment before it."""

    kind: str
    code: str
    mark: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text())
    return [Block(m["kind"], m["code"], m["mark"] or "") for m in found]


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda path: path.stem)
def test_every_block_is_of_a_kind_that_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        assert block.kind in RUN | PLAIN, block.code
        assert MARKS.fullmatch(block.mark), block.mark
        if block.mark.startswith("file:"):
            text = (CHECKOUT / block.mark.removeprefix("file:").strip()).read_text()
            assert block.code.strip() in text


@contextmanager
def newcomer() -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty folder, and the environment of somebody without a database."""
    with temporary_home(MEMORY_DISK if MEMORY_DISK.is_dir() else None) as home:
        folder = home.parent / "work"
        (folder / "bin").mkdir(parents=True)
        shim = folder / "bin" / "astropt-db"
        shim.write_text(SHIM.format(python=sys.executable))
        shim.chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ASTROPT_DB_")}
        environment |= {
            "ASTROPT_DB_HOME": str(home),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
        }
        yield folder, environment


@pytest.fixture(scope="module")
def place(small_sky: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with ``sky/`` in it."""
    with newcomer() as (folder, environment):
        (folder / "sky").symlink_to(small_sky)
        yield folder, environment


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run(page: Path, place: tuple[Path, dict[str, str]]) -> None:
    folder, environment = place
    sky = folder / "sky"
    if page.stem != "quickstart":
        run_blocks(page, folder, environment)
        return
    original = sky.resolve()
    sky.unlink()  # it makes its own
    try:
        run_blocks(page, folder, environment)
    finally:
        shutil.rmtree(sky, ignore_errors=True)
        sky.symlink_to(original)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_blocks_of_the_readme_run() -> None:
    with newcomer() as (folder, environment):
        run_block(Block("sh", "astropt-db demo --keep", ""), folder, environment)
        home = Path(environment["ASTROPT_DB_HOME"])
        kept = home.with_name(f"{home.name}-demo")
        try:
            (sky,) = home.with_name(f"{kept.name}-sky").iterdir()
            prepare_readme(folder, sky)
            run_blocks(README, folder, environment | {"ASTROPT_DB_HOME": str(kept)})
        finally:
            EmbeddedServer(kept).stop()


def prepare_readme(folder: Path, sky: Path) -> None:
    """The files that the README speaks of: the demo's sky, and one with ids that were floats."""
    shutil.copytree(sky, folder / "sky")
    (folder / "MER_FINAL_CATALOG").symlink_to(folder / "sky" / "catalogs" / "MER_FINAL_CATALOG")
    product = "phz_physical_parameters"
    rows = make_rows(product, 40)
    columns = {one.sql: rows[one.name] for one in load_columns(product) if one.length is None}
    # Through a double, as a spreadsheet or pandas does it.
    columns["object_id"] = columns["object_id"].astype(np.float64).astype(np.int64)
    Table(columns).write(folder / "phz_physical_destroyed_ids.csv")


def run_blocks(page: Path, folder: Path, environment: dict[str, str]) -> None:
    for block in blocks(page):
        unwanted = block.kind in PLAIN or block.mark == "command"
        if unwanted or block.mark.startswith("not run:"):
            continue
        run_block(block, folder, environment)


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.kind == "sql":
        server = EmbeddedServer(Path(environment["ASTROPT_DB_HOME"]))
        server.start()
        server.create_database(DATABASE)
        migrate.upgrade(server.url())
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(block.code.encode())
        return
    program = [sys.executable] if block.kind == "python" else ["bash", "-uo", "pipefail"]
    code = block.code
    if block.kind == "console":
        code = "\n".join(re.findall(r"^\$ (.*(?:\\\n.*)*)", code, re.M))
    if block.kind != "python" and block.mark != "ends with 1":
        program.append("-e")
    done = subprocess.run(
        [*program, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.code}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
