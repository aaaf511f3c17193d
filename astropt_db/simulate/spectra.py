"""The SPE catalogues of a tile: ranked redshift solutions as slitless spectra would give.

No spectra are drawn. The chance that the best solution is right follows from the line that the
red grism (12047-18734 Angstrom) can see: H-alpha of star-forming galaxies between redshift 0.9
and 1.8, and from the brightness of the source. Wrong solutions are spread as line confusions
and noise peaks are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astropt_db.simulate.catalogue import Measured
from astropt_db.simulate.mosaics import Tile, stamp
from astropt_db.simulate.tables import product_hdu, write_tables

Float64 = NDArray[np.float64]
Columns = dict[str, NDArray[np.generic]]

RANKS = 5
FAINTEST_H = 22.5
"""Sources brighter than this in H have spectra."""

_PDF_SIZE = 80
_GRISM_EDGES = (12047.0, 18734.0)
_HALF_WIDTH = 0.08


def write_spectra(
    folder: Path,
    tile: Tile,
    measured: Measured,
    truth: pd.DataFrame,
    h_magnitude: Float64,
    seed: int,
    random: np.random.Generator,
) -> Path:
    """Write the SPE redshift catalogue, five tables in one file.

    Parameters
    ----------
    folder, tile, seed
        Where to write and what to name it after.
    measured
        The tile's catalogued sources, ``n``.
    truth
        Their truth, ``n`` rows.
    h_magnitude
        Their measured H magnitude, NaN without one.
    random
        Source of all scatter.
    """
    observed = np.flatnonzero(h_magnitude < FAINTEST_H)
    ids = measured.object_id[observed]
    rows = truth.iloc[observed]
    bright = h_magnitude[observed]
    classes, probability = _classify(rows["kind"].to_numpy(dtype=str), bright, random)
    galaxy = _candidates(ids, rows, bright, (0.2, 2.6), random)
    qso = _candidates(ids, rows, bright + 0.8, (0.3, 4.5), random)
    types = np.array(["O", "B", "A", "F", "G", "K", "M"])
    star: Columns = {
        "OBJECT_ID": np.repeat(ids, RANKS),
        "SPE_RANK": np.tile(np.arange(RANKS), ids.size),
        "SPE_SUBCLASS": types[random.integers(2, 7, ids.size * RANKS)],
    }
    columns: dict[str, Columns] = {
        "quality": _quality(ids, random),
        "classification": {
            "OBJECT_ID": ids,
            "SPE_CLASS": classes,
            "SPE_STAR_PROB": probability[:, 0],
            "SPE_GAL_PROB": probability[:, 1],
            "SPE_QSO_PROB": probability[:, 2],
        },
        "galaxy_candidates": galaxy,
        "star_candidates": star,
        "qso_candidates": qso,
    }
    hdus = [
        product_hdu(
            f"spectro_zcatalog_spe_{name}",
            len(values["OBJECT_ID"]),
            values,
            f"SPE_{name.upper()}",
            {},
        )
        for name, values in columns.items()
    ]
    _, when = stamp(seed, "SPE", tile.index)
    name = f"EUC_SPE_WIDE-CAT-Z_{tile.index}_N_{when:%Y%m%dT%H%M%S.%fZ}.fits"
    return write_tables(
        folder / "catalogs" / "SPE_PF_OUTPUT_CATALOG" / str(tile.index) / name, hdus, when
    )


def _classify(
    kind: NDArray[np.str_], bright: Float64, random: np.random.Generator
) -> tuple[NDArray[np.str_], Float64]:
    """Spectroscopic class and probabilities of star, galaxy and QSO."""
    sure = np.clip(3.0 - 0.9 * (bright - 19.0), 0.2, 3.0)
    right = np.stack([kind == "star", ~np.isin(kind, ["star", "qso"]), kind == "qso"], axis=1)
    score = right * sure[:, None] + random.normal(0.0, 0.7, right.shape) + [0.0, 0.8, -0.5]
    probability = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    return np.array(["STAR", "GALAXY", "QSO"])[probability.argmax(axis=1)], probability


def _candidates(
    ids: NDArray[np.int64],
    truth: pd.DataFrame,
    bright: Float64,
    limits: tuple[float, float],
    random: np.random.Generator,
) -> Columns:
    """Five redshift solutions per source, best first."""
    number = ids.size
    true = np.nan_to_num(truth["redshift"].to_numpy(), nan=0.0)
    forming = np.nan_to_num(truth["log_sfr"].to_numpy(), nan=0.5) > 0.0
    line = (true > 0.9) & (true < 1.82) & forming
    chance = np.clip(0.95 - 0.14 * (bright - 18.5), 0.05, 0.95)
    chance = np.where(line, np.minimum(chance + 0.35, 0.97), 0.35 * chance)
    chance = np.where(true > 0.0, chance, 0.0)
    found = random.random(number) < chance
    redshift = random.uniform(*limits, (number, RANKS))
    error = 10.0 ** random.normal(-3.2, 0.25, (number, RANKS))
    # H-alpha taken for [OIII] or [SII]: the usual confusions stand second.
    redshift[:, 1] = np.clip((1.0 + true) * 6563.0 / 5007.0 - 1.0, *limits)
    redshift[:, 0] = np.where(
        found, true + error[:, 0] * random.standard_normal(number), redshift[:, 0]
    )
    share = random.dirichlet([0.7, 0.35, 0.25, 0.2, 0.15], number)
    ordered = -np.sort(-share, axis=1)
    first = np.where(found, 0.55 + 0.44 * ordered[:, 0], ordered[:, 0])
    rest = ordered[:, 1:] / np.maximum(ordered[:, 1:].sum(axis=1, keepdims=True), 1e-9)
    probability = np.concatenate([first[:, None], rest * (1.0 - first)[:, None]], axis=1)
    # The second solution must not outrank the first after rescaling.
    probability = -np.sort(-probability, axis=1)
    flat = redshift.ravel()
    grid = np.linspace(-1.0, 1.0, _PDF_SIZE)
    width = np.clip(error.ravel() / _HALF_WIDTH, 0.03, 1.0)
    pdf = np.exp(-0.5 * (grid[None] / width[:, None]) ** 2)
    signal = np.clip(3.0 * 10.0 ** (-0.4 * (bright - 20.0)), 0.05, 200.0)
    return {
        "OBJECT_ID": np.repeat(ids, RANKS),
        "SPE_RANK": np.tile(np.arange(RANKS), number),
        "SPE_Z": flat,
        "SPE_Z_ERR": error.ravel(),
        "SPE_Z_PROB": probability.ravel(),
        "SPE_Z_REL": np.clip(probability.ravel() * 0.95, 0.0, 1.0),
        "SPE_SUBCLASS": np.where(np.repeat(forming, RANKS), "STARFORMING", "PASSIVE"),
        "SPE_CONT_SNR": np.repeat(signal, RANKS),
        "SPE_PDF": pdf / pdf.sum(axis=1, keepdims=True),
        "SPE_PDF_ZMIN": flat - _HALF_WIDTH,
        "SPE_PDF_ZMAX": flat + _HALF_WIDTH,
        "SPE_PDF_DELTAZ": np.full(flat.size, 2.0 * _HALF_WIDTH / (_PDF_SIZE - 1)),
    }


def _quality(ids: NDArray[np.int64], random: np.random.Generator) -> Columns:
    """Columns of SPE_QUALITY."""
    number = ids.size
    dithers = random.integers(2, 5, number)
    none = np.zeros(number, dtype=np.int64)
    return {
        "OBJECT_ID": ids,
        "SPE_GRISM": np.full(number, "RGS"),
        "SPE_W_MIN": np.full(number, _GRISM_EDGES[0]),
        "SPE_W_MAX": np.full(number, _GRISM_EDGES[1]),
        "SPE_NPIX": random.integers(430, 500, number),
        "SPE_N_DITH_MAX": dithers,
        "SPE_N_DITH_MED": dithers,
        "SPE_ERROR_FLAG": none,
        "SPE_WARNING_FLAG": (random.random(number) < 0.05).astype(np.int64),
        "SPE_CONTEXT_ERROR_FLAG": none,
        "SPE_CONTEXT_WARNING_FLAG": none,
        "SPE_CLASS_ERROR_FLAG": none,
    }
