-- Labels and predictions for everybody. The plain views show the current predictor of each task,
-- those ending in _all every predictor. The sub-query keeps a look-up by object_id on the index.

CREATE OR REPLACE VIEW astropt.label_value AS
SELECT
    s.name AS label_set,
    l.object_id,
    astropt.split(l.object_id) AS split,
    s.column_names[v.place] AS column_name,
    nullif(v.value, 'NaN') AS value,
    s.categories -> s.column_names[v.place] ->> nullif(v.value, 'NaN')::integer AS category,
    l.separation
FROM astropt.label AS l
JOIN astropt.label_set AS s ON s.id = l.label_set_id
CROSS JOIN LATERAL unnest(l.values) WITH ORDINALITY AS v (value, place);

COMMENT ON VIEW astropt.label_value IS 'Labels one by one: a row for each set, source and column';
SELECT astropt.copy_comments('astropt.label_value', 'astropt.label');
COMMENT ON COLUMN astropt.label_value.label_set IS 'name of the set [; meta.id]';
COMMENT ON COLUMN astropt.label_value.split IS
    'share of the source: train, calibration or test [; meta.code]';
COMMENT ON COLUMN astropt.label_value.column_name IS 'column of the set [; meta.id]';
COMMENT ON COLUMN astropt.label_value.value IS
    'the label, in the units of its origin; NULL if there is none [; stat.value]';
COMMENT ON COLUMN astropt.label_value.category IS
    'the word that the value stands for; NULL for numbers [; meta.code.class]';

-- Views hold no jsonb, which JDBC (TOPCAT) cannot use; databases of before had it here.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('astropt.predictor_info')
            AND atttypid = 'jsonb'::regtype
    ) THEN
        DROP VIEW astropt.predictor_info;
    END IF;
END
$$;

CREATE OR REPLACE VIEW astropt.predictor_info AS
SELECT
    p.id,
    p.task,
    p.head,
    p.features,
    e.name AS encoder,
    p.label_sets,
    p.cut,
    p.n_train,
    p.n_calibration,
    p.outputs,
    p.metrics::text AS metrics,
    p.settings::text AS settings,
    p.training::text AS training,
    octet_length(p.weights) AS weights_bytes,
    p.weights_sha256,
    p.seed,
    p.code_version,
    p.is_current,
    p.run_id,
    p.created_at
FROM astropt.predictor AS p
LEFT JOIN astropt.encoder AS e ON e.id = p.encoder_id;

COMMENT ON VIEW astropt.predictor_info IS 'Predictors without their weights';
SELECT astropt.copy_comments('astropt.predictor_info', 'astropt.predictor');
COMMENT ON COLUMN astropt.predictor_info.encoder IS
    'name of the encoder of its embeddings; NULL if it sees fluxes only [; meta.id]';
COMMENT ON COLUMN astropt.predictor_info.weights_bytes IS 'size of the weights [byte; meta.number]';

CREATE OR REPLACE VIEW astropt.photoz_all AS
SELECT object_id, z_median, z_mode, z_lower_68, z_upper_68, z_lower_95, z_upper_95, odds,
    is_extrapolated, z_quantiles, predictor_id, run_id
FROM astropt.prediction_photoz;

COMMENT ON VIEW astropt.photoz_all IS
    'Photometric redshifts with intervals and quantiles, of every predictor';
SELECT astropt.copy_comments('astropt.photoz_all', 'astropt.prediction_photoz');

CREATE OR REPLACE VIEW astropt.photoz AS
SELECT object_id, z_median, z_mode, z_lower_68, z_upper_68, z_lower_95, z_upper_95, odds,
    is_extrapolated, predictor_id
FROM astropt.prediction_photoz
WHERE predictor_id = (SELECT p.id FROM astropt.predictor AS p WHERE p.task = 'photoz' AND p.is_current);

COMMENT ON VIEW astropt.photoz IS
    'Photometric redshifts with intervals, of the current predictor; photoz_all has quantiles and every predictor';
SELECT astropt.copy_comments('astropt.photoz', 'astropt.prediction_photoz');

CREATE OR REPLACE VIEW astropt.stellar_mass_all AS
SELECT object_id, log_mass_median AS log_mass, log_mass_mode,
    log_mass_lower_68, log_mass_upper_68, log_mass_lower_95, log_mass_upper_95,
    is_extrapolated, log_mass_quantiles, predictor_id, run_id
FROM astropt.prediction_stellar_mass;

COMMENT ON VIEW astropt.stellar_mass_all IS
    'Stellar masses with intervals and quantiles, of every predictor';
SELECT astropt.copy_comments('astropt.stellar_mass_all', 'astropt.prediction_stellar_mass');
COMMENT ON COLUMN astropt.stellar_mass_all.log_mass IS
    'median of the stellar mass [log10(Msun); phys.mass;stat.median]';

CREATE OR REPLACE VIEW astropt.stellar_mass AS
SELECT object_id, log_mass, log_mass_lower_68, log_mass_upper_68, log_mass_lower_95,
    log_mass_upper_95, is_extrapolated, predictor_id
FROM astropt.stellar_mass_all
WHERE predictor_id = (SELECT p.id FROM astropt.predictor AS p WHERE p.task = 'stellar_mass' AND p.is_current);

COMMENT ON VIEW astropt.stellar_mass IS
    'Stellar masses with intervals, of the current predictor; stellar_mass_all has quantiles and every predictor';
SELECT astropt.copy_comments('astropt.stellar_mass', 'astropt.stellar_mass_all');

CREATE OR REPLACE VIEW astropt.morphology_all AS
SELECT
    object_id,
    astropt.morphology_class(smooth, featured, artefact, edge_on, spiral, bar, merger)
        AS morphology_class,
    smooth, featured, artefact, edge_on, spiral, bar, merger, early_type, is_extrapolated,
    predictor_id, run_id
FROM astropt.prediction_morphology;

COMMENT ON VIEW astropt.morphology_all IS 'Morphology, of every predictor';
SELECT astropt.copy_comments('astropt.morphology_all', 'astropt.prediction_morphology');
COMMENT ON COLUMN astropt.morphology_all.morphology_class IS
    'artefact, merger, smooth, edge_on, barred_spiral, spiral, barred or featured, see the function morphology_class [; src.morph.type]';

CREATE OR REPLACE VIEW astropt.morphology AS
SELECT object_id, morphology_class, smooth, featured, artefact, edge_on, spiral, bar, merger,
    early_type, is_extrapolated, predictor_id
FROM astropt.morphology_all
WHERE predictor_id = (SELECT p.id FROM astropt.predictor AS p WHERE p.task = 'morphology' AND p.is_current);

COMMENT ON VIEW astropt.morphology IS
    'Morphology as expected vote fractions and a class, of the current predictor';
SELECT astropt.copy_comments('astropt.morphology', 'astropt.morphology_all');

CREATE OR REPLACE VIEW astropt.object_class_all AS
SELECT
    object_id,
    astropt.most_probable_class(prob_star, prob_galaxy, prob_qso, prob_artefact) AS object_class,
    prob_star, prob_galaxy, prob_qso, prob_artefact, is_extrapolated, predictor_id, run_id
FROM astropt.prediction_object_class;

COMMENT ON VIEW astropt.object_class_all IS
    'Star, galaxy, QSO or artefact with probabilities, of every predictor';
SELECT astropt.copy_comments('astropt.object_class_all', 'astropt.prediction_object_class');
COMMENT ON COLUMN astropt.object_class_all.object_class IS
    'the most probable of galaxy, star, qso, artefact [; src.class]';

CREATE OR REPLACE VIEW astropt.object_class AS
SELECT object_id, object_class, prob_star, prob_galaxy, prob_qso, prob_artefact, is_extrapolated,
    predictor_id
FROM astropt.object_class_all
WHERE predictor_id = (SELECT p.id FROM astropt.predictor AS p WHERE p.task = 'object_class' AND p.is_current);

COMMENT ON VIEW astropt.object_class IS
    'Star, galaxy, QSO or artefact with probabilities, of the current predictor';
SELECT astropt.copy_comments('astropt.object_class', 'astropt.object_class_all');

CREATE OR REPLACE VIEW astropt.predicted_value_all AS
SELECT p.task, v.object_id, v.value_median, v.value_mode, v.value_lower_68, v.value_upper_68,
    v.value_lower_95, v.value_upper_95, v.is_extrapolated, v.value_quantiles, v.predictor_id,
    p.is_current, v.run_id
FROM astropt.prediction_value AS v
JOIN astropt.predictor AS p ON p.id = v.predictor_id;

COMMENT ON VIEW astropt.predicted_value_all IS
    'Predictions of the user''s own columns by task, of every predictor';
SELECT astropt.copy_comments('astropt.predicted_value_all', 'astropt.prediction_value');
COMMENT ON COLUMN astropt.predicted_value_all.task IS 'name of the task [; meta.id]';
COMMENT ON COLUMN astropt.predicted_value_all.is_current IS
    'true for the current predictor of the task [; meta.code]';
