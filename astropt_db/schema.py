"""All declared tables: what the migrations must add up to.

Each part declares its tables beside its code, in the shared metadata; this module imports them
all, for the migrations and for the test that compares the two.
"""

from astropt_db.database import encoder_tables, operation_tables, tables
from astropt_db.embed import tables as embed_tables
from astropt_db.images import tables as image_tables
from astropt_db.outliers import tables as outlier_tables
from astropt_db.predict import tables as prediction_tables
from astropt_db.q1 import tables as q1_tables
from astropt_db.search import tables as search_tables
from astropt_db.surveys import tables as survey_tables

PARTS = (
    tables,
    q1_tables,
    encoder_tables,
    image_tables,
    embed_tables,
    outlier_tables,
    prediction_tables,
    search_tables,
    survey_tables,
    operation_tables,
)
"""The modules that declare tables."""

metadata = tables.metadata
