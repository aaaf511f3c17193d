"""The reference pages are what the code says: ``python docs/make_reference.py`` writes them."""

from __future__ import annotations

import importlib.util

import pytest
from conftest import CHECKOUT

from astropt_db.database.embedded import EmbeddedServer

SCRIPT = CHECKOUT / "docs" / "make_reference.py"


@pytest.fixture(scope="module")
def written(server: EmbeddedServer, template: str) -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("make_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.pages(server.url(template)))


@pytest.mark.parametrize("name", ["schema.md", "cli.md"])
def test_the_reference_is_up_to_date(written: dict[str, str], name: str) -> None:
    page = (CHECKOUT / "docs" / "reference" / name).read_text()
    assert page == written[name], "run: python docs/make_reference.py"
