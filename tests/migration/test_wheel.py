"""The wheel brings its own migrations and SQL files, and works where no checkout is."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CHECKOUT

from astropt_db.database.connect import Database, connect
from astropt_db.database.migrate import sql_files
from astropt_db.database.resources import migrations_folder, sql_folder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("pip") is None,
    reason="building the wheel needs pip and hatchling: pip install pip hatchling",
)


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, CHECKOUT)
    (built,) = folder.glob("astropt_db-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Folder with the package from the wheel, without its dependencies."""
    target = wheel.parent / "site"
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed package, in a folder without a checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ASTROPT_DB_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env=environment | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_every_migration_and_sql_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in ((migrations_folder(), "_migrations"), (sql_folder(), "_sql")):
        sources = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert len(sources) >= 3
        wanted = {f"astropt_db/{inside}/{p.relative_to(folder).as_posix()}" for p in sources}
        assert wanted - names == set()
    assert "astropt_db/q1/columns/mer_catalogue.csv" in names
    assert "astropt_db/py.typed" in names
    assert [name for name in names if "__pycache__" in name or name.startswith("tests")] == []


def test_the_installed_package_uses_its_own_files(installed: Path) -> None:
    code = (
        "from astropt_db.database.resources import migrations_folder, sql_folder\n"
        "print(migrations_folder(), sql_folder(), sep='\\n')"
    )
    done = run(installed, "-c", code)
    assert done.stderr == ""
    package = installed / "astropt_db"
    assert done.stdout.split() == [str(package / "_migrations"), str(package / "_sql")]


def test_the_installed_command_makes_a_database_ready(installed: Path, database_url: str) -> None:
    done = run(installed, str(installed / "bin" / "astropt-db"), "init", "--db", database_url)
    assert done.returncode == 0, done.stderr
    assert "is ready (schema" in done.stderr
    with connect(Database(database_url)) as connection:
        assert connection.execute("SELECT count(*) FROM astropt.source").fetchone() == (0,)
    shown = run(installed, str(installed / "bin" / "astropt-db"), "--help")
    assert "Euclid galaxies" in shown.stdout


def test_sql_files_are_applied_in_a_fixed_order() -> None:
    names = [path.relative_to(sql_folder()).as_posix() for path in sql_files()]
    functions = [name for name in names if name.startswith("functions/")]
    views = [name for name in names if name.startswith("views/")]
    assert names == [*sorted(functions), *sorted(views), "roles.sql"]
