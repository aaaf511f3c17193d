-- Places on registered mosaics.

CREATE OR REPLACE FUNCTION astropt.on_mosaic(
    m q1.mosaic, ra_deg double precision, dec_deg double precision
) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    -- Gnomonic projection: Calabretta & Greisen 2002 (A&A 395, 1077), section 5.1.3.
    SELECT p.cosine > 0
        AND p.x >= 0.5 AND p.x < m.width + 0.5 AND p.y >= 0.5 AND p.y < m.height + 0.5
    FROM (
        SELECT
            t.cosine,
            m.crpix1 + (m.cd2_2 * t.xi - m.cd1_2 * t.eta) / t.determinant AS x,
            m.crpix2 + (m.cd1_1 * t.eta - m.cd2_1 * t.xi) / t.determinant AS y
        FROM (
            SELECT
                c.cosine,
                m.cd1_1 * m.cd2_2 - m.cd1_2 * m.cd2_1 AS determinant,
                degrees(cosd(dec_deg) * sind(ra_deg - m.crval1) / nullif(c.cosine, 0)) AS xi,
                degrees((cosd(m.crval2) * sind(dec_deg) - sind(m.crval2) * cosd(dec_deg)
                    * cosd(ra_deg - m.crval1)) / nullif(c.cosine, 0)) AS eta
            FROM (
                SELECT sind(m.crval2) * sind(dec_deg)
                    + cosd(m.crval2) * cosd(dec_deg) * cosd(ra_deg - m.crval1) AS cosine
            ) AS c
        ) AS t
    ) AS p
$$;

COMMENT ON FUNCTION astropt.on_mosaic IS
    'Whether a position in degrees lies on a pixel of a registered mosaic';
