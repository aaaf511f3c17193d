"""Mosaics, cut-outs and SEDs: registered once, found again, refused with a reason."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from commands import run, select
from image_files import CENTRE, TILE, noise, write_mosaic

from astropt_db.database.connect import connect
from astropt_db.images.mosaic import read_header
from astropt_db.images.registered import (
    NO_TILE,
    find_places,
    open_tile,
    read_cutouts,
    registered_tiles,
    tile_sources,
)
from astropt_db.images.source import WINDOW, CutoutFlag
from astropt_db.ingest.images import mosaic_cells
from astropt_db.q1.identity import encode
from astropt_db.sky.healpix import healpix29

IDS = np.array([-570040238507752998, 2697679976660171698], np.int64)


def counts(outcome) -> str:
    return outcome.out.strip().splitlines()[-1]


def test_mosaics_are_registered_once_and_found_by_tile(sky_database, small_sky):
    again = run(sky_database, "ingest", "mosaics", small_sky / "MER")
    assert (again.code, again.err) == (0, "")
    assert counts(again) == "mosaics: new 0 / updated 0 / unchanged 16 / failed 0"
    with connect(sky_database) as connection:
        tiles = registered_tiles(connection)
        assert len(tiles) == 2
        source = open_tile(connection, tiles[0], fill=np.nan)
        ids, ra, dec = tile_sources(connection, tiles[0])
        assert len(ids) > 100
        assert (np.diff(dec) >= 0).all()
        places = find_places(connection, ids[::-1])
        assert (places.tile == tiles[0]).all()
        assert np.array_equal(places.dec[::-1], dec)
        some = ids[[7, 3, 90]]
        found = read_cutouts(connection, some, fill=np.nan)
        direct = source.cutouts(some, ra[[7, 3, 90]], dec[[7, 3, 90]])
        assert np.array_equal(found.pixels, direct.pixels, equal_nan=True)
        assert np.array_equal(found.flags, direct.flags)
    assert list(source.images) == ["NIR_H", "NIR_J", "NIR_Y", "VIS"]
    assert source.rms == {}


def test_a_smaller_window_is_the_middle_of_the_large_one(sky_database):
    with connect(sky_database) as connection:
        tile = registered_tiles(connection)[0]
        ids, ra, dec = tile_sources(connection, tile)
        large = open_tile(connection, tile, ("VIS", "NIR_H")).cutouts(ids, ra, dec)
        small = open_tile(connection, tile, ("VIS", "NIR_H"), window=128).cutouts(ids, ra, dec)
    assert np.array_equal(large.pixels[:, :, 48:176, 48:176], small.pixels)
    assert (small.flags[large.flags == 0] == 0).all()


def test_sources_are_found_on_any_tile_that_covers_them(ready_database, tmp_path):
    """Two tiles overlap; a third place has none; the catalogue knows neither tile."""
    size = 600
    for number, shift in ((TILE, 0.0), (TILE + 1, 0.01)):
        centre = (CENTRE[0], CENTRE[1] + shift)
        write_mosaic(tmp_path, "VIS", noise((size, size)), tile=number, centre=centre)
    assert run(ready_database, "ingest", "mosaics", tmp_path).code == 0
    dec = CENTRE[1] + np.array([-0.008, 0.004, 0.006, 0.018, 0.03])
    ra = np.full(5, CENTRE[0])
    ids = encode(ra, dec)
    with connect(ready_database) as connection:
        for number, one_ra, one_dec, cell in zip(
            ids.tolist(), ra.tolist(), dec.tolist(), healpix29(ra, dec).tolist(), strict=True
        ):
            connection.execute(
                "INSERT INTO q1.mer_catalogue (object_id, right_ascension, declination, healpix29,"
                " segmentation_map_id, ingest_file_id) VALUES (%s, %s, %s, %s, 42000000, 0)",
                [number, one_ra, one_dec, cell],
            )
        places = find_places(connection, ids)
        assert places.tile.tolist() == [TILE, TILE, TILE + 1, TILE + 1, NO_TILE]
        found = read_cutouts(connection, ids, ("VIS",))
        assert found.flags.tolist()[1:3] == [0, 0]
        assert found.flags[4] & CutoutFlag.ALL_MISSING


def test_the_projection_in_sql_is_that_in_python(sky_database):
    with connect(sky_database) as connection:
        tile = registered_tiles(connection)[1]
        mosaic = open_tile(connection, tile, ("VIS",)).images["VIS"]
        rng = np.random.default_rng(5)
        x, y = (rng.uniform(-50, size + 50, 500) for size in (mosaic.width, mosaic.height))
        ra, dec = mosaic.wcs.to_sky(x, y)
        rows = connection.execute(
            "SELECT astropt.on_mosaic(m, p.ra, p.dec) FROM q1.mosaic AS m, "
            "unnest(%s::float8[], %s::float8[]) WITH ORDINALITY AS p(ra, dec, n) "
            "WHERE tile = %s AND band = 'VIS' AND kind = 'BGSUB' ORDER BY n",
            [ra.tolist(), dec.tolist(), tile],
        ).fetchall()
    inside = mosaic.contains(ra, dec)
    assert 100 < inside.sum() < 500
    assert np.array_equal([row[0] for row in rows], inside)
    cells = healpix29(ra[inside], dec[inside]) >> 42
    assert np.isin(cells, mosaic_cells(mosaic)).all()


def test_another_mosaic_of_the_tile_needs_replace(ready_database, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    path = write_mosaic(first, "VIS", noise((300, 300)))
    other = write_mosaic(second, "VIS", noise((300, 310)))
    assert run(ready_database, "ingest", "mosaics", path).code == 0
    refused = run(ready_database, "ingest", "mosaics", other)
    assert refused.code == 1
    assert "--replace" in refused.err
    assert str(path) in refused.err
    assert counts(run(ready_database, "ingest", "mosaics", other, "--replace")).endswith(
        "new 0 / updated 1 / unchanged 0 / failed 0"
    )
    # The same product at another place is no other mosaic.
    moved = tmp_path / path.name
    shutil.copy(other, moved)
    assert counts(run(ready_database, "ingest", "mosaics", moved)).endswith(
        "new 0 / updated 1 / unchanged 0 / failed 0"
    )
    assert select(ready_database, "SELECT uri FROM q1.mosaic") == [(str(moved),)]
    assert read_header(str(moved)).width == 310


def test_what_is_no_mosaic_is_refused_and_the_rest_goes_on(ready_database, tmp_path):
    good = write_mosaic(tmp_path, "VIS", noise((300, 300)))
    odd = tmp_path / "odd.fits"
    odd.write_bytes(b"not FITS at all")
    missing = tmp_path / "missing.fits"
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = run(ready_database, "ingest", "mosaics", odd, missing, empty, good)
    assert outcome.code == 1
    assert counts(outcome) == "mosaics: new 1 / updated 0 / unchanged 0 / failed 3"
    for path in (odd, missing, empty):
        assert f"failed    {path}: " in outcome.err
    assert select(ready_database, "SELECT state FROM astropt.run") == [("failed",)]


def write_cutout(folder, object_id, band, shape=(224, 224)):
    name = f"NEG{-object_id}" if object_id < 0 else str(object_id)
    path = folder / f"{name}_{band}.fits"
    hdu = fits.PrimaryHDU(noise(shape, seed=abs(object_id) % 97))
    hdu.header["FILTER"] = band
    hdu.writeto(path)
    return path


def test_fits_cutouts_by_object_and_band(ready_database, tmp_path):
    for one in IDS.tolist():
        for band in ("VIS", "NIR_Y"):
            write_cutout(tmp_path, one, band)
    outcome = run(ready_database, "ingest", "cutouts", tmp_path)
    assert counts(outcome).endswith("new 1 / updated 0 / unchanged 0 / failed 0; 2 objects")
    assert select(ready_database, "SELECT count(*) FROM q1.cutout") == [(4,)]
    again = run(ready_database, "ingest", "cutouts", tmp_path)
    assert counts(again).endswith("unchanged 1 / failed 0; 0 objects")
    with connect(ready_database) as connection:
        places = find_places(connection, IDS)
        assert places.has_cutout.all()
        assert (places.tile == NO_TILE).all()
        assert np.allclose(places.ra, [57.0040238, 269.7679976])
        assert np.allclose(places.dec, [-50.7752998, 66.0171698])
        found = read_cutouts(connection, IDS, ("VIS", "NIR_Y"))
        assert (found.missing == 0).all()
        # A file that changed is refused until it is registered again.
        (tmp_path / f"{IDS[1]}_VIS.fits").unlink()
        write_cutout(tmp_path, int(IDS[1]), "VIS", (100, 100))
        with pytest.raises(Exception, match="changed since it was registered"):
            read_cutouts(connection, IDS, ("VIS",))
        assert counts(run(ready_database, "ingest", "cutouts", tmp_path)).endswith(
            "updated 1 / unchanged 0 / failed 0; 1 objects"
        )
        found = read_cutouts(connection, IDS, ("VIS",))
    assert found.flags.tolist() == [0, CutoutFlag.PADDED]


def test_parquet_cutouts(ready_database, tmp_path):
    images = [noise((WINDOW, WINDOW), seed=number).ravel().tolist() for number in range(2)]
    table = pa.table({"object_id": IDS, "VIS_image": images})
    pq.write_table(table, tmp_path / "some.parquet")
    outcome = run(ready_database, "ingest", "cutouts", tmp_path / "some.parquet")
    assert counts(outcome).endswith("failed 0; 2 objects")
    with connect(ready_database) as connection:
        found = read_cutouts(connection, IDS[::-1], ("VIS",))
    assert np.array_equal(found.pixels[1, 0], noise((WINDOW, WINDOW), seed=0))


def test_cutouts_that_cannot_be_registered(ready_database, tmp_path):
    write_cutout(tmp_path, int(IDS[1]), "VIS")
    (tmp_path / "nameless.fits").write_bytes(b"")
    outcome = run(ready_database, "ingest", "cutouts", tmp_path, tmp_path / "nowhere")
    assert outcome.code == 1
    assert "nameless.fits: expected one object id in the name" in outcome.err
    assert "nowhere: does not exist" in outcome.err
    assert counts(outcome) == "cut-outs: new 1 / updated 0 / unchanged 0 / failed 2; 1 objects"


def write_seds(path, ids, filters, fluxes):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        root = file.create_group("euclidQ1")
        for number, (one, flux) in enumerate(zip(ids, fluxes, strict=True)):
            group = root.create_group(str(number))
            group["object_id"] = one
            group["filtnames"] = [name.encode() for name in filters]
            group["instrument"] = [b"x"] * len(filters)
            group["lambda"] = np.arange(len(filters), dtype=float)
            group["sed"] = np.asarray(flux)
            group["sederr"] = np.asarray(flux) / 10


def test_seds_in_hdf5(ready_database, tmp_path):
    path = tmp_path / "euclidQ1_SEDs.hdf5"
    filters = ["u_megacam", "g_hsc", "vis", "z_decam2", "h"]
    write_seds(path, IDS, filters, [[1, 2, 3, 4, 5], [1, 2, np.nan, 4, 6]])
    outcome = run(ready_database, "ingest", "seds", path)
    assert (outcome.code, counts(outcome)) == (
        0,
        "SEDs: new 1 / updated 0 / unchanged 0 / failed 0; 2 objects",
    )
    assert counts(run(ready_database, "ingest", "seds", path)).endswith("failed 0; 0 objects")
    rows = dict(select(ready_database, "SELECT object_id, flux FROM q1.sed"))
    expected = [2, np.nan, 3, np.nan, 4, np.nan, np.nan, 5]
    assert np.array_equal(rows[int(IDS[0])], expected, equal_nan=True)
    assert np.isnan(rows[int(IDS[1])][2])


def test_seds_that_are_refused(ready_database, tmp_path):
    destroyed = tmp_path / "destroyed.hdf5"
    write_seds(destroyed, IDS.astype(float), ["vis"], [[1], [2]])
    outcome = run(ready_database, "ingest", "seds", destroyed, tmp_path / "absent.hdf5")
    assert outcome.code == 1
    assert "expected object_id as one 64-bit integer, found 1 of float64" in outcome.err
    assert "absent.hdf5: cannot be read as SEDs in HDF5" in outcome.err
    assert select(ready_database, "SELECT count(*) FROM q1.sed") == [(0,)]
