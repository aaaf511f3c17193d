-- name: report_overview
SELECT count(*), count(DISTINCT tile_index), count(*) FILTER (WHERE vis_det = 1),
    string_agg(DISTINCT field, ', '), string_agg(DISTINCT release, ', ')
FROM astropt.source

-- name: report_products
SELECT product, sum(rows_inserted)::bigint AS n_rows, count(*) AS files,
    sum(rows_rejected)::bigint AS quarantined
FROM astropt.ingest_file WHERE state = 'done' GROUP BY product ORDER BY product

-- name: report_vector_counts
SELECT n.name, count(e.object_id) FROM astropt.encoder AS n
LEFT JOIN astropt.embedding AS e ON e.encoder_id = n.id GROUP BY n.name ORDER BY n.name

-- name: report_sky
SELECT s.object_id, s.right_ascension, s.declination, s.field, s.mag_vis,
    coalesce(o.is_outlier, false) AS is_outlier
FROM astropt.source AS s
LEFT JOIN astropt.outliers AS o ON o.object_id = s.object_id AND o.is_outlier
WHERE abs(hashint8(s.object_id)::bigint) %% %(step)s = 0

-- name: report_leakage
SELECT
    (SELECT string_agg(f.name, ', ' ORDER BY f.name) FROM jsonb_array_elements_text(
        m.parameters -> 'field_leakage' -> 'fields') AS f (name)),
    (m.parameters -> 'field_leakage' ->> 'balanced_accuracy')::double precision,
    (m.parameters -> 'field_leakage' ->> 'chance')::double precision
FROM astropt.map_run AS m
JOIN astropt.encoder AS n ON n.id = m.encoder_id AND n.is_current
WHERE m.is_current AND m.parameters ? 'field_leakage'

-- name: report_map
SELECT p.x, p.y, p.method, p.encoder,
    CASE WHEN c.object_class <> 'galaxy' THEN c.object_class
        ELSE coalesce(m.morphology_class, c.object_class) END
FROM astropt.map_coordinate AS p
JOIN astropt.encoder AS n ON n.name = p.encoder AND n.is_current
LEFT JOIN astropt.object_class AS c ON c.object_id = p.object_id
LEFT JOIN astropt.morphology AS m ON m.object_id = p.object_id
WHERE abs(hashint8(p.object_id)::bigint) %% %(step)s = 0

-- name: report_vectors
SELECT e.embedding, e.encoder,
    CASE WHEN c.object_class <> 'galaxy' THEN c.object_class
        ELSE coalesce(m.morphology_class, c.object_class) END
FROM astropt.embedding_array AS e
JOIN astropt.encoder AS n ON n.name = e.encoder AND n.is_current
LEFT JOIN astropt.object_class AS c ON c.object_id = e.object_id
LEFT JOIN astropt.morphology AS m ON m.object_id = e.object_id
WHERE abs(hashint8(e.object_id)::bigint) %% %(step)s = 0

-- name: report_photoz
SELECT l.value AS z_spec, p.z_median, p.z_lower_68, p.z_upper_68
FROM astropt.photoz AS p
JOIN astropt.predictor AS r ON r.id = p.predictor_id
JOIN astropt.label_value AS l
    ON l.object_id = p.object_id AND l.label_set = ANY (r.label_sets) AND l.column_name = 'z'
WHERE l.value IS NOT NULL AND l.split = 'test'

-- name: report_mass
SELECT c.z_median, c.log_mass, c.morphology_class
FROM astropt.catalogue AS c
WHERE c.log_mass IS NOT NULL AND c.z_median IS NOT NULL
    AND coalesce(c.object_class, 'galaxy') = 'galaxy'
    AND abs(hashint8(c.object_id)::bigint) %% %(step)s = 0

-- name: report_morphology
SELECT k.morphology_class, k.n, k.object_id, k.mag_vis, k.z_median
FROM (
    SELECT c.morphology_class, c.object_id, c.mag_vis, c.z_median,
        count(*) OVER (PARTITION BY c.morphology_class) AS n,
        row_number() OVER (PARTITION BY c.morphology_class ORDER BY c.mag_vis) AS place
    FROM astropt.catalogue AS c
    WHERE c.morphology_class IS NOT NULL AND c.mag_vis IS NOT NULL
        AND coalesce(c.object_class, 'galaxy') = 'galaxy' AND coalesce(c.point_like_prob, 0) < 0.5
) AS k
WHERE k.place <= %(k)s
ORDER BY k.n DESC, k.morphology_class, k.place

-- name: report_examples
SELECT DISTINCT ON (kind) coalesce(c.morphology_class, 'source') AS kind, c.object_id
FROM astropt.catalogue AS c
JOIN astropt.encoder AS n ON n.is_current
JOIN astropt.embedding AS e ON e.encoder_id = n.id AND e.object_id = c.object_id
WHERE c.mag_vis IS NOT NULL AND coalesce(c.object_class, 'galaxy') = 'galaxy'
    AND coalesce(c.point_like_prob, 0) < 0.5
ORDER BY kind, c.mag_vis

-- name: report_similar
SELECT s.object_id, s.similarity, s.mag_vis FROM astropt.similar(%(id)s, %(k)s) AS s ORDER BY s.rank

-- name: report_outliers
SELECT o.object_id, o.score, o.outlier_rank, o.reasons, s.mag_vis
FROM astropt.outliers AS o JOIN astropt.source AS s ON s.object_id = o.object_id
ORDER BY o.outlier_rank LIMIT %(k)s

-- name: report_predictors
SELECT p.task, p.head, p.features, coalesce(p.encoder, 'none') AS encoder,
    array_to_string(p.label_sets, ', ') AS label_sets, p.n_train, p.run_id
FROM astropt.predictor_info AS p WHERE p.is_current ORDER BY p.task

-- name: report_encoders
SELECT name, modalities, dimension, left(weights_sha256, 12) AS weights_sha256, is_current, run_id
FROM astropt.encoder ORDER BY name

-- name: report_runs
SELECT id, command, state, code_version, started_at, round(extract(epoch FROM ended_at - started_at), 1)
FROM astropt.run ORDER BY id DESC LIMIT 12
