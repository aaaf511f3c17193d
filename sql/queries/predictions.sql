-- name: predictor_insert
INSERT INTO astropt.predictor (
    task, head, features, encoder_id, label_sets, cut, training, n_train, n_calibration, outputs,
    probabilities, settings, metrics, weights, weights_sha256, seed, code_version, run_id
) VALUES (
    %(task)s, %(head)s, %(features)s, %(encoder_id)s, %(label_sets)s, %(cut)s, %(training)s,
    %(n_train)s, %(n_calibration)s, %(outputs)s, %(probabilities)s, %(settings)s, %(metrics)s,
    %(weights)s, %(weights_sha256)s, %(seed)s, %(code_version)s, %(run_id)s
) RETURNING id

-- name: predictor_use_none
UPDATE astropt.predictor SET is_current = false WHERE task = %(task)s AND is_current

-- name: predictor_use
UPDATE astropt.predictor SET is_current = true WHERE id = %(id)s

-- name: predictor_find
SELECT p.id, p.task, p.head, p.features, p.encoder_id, e.name AS encoder, p.label_sets, p.outputs,
    p.n_train, p.metrics, p.is_current, p.weights
FROM astropt.predictor AS p LEFT JOIN astropt.encoder AS e ON e.id = p.encoder_id
WHERE CASE WHEN %(id)s::integer IS NULL THEN p.task = %(task)s AND p.is_current
    ELSE p.id = %(id)s END

-- name: predictor_tasks
SELECT task, array_agg(id ORDER BY id) FROM astropt.predictor GROUP BY task ORDER BY task

-- name: wanted_table
CREATE TEMPORARY TABLE wanted (object_id bigint NOT NULL) ON COMMIT DROP
