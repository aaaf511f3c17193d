-- Vectors in a type that every client reads.

CREATE OR REPLACE VIEW astropt.embedding_array AS
SELECT
    e.object_id,
    n.name AS encoder,
    e.flags,
    e.missing_fraction,
    e.embedding::real[] AS embedding,
    e.run_id
FROM astropt.embedding AS e
JOIN astropt.encoder AS n ON n.id = e.encoder_id;

COMMENT ON VIEW astropt.embedding_array IS
    'Vectors as arrays of numbers, for clients that do not know pgvector''s types';
SELECT astropt.copy_comments('astropt.embedding_array', 'astropt.embedding');
COMMENT ON COLUMN astropt.embedding_array.encoder IS 'name of the encoder [; meta.id]';
