"""What is known of well-known surveys: ids, positions, cuts, epochs, errors, radii."""

from __future__ import annotations

from dataclasses import dataclass

from astropt_db.errors import ConfigurationError

EUCLID_EPOCH = 2024.5
"""Julian year of the Q1 observations; positions with proper motions are moved to it."""


@dataclass(frozen=True)
class Recipe:
    """How a survey's catalogue is read. Column names are tried in order, in any case.

    Attributes
    ----------
    title
        One line for people.
    id, ra, dec
        Columns that may hold id and position.
    cuts
        Column and the value that it must have, where the file has the column.
    primary
        Columns of which the first one in the file must be true: one row per object.
    epoch
        Julian year of the positions, or the column with it; empty if it does not matter.
    pmra, pmdec
        Proper motions, mas/yr (that in right ascension with cos dec).
    errors
        Columns of the positions' errors; the larger one counts.
    error_unit
        Arcsec per unit of the errors.
    nulls
        Numbers that mean "no value".
    radius
        Usual match radius, arcsec.
    """

    title: str
    id: tuple[str, ...] = ()
    ra: tuple[str, ...] = ()
    dec: tuple[str, ...] = ()
    cuts: tuple[tuple[str, int | str], ...] = ()
    primary: tuple[str, ...] = ()
    epoch: str = ""
    pmra: str = ""
    pmdec: str = ""
    errors: tuple[str, ...] = ()
    error_unit: float = 1.0
    nulls: tuple[float, ...] = ()
    radius: float = 1.0


RECIPES = {
    "desi": Recipe(
        "DESI redshifts (zpix, zall): ZWARN = 0, targets, primary rows",
        ("TARGETID",),
        ("TARGET_RA", "MEAN_FIBER_RA"),
        ("TARGET_DEC", "MEAN_FIBER_DEC"),
        (("ZWARN", 0), ("OBJTYPE", "TGT")),
        ("ZCAT_PRIMARY", "SV_PRIMARY"),
    ),
    "gaia": Recipe(
        "Gaia DR3, moved from J2016.0 to J2024.5",
        ("source_id",),
        ("ra",),
        ("dec",),
        epoch="2016.0",
        pmra="pmra",
        pmdec="pmdec",
        errors=("ra_error", "dec_error"),
        error_unit=1e-3,
    ),
    "sdss": Recipe(
        "SDSS spectra (specObj): SPECPRIMARY = 1",
        ("SPECOBJID",),
        ("PLUG_RA", "PLUGRA", "RA"),
        ("PLUG_DEC", "PLUGDEC", "DEC"),
        (("SPECPRIMARY", 1),),
    ),
    "des": Recipe(
        "DES DR2 and Y6; -99, 37.5 and -9.999e9 are no values",
        ("COADD_OBJECT_ID",),
        ("ALPHAWIN_J2000", "RA"),
        ("DELTAWIN_J2000", "DEC"),
        nulls=(-99.0, 37.5, -9.999e9),
    ),
    "erosita": Recipe(
        "eROSITA eRASS1: radius of three POS_ERR per row",
        ("DETUID", "UID"),
        ("RA",),
        ("DEC",),
        errors=("POS_ERR",),
        radius=5.0,
    ),
    "lotss": Recipe(
        "LoTSS DR2: radius of three E_RA, E_DEC per row",
        ("Source_Name",),
        ("RA",),
        ("DEC",),
        errors=("E_RA", "E_DEC"),
    ),
    "allwise": Recipe(
        "AllWISE, beam of 6 arcsec",
        ("cntr", "designation", "source_id"),
        ("ra",),
        ("dec",),
        errors=("sigra", "sigdec"),
        radius=3.0,
    ),
    "hsc": Recipe(
        "HSC PDR3; its object_id becomes NAME_object_id", ("object_id",), ("ra",), ("dec",)
    ),
}


def find_recipe(name: str | None) -> Recipe:
    """A recipe by its name; an empty one without.

    Raises
    ------
    ConfigurationError
        If there is none such.
    """
    if name is None:
        return Recipe("")
    if name not in RECIPES:
        raise ConfigurationError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
