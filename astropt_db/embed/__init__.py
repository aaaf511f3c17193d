"""The embedding worker: images in, vectors out, exactly once."""
