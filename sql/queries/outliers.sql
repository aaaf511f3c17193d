-- name: outlier_run_insert
INSERT INTO astropt.outlier_run (
    run_id, encoder_id, methods, grid, contamination, selection, objects, threshold, graph,
    graph_recall, recall_rows, is_current
) VALUES (
    %(run_id)s, %(encoder_id)s, %(methods)s, %(grid)s, %(contamination)s, %(selection)s,
    %(objects)s, %(threshold)s, %(graph)s, %(graph_recall)s, %(recall_rows)s, true
) RETURNING id

-- name: outlier_run_retire
UPDATE astropt.outlier_run SET is_current = false WHERE encoder_id = %(encoder_id)s AND is_current

-- name: outlier_reason_insert
INSERT INTO astropt.outlier_reason (
    outlier_run_id, object_id, neighbours, labelled_neighbours, labelled_classes,
    labelled_distances, known_lens
) VALUES (
    %(outlier_run_id)s, %(object_id)s, %(neighbours)s, %(labelled_neighbours)s,
    %(labelled_classes)s, %(labelled_distances)s, %(known_lens)s
)

-- name: outlier_known_class
SELECT k.object_id, k.class FROM astropt.known_class AS k
WHERE k.class IS NOT NULL
UNION ALL
SELECT n.object_id, 'lens' FROM astropt.known_lens() AS n

-- name: outlier_known_lens
SELECT n.object_id, min(n.survey) FROM astropt.known_lens() AS n GROUP BY n.object_id

-- name: outlier_current_run
SELECT r.id, r.objects FROM astropt.outlier_run AS r
WHERE r.encoder_id = %(encoder_id)s AND r.is_current

-- name: outlier_scores
SELECT s.object_id, s.score, s.score_if, s.score_lof, s.score_knn, s.density_percentile,
    s.is_outlier
FROM astropt.outlier_score AS s WHERE s.outlier_run_id = %(id)s ORDER BY s.object_id

-- name: outlier_list
SELECT o.object_id, o.outlier_rank, o.score, array_to_string(o.reasons, ' ') AS reasons,
    o.prob_artefact, o.density_percentile, o.labelled_classes, o.label, o.interest_rank,
    s.right_ascension, s.declination, s.mag_vis
FROM astropt.outliers_all AS o
LEFT JOIN astropt.source AS s ON s.object_id = o.object_id
WHERE o.encoder = %(encoder)s AND o.is_outlier
    AND (%(reason)s::text IS NULL OR %(reason)s = ANY (o.reasons))
    AND (%(without)s::text IS NULL OR NOT %(without)s = ANY (o.reasons))
ORDER BY CASE WHEN %(learned)s THEN o.interest_rank END, o.outlier_rank
LIMIT %(limit)s

-- name: outlier_label_put
INSERT INTO astropt.outlier_label (object_id, label, note, labelled_by)
VALUES (%(object_id)s, %(label)s, %(note)s, %(by)s)
ON CONFLICT (object_id) DO UPDATE SET label = excluded.label, note = excluded.note,
    labelled_by = excluded.labelled_by, labelled_at = now()

-- name: outlier_label_all
SELECT l.object_id, l.label FROM astropt.outlier_label AS l ORDER BY l.object_id

-- name: outlier_interest_clear
DELETE FROM astropt.outlier_interest WHERE outlier_run_id = %(id)s

-- name: outlier_source_near
SELECT m.object_id FROM q1.mer_catalogue AS m ORDER BY abs(m.object_id::numeric - %(id)s::numeric)
LIMIT 3

-- name: outlier_source_exists
SELECT EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = %(id)s),
    EXISTS (SELECT FROM astropt.outlier_score AS s WHERE s.object_id = %(id)s)

-- name: map_retire
UPDATE astropt.map_run SET is_current = false WHERE encoder_id = %(encoder_id)s AND is_current

-- name: map_insert
INSERT INTO astropt.map_run (run_id, encoder_id, method, parameters, objects, is_current)
VALUES (%(run_id)s, %(encoder_id)s, %(method)s, %(parameters)s, %(objects)s, true) RETURNING id

-- name: map_fields
SELECT s.object_id, s.field FROM astropt.source AS s WHERE s.field IS NOT NULL
