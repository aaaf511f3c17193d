"""The notebook runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import CHECKOUT, temporary_database
from delivery_database import fill
from nbclient import NotebookClient

from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer

NOTEBOOKS = sorted((CHECKOUT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def database(server: EmbeddedServer, sky_template: str) -> Iterator[Database]:
    with temporary_database(server, sky_template) as url:
        fill(Database(url))
        yield Database(url)


def outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """Kinds of all outputs, and the texts of streams."""
    found: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found += [*output.get("data", {}), output.get("text", "")]
    return found


@pytest.mark.filterwarnings("ignore:::(traitlets|zmq|jupyter_client|nbclient|nbformat)")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(
    path: Path, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTROPT_DB_URL", database.url)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    shown = outputs(notebook)
    assert "image/png" in shown
    assert any("inside their 68 % intervals" in text for text in shown)
    pictured = notebook.cells[5].outputs[0].data["text/html"]
    assert pictured.count("data:image/png") == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_small_and_has_outputs(path: Path) -> None:
    assert path.stat().st_size < 200_000
    notebook = nbformat.read(path, as_version=4)
    assert "image/png" in outputs(notebook)
    assert "/tmp" not in path.read_text()
    assert not any(o.output_type == "error" for c in notebook.cells for o in c.get("outputs", []))
