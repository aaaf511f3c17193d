"""The verb ``ingest`` with all its kinds of input; importing a module adds its commands."""

from astropt_db.cli import archive, images, labels
from astropt_db.cli.ingest import ingest

__all__ = ["archive", "images", "ingest", "labels"]
