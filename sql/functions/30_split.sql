-- Which sources a model may learn from. The twin in NumPy is astropt_db/database/split.py.

CREATE OR REPLACE FUNCTION astropt.mix32(number bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    x bigint := number & 4294967295;
BEGIN
    -- The factor is below 2^31, so that no product leaves 63 bits.
    x := (((x >> 16) # x) * 73244475) & 4294967295;
    x := (((x >> 16) # x) * 73244475) & 4294967295;
    RETURN (x >> 16) # x;
END
$$;

COMMENT ON FUNCTION astropt.mix32 IS
    'Spread the lowest 32 bits of a number evenly over 0 … 2^32 - 1: twice x = (x >> 16 xor x) * 0x45d9f3b mod 2^32, then x >> 16 xor x; one to one';

CREATE OR REPLACE FUNCTION astropt.split(object_id bigint) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    percent bigint := astropt.mix32(astropt.mix32(object_id >> 32) # (object_id & 4294967295)) % 100;
BEGIN
    RETURN CASE WHEN percent < 70 THEN 'train' WHEN percent < 80 THEN 'calibration' ELSE 'test' END;
END
$$;

COMMENT ON FUNCTION astropt.split IS
    'Share that a source belongs to, for every model and task: train (70 %), calibration (10 %) or test (20 %), by a hash of its id: mix32(mix32(high 32 bits) xor low 32 bits) mod 100';
