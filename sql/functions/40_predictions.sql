-- Names for what the predictors say.

CREATE OR REPLACE FUNCTION astropt.morphology_class(
    smooth real, featured real, artefact real, edge_on real, spiral real, bar real, merger real
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN smooth IS NULL THEN NULL
    WHEN artefact > smooth AND artefact > featured THEN 'artefact'
    WHEN merger >= 0.5 THEN 'merger'
    WHEN smooth >= featured THEN 'smooth'
    WHEN edge_on >= 0.5 THEN 'edge_on'
    WHEN spiral >= 0.5 AND bar >= 0.5 THEN 'barred_spiral'
    WHEN spiral >= 0.5 THEN 'spiral'
    WHEN bar >= 0.5 THEN 'barred'
    ELSE 'featured'
END;

COMMENT ON FUNCTION astropt.morphology_class IS
    'Name of a shape from vote fractions, first that holds: artefact (the most votes), merger (half), smooth (more than featured), edge_on (half), barred_spiral, spiral, barred (half), featured';

CREATE OR REPLACE FUNCTION astropt.most_probable_class(
    prob_star real, prob_galaxy real, prob_qso real, prob_artefact real
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE greatest(prob_star, prob_galaxy, prob_qso, prob_artefact)
    WHEN prob_galaxy THEN 'galaxy'
    WHEN prob_star THEN 'star'
    WHEN prob_qso THEN 'qso'
    WHEN prob_artefact THEN 'artefact'
END;

COMMENT ON FUNCTION astropt.most_probable_class IS
    'The class with the greatest probability: galaxy, star, qso or artefact';

CREATE OR REPLACE FUNCTION astropt.current_predictor(task text) RETURNS integer
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (SELECT p.id FROM astropt.predictor AS p
        WHERE p.task = current_predictor.task AND p.is_current);
END
$$;

COMMENT ON FUNCTION astropt.current_predictor IS
    'Number of the predictor whose results the views show for a task; NULL if there is none';
