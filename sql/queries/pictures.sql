-- name: picture_zero_points
SELECT band, (percentile_disc(0.5) WITHIN GROUP (ORDER BY magzero))::double precision
FROM q1.mosaic WHERE kind = 'BGSUB' AND magzero <> 'NaN' GROUP BY band
