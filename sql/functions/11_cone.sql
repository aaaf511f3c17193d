-- Searches on the sky. Candidate cells of the HEALPix B-tree first, the true distance last.
--
-- A disc of radius R is covered by cells of a side of at least 12 R. In units of a base cell's side
-- its coordinates in the cell change by less than 1.5 R (the steepest place is the edge of a polar
-- base cell, 1.45), so a box of 1.5 R around the centre holds the disc: one, two or four cells.
-- Where the box leaves the base cell, points around the centre tell the cells: no corner of a cell
-- is sharper than 57 degrees, so none reaches into the disc between 12 points at 4 R.

CREATE OR REPLACE FUNCTION astropt.healpix29(ra double precision, declination double precision)
RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- PostgreSQL refuses a quotient that underflows.
    t double precision := CASE WHEN abs(ra) < 1e-200 THEN 0 ELSE ra / 90 - 4 * floor(ra / 360) END;
    z double precision := sind(declination);
    one double precision;
    other double precision;
    quarter integer;
    face bigint;
    x bigint;
    y bigint;
BEGIN
    IF abs(z) <= 2 / 3.0 THEN
        one := 0.5 + t - 0.75 * z;
        other := 0.5 + t + 0.75 * z;
        face := CASE
            WHEN floor(one) = floor(other) THEN (floor(one)::int & 3) | 4
            WHEN one < other THEN floor(one)::int & 3
            ELSE (floor(other)::int & 3) + 8
        END;
        x := trunc((other - floor(other)) * 536870912);
        y := 536870911 - trunc((one - floor(one)) * 536870912)::bigint;
    ELSE
        quarter := least(floor(t)::int, 3);
        -- sqrt(3 (1 - |z|)) without its cancellation at the pole.
        z := sqrt(6.0) * sind((90 - abs(declination)) / 2);
        one := least(trunc((t - quarter) * z * 536870912), 536870911);
        other := least(trunc((1 - t + quarter) * z * 536870912), 536870911);
        IF declination > 0 THEN
            face := quarter;
            x := 536870911 - other::bigint;
            y := 536870911 - one::bigint;
        ELSE
            face := quarter + 8;
            x := one;
            y := other;
        END IF;
    END IF;
    x := (x | (x << 16)) & 281470681808895;
    x := (x | (x << 8)) & 71777214294589695;
    x := (x | (x << 4)) & 1085102592571150095;
    x := (x | (x << 2)) & 3689348814741910323;
    x := (x | (x << 1)) & 6148914691236517205;
    y := (y | (y << 16)) & 281470681808895;
    y := (y | (y << 8)) & 71777214294589695;
    y := (y | (y << 4)) & 1085102592571150095;
    y := (y | (y << 2)) & 3689348814741910323;
    y := (y | (y << 1)) & 6148914691236517205;
    RETURN (face << 58) | x | (y << 1);
END
$$;

COMMENT ON FUNCTION astropt.healpix29 IS
    'HEALPix cell (order 29, nested) of a position in degrees';

CREATE OR REPLACE FUNCTION astropt.sky_ranges(
    ra double precision, declination double precision, radius_arcsec double precision
) RETURNS TABLE (first_cell bigint, last_cell bigint)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE ROWS 2 AS $$
DECLARE
    radius double precision := greatest(radius_arcsec, 0.1) / 206264.80624709636;
    cell_order integer := least(floor(-log(2, (12 * 1.5 * radius)::numeric)), 18);
    side bigint := 1;
    shift integer;
    -- PostgreSQL refuses a quotient that underflows.
    t double precision := CASE WHEN abs(ra) < 1e-200 THEN 0 ELSE ra / 90 - 4 * floor(ra / 360) END;
    z double precision := sind(declination);
    one double precision;
    other double precision;
    quarter integer;
    face bigint;
    x double precision;
    y double precision;
    margin double precision := 1.5 * radius;
    corner bigint;
    along bigint;
    i bigint;
    j bigint;
BEGIN
    IF NOT (abs(declination) <= 90 AND abs(ra) < 1e6 AND radius_arcsec >= 0) THEN
        RAISE EXCEPTION 'no cone at ra %, dec % with radius % arcsec', ra, declination, radius_arcsec
            USING HINT = 'ra and dec are in degrees, the radius is not negative.';
    END IF;
    IF cell_order < 0 THEN
        -- Wider than two degrees: every cell is a candidate.
        RETURN QUERY VALUES (0::bigint, (12::bigint << 58) - 1);
        RETURN;
    END IF;
    side := 1 << cell_order;
    shift := 2 * (29 - cell_order);
    IF abs(z) <= 2 / 3.0 THEN
        one := 0.5 + t - 0.75 * z;
        other := 0.5 + t + 0.75 * z;
        face := CASE
            WHEN floor(one) = floor(other) THEN (floor(one)::int & 3) | 4
            WHEN one < other THEN floor(one)::int & 3
            ELSE (floor(other)::int & 3) + 8
        END;
        x := other - floor(other);
        y := 1 - one + floor(one);
    ELSE
        quarter := least(floor(t)::int, 3);
        z := sqrt(6.0) * sind((90 - abs(declination)) / 2);
        IF declination > 0 THEN
            face := quarter;
            x := 1 - (1 - t + quarter) * z;
            y := 1 - (t - quarter) * z;
        ELSE
            face := quarter + 8;
            x := (t - quarter) * z;
            y := (1 - t + quarter) * z;
        END IF;
    END IF;
    IF x < margin OR y < margin OR x + margin >= 1 OR y + margin >= 1 THEN
        RETURN QUERY
        SELECT found.cell << shift, ((found.cell + 1) << shift) - 1
        FROM (
            SELECT astropt.healpix29(ra, declination) >> shift
            UNION
            SELECT astropt.healpix29(
                ra + atan2d(
                    sind(away) * sind(angle),
                    cosd(declination) * cosd(away) - sind(declination) * sind(away) * cosd(angle)),
                p.other_dec) >> shift
            FROM generate_series(0, 330, 30) AS angle,
                (SELECT degrees(4 * radius) AS away) AS distance,
                LATERAL (SELECT asind(greatest(-1, least(1, sind(declination) * cosd(away)
                    + cosd(declination) * sind(away) * cosd(angle)))) AS other_dec) AS p
        ) AS found (cell);
        RETURN;
    END IF;
    FOR i IN trunc((x - margin) * side)::bigint .. trunc((x + margin) * side)::bigint LOOP
        along := i;
        along := (along | (along << 16)) & 281470681808895;
        along := (along | (along << 8)) & 71777214294589695;
        along := (along | (along << 4)) & 1085102592571150095;
        along := (along | (along << 2)) & 3689348814741910323;
        along := (along | (along << 1)) & 6148914691236517205;
        FOR j IN trunc((y - margin) * side)::bigint .. trunc((y + margin) * side)::bigint LOOP
            corner := j;
            corner := (corner | (corner << 16)) & 281470681808895;
            corner := (corner | (corner << 8)) & 71777214294589695;
            corner := (corner | (corner << 4)) & 1085102592571150095;
            corner := (corner | (corner << 2)) & 3689348814741910323;
            corner := (corner | (corner << 1)) & 6148914691236517205;
            first_cell := ((face << (2 * cell_order)) | along | (corner << 1)) << shift;
            last_cell := first_cell + (1::bigint << shift) - 1;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION astropt.sky_ranges IS
    'Ranges of healpix29 that together hold every position within a radius (arcsec) of one; join with BETWEEN, then test the true distance';

CREATE OR REPLACE FUNCTION astropt.cone(
    ra double precision, "dec" double precision, radius_arcsec double precision
) RETURNS TABLE (
    object_id bigint, right_ascension double precision, declination double precision,
    separation double precision
)
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE ROWS 10
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY
    SELECT m.object_id, m.right_ascension, m.declination, m.distance
    FROM astropt.sky_ranges(cone.ra, cone.dec, cone.radius_arcsec) AS r
    CROSS JOIN LATERAL (
        SELECT s.object_id, s.right_ascension, s.declination, 3600 * astropt.angular_separation(
            cone.ra, cone.dec, s.right_ascension, s.declination) AS distance
        FROM q1.mer_catalogue AS s
        WHERE s.healpix29 BETWEEN r.first_cell AND r.last_cell
        OFFSET 0
    ) AS m
    WHERE m.distance <= cone.radius_arcsec;
END
$$;

COMMENT ON FUNCTION astropt.cone IS
    'Sources within a radius (arcsec) of a position in degrees, with their separation in arcsec';

CREATE OR REPLACE FUNCTION astropt.nearest(
    ra double precision, "dec" double precision, radius_arcsec double precision,
    k integer DEFAULT 1
) RETURNS TABLE (
    object_id bigint, right_ascension double precision, declination double precision,
    separation double precision
)
LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT c.object_id, c.right_ascension, c.declination, c.separation
    FROM astropt.cone(ra, nearest.dec, radius_arcsec) AS c
    ORDER BY c.separation, c.object_id LIMIT k;
END;

COMMENT ON FUNCTION astropt.nearest IS
    'The k sources nearest to a position within a radius (arcsec), nearest first';

CREATE OR REPLACE FUNCTION astropt.position_columns(
    relation regclass, OUT id text, OUT ra text, OUT "dec" text
)
LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT
        (array_agg(c.name ORDER BY c.attnum) FILTER (WHERE c.ucd = 'meta.id;meta.main'))[1],
        (array_agg(c.name ORDER BY c.attnum) FILTER (WHERE c.ucd = 'pos.eq.ra;meta.main'))[1],
        (array_agg(c.name ORDER BY c.attnum) FILTER (WHERE c.ucd = 'pos.eq.dec;meta.main'))[1]
    FROM (
        SELECT attname::text AS name, attnum,
            trim(substring(col_description(attrelid, attnum) FROM '\[[^;\]]*;([^\]]*)\]$')) AS ucd
        FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
    ) AS c;
END;

COMMENT ON FUNCTION astropt.position_columns IS
    'Columns of a table that hold its id and position, by the UCDs in their comments';

CREATE OR REPLACE FUNCTION astropt.crossmatch(
    one regclass, other regclass, radius_arcsec double precision
) RETURNS TABLE (one_id text, other_id text, separation double precision)
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    a record;
    b record;
BEGIN
    SELECT * INTO a FROM astropt.position_columns(one);
    SELECT * INTO b FROM astropt.position_columns(other);
    IF a.id IS NULL OR a.ra IS NULL OR a.dec IS NULL OR b.id IS NULL OR b.ra IS NULL
        OR b.dec IS NULL THEN
        RAISE EXCEPTION '% cannot be matched: id and position are not known',
            CASE WHEN a.id IS NULL OR a.ra IS NULL OR a.dec IS NULL THEN one ELSE other END
            USING HINT = 'Columns are found by the UCDs meta.id;meta.main, pos.eq.ra;meta.main and pos.eq.dec;meta.main in their comments.';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT a.%1$I::text, b.id, b.distance FROM %2$s AS a '
        'CROSS JOIN LATERAL astropt.sky_ranges(a.%3$I, a.%4$I, $1) AS r '
        'CROSS JOIN LATERAL (SELECT t.%5$I::text AS id, '
        '3600 * astropt.angular_separation(a.%3$I, a.%4$I, t.%7$I, t.%8$I) AS distance '
        'FROM %6$s AS t WHERE t.healpix29 BETWEEN r.first_cell AND r.last_cell OFFSET 0) AS b '
        'WHERE b.distance <= $1',
        a.id, one, a.ra, a.dec, b.id, other, b.ra, b.dec) USING radius_arcsec;
END
$$;

COMMENT ON FUNCTION astropt.crossmatch IS
    'Pairs of two tables within a radius (arcsec); the second one needs an index on healpix29, so give the larger one second';
