-- One row per source with the best of everything.

CREATE OR REPLACE VIEW astropt.catalogue AS
SELECT
    s.object_id,
    s.right_ascension,
    s.declination,
    s.field,
    s.tile_index,
    s.mag_vis,
    c.object_class,
    m.morphology_class,
    m.smooth,
    m.featured,
    m.edge_on,
    m.spiral,
    m.bar,
    m.merger,
    z.z_median,
    z.z_lower_68,
    z.z_upper_68,
    z.odds,
    z.is_extrapolated AS is_z_extrapolated,
    l.log_mass,
    l.log_mass_lower_68,
    l.log_mass_upper_68,
    l.is_extrapolated AS is_mass_extrapolated,
    o.is_outlier,
    s.vis_det,
    s.det_quality_flag,
    s.spurious_flag,
    s.point_like_prob,
    s.healpix29
FROM astropt.source AS s
LEFT JOIN astropt.object_class AS c ON c.object_id = s.object_id
LEFT JOIN astropt.morphology AS m ON m.object_id = s.object_id
LEFT JOIN astropt.photoz AS z ON z.object_id = s.object_id
LEFT JOIN astropt.stellar_mass AS l ON l.object_id = s.object_id
LEFT JOIN astropt.outliers AS o ON o.object_id = s.object_id;

COMMENT ON VIEW astropt.catalogue IS
    'One row per source: position, magnitude, class, morphology, photometric redshift, stellar mass, outlier and quality flags, of the current predictors';
SELECT astropt.copy_comments('astropt.catalogue', 'astropt.stellar_mass');
SELECT astropt.copy_comments('astropt.catalogue', 'astropt.photoz');
SELECT astropt.copy_comments('astropt.catalogue', 'astropt.morphology');
SELECT astropt.copy_comments('astropt.catalogue', 'astropt.object_class');
SELECT astropt.copy_comments('astropt.catalogue', 'astropt.source');
COMMENT ON COLUMN astropt.catalogue.is_z_extrapolated IS
    'true where the redshift''s predictor never saw the like of this source [; meta.code.qual]';
COMMENT ON COLUMN astropt.catalogue.is_mass_extrapolated IS
    'true where the mass''s predictor never saw the like of this source [; meta.code.qual]';
COMMENT ON COLUMN astropt.catalogue.is_outlier IS
    'true for the sources that are unlike all others; NULL if not searched [; meta.code]';
