"""``astropt-db similar`` as a user meets it, on a small simulated sky with embeddings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from commands import Outcome, run, select
from conftest import temporary_database
from embed_sky import tiny_encoder

from astropt_db.database.connect import Database, connect
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.images.registered import read_cutouts
from astropt_db.images.source import BANDS
from astropt_db.search.evaluate import Labels, VectorBatch, score

NEAR = "SELECT object_id, right_ascension, declination FROM astropt.source ORDER BY mag_vis LIMIT 1"


@pytest.fixture(scope="module")
def sky(
    server: EmbeddedServer, sky_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """Two encoders with vectors of all sources, one with an SED and without any."""
    folder = tmp_path_factory.mktemp("encoders")
    with temporary_database(server, sky_template) as url:
        database = Database(url)
        for bands in (1, 4):
            record = tiny_encoder(database, folder, bands)
            outcome = run(database, "embed", "--encoder", record.name)
            assert outcome.code == 0, outcome.err
        tiny_encoder(database, folder, 4, with_sed=True)
        assert run(database, "encoder", "use", "tiny1").code == 0
        yield database


@pytest.fixture(scope="module")
def one(sky: Database) -> tuple[int, float, float]:
    """A bright source: id, RA, Dec."""
    (row,) = select(sky, NEAR)
    return row[0], row[1], row[2]


def similar(database: Database, *arguments: object) -> Outcome:
    return run(database, "similar", *arguments)


def rows_of(outcome: Outcome) -> list[dict[str, str]]:
    assert outcome.code == 0, outcome.err
    return list(csv.DictReader(io.StringIO(outcome.out)))


def ids_of(outcome: Outcome) -> list[int]:
    return [int(row["object_id"]) for row in rows_of(outcome)]


def write_cutout(database: Database, object_id: int, path: Path, bands: tuple[str, ...]) -> None:
    """The source's own window as a FITS file with an extension for each band."""
    with connect(database) as connection:
        found = read_cutouts(connection, np.array([object_id]), bands)
        zero = dict(
            connection.execute("SELECT DISTINCT band, magzero FROM q1.mosaic WHERE kind = 'BGSUB'")
            .fetchall()
        )  # fmt: skip
    hdus = [fits.PrimaryHDU()]
    for number, band in enumerate(bands):
        hdu = fits.ImageHDU(found.pixels[0, number], name=band)
        hdu.header["MAGZERO"] = zero[band]
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)


def test_by_id_and_by_position(sky: Database, one: tuple[int, float, float]) -> None:
    rows = rows_of(similar(sky, one[0], "--top", 5, "--format", "csv"))
    assert [row["rank"] for row in rows] == list("12345")
    assert str(one[0]) not in {row["object_id"] for row in rows}
    assert {row["method"] for row in rows} == {"exact"}
    assert all(row["field"] and row["right_ascension"] for row in rows)
    outcome = similar(sky, f"{one[1]:.6f},{one[2]:.6f}", "--top", 5, "--format", "csv")
    assert rows_of(outcome) == rows
    assert f"object {one[0]} lies 0.0" in outcome.err
    # Ids are text in JSON; a negative id is no option.
    found = json.loads(similar(sky, one[0], "--format", "json").out)
    assert isinstance(found[0]["object_id"], str)
    outcome = similar(sky, -570040238507752998)
    assert (outcome.code, "there is no object -570040238507752998" in outcome.err) == (1, True)


def test_conditions_with_short_names(sky: Database, one: tuple[int, float, float]) -> None:
    cases = {
        "mag_vis < 24": "SELECT object_id FROM astropt.source WHERE mag_vis < 24",
        "mer_catalogue.flux_h_sersic > 1 AND mag_vis < 25 -- why not": "SELECT object_id FROM "
        "q1.mer_catalogue JOIN astropt.source USING (object_id) "
        "WHERE flux_h_sersic > 1 AND mag_vis < 25",
        "q1.phz_photo_z.phz_median BETWEEN 0.3 AND 0.8": "SELECT object_id FROM q1.phz_photo_z "
        "WHERE phz_median BETWEEN 0.3 AND 0.8",
        "z_median IS NULL AND field = 'EDF-N. photoz.x'": "SELECT 0 WHERE false",
        "photoz.z_median IS NULL": "SELECT object_id FROM astropt.source",
        "object_id IN (SELECT s.object_id FROM astropt.source AS s WHERE s.mag_vis < 23)":
        "SELECT object_id FROM astropt.source WHERE mag_vis < 23",
        "SELECT object_id FROM astropt.source WHERE mag_vis < 23;":
        "SELECT object_id FROM astropt.source WHERE mag_vis < 23",
    }  # fmt: skip
    for where, query in cases.items():
        allowed = {row[0] for row in select(sky, query)} - {one[0]}
        outcome = similar(sky, one[0], "--top", 5000, "--where", where, "--format", "csv")
        if not allowed:
            assert outcome.code == 1
            assert "allows no object with an embedding" in outcome.err
        else:
            assert set(ids_of(outcome)) == allowed, where
            assert f"only {len(allowed)} of 5000 rows exist" in outcome.err


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "--where is empty"),
        ("mag_vis <", "syntax error"),
        ("nothing.there = 1", 'missing FROM-clause entry for table "nothing"'),
        ("no_such_column = 1", 'column "no_such_column" does not exist'),
        ("1 = 1); DROP TABLE astropt.embedding; --", "syntax error|not one statement"),
        ("1 = 1) ; DELETE FROM astropt.embedding WHERE (1 = 1", "not one statement"),
        ("SELECT 1 AS object_id; SELECT 2", "not one statement"),
        ("WITH d AS (DELETE FROM astropt.embedding RETURNING object_id) TABLE d", "more than read"),
        ("pg_read_file('/etc/passwd') <> ''", "permission denied"),
        ("object_id IN (SELECT usesysid FROM pg_shadow)", "permission denied"),
        ("lo_import('/etc/passwd') > 0", "permission denied|read-only"),
        ("SELECT 1.5 AS object_id", "numeric, not bigint"),
        ("SELECT 1 AS x", "no column object_id"),
    ],
)
def test_conditions_that_are_none_or_do_harm(
    sky: Database, one: tuple[int, float, float], where: str, message: str
) -> None:
    before = select(sky, "SELECT count(*) FROM astropt.embedding")
    outcome = similar(sky, one[0], "--where", where)
    assert outcome.code == 1
    assert any(part in outcome.err for part in message.split("|")), outcome.err
    assert "Traceback" not in outcome.err
    assert select(sky, "SELECT count(*) FROM astropt.embedding") == before


def test_a_condition_that_takes_too_long_is_stopped(
    sky: Database, one: tuple[int, float, float]
) -> None:
    outcome = similar(sky, one[0], "--where", "pg_sleep(30) IS NOT NULL", "--timeout", 0.5)
    assert outcome.code == 1
    assert "took longer than 0.5 s; allow more with --timeout" in outcome.err


@pytest.mark.parametrize("bands", [1, 4])
def test_an_image_finds_its_own_object(
    sky: Database, one: tuple[int, float, float], tmp_path: Path, bands: int
) -> None:
    path = tmp_path / "mine.fits"
    write_cutout(sky, one[0], path, BANDS[:bands])
    rows = rows_of(
        similar(sky, "--image", path, "--encoder", f"tiny{bands}", "--top", 3, "--format", "csv")
    )
    assert int(rows[0]["object_id"]) == one[0]
    assert float(rows[0]["similarity"]) == pytest.approx(1, abs=2e-3)


def test_zero_points_bands_and_centre_of_an_image(
    sky: Database, one: tuple[int, float, float], tmp_path: Path
) -> None:
    path = tmp_path / "mine.fits"
    write_cutout(sky, one[0], path, BANDS)
    # Other units in every band, stated by the header: the same answer.
    with fits.open(path, mode="update") as hdus:
        for number, hdu in enumerate(hdus[1:]):
            hdu.data = hdu.data * np.float32(10 ** (0.4 * (number + 1)))
            hdu.header["MAGZERO"] += number + 1
    arguments = ("--image", path, "--encoder", "tiny4", "--top", 1, "--format", "csv")
    rows = rows_of(similar(sky, *arguments))
    assert int(rows[0]["object_id"]) == one[0]
    assert float(rows[0]["similarity"]) == pytest.approx(1, abs=2e-3)
    # A plain file whose band only its owner knows, wider than the window.
    plain = tmp_path / "plain.fits"
    with fits.open(path) as hdus:
        fits.writeto(plain, np.pad(hdus["VIS"].data, 30))
    assert ids_of(similar(sky, "--image", plain, "--band", "VIS", "--format", "csv"))[0] == one[0]
    cube = tmp_path / "cube.fits"
    with fits.open(path) as hdus:
        fits.writeto(cube, np.array([hdus[band].data for band in BANDS]))
    outcome = similar(sky, "--image", cube, "--encoder", "tiny4", *(
        part for band in ("VIS", "Y", "J", "H") for part in ("--band", band)))  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "does not state MAGZERO in every band" in outcome.err


def bad_image(name: str, path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(224, 224)).astype(np.float32)
    header = fits.Header()
    if name == "text":
        path.write_text("no FITS")
        return
    if name == "coarse":
        header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=10.0, CRVAL2=1.0,
                      CRPIX1=112.0, CRPIX2=112.0, CDELT1=-1e-4, CDELT2=1e-4)  # fmt: skip
    data = {
        "nan": noise * np.nan,
        "zeros": noise * 0,
        "tiny": noise[:20, :20],
        "line": noise[0],
        "coarse": noise,
    }[name]
    fits.writeto(path, data, header)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "cannot be read as FITS"),
        ("nan", "has no data in VIS: nothing to embed"),
        ("zeros", "has no data in VIS: nothing to embed"),
        ("tiny", "is 20 x 20 pixels in VIS; expected 224 x 224, at least 32"),
        ("line", "expected one image"),
        ("coarse", "expected pixels of 0.1 arcsec, found 0.36"),
        ("absent", "does not exist"),
    ],
)
def test_images_that_cannot_be_used(sky: Database, tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "mine.fits"
    if name != "absent":
        bad_image(name, path)
    outcome = similar(sky, "--image", path, "--band", "VIS")
    assert outcome.code == 1
    assert message in outcome.err
    assert "mine.fits" in outcome.err


def test_images_that_the_encoder_cannot_use(
    sky: Database, one: tuple[int, float, float], tmp_path: Path
) -> None:
    path = tmp_path / "mine.fits"
    write_cutout(sky, one[0], path, ("VIS",))
    outcome = similar(sky, "--image", path, "--encoder", "tiny4")
    assert "has no data in NIR_Y, NIR_J, NIR_H, which the encoder sees" in outcome.err
    outcome = similar(sky, "--image", path, "--encoder", "tiny4-sed")
    assert "an image is only a part" in outcome.err
    outcome = similar(sky, "--image", path, "--band", "K")
    assert "--band K: expected one of VIS" in outcome.err


def test_likes_and_dislikes(sky: Database) -> None:
    ids = [row[0] for row in select(sky, "SELECT object_id FROM astropt.source LIMIT 4")]
    outcome = similar(sky, "--likes", f"{ids[0]},{ids[1]}", "--likes", ids[2],
                      "--dislikes", ids[3], "--format", "csv")  # fmt: skip
    found = ids_of(outcome)
    assert len(found) == 10
    assert not set(found) & set(ids)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 1, "give exactly one of an object id or RA,DEC, --image and --likes"),
        (("1", "--likes", "2"), 1, "give exactly one of"),
        (("12",), 1, "there is no object 12. The nearest ids with an embedding of encoder tiny1"),
        ((str(1 << 70),), 1, "does not fit 64 bits"),
        (("M31",), 1, "'M31' is neither an object id nor RA,DEC in degrees"),
        (("361,10",), 1, "is not on the sky"),
        (
            ("10,-89.9999",),
            1,
            "no object within 5 arcsec of RA 10, Dec -89.9999 is in the database",
        ),
        (("12", "--top", "0"), 2, "0 is not in the range"),
        (("12", "--encoder", "none"), 1, "no encoder 'none'"),
        (("--likes", "x"), 2, "'x' is not a list of object ids"),
        (("--likes", "1", "--dislikes", "1"), 1, "both liked and disliked: 1"),
    ],
)
def test_mistakes(sky: Database, arguments: tuple[str, ...], code: int, message: str) -> None:
    outcome = similar(sky, *arguments)
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err


def test_without_embedding(sky: Database, one: tuple[int, float, float]) -> None:
    outcome = similar(sky, one[0], "--encoder", "tiny4-sed")
    assert f"object {one[0]} has no embedding of encoder tiny4-sed" in outcome.err
    assert "astropt-db embed" in outcome.err
    outcome = similar(sky, f"{one[1]},{one[2]}", "--encoder", "tiny4-sed")
    assert f"has an embedding; {one[0]} at 0.00 arcsec has none" in outcome.err


def test_a_gallery_shows_every_object(
    sky: Database, one: tuple[int, float, float], tmp_path: Path
) -> None:
    page = tmp_path / "out.html"
    outcome = similar(sky, one[0], "--top", 4, "--gallery", page)
    assert outcome.code == 0, outcome.err
    assert "5 pictures" in outcome.err
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 5
    assert "found by exact, measured recall 1" in text
    assert "http" not in text
    assert similar(sky, one[0], "--gallery", tmp_path / "no" / "out.html").code == 1


def test_scores_are_stored(sky: Database, small_sky: Path) -> None:
    outcome = similar(sky, "--evaluate", small_sky / "truth.parquet", "--format", "csv")
    rows = {row["class"]: row for row in rows_of(outcome)}
    assert {"spiral", "edge_on"} <= set(rows)
    stored = select(sky, "SELECT class, k, members, enrichment FROM astropt.search_evaluation "
                    "WHERE label_set = 'truth.parquet'")  # fmt: skip
    assert len(stored) == len(rows)
    for name, k, members, enrichment in stored:
        assert k == 10
        assert int(rows[name]["members"]) == members
        assert float(rows[name]["enrichment"]) == pytest.approx(enrichment, rel=1e-4)
    assert "spiral" in similar(sky, "--evaluate", "zoobot").out
    assert "expected Parquet with object_id" in similar(sky, "--evaluate", "absent.parquet").err


def test_precision_and_enrichment_of_known_answers() -> None:
    # Two tight clusters: all of one class, and none.
    rng = np.random.default_rng(1)
    centres = np.repeat(np.eye(2, 8) * 9, (20, 60), axis=0)
    vectors = (centres + rng.normal(size=(80, 8))).astype(np.float16)
    ids = np.arange(80, dtype=np.int64)
    labels = Labels("known", ids, {"first": ids < 20, "none": ids < 0})
    (found,) = score(VectorBatch(ids, vectors), labels, [10, 100])
    assert found.precision == 1
    assert found.error == 0
    assert found.enrichment == pytest.approx(79 / 19)
    mixed = Labels("mixed", ids, {"random": rng.permutation(ids) < 20})
    (found,) = score(VectorBatch(ids, vectors), mixed, [10])
    assert found.enrichment == pytest.approx(1, abs=0.4)
