"""Euclid galaxies, their AstroPT embeddings and everything predicted from them, in PostgreSQL."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``Catalogue``, imported when it is asked for: astropy and pandas take a second."""
    if name == "Catalogue":
        return import_module("astropt_db.catalogue").Catalogue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
