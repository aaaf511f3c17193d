"""Euclid galaxies, their AstroPT embeddings and everything predicted from them, in PostgreSQL."""

__version__ = "0.1.0"
