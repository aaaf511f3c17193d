"""Labels: files and recipes into sets, matched with sources; what is refused, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import run, select
from source_database import Sources, add_sources, draw_sources, write_csv

from astropt_db.database.connect import Database, connect
from astropt_db.ingest.labels import LabelRequest, ingest_labels
from astropt_db.q1 import identity

N = 200


@pytest.fixture
def sources(ready_database: Database) -> Sources:
    drawn = draw_sources(N)
    add_sources(ready_database, drawn)
    return drawn


def ingest(database: Database, *arguments: object) -> str:
    outcome = run(database, "ingest", "labels", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def refusal(database: Database, *arguments: object) -> str:
    outcome = run(database, "ingest", "labels", *arguments)
    assert outcome.code == 1
    assert select(database, "SELECT count(*) FROM astropt.label") == [(0,)]
    assert select(database, "SELECT count(*) FROM astropt.label_set") == [(0,)]
    return outcome.err


def test_by_id_with_a_cut(ready_database: Database, sources: Sources, tmp_path: Path) -> None:
    z = np.linspace(0.1, 1.0, N)
    quality = np.arange(N) % 4
    file = write_csv(tmp_path / "z.csv", my_id=sources.object_id, spec_z=z, quality=quality)
    out = ingest(
        ready_database, file, "--set", "mine", "--id", "my_id", "--column", "z=spec_z",
        "--where", "quality >= 3 AND spec_z < 0.8",
    )  # fmt: skip
    keep = (quality >= 3) & (z < 0.8)
    assert f"read {N} / met the cut {keep.sum()} / sources with labels {keep.sum()}" in out
    rows = select(
        ready_database,
        "SELECT object_id, value, separation FROM astropt.label_value WHERE column_name = 'z'",
    )
    expected = {
        (int(i), float(v), None) for i, v in zip(sources.object_id[keep], z[keep], strict=True)
    }
    assert {(i, round(v, 12), s) for i, v, s in rows} == {
        (i, round(v, 12), s) for i, v, s in expected
    }
    ((cut, radius),) = select(ready_database, "SELECT cut, radius FROM astropt.label_set")
    assert (cut, radius) == ("(quality >= 3 AND spec_z < 0.8)", None)


def test_by_position_takes_the_nearest_within_the_radius(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    """Compared with all distances; some rows lie on the other side of the sky."""
    rng = np.random.default_rng(3)
    dec = sources.dec + rng.normal(0, 0.5, N) / 3600
    ra = sources.ra + rng.normal(0, 0.5, N) / 3600 / np.cos(np.radians(dec))
    ra[:20], dec[:20] = 100.0, -30.0
    file = write_csv(tmp_path / "z.csv", ra=ra, dec=dec, z=np.arange(N) + 0.5)
    ingest(
        ready_database, file, "--set", "near", "--ra", "ra", "--dec", "dec", "--column", "z=z",
        "--radius", 0.7, "--duplicates", "nearest",
    )  # fmt: skip
    x = (ra[:, None] - sources.ra) * np.cos(np.radians(dec[:, None])) * 3600
    distance = np.hypot(x, (dec[:, None] - sources.dec) * 3600)
    best = distance.argmin(axis=1)
    pairs = sorted((distance[k, best[k]], k) for k in range(N) if distance[k, best[k]] < 0.7)
    expected = {}
    for separation, k in pairs:
        expected.setdefault(int(sources.object_id[best[k]]), (k + 0.5, separation))
    rows = select(ready_database, "SELECT object_id, value, separation FROM astropt.label_value")
    assert {i: v for i, v, _ in rows} == {i: v for i, (v, _) in expected.items()}
    assert len(rows) > 50
    for object_id, _, separation in rows:
        assert separation == pytest.approx(expected[object_id][1], abs=1e-3)


def test_positions_match_across_ra_0_and_near_the_pole(
    ready_database: Database, tmp_path: Path
) -> None:
    ra = np.array([359.9999, 0.0001, 10.0, 190.0])
    dec = np.array([1.0, 1.0, 89.9999, 89.9999])
    add_sources(ready_database, Sources(identity.encode(ra, dec), ra, dec))
    there = np.array([0.0, 0.0002, 10.5, 189.5])
    file = write_csv(tmp_path / "z.csv", ra=there, dec=dec, z=[1.5, 2.5, 3.5, 4.5])
    request = LabelRequest(
        "edge", file, {"z": "z"}, ra="ra", dec="dec", radius=1.0, duplicates="nearest"
    )
    with connect(ready_database) as connection:
        connection.execute("SELECT 1")
    report = ingest_labels(ready_database, request, _run(ready_database))
    assert report.matched == 4 - report.duplicates
    assert report.matched >= 3


def _run(database: Database) -> int:
    ((number,),) = select(database, "SELECT max(id) FROM astropt.run")
    return int(number)


def test_words_become_categories(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    words = np.array(["GALAXY", "QSO ", "Star", ""])[np.arange(N) % 4]
    file = write_csv(tmp_path / "c.csv", object_id=sources.object_id, spectype=words)
    ingest(
        ready_database, file, "--set", "c", "--id", "object_id",
        "--column", "object_class=spectype", "--column", "survey='DESI'",
    )  # fmt: skip
    rows = select(
        ready_database,
        "SELECT column_name, category, count(*) FROM astropt.label_value "
        "WHERE value IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
    )
    classes = [("object_class", name, N // 4) for name in ("galaxy", "qso", "star")]
    assert rows == [*classes, ("survey", "desi", N)]


def test_recipe_zoobot_makes_guarded_fractions(ready_database: Database) -> None:
    columns = (
        "smooth_or_featured_smooth, smooth_or_featured_featured_or_disk, disk_edge_on_yes, "
        "disk_edge_on_no, has_spiral_arms_yes, has_spiral_arms_no, bar_strong, bar_weak, bar_no, "
        "merging_none, merging_minor_disturbance, merging_major_disturbance, merging_merger"
    )
    rows = [
        [1, 10, 30, 5, 15, 30, 10, 10, 10, 20, 5, 5, 5, 5],
        [2, 30, 10, 5, 15, 30, 10, 10, 10, 20, 5, 5, 5, 5],  # smooth: no further questions
        [3, 10, 30, 15, 5, 30, 10, 10, 10, 20, 5, 5, 5, 5],  # edge-on: no arms, no bar
        [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # no answer at all
        [5, *[None] * 13],
    ]
    marks = ", ".join(["%s"] * 14)
    add_sources(ready_database, Sources(np.arange(1, 6), 269.0 + np.arange(5), np.full(5, 66.0)))
    with connect(ready_database) as connection:
        for row in rows:
            connection.execute(
                f"INSERT INTO q1.mer_morphology (ingest_file_id, object_id, {columns}) "
                f"VALUES (1, {marks})",
                row,
            )
    out = ingest(ready_database, "--recipe", "zoobot")
    assert "zoobot: read 3 / met the cut 3 / sources with labels 3" in out
    found = select(
        ready_database,
        "SELECT object_id, column_name, value FROM astropt.label_value ORDER BY 1, 2",
    )
    values = {(i, name): value for i, name, value in found}
    assert [values[1, name] for name in ("smooth", "featured", "edge_on", "spiral", "bar")] == [
        0.25, 0.75, 0.25, 0.75, 0.5,
    ]  # fmt: skip
    assert (values[1, "merger"], values[1, "artefact"]) == (0.25, None)
    assert [values[2, name] for name in ("smooth", "edge_on", "spiral")] == [0.75, None, None]
    assert [values[3, name] for name in ("edge_on", "spiral", "bar")] == [0.75, None, None]


# Bad input


def test_a_file_that_matches_nothing(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "z.csv", object_id=np.arange(7), z=np.linspace(0, 1, 7))
    error = refusal(ready_database, file, "--set", "lost", "--id", "object_id", "--column", "z=z")
    assert f"label set lost: none of 7 rows has an object id of the {N} sources" in error
    file = write_csv(tmp_path / "p.csv", ra=[1.0, 2.0], dec=[3.0, 4.0], z=[0.1, 0.2])
    error = refusal(
        ready_database, file, "--set", "far", "--ra", "ra", "--dec", "dec", "--column", "z=z"
    )
    assert f"label set far: none of 2 rows lies within half a degree of one of {N}" in error


def test_an_object_that_is_matched_twice(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    ids = [*sources.object_id[:10], *sources.object_id[:3]]
    file = write_csv(tmp_path / "z.csv", object_id=ids, z=np.linspace(0, 1, 13))
    error = refusal(ready_database, file, "--set", "twice", "--id", "object_id", "--column", "z=z")
    assert "label set twice: 13 matching rows share 10 sources" in error
    assert "--duplicates nearest" in error


def test_labels_without_a_number(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    z = np.full(N, np.nan)
    file = write_csv(tmp_path / "z.csv", object_id=sources.object_id, z=z, w=np.arange(N))
    error = refusal(
        ready_database, file, "--set", "void", "--id", "object_id", "--column", "z=z",
        "--column", "w=w",
    )  # fmt: skip
    assert f"label set void: z: no value in any of the {N} matched rows" in error


def test_infinite_labels(ready_database: Database, sources: Sources, tmp_path: Path) -> None:
    z = ["inf", *["0.5"] * (N - 1)]
    file = write_csv(tmp_path / "z.csv", object_id=sources.object_id, z=z)
    error = refusal(ready_database, file, "--set", "s", "--id", "object_id", "--column", "z=z")
    assert f"column z: 1 of {N} rows hold something else than a finite number" in error


def test_free_text_is_no_label(ready_database: Database, sources: Sources, tmp_path: Path) -> None:
    words = [f"note {i}" for i in range(N)]
    file = write_csv(tmp_path / "z.csv", object_id=sources.object_id, z=words)
    error = refusal(ready_database, file, "--set", "s", "--id", "object_id", "--column", "z=z")
    assert f"label set s: column z holds text with {N} different values ('note 0'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "object_id", "--column", "z=q"], "has no column 'q'"),
        (["--id", "object_id"], "name its labels"),
        (["--column", "z=z"], "--id COLUMN or by --ra"),
        (["--id", "object_id", "--column", "z"], "expected LABEL=COLUMN"),
        (["--id", "object_id", "--column", "z=z", "--where", "z > 9"], "none of 200 rows meets"),
        (["--id", "object_id", "--column", "z=z", "--where", "zz > 9"], "cannot be used"),
        (
            ["--id", "object_id", "--column", "z=z", "--where", "true); DROP TABLE astropt.run"],
            "cannot be used",
        ),
        (["--id", "object_id", "--column", "z=z", "--radius", "99"], "radius is 99 arcsec"),
        (["--recipe", "zoobot"], "give no file"),
    ],
)
def test_requests_that_do_not_fit(
    ready_database: Database,
    sources: Sources,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    z = np.linspace(0, 1, N)
    file = write_csv(tmp_path / "z.csv", object_id=sources.object_id, z=z)
    assert message in refusal(ready_database, file, "--set", "s", *arguments)


def test_a_condition_cannot_write(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "z.csv", object_id=sources.object_id, z=np.linspace(0, 1, N))
    where = "(SELECT count(*) FROM (SELECT pg_notify('a', 'b')) AS t) > 0 AND lo_create(7) > 0"
    error = refusal(
        ready_database, file, "--set", "s", "--id", "object_id", "--column", "z=z",
        "--where", where,
    )  # fmt: skip
    assert "read-only" in error


def test_a_set_is_replaced_only_on_request(
    ready_database: Database, sources: Sources, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "z.csv", object_id=sources.object_id, z=np.linspace(0, 1, N))
    arguments = (file, "--set", "s", "--id", "object_id", "--column", "z=z")
    ingest(ready_database, *arguments)
    outcome = run(ready_database, "ingest", "labels", *arguments)
    assert outcome.code == 1
    assert f"label set s: exists already, with {N} sources" in outcome.err
    ingest(ready_database, *arguments, "--replace", "--where", "z > 0.5")
    assert select(ready_database, "SELECT count(*) FROM astropt.label") == [(N // 2,)]
