"""``astropt-db report`` and ``astropt-db cutout``: the page, with everything and with nothing."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psycopg
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from commands import run, select
from conftest import temporary_database
from delivery_database import fill
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from astropt_db.database.connect import Database, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.deliver.gallery import write_gallery
from astropt_db.deliver.pictures import encode_png, paint
from astropt_db.deliver.report.facts import gather
from astropt_db.deliver.report.metrics import redshift_metrics
from astropt_db.deliver.report.sections import space
from astropt_db.search.similar import Answer

SECTIONS = ["contents", "sky", "map", "redshift", "morphology", "similar", "outliers", "provenance"]
NASTY = "<script>alert(1)</script>'\"&"


@pytest.fixture(scope="module")
def full(server: EmbeddedServer, sky_template: str) -> Iterator[Database]:
    with temporary_database(server, sky_template) as url:
        database = Database(url)
        fill(database)
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE astropt.encoder SET name = %s", [NASTY])
            connection.execute("UPDATE astropt.run SET command = %s", [NASTY])
        yield database


@pytest.fixture(scope="module")
def page(full: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("report") / "report.html"
    outcome = run(full, "report", "-o", target, "--title", f"My {NASTY}")
    assert outcome.code == 0, outcome.err
    assert "nothing yet" not in outcome.err
    return target


def test_every_part_is_there(full: Database, page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"<section id='(\w+)'", text) == SECTIONS
    ((count,),) = select(full, "SELECT count(*) FROM astropt.source")
    assert f"<b>{count}</b><span>sources</span>" in text
    ids = {row[0] for row in select(full, "SELECT object_id FROM astropt.source")}
    shown = {int(one) for one in re.findall(r"-?\d{17,19}", text)}
    assert len(shown) > 20
    assert shown <= ids
    assert text.count("data:image/png;base64,") > 20
    assert "NMAD" in text


def test_a_stored_map_tells_whether_the_vectors_betray_the_field(full: Database) -> None:
    leak = {"fields": ["EDF-F", "EDF-N"], "balanced_accuracy": 0.614, "chance": 0.5, "sources": 99}
    with connect(full) as connection:
        row = connection.execute(
            "INSERT INTO astropt.map_run (run_id, encoder_id, method, parameters, objects, "
            "is_current) SELECT (SELECT min(r.id) FROM astropt.run AS r), e.id, 'umap', %s, 1, true"
            " FROM astropt.encoder AS e WHERE e.is_current RETURNING id",
            [Jsonb({"field_leakage": leak})],
        ).fetchone()
    section = space(gather(full)).body
    select(full, "DELETE FROM astropt.map_run WHERE id = %s RETURNING 1", [row and row[0]])
    assert "EDF-F, EDF-N apart with a balanced accuracy of 0.61 (0.50 by chance)" in section


def test_values_are_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert text.count(escape(NASTY, quote=True)) >= 4


TEXTS = """
    SELECT n.nspname, c.relname, a.attname FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('astropt', 'q1', 'survey') AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND a.attnum > 0 AND a.atttypid = 'text'::regtype
        -- What the report looks for by its name.
        AND a.attname NOT IN ('state', 'task', 'kind', 'schema_revision', 'method')
    ORDER BY 1, 2, 3
"""


class Markup(HTMLParser):
    """The kinds of elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag}@{name}" for name, _ in attrs)}


def test_no_text_of_the_database_becomes_markup(
    full: Database, server: EmbeddedServer, page: Path, tmp_path: Path
) -> None:
    spoilt = 0
    with temporary_database(server, str(conninfo_to_dict(full.url)["dbname"])) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            for schema, table, column in connection.execute(TEXTS).fetchall():
                query = sql.SQL("UPDATE {} SET {} = %s").format(
                    sql.Identifier(schema, table), sql.Identifier(column)
                )
                with suppress(psycopg.errors.IntegrityError):
                    spoilt += connection.execute(query, [NASTY]).rowcount > 0
        target = tmp_path / "report.html"
        outcome = run(Database(url), "report", "-o", target)
        assert outcome.code == 0, outcome.err
    assert spoilt > 15
    assert target.read_text().count(escape(NASTY, quote=True)) >= 8
    assert Markup(target.read_text()).found <= Markup(page.read_text()).found


def test_the_gallery_escapes_what_it_shows(full: Database, tmp_path: Path) -> None:
    names = ("object_id", "rank", "morphology_class", "method", "recall")
    rows = [(5, 1, NASTY, NASTY, 0.9)]
    answer = Answer([(name, 25) for name in names], rows, [5])
    write_gallery(full, answer, tmp_path / "gallery.html")
    found = Markup((tmp_path / "gallery.html").read_text()).found
    assert "script" not in found
    assert {name for name in found if name.startswith("figcaption@")} == set()


def test_the_page_needs_no_network(page: Path) -> None:
    found = re.findall(r"(?:src|href)='([^']{0,30})|url\(|@import|https?://", page.read_text())
    assert all(one.startswith(("data:image/png", "#")) for one in found)


def test_without_data_the_page_says_what_to_do(ready_database: Database, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    outcome = run(ready_database, "report", "-o", target)
    assert outcome.code == 0, outcome.err
    assert "nothing yet for: Contents, Sky" in outcome.err
    text = target.read_text()
    for command in ("ingest catalogue", "embed", "train photoz", "outliers"):
        assert f"astropt-db {command}" in text
    assert "exists" in run(ready_database, "report", "-o", target).err


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_it_fits_the_window(page: Path, tmp_path: Path, width: int) -> None:
    """Nothing stands out of the page; Chromium's narrowest window is 500 pixels."""
    probe = "<script>document.title = 'wide ' + document.documentElement.scrollWidth</script>"
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"{probe}</body>"))
    done = chromium(tmp_path, f"--window-size={width},900", "--dump-dom", copy.as_uri())
    found = re.search(r"<title>wide (\d+)</title>", done.stdout)
    assert found is not None, done.stderr[-500:]
    assert int(found[1]) <= width
    picture = tmp_path / "page.png"
    chromium(tmp_path, f"--window-size={width},900", f"--screenshot={picture}", page.as_uri())
    assert picture.stat().st_size > 20_000


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


# Pictures


def brightest(database: Database, n: int) -> list[int]:
    rows = select(database, f"SELECT object_id FROM astropt.source ORDER BY mag_vis LIMIT {n}")
    return [row[0] for row in rows]


def test_pictures_as_png(full: Database, tmp_path: Path) -> None:
    ids = brightest(full, 3)
    outcome = run(full, "cutout", *ids, "--size", "6.4", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    files = [Path(line) for line in outcome.out.splitlines()]
    assert [str(one) in path.name for one, path in zip(ids, files, strict=True)] == [True] * 3
    assert all(path.read_bytes()[16:24] == bytes([0, 0, 0, 64] * 2) for path in files)
    assert "exists" in run(full, "cutout", ids[0], "-o", tmp_path).err


def test_cutouts_as_fits_know_their_place(full: Database, tmp_path: Path) -> None:
    (one,) = brightest(full, 1)
    assert run(full, "cutout", one, "--format", "fits", "-o", tmp_path).code == 0
    ((ra, dec),) = select(
        full, "SELECT right_ascension, declination FROM astropt.source WHERE object_id = %s", [one]
    )
    with fits.open(tmp_path / f"cutout_{one}.fits") as units:
        assert units[0].header["OBJECTID"] == str(one)
        assert [unit.name for unit in units[1:]] == ["VIS", "NIR_Y", "NIR_J", "NIR_H"]
        image = units["VIS"].data
        assert image.shape == (224, 224)
        x, y = WCS(units["VIS"].header).world_to_pixel_values(ra, dec)
        assert np.allclose([x, y], 111.5, atol=0.51)
        middle = image[round(float(y)) - 2 : round(float(y)) + 3, round(float(x)) - 2 :][:, :5]
        assert middle.max() > 20 * np.median(np.abs(image))


def test_a_source_without_pixels_is_named(full: Database, tmp_path: Path) -> None:
    (one,) = brightest(full, 1)
    outcome = run(full, "cutout", one, "-532257415282400330", "-o", tmp_path)
    assert outcome.code == 1
    assert "no pixels of -532257415282400330" in outcome.err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_png_holds_its_pixels() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pillow = pytest.importorskip("PIL.Image", reason="Pillow reads PNG files back")
    for picture in (pixels, pixels[..., 0]):
        back = pillow.open(io.BytesIO(encode_png(picture)))
        assert np.array_equal(np.asarray(back), picture)


def test_missing_bands_and_pixels_are_painted() -> None:
    plane = np.full((16, 16), np.nan, np.float32)
    zero = {"VIS": 24.6, "NIR_Y": 29.8, "NIR_J": 30.0, "NIR_H": 29.9}
    assert np.ptp(paint(dict.fromkeys(zero, plane), zero, colour=True)) == 0
    half = np.where(np.arange(16) > 8, 1.0, plane).astype(np.float32)
    grey = paint({**dict.fromkeys(zero, plane), "NIR_J": half}, zero, colour=True)
    assert grey.shape == (16, 16)
    colours = paint(dict.fromkeys(zero, half), zero, colour=True)
    assert colours.shape == (16, 16, 3)


def test_redshift_metrics() -> None:
    spec = np.array([0.0, 1.0, 3.0])
    found = redshift_metrics(spec, np.array([0.1, 1.1, 4.0]), spec - 0.1, spec + 0.1)
    assert found.n == 3
    assert found.nmad == pytest.approx(0.148)
    assert found.outlier_fraction == pytest.approx(1 / 3)
    assert found.coverage_68 == 1
