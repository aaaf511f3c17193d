"""``from astropt_db import Catalogue``: the database from Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from commands import select
from conftest import temporary_database
from delivery_database import fill

from astropt_db import Catalogue
from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.errors import ConfigurationError, DatabaseError


@pytest.fixture(scope="module")
def catalogue(server: EmbeddedServer, sky_template: str) -> Iterator[Catalogue]:
    with temporary_database(server, sky_template) as url:
        fill(Database(url))
        yield Catalogue(url)


def test_the_package_is_light() -> None:
    code = "import sys, astropt_db; assert 'astropy' not in sys.modules; astropt_db.Catalogue"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_have_units_and_exact_ids(catalogue: Catalogue) -> None:
    found = catalogue.photoz()
    ids = [row[0] for row in select(catalogue.database, "SELECT object_id FROM astropt.photoz")]
    assert sorted(found["object_id"].tolist()) == sorted(ids)
    assert found["object_id"].dtype == np.int64
    bright = catalogue.sources(where="mag_vis < 20")
    assert bright["mag_vis"].unit == "mag"
    assert 0 < len(bright) < len(found)
    assert (bright["mag_vis"] < 20).all()
    some = catalogue.photoz(bright["object_id"][:3])
    assert set(some["object_id"]) == set(bright["object_id"][:3])


def test_similar_objects_with_pictures(catalogue: Catalogue) -> None:
    one = int(catalogue.sources(where="mag_vis < 20")["object_id"][0])
    found = catalogue.similar(one, 5)
    assert found["rank"].tolist() == [1, 2, 3, 4, 5]
    assert one not in found["object_id"]
    assert found._repr_html_().count("data:image/png") == 5
    assert found[:2]["object_id", "rank"]._repr_html_().count("data:image/png") == 2
    faint = catalogue.similar(one, 5, where="mag_vis > 20")
    assert (faint["mag_vis"] > 20).all()


def test_a_cone_agrees_with_astropy(catalogue: Catalogue) -> None:
    every = catalogue.sources()
    places = SkyCoord(every["right_ascension"], every["declination"], unit="deg")
    for radius in (0.5, 20, 400):
        found = catalogue.cone(places[0].ra.deg, places[0].dec.deg, radius)
        away = places[0].separation(places).arcsec
        assert set(found["object_id"]) == set(every["object_id"][away <= radius])
        assert (np.diff(found["separation"]) >= 0).all()
        assert found["separation"][0] < 1e-6


def test_vectors(catalogue: Catalogue) -> None:
    found = catalogue.embeddings(where="mag_vis < 20")
    assert found["embedding"].shape == (len(found), 16)
    assert found["embedding"].dtype == np.float32


def test_frames(catalogue: Catalogue) -> None:
    frames = Catalogue(catalogue.database.url, frame="pandas")
    found = frames.query("SELECT object_id, NULL::bigint AS other, field FROM astropt.source")
    assert found["object_id"].dtype == "Int64"
    assert found["other"].isna().all()
    assert set(found["field"]) == {"EDF-N"}


def test_errors(catalogue: Catalogue) -> None:
    with pytest.raises(DatabaseError, match="does not exist"):
        catalogue.query("SELECT * FROM nothing")
    with pytest.raises(DatabaseError, match="read-only"):
        catalogue.query("DELETE FROM astropt.run RETURNING id")
    with pytest.raises(DatabaseError, match="7"):
        catalogue.similar(7)
    with pytest.raises(ConfigurationError, match="no encoder 'x'"):
        catalogue.embeddings(encoder="x")
    with pytest.raises(ConfigurationError, match="astropy or pandas"):
        Catalogue(catalogue.database.url, frame="r")
