-- Where the pixels of each source lie: on the mosaics of the tile whose catalogue names it, else
-- on another tile that covers it (the nearest, if several), else in ready-made cut-outs.

CREATE OR REPLACE VIEW astropt.image_place AS
WITH tile AS (
    SELECT DISTINCT tile FROM q1.mosaic WHERE kind = 'BGSUB'
), ready_made AS (
    SELECT DISTINCT object_id FROM q1.cutout
)
SELECT
    s.object_id,
    s.right_ascension,
    s.declination,
    coalesce(own.tile, other.tile) AS tile,
    r.object_id IS NOT NULL AS has_cutout
FROM q1.mer_catalogue AS s
LEFT JOIN tile AS own ON own.tile = s.segmentation_map_id / 1000000
LEFT JOIN LATERAL (
    SELECT m.tile
    FROM q1.mosaic AS m
    WHERE own.tile IS NULL AND m.kind = 'BGSUB' AND m.cells @> ARRAY[s.healpix29 >> 42]
        AND astropt.on_mosaic(m, s.right_ascension, s.declination)
    ORDER BY astropt.angular_separation(
        m.crval1, m.crval2, s.right_ascension, s.declination), m.tile
    LIMIT 1
) AS other ON own.tile IS NULL
LEFT JOIN ready_made AS r ON r.object_id = s.object_id
UNION ALL
-- Objects that only cut-outs know; the id spells the position.
SELECT
    r.object_id,
    CASE WHEN p.ra_deg < 360 THEN p.ra_deg END,
    CASE WHEN p.ra_deg < 360 AND abs(p.dec_deg) <= 90 THEN p.dec_deg END,
    NULL,
    true
FROM ready_made AS r
CROSS JOIN LATERAL (
    SELECT
        abs(r.object_id) / 1000000000 / 1e7::double precision AS ra_deg,
        sign(r.object_id) * (abs(r.object_id) % 1000000000) / 1e7::double precision AS dec_deg
) AS p
WHERE NOT EXISTS (SELECT FROM q1.mer_catalogue AS s WHERE s.object_id = r.object_id);

COMMENT ON VIEW astropt.image_place IS
    'Tile or ready-made cut-out that holds the pixels of each source; neither where there are none';
SELECT astropt.copy_comments('astropt.image_place', 'q1.mer_catalogue');
COMMENT ON COLUMN astropt.image_place.tile IS
    'registered MER tile with the pixels; NULL if there is none [; meta.id]';
COMMENT ON COLUMN astropt.image_place.has_cutout IS
    'whether a ready-made cut-out is registered [; meta.code]';
