"""Files that vanish, shrink or change places under the worker; sources at odd places."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from commands import run, select
from embed_sky import problems, states, tiny_encoder, vectors
from image_files import noise

from astropt_db.database.connect import connect
from astropt_db.embed.outcome import EmbeddingFlag
from astropt_db.images.registered import registered_tiles, tile_mosaics
from astropt_db.q1.identity import encode
from astropt_db.sky.healpix import healpix29

OPTIONS = ("--mode", "reference", "--threads", 1, "--attempts", 2, "--chunk-size", 60)


@pytest.fixture
def encoder(sky_database, tmp_path):
    return tiny_encoder(sky_database, tmp_path)


def embed(database, encoder):
    return run(database, "embed", "--encoder", encoder.name, *OPTIONS)


@pytest.fixture
def own_mosaics(sky_database, tmp_path):
    """The VIS mosaics in a folder of the test's own, registered there: path by tile."""
    paths = {}
    with connect(sky_database, autocommit=True) as connection:
        for tile in registered_tiles(connection):
            (mosaic,) = tile_mosaics(connection, tile, ("VIS",))
            path = tmp_path / f"{tile}.fits"
            shutil.copy2(mosaic.uri, path)
            connection.execute(
                "UPDATE q1.mosaic SET uri = %s WHERE tile = %s AND band = 'VIS' "
                "AND kind = 'BGSUB'", [str(path), tile])  # fmt: skip
            paths[tile] = path
    return paths


def delete(path, other):
    path.unlink()


def truncate(path, other):
    os.truncate(path, path.stat().st_size // 2)


def swap(path, other):
    stamp = path.stat()
    shutil.copy(other, path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("spoil", [delete, truncate, swap])
def test_a_spoilt_tile_is_given_up_and_the_rest_goes_on(
    sky_database, encoder, own_mosaics, tmp_path, spoil
):
    tiles = sorted(own_mosaics)
    bad, good = own_mosaics[tiles[0]], own_mosaics[tiles[1]]
    kept = tmp_path / "kept.fits"
    shutil.copy2(bad, kept)
    spoil(bad, good)
    outcome = embed(sky_database, encoder)
    assert outcome.code == 1
    on_tile = dict(
        select(sky_database, "SELECT tile, count(*) FROM astropt.image_place GROUP BY 1")
    )
    assert len(vectors(sky_database, encoder)) == on_tile[tiles[1]]
    assert states(sky_database)["dead"][1] == on_tile[tiles[0]]
    assert f"given up {on_tile[tiles[0]]}" in outcome.out
    assert problems(sky_database) == {}
    status = run(sky_database, "embed", "status")
    assert str(bad) in status.out.replace("\n", "").replace(" ", "")

    shutil.copy2(kept, bad)
    assert run(sky_database, "embed", "retry").code == 0
    assert embed(sky_database, encoder).code == 0
    mended = vectors(sky_database, encoder)
    with connect(sky_database, autocommit=True) as connection:
        connection.execute("DELETE FROM astropt.embedding")
    assert embed(sky_database, encoder).code == 0
    assert vectors(sky_database, encoder) == mended
    assert len(mended) == sum(on_tile.values())


def place(connection, ra, dec, tile):
    """A catalogue row at a position."""
    number = int(encode(np.array([ra]), np.array([dec]))[0])
    connection.execute(
        "INSERT INTO q1.mer_catalogue (object_id, right_ascension, declination, healpix29, "
        "segmentation_map_id, ingest_file_id) VALUES (%s, %s, %s, %s, %s, "
        "(SELECT min(id) FROM astropt.ingest_file))",
        [number, ra, dec, int(healpix29(np.array([ra]), np.array([dec]))[0]), tile * 1_000_000],
    )
    return number


def test_sources_at_odd_places(sky_database, encoder):
    with connect(sky_database, autocommit=True) as connection:
        first = registered_tiles(connection)[0]
        mosaic = tile_mosaics(connection, first, ("VIS",))[0]
        corner = [float(value) for value in mosaic.wcs.to_sky(1.0, 1.0)]
        middle = [float(value) for value in mosaic.wcs.to_sky(mosaic.width / 2, mosaic.height / 2)]
        far = [float(value) for value in mosaic.wcs.to_sky(-5000.0, -5000.0)]
        edge = place(connection, *corner, first)
        # Its tile is registered, but it lies outside of it.
        outside = place(connection, *far, first)
        # Its own tile is not registered; another one covers it.
        elsewhere = place(connection, *middle, 999)
        nowhere = place(connection, far[0], far[1] - 0.01, 999)
        # Two tiles cover it, since one is registered twice under another number.
        connection.execute(
            "INSERT INTO q1.mosaic SELECT 7, band, kind, uri, release, width, height, crval1, "
            "crval2, crpix1, crpix2, cd1_1, cd1_2, cd2_1, cd2_2, magzero, bitpix, data_offset, "
            "size, tag, header_sha256, cells, run_id, registered_at FROM q1.mosaic "
            "WHERE tile = %s", [first])  # fmt: skip
        twice = place(connection, middle[0], middle[1] + 0.0005, 998)
    outcome = embed(sky_database, encoder)
    assert outcome.code == 0
    assert "1 have no registered image" in outcome.err
    found = vectors(sky_database, encoder)
    assert found[edge][1] & EmbeddingFlag.PADDED
    assert found[edge][1] & EmbeddingFlag.MANY_MISSING
    assert 0.7 < found[edge][2] < 0.8
    assert elsewhere in found
    assert twice in found
    assert nowhere not in found
    assert problems(sky_database) == {outside: "no_pixels"}
    assert len(found) == select(sky_database, "SELECT count(*) FROM q1.mer_catalogue")[0][0] - 2
    shown = run(sky_database, "embed", "status", "--format", "table")
    assert "no_pixels" in shown.out
    # Once its pixels are there, it can be tried again.
    assert "1 left the quarantine" in run(sky_database, "embed", "retry").out


def test_a_band_that_is_missing_is_flagged(sky_database, tmp_path):
    encoder = tiny_encoder(sky_database, tmp_path, bands=4)
    with connect(sky_database, autocommit=True) as connection:
        tile = registered_tiles(connection)[0]
        connection.execute("DELETE FROM q1.mosaic WHERE tile = %s AND band = 'NIR_J'", [tile])
    assert embed(sky_database, encoder).code == 0
    found = vectors(sky_database, encoder)
    tiles = dict(select(sky_database, "SELECT object_id, tile FROM astropt.image_place"))
    flagged = {one for one, row in found.items() if row[1] & EmbeddingFlag.MISSING_BAND}
    assert flagged == {one for one in found if tiles[one] == tile}
    assert len(found) == len(tiles)


def test_a_damaged_cutout_among_good_ones(ready_database, tmp_path):
    """It is found by bisection, although the database only knows that the chunk failed."""
    encoder = tiny_encoder(ready_database, tmp_path / "weights")
    folder = tmp_path / "cutouts"
    folder.mkdir()
    ids = [2697679976660171698 + number for number in range(25)]
    for number, one in enumerate(ids):
        hdu = fits.PrimaryHDU(noise((224, 224), seed=number))
        hdu.header["FILTER"] = "VIS"
        hdu.writeto(folder / f"{one}.fits")
    assert run(ready_database, "ingest", "cutouts", folder).code == 0
    bad = folder / f"{ids[13]}.fits"
    stamp = bad.stat()
    bad.write_bytes(b"X" * stamp.st_size)
    os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    gone = folder / f"{ids[3]}.fits"
    gone.unlink()
    outcome = embed(ready_database, encoder)
    assert outcome.code == 0
    assert "embedded 23 / without a vector 2 " in outcome.out
    assert problems(ready_database) == {ids[13]: "bad_file", ids[3]: "bad_file"}
    assert set(vectors(ready_database, encoder)) == set(ids) - {ids[3], ids[13]}


def test_an_encoder_whose_weights_changed_embeds_nothing(sky_database, tmp_path):
    encoder = tiny_encoder(sky_database, tmp_path)
    other = tiny_encoder(sky_database, tmp_path / "other", bands=4)
    for suffix in (".safetensors", ".json"):
        shutil.copy(tmp_path / "other" / f"tiny4{suffix}", tmp_path / f"tiny1{suffix}")
    outcome = embed(sky_database, encoder)
    assert outcome.code == 1
    assert "has other weights" in outcome.err
    assert vectors(sky_database, encoder) == {}
    assert other.id != encoder.id
