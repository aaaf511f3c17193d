-- name: mosaics_of_tile
SELECT tile, band, kind, uri, release, width, height, crval1, crval2, crpix1, crpix2,
    cd1_1, cd1_2, cd2_1, cd2_2, magzero, bitpix, data_offset, size, tag, header_sha256
FROM q1.mosaic
WHERE tile = %(tile)s AND band = ANY(%(bands)s) AND (kind = 'BGSUB' OR %(rms)s)
ORDER BY kind, band

-- name: mosaic_tiles
SELECT DISTINCT tile FROM q1.mosaic WHERE kind = 'BGSUB' ORDER BY tile

-- name: mosaic_known
SELECT uri, size, tag, header_sha256 FROM q1.mosaic
WHERE tile = %(tile)s AND band = %(band)s AND kind = %(kind)s
FOR UPDATE

-- name: mosaic_save
INSERT INTO q1.mosaic (
    tile, band, kind, uri, release, width, height, crval1, crval2, crpix1, crpix2,
    cd1_1, cd1_2, cd2_1, cd2_2, magzero, bitpix, data_offset, size, tag, header_sha256,
    cells, run_id
) VALUES (
    %(tile)s, %(band)s, %(kind)s, %(uri)s, %(release)s, %(width)s, %(height)s,
    %(crval1)s, %(crval2)s, %(crpix1)s, %(crpix2)s, %(cd1_1)s, %(cd1_2)s, %(cd2_1)s, %(cd2_2)s,
    %(magzero)s, %(bitpix)s, %(data_offset)s, %(size)s, %(tag)s, %(header_sha256)s,
    %(cells)s, %(run_id)s
)
ON CONFLICT (tile, band, kind) DO UPDATE SET
    uri = excluded.uri, release = excluded.release,
    width = excluded.width, height = excluded.height,
    crval1 = excluded.crval1, crval2 = excluded.crval2,
    crpix1 = excluded.crpix1, crpix2 = excluded.crpix2,
    cd1_1 = excluded.cd1_1, cd1_2 = excluded.cd1_2, cd2_1 = excluded.cd2_1, cd2_2 = excluded.cd2_2,
    magzero = excluded.magzero, bitpix = excluded.bitpix, data_offset = excluded.data_offset,
    size = excluded.size, tag = excluded.tag, header_sha256 = excluded.header_sha256,
    cells = excluded.cells, run_id = excluded.run_id, registered_at = now()

-- name: image_places
SELECT object_id, right_ascension, declination, tile, has_cutout
FROM astropt.image_place WHERE object_id = ANY(%(ids)s)

-- name: tile_sources
SELECT object_id, right_ascension, declination
FROM astropt.image_place WHERE tile = %(tile)s ORDER BY declination, object_id

-- name: cutout_files_of
SELECT DISTINCT f.path, f.kind, f.cube_bands, f.size, f.tag
FROM q1.cutout AS c JOIN q1.cutout_file AS f ON f.id = c.file_id
WHERE c.object_id = ANY(%(ids)s) ORDER BY f.path

-- name: cutout_files_known
SELECT path, id, size, tag FROM q1.cutout_file WHERE path = ANY(%(paths)s)

-- name: cutout_files_forget
DELETE FROM q1.cutout_file WHERE id = ANY(%(ids)s)

-- name: cutout_files_new
SELECT nextval(pg_get_serial_sequence('q1.cutout_file', 'id')) FROM generate_series(1, %(n)s)

-- name: sed_merge
INSERT INTO q1.sed (object_id, flux, flux_error, origin, run_id)
SELECT DISTINCT ON (object_id) object_id, flux, flux_error, %(origin)s, %(run_id)s
FROM pg_temp.sed_stage ORDER BY object_id
ON CONFLICT (object_id) DO UPDATE SET flux = excluded.flux, flux_error = excluded.flux_error,
    origin = excluded.origin, run_id = excluded.run_id, registered_at = now()
WHERE (q1.sed.flux, q1.sed.flux_error) IS DISTINCT FROM (excluded.flux, excluded.flux_error)
