-- Outliers with their reasons. What costs a look-up per row is a sub-query in the select list, so
-- that a query which does not ask for it does not pay for it.

CREATE OR REPLACE VIEW astropt.known_class AS
WITH votes AS (
    SELECT
        z.object_id,
        (z.smooth_or_featured_smooth
            / nullif(z.smooth_or_featured_smooth + z.smooth_or_featured_featured_or_disk, 0))::real
            AS smooth,
        (z.disk_edge_on_yes / nullif(z.disk_edge_on_yes + z.disk_edge_on_no, 0))::real AS edge_on,
        (z.has_spiral_arms_yes / nullif(z.has_spiral_arms_yes + z.has_spiral_arms_no, 0))::real
            AS spiral,
        ((z.bar_strong + z.bar_weak) / nullif(z.bar_strong + z.bar_weak + z.bar_no, 0))::real
            AS bar,
        (z.merging_merger / nullif(z.merging_merger + z.merging_major_disturbance
            + z.merging_minor_disturbance + z.merging_none, 0))::real AS merger
    FROM q1.mer_morphology AS z
    WHERE z.smooth_or_featured_smooth > 0 OR z.smooth_or_featured_featured_or_disk > 0
)
SELECT l.object_id, l.label AS class, 'label' AS origin
FROM astropt.outlier_label AS l
UNION ALL
SELECT
    v.object_id,
    astropt.morphology_class(
        v.smooth, (1 - v.smooth)::real, 0::real, v.edge_on, v.spiral, v.bar, v.merger),
    'zoobot'
FROM votes AS v
WHERE NOT EXISTS (SELECT FROM astropt.outlier_label AS l WHERE l.object_id = v.object_id);

COMMENT ON VIEW astropt.known_class IS
    'Sources of known class: labelled by a person (interesting, artefact, dull), else Zoobot''s morphology';
COMMENT ON COLUMN astropt.known_class.object_id IS 'Euclid source identifier [; meta.id;meta.main]';
COMMENT ON COLUMN astropt.known_class.class IS
    'interesting, artefact or dull; else a class of the function morphology_class [; src.class]';
COMMENT ON COLUMN astropt.known_class.origin IS 'label or zoobot [; meta.ref]';

CREATE OR REPLACE VIEW astropt.outlier_facts AS
SELECT
    s.object_id,
    e.name AS encoder,
    s.score,
    s.outlier_rank,
    s.is_outlier,
    s.score_if,
    s.score_lof,
    s.score_knn,
    s.density_percentile,
    c.prob_artefact::real AS prob_artefact,
    m.spurious_flag,
    m.det_quality_flag,
    m.det_quality_flag & 2 > 0 OR m.deblended_flag > 0 AS is_blended,
    v.flags AS embedding_flags,
    v.flags & 2 > 0 AS is_band_missing,
    v.missing_fraction,
    r.neighbours,
    r.labelled_neighbours,
    r.labelled_classes,
    r.labelled_distances,
    r.known_lens,
    r.known_lens IS NOT NULL OR 'lens' = ANY (r.labelled_classes) AS is_near_lens,
    'merger' = ANY (r.labelled_classes) AS is_near_merger,
    ARRAY(
        SELECT oe.name
        FROM astropt.outlier_run AS o
        JOIN astropt.encoder AS oe ON oe.id = o.encoder_id
        JOIN astropt.outlier_score AS os
            ON os.outlier_run_id = o.id AND os.object_id = s.object_id AND os.is_outlier
        WHERE o.is_current
        ORDER BY oe.name
    ) AS flagged_by,
    (
        SELECT count(*)::integer
        FROM astropt.outlier_run AS o
        JOIN astropt.outlier_score AS os
            ON os.outlier_run_id = o.id AND os.object_id = s.object_id
        WHERE o.is_current
    ) AS encoders_asked,
    l.label,
    i.interest,
    i.interest_rank,
    e.is_current AS is_current_encoder,
    s.outlier_run_id
FROM astropt.outlier_run AS n
JOIN astropt.encoder AS e ON e.id = n.encoder_id
JOIN astropt.outlier_score AS s ON s.outlier_run_id = n.id
LEFT JOIN astropt.object_class AS c ON c.object_id = s.object_id
LEFT JOIN q1.mer_catalogue AS m ON m.object_id = s.object_id
LEFT JOIN astropt.embedding AS v ON v.object_id = s.object_id AND v.encoder_id = n.encoder_id
LEFT JOIN astropt.outlier_reason AS r
    ON r.outlier_run_id = s.outlier_run_id AND r.object_id = s.object_id
LEFT JOIN astropt.outlier_label AS l ON l.object_id = s.object_id
LEFT JOIN astropt.outlier_interest AS i
    ON i.outlier_run_id = s.outlier_run_id AND i.object_id = s.object_id
WHERE n.is_current;

COMMENT ON VIEW astropt.outlier_facts IS
    'What astropt.outliers_all is made of: the facts without their short names';
SELECT astropt.copy_comments('astropt.outlier_facts', 'astropt.outlier_label');
SELECT astropt.copy_comments('astropt.outlier_facts', 'astropt.outlier_interest');
SELECT astropt.copy_comments('astropt.outlier_facts', 'astropt.outlier_reason');
SELECT astropt.copy_comments('astropt.outlier_facts', 'astropt.embedding');
SELECT astropt.copy_comments('astropt.outlier_facts', 'q1.mer_catalogue');
SELECT astropt.copy_comments('astropt.outlier_facts', 'astropt.outlier_score');
COMMENT ON COLUMN astropt.outlier_facts.encoder IS 'encoder in whose space it is odd [; meta.id]';
COMMENT ON COLUMN astropt.outlier_facts.prob_artefact IS
    'probability of an artefact, see astropt.object_class; NULL without a predictor [; stat.probability]';
COMMENT ON COLUMN astropt.outlier_facts.is_blended IS
    'true if the detection was blended: DET_QUALITY_FLAG bit 2 or DEBLENDED_FLAG [; meta.code.qual]';
COMMENT ON COLUMN astropt.outlier_facts.embedding_flags IS
    'bits: 1 window over an image''s edge, 2 a band is missing, 8 many missing pixels, 16 no SED [; meta.code]';
COMMENT ON COLUMN astropt.outlier_facts.is_band_missing IS
    'true if the encoder lacked a band [; meta.code.qual]';
COMMENT ON COLUMN astropt.outlier_facts.is_near_lens IS
    'true if it stands in a lens catalogue or a lens is among its labelled neighbours; NULL if not flagged [; meta.code]';
COMMENT ON COLUMN astropt.outlier_facts.is_near_merger IS
    'true if a merger is among its labelled neighbours; NULL if not flagged [; meta.code]';
COMMENT ON COLUMN astropt.outlier_facts.flagged_by IS
    'encoders whose current run flags it [; meta.id]';
COMMENT ON COLUMN astropt.outlier_facts.encoders_asked IS
    'number of encoders whose current run holds it [; meta.number]';
COMMENT ON COLUMN astropt.outlier_facts.is_current_encoder IS
    'true for the encoder that commands take by default [; meta.code]';

CREATE OR REPLACE VIEW astropt.outliers_all AS
SELECT
    f.object_id,
    f.encoder,
    f.score,
    f.outlier_rank,
    f.is_outlier,
    array_remove(ARRAY[
        CASE WHEN f.prob_artefact >= 0.5 THEN 'artefact' END,
        CASE WHEN f.spurious_flag > 0 THEN 'spurious' END,
        CASE WHEN f.is_blended THEN 'blended' END,
        CASE WHEN f.det_quality_flag & ~2 > 0 THEN 'quality_flag' END,
        CASE WHEN f.is_band_missing THEN 'missing_band' END,
        CASE WHEN f.embedding_flags & 9 > 0 THEN 'missing_pixels' END,
        CASE WHEN f.embedding_flags & 16 > 0 THEN 'no_sed' END,
        CASE WHEN f.density_percentile <= 1 THEN 'sparse' END,
        CASE WHEN f.is_near_lens THEN 'near_lens' END,
        CASE WHEN f.is_near_merger THEN 'near_merger' END,
        CASE WHEN f.encoders_asked > 1 AND f.flagged_by = ARRAY[f.encoder] THEN 'one_encoder' END,
        CASE WHEN f.encoders_asked > 1 AND cardinality(f.flagged_by) = f.encoders_asked
            THEN 'all_encoders' END
    ], NULL) AS reasons,
    f.score_if,
    f.score_lof,
    f.score_knn,
    f.density_percentile,
    f.prob_artefact,
    f.spurious_flag,
    f.det_quality_flag,
    f.is_blended,
    f.embedding_flags,
    f.is_band_missing,
    f.missing_fraction,
    f.flagged_by,
    f.encoders_asked,
    f.known_lens,
    f.is_near_lens,
    f.is_near_merger,
    f.labelled_neighbours,
    f.labelled_classes,
    f.labelled_distances,
    f.neighbours,
    f.label,
    f.interest,
    f.interest_rank,
    f.is_current_encoder,
    f.outlier_run_id
FROM astropt.outlier_facts AS f;

COMMENT ON VIEW astropt.outliers_all IS
    'Scores, ranks, flags and reasons of the current run of every encoder';
SELECT astropt.copy_comments('astropt.outliers_all', 'astropt.outlier_facts');
COMMENT ON COLUMN astropt.outliers_all.reasons IS
    'why it may be odd: artefact, spurious, blended, quality_flag, missing_band, missing_pixels, no_sed, sparse, near_lens, near_merger, one_encoder, all_encoders [; meta.code]';

CREATE OR REPLACE VIEW astropt.outliers AS
SELECT * FROM astropt.outliers_all WHERE is_current_encoder;

COMMENT ON VIEW astropt.outliers IS
    'Scores, ranks, flags and reasons of the current run of the current encoder; outliers_all shows every encoder';
SELECT astropt.copy_comments('astropt.outliers', 'astropt.outliers_all');

CREATE OR REPLACE VIEW astropt.map_coordinate AS
SELECT p.object_id, e.name AS encoder, m.method, p.x, p.y, p.map_run_id
FROM astropt.map_run AS m
JOIN astropt.encoder AS e ON e.id = m.encoder_id
JOIN astropt.map_position AS p ON p.map_run_id = m.id
WHERE m.is_current;

COMMENT ON VIEW astropt.map_coordinate IS 'Place of every source on the current map of each encoder';
SELECT astropt.copy_comments('astropt.map_coordinate', 'astropt.map_position');
COMMENT ON COLUMN astropt.map_coordinate.encoder IS 'encoder that the map shows [; meta.id]';
COMMENT ON COLUMN astropt.map_coordinate.method IS 'umap or pca [; meta.code]';
