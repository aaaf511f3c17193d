"""Downloads from a healthy TAP service: what is asked for arrives, and mistakes are explained."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from archive_service import (
    CANDIDATES,
    ELSEWHERE,
    IN_TILE,
    MER,
    OTHER_TILE,
    RANKS,
    TILE,
    TILE_IDS,
    archive,
    assert_whole_tile,
    hasty,
    leftovers,
    read,
)

from astropt_db.errors import ConfigurationError, FileError, MissingExtraError
from astropt_db.q1.archive import (
    Adql,
    ArchiveError,
    Cone,
    Service,
    Tile,
    fetch,
    find_service,
    parse_cone,
)


@pytest.fixture
def server():
    with archive() as running:
        yield running


@pytest.fixture
def esa(server) -> Service:
    return hasty(server)


# --- what is asked for arrives ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["esa", "irsa"])
@pytest.mark.parametrize(("page_rows", "pages"), [(1000, 1), (120, 1), (50, 3), (7, 18)])
def test_a_tile_arrives_with_exact_ids(server, tmp_path, name, page_rows, pages) -> None:
    service = replace(find_service(name, server.url), page_rows=page_rows)
    (download,) = fetch(service, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert_whole_tile(download)
    assert len(download.files) == pages
    assert download.fetched


def test_values_and_nulls_arrive_unchanged(esa, tmp_path) -> None:
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    table = read(download.files)
    order = np.argsort(TILE_IDS)
    assert np.array_equal(table["flux_vis_psf"], MER["flux_vis_psf"][:IN_TILE][order])
    assert np.array_equal(
        np.ma.getmaskarray(table["point_like_flag"]),
        np.ma.getmaskarray(MER["point_like_flag"])[:IN_TILE][order],
    )


@pytest.mark.parametrize("name", ["esa", "irsa"])
def test_products_without_positions_are_joined(server, tmp_path, name) -> None:
    service = replace(find_service(name, server.url), page_rows=33)
    wanted = [CANDIDATES, "phz_photo_z"]
    candidates, phz = fetch(service, Tile(TILE), wanted, tmp_path)
    pairs = {(row["object_id"], row["spe_rank"]) for row in read(candidates.files)}
    assert candidates.rows == RANKS * IN_TILE
    assert pairs == {(i, rank) for i in TILE_IDS.tolist() for rank in range(RANKS)}
    assert read(phz.files)["phz_pdf"].shape == (IN_TILE, 601)


def test_pages_do_not_cut_between_the_ranks_of_one_object(esa, server, tmp_path) -> None:
    service = replace(esa, page_rows=7)  # not a multiple of five ranks
    (download,) = fetch(service, Tile(OTHER_TILE), [CANDIDATES], tmp_path)
    assert len({tuple(row) for row in read(download.files)["object_id", "spe_rank"]}) == 150
    assert "spe_rank > " in server.queries[-1]


def test_a_cone_at_high_declination_is_round(esa, tmp_path) -> None:
    cone = parse_cone("269.7, 66.0, 9m")
    (download,) = fetch(esa, cone, ["mer_catalogue"], tmp_path)
    ra, dec = np.radians(MER["right_ascension"]), np.radians(MER["declination"])
    ra0, dec0 = np.radians(cone.ra), np.radians(cone.dec)
    cosine = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0)
    inside = np.degrees(np.arccos(cosine)) <= 0.15
    assert 3 < inside.sum() < IN_TILE
    assert set(read(download.files)["object_id"].tolist()) == set(MER["object_id"][inside].tolist())


def test_an_empty_selection_is_no_error(esa, tmp_path) -> None:
    (download,) = fetch(esa, Cone(10.0, 0.0, 0.1), ["mer_catalogue"], tmp_path)
    assert (download.rows, download.files) == (0, ())


def test_the_count_comes_first_and_is_sent_as_maxrec(esa, server, tmp_path) -> None:
    fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert server.queries[0].startswith("SELECT COUNT(*) FROM catalogue.mer_catalogue")
    assert [job.parameters["MAXREC"] for job in server.jobs[1:]] == ["50", "50", "20"]


def test_progress_counts_all_products(esa, tmp_path) -> None:
    seen = []
    products = ["mer_catalogue", "phz_photo_z"]
    fetch(esa, Tile(TILE), products, tmp_path, progress=lambda *step: seen.append(step))
    assert seen[:2] == [(0, None), (0, 240)]
    assert [rows for rows, _ in seen[2:]] == [50, 100, 120, 170, 220, 240]
    fetch(esa, Tile(TILE), [*products, CANDIDATES], tmp_path, progress=lambda *s: seen.append(s))
    assert (240, 840) in seen


def test_the_record_keeps_ids_as_text(esa, server, tmp_path) -> None:
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert record["query"] == download.query
    assert record["complete"] is True
    assert record["count"] == IN_TILE
    assert record["url"] == server.url
    last = str(sorted(TILE_IDS.tolist())[49])
    assert record["pages"][0]["last_key"] == [last]


# --- the user's own ADQL ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adql", "rows"),
    [
        ("SELECT object_id FROM catalogue.mer_catalogue ORDER BY flux_vis_psf;", 150),
        ("select top 10 object_id from catalogue.mer_catalogue order by flux_vis_psf", 10),
        ("SELECT TOP 70 object_id FROM catalogue.mer_catalogue -- ';' all", 70),
        ("SELECT DISTINCT object_id FROM catalogue." + CANDIDATES, 150),
        ("SELECT MAX(spe_z) AS z FROM catalogue." + CANDIDATES, 1),
        (f"SELECT object_id FROM catalogue.{CANDIDATES} GROUP BY object_id", 150),
        ("SELECT flux_vis_psf FROM (SELECT TOP 9 * FROM catalogue.mer_catalogue) AS a", 9),
    ],
)
def test_own_adql_is_counted_as_it_stands(esa, tmp_path, adql, rows) -> None:
    (download,) = fetch(esa, Adql(adql), [], tmp_path)
    assert download.rows == rows == len(read(download.files))
    assert download.product == "adql"


@pytest.mark.parametrize(
    ("adql", "complaint"),
    [
        ("SELECT flux_vis_psf FROM catalogue.mer_catalogue", "no such column: t.object_id"),
        (
            f"SELECT object_id, spe_z FROM catalogue.{CANDIDATES}",
            "not in ascending order of a unique (object_id)",
        ),
    ],
)
def test_own_adql_that_cannot_be_paged_is_refused(esa, tmp_path, adql, complaint) -> None:
    with pytest.raises(ArchiveError) as caught:
        fetch(esa, Adql(adql), [], tmp_path)
    assert complaint in str(caught.value)
    assert leftovers(tmp_path) == []


def test_own_adql_is_paged_by_the_key_of_the_named_product(esa, tmp_path) -> None:
    adql = Adql(f"SELECT object_id, spe_rank FROM catalogue.{CANDIDATES}")
    (download,) = fetch(esa, adql, [CANDIDATES], tmp_path)
    assert download.rows == RANKS * (IN_TILE + ELSEWHERE)


@pytest.mark.parametrize(
    "adql",
    [
        "DROP TABLE x",
        "DELETE FROM x",
        "SELECT * FROM a; DROP TABLE b",
        "SELECT 1",
        "SELECT (a FROM b",
        "SELECT a) FROM b",
        "SELECT 'a FROM b",
        "",
        "-- nothing",
    ],
)
def test_anything_but_one_select_is_refused_unsent(esa, server, tmp_path, adql) -> None:
    with pytest.raises(ConfigurationError):
        fetch(esa, Adql(adql), [], tmp_path)
    assert server.requests == 0


# --- the user's mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "radius"),
    [("1,2,0.5", 0.5), ("1, 2, 30s", 30 / 3600), ("1,2,5m", 5 / 60), ("1,2,1e-3d", 1e-3)],
)
def test_cone_radii(text, radius) -> None:
    assert parse_cone(text) == Cone(1.0, 2.0, radius)


@pytest.mark.parametrize(
    "text", ["1,2", "1,2,3x", "a,2,3", "nan,0,1", "360,0,1", "1,91,1", "1,2,0"]
)
def test_bad_cones_are_refused(text) -> None:
    with pytest.raises(ConfigurationError, match="Cone"):
        parse_cone(text)


def test_irsa_has_no_physical_parameters(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="irsa has no table of 'phz_physical_parameters'"):
        fetch(find_service("irsa"), Tile(TILE), ["phz_physical_parameters"], tmp_path)
    with pytest.raises(ConfigurationError, match="no Q1 product 'mer_catalog'"):
        fetch(find_service("esa"), Tile(TILE), ["mer_catalog"], tmp_path)
    with pytest.raises(ConfigurationError, match="9 digits"):
        Tile(1)


def test_the_url_comes_from_the_option_or_the_environment(monkeypatch) -> None:
    assert find_service("esa").url == "https://eas.esac.esa.int/tap-server/tap"
    assert find_service("irsa").url == "https://irsa.ipac.caltech.edu/TAP"
    monkeypatch.setenv("ASTROPT_DB_TAP_URL", "http://127.0.0.1:1/tap/")
    assert find_service("esa").url == "http://127.0.0.1:1/tap"
    assert find_service("esa", "https://example.org/tap").url == "https://example.org/tap"
    with pytest.raises(ConfigurationError, match="Unknown archive 'mast'"):
        find_service("mast")
    with pytest.raises(ConfigurationError, match="not the http"):
        find_service("esa", "eas.esac.esa.int")


@pytest.mark.parametrize("url", ["https://me:hunter2@host/tap", "https://host/tap?token=hunter2"])
def test_a_url_with_a_secret_is_refused_unshown(url) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_service("esa", url)
    assert "hunter2" not in str(caught.value)
    assert "netrc" in str(caught.value)


def test_a_folder_that_cannot_be_used(esa, tmp_path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FileError, match="taken"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path / "taken")


def test_without_pyvo_the_extra_is_named(monkeypatch, esa, tmp_path) -> None:
    monkeypatch.delitem(sys.modules, "astropt_db.q1.archive_jobs", raising=False)
    monkeypatch.setitem(sys.modules, "pyvo", None)
    with pytest.raises(MissingExtraError, match=r"astropt-db\[archive\]"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
