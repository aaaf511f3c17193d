"""The PHZ catalogues of a tile: redshift distributions, classes, physical parameters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astropt_db.simulate.bands import Field
from astropt_db.simulate.catalogue import Measured
from astropt_db.simulate.mosaics import Tile, stamp
from astropt_db.simulate.photometry import Fluxes
from astropt_db.simulate.phz import TemplateFit, fit, physical_parameters
from astropt_db.simulate.seds import REDSHIFTS, Photometry
from astropt_db.simulate.tables import product_hdu, write_tables

Float64 = NDArray[np.float64]
Columns = dict[str, NDArray[np.generic]]

STAR, GALAXY, QSO = 1, 2, 4
"""Bits of PHZ_CLASSIFICATION."""

_THRESHOLDS: dict[Field, tuple[float, float, float]] = {
    "EDF-N": (0.5814, 0.2205, 0.6687),
    "EDF-S": (0.5721, 0.2331, 0.6402),
    "EDF-F": (0.5721, 0.2331, 0.6402),
}
"""Star, galaxy and QSO thresholds; the EDF-N values are those of real rows."""
_TOMOGRAPHIC_EDGES = np.array([0.2, 0.46, 0.64, 0.80, 0.95, 1.12, 1.35, 1.6, 1.9, 2.5])
_PHOTOMETRIC_SYSTEM: dict[Field, int] = {"EDF-N": 1, "EDF-S": 0, "EDF-F": 0}


@dataclass(frozen=True)
class PhzResult:
    """What later products need of the PHZ run: medians and class probabilities."""

    median: Float64
    classes: NDArray[np.int64]


def write_phz(
    folder: Path,
    tile: Tile,
    measured: Measured,
    fluxes: Fluxes,
    light: Photometry,
    seed: int,
    random: np.random.Generator,
) -> tuple[list[Path], PhzResult]:
    """Fit every source of a tile and write PHZCAT, CLASSCAT and PHYSPARAM.

    Real names carry no tile number: the folder says which tile they belong to.
    """
    unreddened = 10.0 ** (0.4 * measured.ebv[:, None] * light.extinction)
    flux = fluxes.total[measured.rows] * unreddened
    error = fluxes.total_error[measured.rows] * unreddened
    fitted = fit(flux, error, light, random)
    probability = _class_probabilities(fitted, measured)
    thresholds = np.array(_THRESHOLDS[tile.field])
    classes = ((probability > thresholds) * np.array([STAR, GALAXY, QSO])).sum(axis=1)
    photo_z = _photo_z(fitted, measured, tile.field, classes)
    for index, band in enumerate(fluxes.bands):
        photo_z[f"FLUX_{band}_UNIF"] = flux[:, index]
        photo_z[f"FLUXERR_{band}_UNIF"] = error[:, index]
    products = (
        ("PHZ_PF_OUTPUT_CATALOG", "PHZCAT", "phz_photo_z", photo_z),
        (
            "PHZ_PF_OUTPUT_FOR_L3",
            "CLASSCAT",
            "phz_classification",
            _classification(measured, probability, classes, thresholds),
        ),
        (
            "PHZ_PF_OUTPUT_FOR_L3",
            "PHYSPARAM",
            "phz_physical_parameters",
            _physical(fitted, measured, light, random),
        ),
    )
    paths = []
    for place, name, table, columns in products:
        _, when = stamp(seed, name, tile.index)
        path = folder / "catalogs" / place / str(tile.index) / _file_name(name, when)
        hdu = product_hdu(table, measured.rows.size, columns, "", {})
        paths.append(write_tables(path, [hdu], when))
    return paths, PhzResult(np.asarray(photo_z["PHZ_MEDIAN"], np.float64), classes)


def _file_name(product: str, when: datetime) -> str:
    return f"EUC_PHZ_{product}_{when:%Y%m%dT%H%M%S.%fZ}_00.00.fits"


def _quantiles(pdf: NDArray[np.float32], levels: list[float]) -> Float64:
    """Redshifts at cumulative probabilities, on the grid of 0.01: shape ``(n, levels)``."""
    cumulative = np.cumsum(pdf.astype(np.float64), axis=1) * 0.01
    reached = [(cumulative < level).sum(axis=1) for level in levels]
    return np.asarray(REDSHIFTS[np.minimum(np.stack(reached, axis=1), REDSHIFTS.size - 1)])


def _photo_z(
    fitted: TemplateFit, measured: Measured, field: Field, classes: NDArray[np.int64]
) -> Columns:
    """Columns of PHZCAT other than fluxes."""
    number = len(fitted.pdf)
    q = _quantiles(fitted.pdf, [0.025, 0.05, 0.15, 0.5, 0.85, 0.95, 0.975])
    median = q[:, 3]
    rows = np.arange(number)
    first = fitted.pdf.argmax(axis=1)
    area_1, near = _mode_area(fitted.pdf, first)
    rest = np.where(near, 0.0, fitted.pdf)
    second = rest.argmax(axis=1)
    area_2 = np.minimum(_mode_area(fitted.pdf, second)[0], 1.0 - area_1)
    no_second = rest[rows, second] < 1e-4
    tomographic = np.searchsorted(_TOMOGRAPHIC_EDGES, median)
    outside = (median < _TOMOGRAPHIC_EDGES[0]) | (median > _TOMOGRAPHIC_EDGES[-1])
    tomographic = np.where(outside, -1, tomographic)
    warning = np.where(fitted.best_chi2 > 60.0, 11, np.where(np.isnan(measured.magnitude), 12, 0))
    return {
        "OBJECT_ID": measured.object_id,
        "PHZ_PDF": fitted.pdf,
        "PHZ_MEDIAN": median,
        "PHZ_70_INT": q[:, [2, 4]],
        "PHZ_90_INT": q[:, [1, 5]],
        "PHZ_95_INT": q[:, [0, 6]],
        "PHZ_MODE_1": REDSHIFTS[first],
        "PHZ_MODE_1_AREA": area_1,
        "PHZ_MODE_2": np.where(no_second, np.nan, REDSHIFTS[second]),
        "PHZ_MODE_2_AREA": np.where(no_second, np.nan, area_2),
        "PHZ_FLAGS": warning,
        "BIAS_ID": tomographic,
        "TOM_BIN_ID": tomographic,
        "ALT_TOM_BIN_ID": tomographic,
        "POS_TOM_BIN_ID": np.where(classes == GALAXY, tomographic, -1),
        "PHOTOMETRIC_SYSTEM": np.full(number, _PHOTOMETRIC_SYSTEM[field]),
        "PHZ_CLASSIFICATION": classes,
        "PHZ_WEIGHT": np.ones(number),
        "BEST_CHI2": fitted.best_chi2,
    }


def _mode_area(
    pdf: NDArray[np.float32], mode: NDArray[np.intp]
) -> tuple[Float64, NDArray[np.bool_]]:
    """Probability within 0.1 (1 + z) of a mode, and the part of the grid that is."""
    centre = REDSHIFTS[mode][:, None]
    near = np.abs(REDSHIFTS[None] - centre) < 0.1 * (1.0 + centre)
    return np.where(near, pdf, 0.0).sum(axis=1, dtype=np.float64) * 0.01, near


def _class_probabilities(fitted: TemplateFit, measured: Measured) -> Float64:
    """Probabilities of star, galaxy and QSO from colours and compactness, shape ``(n, 3)``."""
    compact = np.nan_to_num(np.asarray(measured.columns["POINT_LIKE_PROB"], np.float64), nan=0.1)
    compact = np.clip(compact, 0.02, 0.98)
    chi2 = np.stack([fitted.star_chi2, fitted.best_chi2, fitted.qso_chi2], axis=1)
    # Templates are never perfect: chi-squared is softened before it becomes a probability.
    evidence = -0.5 * (chi2 - chi2.min(axis=1, keepdims=True)) / 4.0
    prior = np.stack([2.0 * compact, 1.5 * (1.0 - compact), 0.25 * compact], axis=1)
    weight = prior * np.exp(np.maximum(evidence, -25.0))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _classification(
    measured: Measured,
    probability: Float64,
    classes: NDArray[np.int64],
    thresholds: Float64,
) -> Columns:
    """Columns of CLASSCAT."""
    number = len(probability)
    infrared = np.isfinite(np.asarray(measured.columns["FLUX_H_2FWHM_APER"], np.float64))
    return {
        "OBJECT_ID": measured.object_id,
        "VIS_DET": measured.columns["VIS_DET"],
        "CONFIGURATION": np.full(number, 30),
        "MISSING_BAND": np.where(infrared, "", "Y,J,H"),
        "PHZ_STAR_PROB": probability[:, 0],
        "PHZ_GAL_PROB": probability[:, 1],
        "PHZ_QSO_PROB": probability[:, 2],
        "PHZ_GLOB_CL_PROB": np.zeros(number),
        "PHZ_CLASSIFICATION": classes,
        "STAR_THRESHOLD": np.full(number, thresholds[0]),
        "GALAXY_THRESHOLD": np.full(number, thresholds[1]),
        "QSO_THRESHOLD": np.full(number, thresholds[2]),
        "GLOBC_THRESHOLD": np.ones(number),
    }


def _physical(
    fitted: TemplateFit, measured: Measured, light: Photometry, random: np.random.Generator
) -> Columns:
    """Columns of PHYSPARAM: median, a mode and the 68 per cent interval of each quantity."""
    number = len(fitted.pdf)
    columns: Columns = {
        "OBJECT_ID": measured.object_id,
        "PHYS_PARAM_FLAGS": np.zeros(number, dtype=np.int64),
        "QUALITY_FLAG": np.where(fitted.best_chi2 > 60.0, 2, 0),
        "GALAXYCLASS": np.full(number, -99),
        "SFHTYPE": np.full(number, -99),
        "IMF": np.full(number, -99),
    }
    for name, draws in physical_parameters(fitted.samples, light, random).items():
        low, median, high = np.quantile(draws, [0.16, 0.5, 0.84], axis=1)
        columns[f"PHZ_PP_MEDIAN_{name}"] = median
        columns[f"PHZ_PP_MODE_{name}"] = _half_sample_mode(draws)
        columns[f"PHZ_PP_68_{name}"] = np.stack([low, high], axis=1)
    return columns


def _half_sample_mode(draws: Float64) -> Float64:
    """Middle of the shortest interval that holds a third of the draws, shape ``(n,)``."""
    ordered = np.sort(draws, axis=1)
    span = draws.shape[1] // 3
    width = ordered[:, span:] - ordered[:, :-span]
    best = width.argmin(axis=1)
    rows = np.arange(len(draws))
    return np.asarray(0.5 * (ordered[rows, best] + ordered[rows, best + span]))
