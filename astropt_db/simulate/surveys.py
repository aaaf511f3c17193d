"""Other surveys of the same sky: DESI-like redshifts and masses, a Gaia-like star table."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from astropt_db.simulate.tables import write_tables

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

GAIA_EPOCH = 2016.0
EUCLID_EPOCH = 2024.5
"""Julian years of Gaia DR3 positions and of the simulated images."""
GAIA_LIMIT = 20.7
DESI_LIMIT = 21.5
"""Faintest VIS magnitude of DESI-like targets; fainter than DESI so that small skies have some."""

_FIBRE_SHARE = 0.75
_DUPLICATE_SHARE = 0.06
_ARCSEC = 1.0 / 3600.0
_UNITS = {
    "TARGET_RA": "deg",
    "TARGET_DEC": "deg",
    "ra": "deg",
    "dec": "deg",
    "ra_error": "mas",
    "dec_error": "mas",
    "parallax": "mas",
    "pmra": "mas/yr",
    "pmdec": "mas/yr",
    "ref_epoch": "yr",
    "phot_g_mean_mag": "mag",
    "LOGM": "log(Msun)",
    "LOGM_ERR": "log(Msun)",
}


def write_desi(
    folder: Path, truth: pd.DataFrame, when: datetime, random: np.random.Generator
) -> list[Path]:
    """Write ``surveys/desi_zcatalog.fits`` and ``surveys/desi_stellar_mass.fits``.

    Targets are galaxies and QSOs brighter than `DESI_LIMIT` of which three quarters got a
    fibre. A few were observed twice (one row each, ZCAT_PRIMARY marks the better one), a few
    redshifts failed (ZWARN > 0, a wrong Z). Masses carry 0.1 dex of their own error.
    """
    target = truth["kind"].isin(["galaxy", "qso"]) & (truth["vis_magnitude"] < DESI_LIMIT)
    chosen = np.flatnonzero(target.to_numpy() & (random.random(len(truth)) < _FIBRE_SHARE))
    again = chosen[random.random(chosen.size) < _DUPLICATE_SHARE]
    rows = np.concatenate([chosen, again])
    primary = np.arange(rows.size) < chosen.size
    table = truth.iloc[rows]
    number = rows.size
    redshift = table["redshift"].to_numpy() + 2e-4 * random.standard_normal(number)
    faint = np.clip(table["vis_magnitude"].to_numpy() - 19.0, 0.0, 4.0)
    failed = random.random(number) < 0.01 + 0.02 * faint + 0.15 * ~primary
    redshift = np.where(failed, random.uniform(0.0, 1.6, number), redshift)
    target_id = 39_627_000_000_000_000 + 7919 * rows.astype(np.int64)
    error = random.normal(0.0, 0.08, (2, number)) * _ARCSEC
    dec = table["dec"].to_numpy() + error[1]
    columns = {
        "TARGETID": target_id,
        "TARGET_RA": table["ra"].to_numpy() + error[0] / np.cos(np.radians(dec)),
        "TARGET_DEC": dec,
        "Z": redshift,
        "ZERR": np.full(number, 2e-4),
        "ZWARN": np.where(failed, 4, 0).astype(np.int64),
        "SPECTYPE": np.where(table["kind"] == "qso", "QSO", "GALAXY"),
        "DELTACHI2": np.where(failed, 6.0, 300.0) * random.lognormal(0.0, 0.5, number),
        "ZCAT_PRIMARY": primary,
    }
    good = ~failed & primary & np.isfinite(table["log_mass"].to_numpy())
    mass = table["log_mass"].to_numpy()[good]
    masses = {
        "TARGETID": target_id[good],
        "TARGET_RA": columns["TARGET_RA"][good],
        "TARGET_DEC": columns["TARGET_DEC"][good],
        "Z": redshift[good],
        "LOGM": mass + random.normal(0.0, 0.10, mass.size),
        "LOGM_ERR": random.uniform(0.06, 0.14, mass.size),
        "CHI2": random.chisquare(8.0, mass.size),
    }
    place = folder / "surveys"
    return [
        write_tables(place / "desi_zcatalog.fits", [_hdu(columns, "ZCATALOG")], when),
        write_tables(place / "desi_stellar_mass.fits", [_hdu(masses, "MASS")], when),
    ]


def gaia_positions(truth: pd.DataFrame) -> tuple[Float64, Float64]:
    """Positions at Gaia's epoch of sources at Euclid's, degrees."""
    years = GAIA_EPOCH - EUCLID_EPOCH
    motion = truth[["pm_ra", "pm_dec"]].fillna(0.0).to_numpy() * years / 1000.0 * _ARCSEC
    dec = truth["dec"].to_numpy() + motion[:, 1]
    return truth["ra"].to_numpy() + motion[:, 0] / np.cos(np.radians(dec)), dec


def gaia_ids(truth: pd.DataFrame) -> NDArray[np.int64]:
    """Gaia-like source ids of stars and QSOs within Gaia's limit, 0 for the others."""
    seen = truth["kind"].isin(["star", "qso"]) & (truth["vis_magnitude"] < GAIA_LIMIT)
    position = truth["ra"].to_numpy() * 1e7
    pseudo = 1_600_000_000_000_000_000 + position.astype(np.int64) * 1_000_003
    return np.where(seen.to_numpy(), pseudo, 0)


def write_gaia(
    folder: Path, truth: pd.DataFrame, when: datetime, random: np.random.Generator
) -> Path:
    """Write ``surveys/gaia_source.fits``: epoch 2016.0 positions with proper motions."""
    table = truth[truth["gaia_id"].to_numpy() > 0]
    number = len(table)
    ra, dec = gaia_positions(table)
    magnitude = table["vis_magnitude"].to_numpy()
    error = 0.03 * 10.0 ** (0.2 * np.maximum(magnitude - 15.0, 0.0))
    columns = {
        "source_id": table["gaia_id"].to_numpy(),
        "ra": ra,
        "dec": dec,
        "ra_error": error,
        "dec_error": error,
        "parallax": np.abs(random.normal(0.5, 0.4, number)) + error * random.normal(size=number),
        "pmra": table["pm_ra"].fillna(0.0).to_numpy() + error * random.standard_normal(number),
        "pmdec": table["pm_dec"].fillna(0.0).to_numpy() + error * random.standard_normal(number),
        "ref_epoch": np.full(number, GAIA_EPOCH),
        "phot_g_mean_mag": magnitude + 0.1,
    }
    return write_tables(folder / "surveys" / "gaia_source.fits", [_hdu(columns, "GAIA")], when)


def _hdu(columns: dict[str, NDArray[np.generic]], name: str) -> fits.BinTableHDU:
    """A FITS table from arrays, with formats after their types."""
    codes = {"i": "K", "f": "D", "b": "L"}
    made = [
        fits.Column(
            key,
            codes.get(values.dtype.kind, "8A"),
            unit=_UNITS.get(key),
            array=values.astype("U8") if values.dtype.kind in "OU" else values,
        )
        for key, values in columns.items()
    ]
    return fits.BinTableHDU.from_columns(made, name=name)
