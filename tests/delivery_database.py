"""A database in which every part holds something, made without training anything."""

from __future__ import annotations

import numpy as np
from vector_database import add_encoder, add_vectors

from astropt_db.database.connect import Database, connect

_PREDICTOR = """
    INSERT INTO astropt.predictor (task, head, features, encoder_id, label_sets, training, n_train,
        n_calibration, outputs, settings, metrics, weights, weights_sha256, seed, code_version,
        is_current)
    VALUES (%s, 'linear', 'embedding', %s, ARRAY['truth'], '{}', 100, 20, ARRAY['x'], '{}', '{}',
        '', repeat('0', 64), 0, '0', true)
    RETURNING id
"""
_PHOTOZ = """
    INSERT INTO astropt.prediction_photoz (predictor_id, object_id, run_id, is_extrapolated,
        z_median, z_mode, z_lower_68, z_upper_68, z_lower_95, z_upper_95, odds, z_quantiles)
    SELECT %s, object_id, 0, false, z, z, z - 0.1, z + 0.1, z - 0.2, z + 0.2, 0.8, ARRAY[z - 0.1, z]
    FROM (
        SELECT object_id, (phz_median + 0.02 * mod(object_id, 5))::real AS z FROM q1.phz_photo_z
    ) AS p WHERE z IS NOT NULL
"""
_MASS = """
    INSERT INTO astropt.prediction_stellar_mass (predictor_id, object_id, run_id, is_extrapolated,
        log_mass_median, log_mass_mode, log_mass_lower_68, log_mass_upper_68, log_mass_lower_95,
        log_mass_upper_95, log_mass_quantiles)
    SELECT %s, object_id, 0, false, m, m, m - 0.1, m + 0.1, m - 0.2, m + 0.2, ARRAY[m - 0.1, m]
    FROM (
        SELECT object_id, phz_pp_median_stellarmass::real AS m FROM q1.phz_physical_parameters
    ) AS p WHERE m IS NOT NULL
"""
_MORPHOLOGY = """
    INSERT INTO astropt.prediction_morphology (predictor_id, object_id, run_id, is_extrapolated,
        smooth, featured, artefact, edge_on, spiral, bar, merger, early_type)
    SELECT %s, object_id, 0, false, s, 1 - s, 0, e, 1 - e, 0.1, 0.1, s
    FROM (
        SELECT object_id, (mod(abs(object_id), 7) / 7.0)::real AS s,
            (mod(abs(object_id), 3) / 3.0)::real AS e
        FROM q1.mer_catalogue
    ) AS p
"""
_LABELS = """
    WITH made AS (
        INSERT INTO astropt.label_set (name, source, column_names, categories, n_read, n_selected,
            n_matched)
        VALUES ('truth', 'a test', ARRAY['z'], '{}', 1, 1, 1) RETURNING id
    )
    INSERT INTO astropt.label (label_set_id, object_id, values)
    SELECT made.id, object_id, ARRAY[phz_median] FROM q1.phz_photo_z, made
    WHERE phz_median IS NOT NULL
"""
_OUTLIERS = """
    WITH made AS (
        INSERT INTO astropt.outlier_run (run_id, encoder_id, methods, grid, contamination, objects,
            threshold, is_current)
        SELECT min(r.id), %s, ARRAY['if'], '{}', 0.02, 1, 0.9, true FROM astropt.run AS r
        RETURNING id
    )
    INSERT INTO astropt.outlier_score (outlier_run_id, object_id, score, outlier_rank, is_outlier,
        density_percentile)
    SELECT made.id, object_id, 1.0 / row_number() OVER w, row_number() OVER w,
        row_number() OVER w <= 6, 0.5
    FROM q1.mer_catalogue, made WINDOW w AS (ORDER BY abs(object_id))
"""


def fill(database: Database) -> None:
    """Vectors, predictions, labels and outliers for every source of a small sky."""
    with connect(database) as connection:
        rows = connection.execute("SELECT object_id FROM q1.mer_catalogue ORDER BY 1").fetchall()
    ids = np.array(rows, np.int64)[:, 0]
    vectors = np.random.default_rng(5).normal(size=(len(ids), 16)).astype(np.float16)
    encoder = add_encoder(database, "test_encoder", 16, current=True)
    add_vectors(database, encoder, ids, vectors)
    with connect(database) as connection:
        for task, statement in (
            ("photoz", _PHOTOZ),
            ("stellar_mass", _MASS),
            ("morphology", _MORPHOLOGY),
        ):
            row = connection.execute(_PREDICTOR, [task, encoder.id]).fetchone()
            assert row is not None
            connection.execute(statement, [row[0]])
        connection.execute(_LABELS)
        connection.execute(_OUTLIERS, [encoder.id])
