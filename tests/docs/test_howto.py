"""Every code block of the quickstart and the how-to pages runs, or says why not.

The blocks of a page run in order, in one folder with a small sky and one private server. A block
may follow a comment: ``<!-- not run: why -->``; ``<!-- needs encoders -->`` (skipped where a
checkout lacks the bundled weights); ``<!-- file: PATH -->`` (the block is this file's content).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from conftest import CHECKOUT, MEMORY_DISK, temporary_home

from astropt_db.astropt.encoder import bundled_encoders
from astropt_db.database import migrate
from astropt_db.database.connect import DATABASE
from astropt_db.database.embedded import EmbeddedServer

DOCS = CHECKOUT / "docs"
PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "howto").glob("*.md"))]
# Output and figures, not code.
PLAIN = {"text", ""}
RUN = {"sh", "sql", "python"}
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


@pytest.mark.parametrize("page", [*PAGES, CHECKOUT / "README.md"], ids=lambda path: path.stem)
def test_every_block_is_of_a_kind_that_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if block.mark.startswith("not run:"):
            assert len(block.mark) > 15, block.code
        elif page.name != "README.md":
            assert block.kind in RUN | PLAIN, block.code
        if block.mark.startswith("file:"):
            text = (CHECKOUT / block.mark.removeprefix("file:").strip()).read_text()
            assert block.code.strip() in text


@pytest.fixture(scope="module")
def place(small_sky: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with ``sky/`` in it, and the environment of a newcomer."""
    with temporary_home(MEMORY_DISK if MEMORY_DISK.is_dir() else None) as home:
        folder = home.parent / "work"
        (folder / "bin").mkdir(parents=True)
        shim = folder / "bin" / "astropt-db"
        shim.write_text(SHIM.format(python=sys.executable))
        shim.chmod(0o755)
        (folder / "sky").symlink_to(small_sky)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ASTROPT_DB_")}
        environment |= {
            "ASTROPT_DB_HOME": str(home),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
        }
        yield folder, environment


QUICK = {"quickstart"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[] if page.stem in QUICK else pytest.mark.slow)
        for page in PAGES
    ],
)
def test_the_blocks_of_a_page_run(page: Path, place: tuple[Path, dict[str, str]]) -> None:
    folder, environment = place
    sky = folder / "sky"
    if page.stem == "quickstart":
        # It makes its own.
        original = sky.resolve()
        sky.unlink()
    try:
        for block in blocks(page):
            if block.kind in PLAIN or block.mark.startswith("not run:"):
                continue
            if block.mark == "needs encoders" and not bundled_encoders():
                continue
            run_block(block, folder, environment)
    finally:
        if page.stem == "quickstart":
            shutil.rmtree(sky, ignore_errors=True)
            sky.symlink_to(original)


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.kind == "sql":
        server = EmbeddedServer(Path(environment["ASTROPT_DB_HOME"]))
        server.start()
        server.create_database(DATABASE)
        migrate.upgrade(server.url())
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(block.code.encode())
        return
    program = ["bash", "-euo", "pipefail"] if block.kind == "sh" else [sys.executable]
    done = subprocess.run(
        [*program, "-c", block.code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.code}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
