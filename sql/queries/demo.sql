-- name: demo_products
SELECT product, sum(rows_inserted)::integer AS n_rows, count(*)::integer AS files
FROM astropt.ingest_file WHERE state = 'done' GROUP BY product ORDER BY product

-- name: demo_fields
SELECT field, count(*) AS sources, count(mag_vis) AS in_vis,
    round(min(mag_vis)::numeric, 2) AS brightest, round(max(mag_vis)::numeric, 2) AS faintest,
    count(*) FILTER (WHERE point_like_flag = 1) AS point_like
FROM astropt.source GROUP BY field

-- name: demo_brightest
SELECT s.object_id, round(s.right_ascension::numeric, 5) AS ra,
    round(s.declination::numeric, 5) AS "dec", round(s.mag_vis::numeric, 2) AS mag_vis,
    round(z.phz_median::numeric, 2) AS phz_median,
    round(p.phz_pp_median_stellarmass::numeric, 2) AS log_mass
FROM astropt.paper_selection AS s
JOIN q1.phz_photo_z AS z USING (object_id)
JOIN q1.phz_classification AS c USING (object_id)
LEFT JOIN q1.phz_physical_parameters AS p USING (object_id)
WHERE c.phz_classification = 2
ORDER BY s.mag_vis LIMIT 5

-- name: demo_files
SELECT release, tile, count(*) AS files, sum(rows_read) AS n_read,
    sum(rows_inserted) AS inserted, sum(rows_rejected) AS quarantined
FROM astropt.ingest_file GROUP BY release, tile ORDER BY tile
