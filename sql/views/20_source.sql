-- One row per Euclid source, with what most queries ask first.

CREATE OR REPLACE VIEW astropt.source AS
SELECT
    m.object_id,
    m.right_ascension,
    m.declination,
    m.healpix29,
    m.segmentation_map_id / 1000000 AS tile_index,
    astropt.field_name(m.right_ascension, m.declination) AS field,
    CASE WHEN m.vis_det = 1 THEN astropt.ab_magnitude(m.flux_detection_total) END AS mag_vis,
    CASE WHEN m.vis_det = 1 THEN astropt.ab_magnitude(m.flux_segmentation) END
        AS mag_vis_segmentation,
    m.vis_det,
    m.segmentation_area,
    m.det_quality_flag,
    m.spurious_flag,
    m.spurious_prob,
    m.point_like_flag,
    m.point_like_prob,
    f.release,
    m.ingest_file_id
FROM q1.mer_catalogue AS m
JOIN astropt.ingest_file AS f ON f.id = m.ingest_file_id;

COMMENT ON VIEW astropt.source IS
    'One row per Euclid source: position, field, tile, VIS magnitude, flags';
COMMENT ON COLUMN astropt.source.object_id IS 'Euclid source identifier [; meta.id;meta.main]';
COMMENT ON COLUMN astropt.source.right_ascension IS 'right ascension, ICRS [deg; pos.eq.ra;meta.main]';
COMMENT ON COLUMN astropt.source.declination IS 'declination, ICRS [deg; pos.eq.dec;meta.main]';
COMMENT ON COLUMN astropt.source.healpix29 IS 'HEALPix cell, order 29, nested [; pos.healpix]';
COMMENT ON COLUMN astropt.source.tile_index IS 'MER tile, from SEGMENTATION_MAP_ID [; meta.id]';
COMMENT ON COLUMN astropt.source.field IS
    'EDF-N, EDF-S, EDF-F or LDN 1641; NULL elsewhere [; meta.id]';
COMMENT ON COLUMN astropt.source.mag_vis IS
    'VIS magnitude from the total (Kron) flux; NULL if not detected in VIS or the flux is not positive [mag; phot.mag;em.opt]';
COMMENT ON COLUMN astropt.source.mag_vis_segmentation IS
    'VIS magnitude from the flux in the segmented area [mag; phot.mag;em.opt]';
COMMENT ON COLUMN astropt.source.vis_det IS '1 detected in VIS, 0 only in NISP [; meta.code]';
COMMENT ON COLUMN astropt.source.segmentation_area IS 'isophotal area [pix; phys.angArea]';
COMMENT ON COLUMN astropt.source.det_quality_flag IS 'detection quality bits [; meta.code]';
COMMENT ON COLUMN astropt.source.spurious_flag IS '1 if probably no real source [; meta.code]';
COMMENT ON COLUMN astropt.source.spurious_prob IS 'probability of no real source [; stat.probability]';
COMMENT ON COLUMN astropt.source.point_like_flag IS '1 if point-like, else NULL [; meta.code]';
COMMENT ON COLUMN astropt.source.point_like_prob IS 'probability of a point source [; stat.probability]';
COMMENT ON COLUMN astropt.source.release IS 'data release of the row [; meta.version]';
COMMENT ON COLUMN astropt.source.ingest_file_id IS 'file of the row, see astropt.ingest_file [; meta.id]';

-- The paper (arXiv:2503.15312) does not state its cut. This is our reading: the selection of the
-- Q1 visual-morphology catalogue (Zenodo 15106473) with the quality cuts of the public scripts.
CREATE OR REPLACE VIEW astropt.paper_selection AS
SELECT s.*
FROM astropt.source AS s
WHERE
    (s.segmentation_area > 700 OR (s.mag_vis_segmentation < 20.5 AND s.segmentation_area > 200))
    AND s.spurious_flag = 0
    AND s.det_quality_flag < 4;

COMMENT ON VIEW astropt.paper_selection IS
    'Sources like those of arXiv:2503.15312, in our reading: segmentation area > 700 pixels, or VIS < 20.5 and area > 200 pixels; spurious_flag = 0, det_quality_flag < 4';
SELECT astropt.copy_comments('astropt.paper_selection', 'astropt.source');
