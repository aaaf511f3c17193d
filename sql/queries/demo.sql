-- name: demo_products
SELECT product, sum(rows_inserted)::integer AS n_rows, count(*)::integer AS files
FROM astropt.ingest_file WHERE state = 'done' GROUP BY product ORDER BY product

-- name: demo_brightest
SELECT c.object_id, round(c.mag_vis::numeric, 2) AS mag_vis, c.morphology_class AS class,
    round(s.value::numeric, 3) AS z_spec, round(c.z_median::numeric, 3) AS z,
    round(c.z_lower_68::numeric, 2) AS z_low, round(c.z_upper_68::numeric, 2) AS z_high,
    round(c.log_mass::numeric, 2) AS log_mass
FROM astropt.catalogue AS c
LEFT JOIN astropt.label_value AS s
    ON s.object_id = c.object_id AND s.label_set = 'desi' AND s.column_name = 'z'
WHERE coalesce(c.object_class, 'galaxy') = 'galaxy' AND coalesce(c.point_like_prob, 0) < 0.5
    AND c.spurious_flag = 0 AND c.mag_vis IS NOT NULL
ORDER BY c.mag_vis LIMIT 5

-- name: demo_example
SELECT c.object_id
FROM astropt.catalogue AS c
JOIN astropt.encoder AS n ON n.is_current
JOIN astropt.embedding AS e ON e.encoder_id = n.id AND e.object_id = c.object_id
WHERE coalesce(c.object_class, 'galaxy') = 'galaxy' AND coalesce(c.point_like_prob, 0) < 0.5
    AND c.spurious_flag = 0 AND c.mag_vis IS NOT NULL
ORDER BY c.mag_vis LIMIT 1

-- name: demo_similar
SELECT s.rank, s.object_id, round(s.similarity::numeric, 3) AS similarity,
    round(s.mag_vis::numeric, 2) AS mag_vis, s.morphology_class AS class
FROM astropt.similar(%(id)s, 5) AS s ORDER BY s.rank

-- name: demo_outliers
SELECT o.outlier_rank AS rank, o.object_id, round(o.score::numeric, 3) AS score,
    round(s.mag_vis::numeric, 2) AS mag_vis, array_to_string(o.reasons, ', ') AS reasons
FROM astropt.outliers AS o JOIN astropt.source AS s ON s.object_id = o.object_id
ORDER BY o.outlier_rank LIMIT 5
