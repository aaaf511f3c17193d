"""Built-in recipes: where well-known label sets have their columns, and which rows to trust."""

from __future__ import annotations

from dataclasses import dataclass, field

from astropt_db.errors import ConfigurationError


@dataclass(frozen=True)
class Recipe:
    """How to read a label set.

    Attributes
    ----------
    title
        One line for people.
    columns
        Label by name: a column of the file, or a word in quotes that every row gets.
    cut
        SQL condition on the file's columns; empty for all rows.
    ra, dec
        Columns of the position in degrees; empty where rows come by id.
    query
        Name of the statement that gives the labels, where they come from the database.
    """

    title: str
    columns: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    ra: str = ""
    dec: str = ""
    query: str = ""


RECIPES = {
    "desi": Recipe(
        "DESI redshift catalogue (zall): ZWARN = 0, primary, spectral type",
        {"z": "Z", "object_class": "SPECTYPE"},
        "zwarn = 0 AND zcat_primary",
        "TARGET_RA",
        "TARGET_DEC",
    ),
    "desi_mass": Recipe(
        "DESI stellar masses (Siudek et al. 2024): LOGM > 0, CHI2 < 17, LOGM_ERR < 0.25",
        {"log_mass": "LOGM"},
        "logm > 0 AND chi2 < 17 AND logm_err < 0.25",
        "TARGET_RA",
        "TARGET_DEC",
    ),
    "gaia_stars": Recipe(
        "Gaia sources that move: proper motion above five times its error",
        {"object_class": "'star'"},
        "pmra ^ 2 + pmdec ^ 2 > 25 * (ra_error ^ 2 + dec_error ^ 2)",
        "ra",
        "dec",
    ),
    "zoobot": Recipe(
        "Galaxy Zoo answers of q1.mer_morphology, as fractions", query="labels_zoobot"
    ),
    "zenodo": Recipe(
        "Galaxy Zoo fractions of q1.visual_morphology (Zenodo 15106473)", query="labels_zenodo"
    ),
    "phz_class": Recipe(
        "star, galaxy or QSO of q1.phz_classification; spurious sources as artefacts",
        query="labels_phz_class",
    ),
}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises
    ------
    ConfigurationError
        If there is none such.
    """
    if name not in RECIPES:
        raise ConfigurationError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
