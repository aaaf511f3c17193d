-- name: label_set_list
SELECT id, name, recipe, source, column_names, categories, cut, radius, n_read, n_selected,
    n_matched
FROM astropt.label_set ORDER BY name

-- name: label_set_delete
DELETE FROM astropt.label_set WHERE name = %(name)s

-- name: label_set_users
SELECT p.id, p.task FROM astropt.predictor AS p
WHERE %(name)s = ANY(p.label_sets) ORDER BY p.id

-- name: label_set_insert
INSERT INTO astropt.label_set (
    name, recipe, source, sha256, column_names, categories, cut, radius, n_read, n_selected,
    n_matched, run_id
) VALUES (
    %(name)s, %(recipe)s, %(source)s, %(sha256)s, %(column_names)s, %(categories)s, %(cut)s,
    %(radius)s, %(n_read)s, %(n_selected)s, %(n_matched)s, %(run_id)s
) RETURNING id

-- name: label_source_cells
SELECT DISTINCT healpix29 >> %(shift)s FROM q1.mer_catalogue

-- name: label_match_table
CREATE TEMPORARY TABLE label_match (
    row_number bigint NOT NULL, object_id bigint NOT NULL, separation real
) ON COMMIT DROP

-- name: label_match_ids
INSERT INTO label_match
SELECT p.row_number, m.object_id, NULL
FROM label_place AS p
JOIN q1.mer_catalogue AS m ON m.object_id = p.object_id

-- name: label_match_positions
-- The cell of the label and its eight neighbours cover the radius; the true distance decides.
INSERT INTO label_match
SELECT DISTINCT ON (p.row_number) p.row_number, near.object_id, near.separation
FROM label_place AS p
CROSS JOIN LATERAL (
    SELECT m.object_id, 3600 * astropt.angular_separation(
        p.ra, p.dec, m.right_ascension, m.declination) AS separation
    FROM q1.mer_catalogue AS m
    WHERE m.healpix29 >= p.cell << %(shift)s AND m.healpix29 < (p.cell + 1) << %(shift)s
    OFFSET 0
) AS near
WHERE near.separation <= %(radius)s
ORDER BY p.row_number, near.separation

-- name: label_match_counts
SELECT count(*), count(DISTINCT object_id) FROM label_match

-- name: label_match_keep_nearest
DELETE FROM label_match AS m USING (
    SELECT row_number,
        row_number() OVER (PARTITION BY object_id ORDER BY separation, row_number) AS place
    FROM label_match
) AS ranked
WHERE ranked.row_number = m.row_number AND ranked.place > 1

-- name: labels_zoobot
-- Concentrations to fractions. A question counts only where Galaxy Zoo's tree asks it: edge-on of
-- featured galaxies, arms and bars of those not edge-on. Rows whose concentrations are all zero
-- say nothing. The answer "artefact" is empty in Q1.
SELECT
    object_id,
    smooth, featured, artefact,
    CASE WHEN featured >= 0.5 THEN edge_on END AS edge_on,
    CASE WHEN featured >= 0.5 AND edge_on < 0.5 THEN spiral END AS spiral,
    CASE WHEN featured >= 0.5 AND edge_on < 0.5 THEN bar END AS bar,
    merger
FROM (
    SELECT
        object_id,
        smooth_or_featured_smooth / nullif(overall, 0) AS smooth,
        smooth_or_featured_featured_or_disk / nullif(overall, 0) AS featured,
        smooth_or_featured_artifact_star_zoom / nullif(overall, 0) AS artefact,
        disk_edge_on_yes / nullif(disk_edge_on_yes + disk_edge_on_no, 0) AS edge_on,
        has_spiral_arms_yes / nullif(has_spiral_arms_yes + has_spiral_arms_no, 0) AS spiral,
        (bar_strong + bar_weak) / nullif(bar_strong + bar_weak + bar_no, 0) AS bar,
        merging_merger / nullif(merging_none + merging_minor_disturbance
            + merging_major_disturbance + merging_merger, 0) AS merger
    FROM (
        SELECT *, smooth_or_featured_smooth + smooth_or_featured_featured_or_disk
            + coalesce(smooth_or_featured_artifact_star_zoom, 0) AS overall
        FROM q1.mer_morphology
    ) AS summed
    WHERE overall > 0
) AS fractions

-- name: labels_zenodo
SELECT
    object_id,
    smooth, featured, artefact,
    CASE WHEN featured >= 0.5 THEN edge_on END AS edge_on,
    CASE WHEN featured >= 0.5 AND edge_on < 0.5 THEN spiral END AS spiral,
    CASE WHEN featured >= 0.5 AND edge_on < 0.5 THEN bar END AS bar,
    merger
FROM (
    SELECT
        object_id,
        smooth_or_featured_smooth_fraction AS smooth,
        smooth_or_featured_featured_or_disk_fraction AS featured,
        smooth_or_featured_problem_fraction AS artefact,
        disk_edge_on_yes_fraction AS edge_on,
        has_spiral_arms_yes_fraction AS spiral,
        bar_strong_fraction + bar_weak_fraction AS bar,
        merging_merger_fraction AS merger
    FROM q1.visual_morphology
) AS fractions

-- name: labels_phz_class
-- Where exactly one of the catalogue's classes holds; sources that are probably none are artefacts.
SELECT
    m.object_id,
    CASE
        WHEN m.spurious_flag = 1 THEN 'artefact'
        WHEN c.phz_classification = 1 THEN 'star'
        WHEN c.phz_classification = 2 THEN 'galaxy'
        WHEN c.phz_classification = 4 THEN 'qso'
    END AS object_class
FROM q1.mer_catalogue AS m
LEFT JOIN q1.phz_classification AS c ON c.object_id = m.object_id
WHERE m.spurious_flag = 1 OR c.phz_classification IN (1, 2, 4)
