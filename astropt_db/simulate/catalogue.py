"""The MER catalogues of a tile: what a measured source says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astropt_db.q1 import identity
from astropt_db.simulate.bands import EUCLID_BANDS, FIELD_EBV, PIXEL_ARCSEC
from astropt_db.simulate.measure import (
    COLOUR_FWHM,
    Detections,
    Exposure,
    gather,
)
from astropt_db.simulate.mosaics import Tile, product_name, stamp
from astropt_db.simulate.photometry import Fluxes, flux_columns
from astropt_db.simulate.shapes import Shapes
from astropt_db.simulate.tables import product_hdu, write_tables
from astropt_db.simulate.votes import BRIGHT_MAGNITUDE, LARGE_AREA, draw_votes

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Columns = dict[str, NDArray[np.generic]]

NEIGHBOUR, BLENDED, SATURATED, BORDER = 1, 2, 4, 8
BRIGHT_STAR_VIS, BRIGHT_STAR_NIR, INSIDE_EXTENDED = 128, 256, 512
"""Bits of DET_QUALITY_FLAG and FLAG_{band}."""

_POINT_LIKE_THRESHOLD = 0.96
_BRIGHT_STAR = 17.2
"""Stars brighter than this in VIS are masked around."""
_PSF_IN_APERTURE = 0.31
"""Share of a point source's light in the aperture of 1 FWHM on matched images."""
_POINT_CONCENTRATION = -2.62
"""MU_MAX - MAG of the VIS PSF in magnitudes per square arcsec, see `mumax_minus_mag`."""


@dataclass(frozen=True)
class Measured:
    """The catalogued sources of a tile: those that are in its core and were detected.

    Attributes
    ----------
    rows
        Rows of the scene, shape ``(n,)``.
    object_id, segmentation_id
        Identifiers, int64.
    ra, dec
        Measured position, degrees ICRS.
    magnitude
        VIS total magnitude; NaN where VIS saw nothing.
    ebv
        Galactic E(B-V) that the catalogue states, magnitudes.
    quality
        DET_QUALITY_FLAG.
    columns
        Further columns of the MER catalogue by name.
    """

    rows: NDArray[np.intp]
    object_id: Int64
    segmentation_id: Int64
    ra: Float64
    dec: Float64
    magnitude: Float64
    ebv: Float64
    quality: Int64
    columns: Columns


def measure_sources(
    tile: Tile,
    truth: pd.DataFrame,
    exposure: Exposure,
    found: Detections,
    shapes: Shapes,
    fluxes: Fluxes,
    random: np.random.Generator,
) -> Measured:
    """Select the tile's own detections and fill the columns of the MER catalogue.

    Parameters
    ----------
    tile
        The tile.
    truth
        Truth of every source drawn on the tile; ``home`` says which tile owns it.
    exposure, found, shapes, fluxes
        Images and measurements, one row per row of ``truth``.
    random
        Source of star-galaxy and spurious probabilities' scatter.
    """
    own = found.detected & (truth["home"] == tile.number).to_numpy()
    own &= tile.in_core(found.position)
    rows = np.flatnonzero(own)
    ra, dec = tile.wcs.all_pix2world(found.position[rows, 0], found.position[rows, 1], 0)
    object_id = identity.encode(ra, dec)
    total = shapes.total[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(total > 0, 23.9 - 2.5 * np.log10(total), np.nan)
    quality, band_flags = _flags(truth, exposure, found, rows)
    ebv = FIELD_EBV[tile.field] * np.exp(0.08 * random.standard_normal(rows.size))
    segmentation_id = tile.index * 1_000_000 + 1 + np.arange(rows.size)
    columns: Columns = {
        "OBJECT_ID": object_id,
        "RIGHT_ASCENSION": ra,
        "DECLINATION": dec,
        "SEGMENTATION_MAP_ID": segmentation_id,
        "VIS_DET": found.in_vis[rows].astype(np.int16),
        **{name: value[rows] for name, value in flux_columns(fluxes).items()},
        **band_flags,
        **_detection(found, shapes, fluxes, rows),
        **_classes(truth.iloc[rows], found, rows, magnitude, quality, random),
        "GAL_EBV": ebv,
        "GAL_EBV_ERR": 0.05 * ebv,
        "DET_QUALITY_FLAG": quality,
    }
    blended = (quality & BLENDED) > 0
    columns["DEBLENDED_FLAG"] = blended.astype(np.int16)
    # -1 means "never was part of a blend" and is a value, not a missing one.
    columns["PARENT_ID"] = np.where(blended, segmentation_id, -1)
    columns["PARENT_VISNIR"] = columns["PARENT_ID"]
    return Measured(rows, object_id, segmentation_id, ra, dec, magnitude, ebv, quality, columns)


def _detection(
    found: Detections, shapes: Shapes, fluxes: Fluxes, rows: NDArray[np.intp]
) -> Columns:
    """Sizes and isophotal quantities."""
    signal = np.maximum(found.flux / np.maximum(found.flux_error, 1e-9), 1.0)[rows]
    major = found.semi_major[rows]
    in_vis = found.in_vis[rows]

    def seen(values: Float64) -> Float64:
        return np.where(in_vis, values, np.nan)

    smallest = fluxes.aperture[rows, 0, 0], fluxes.aperture_error[rows, 0, 0]
    return {
        "FLUX_VIS_PSF": seen(smallest[0] / _PSF_IN_APERTURE),
        "FLUXERR_VIS_PSF": seen(smallest[1] / _PSF_IN_APERTURE),
        "FLUX_SEGMENTATION": seen(found.flux[rows]),
        "FLUXERR_SEGMENTATION": seen(found.flux_error[rows]),
        "FLUX_DETECTION_TOTAL": seen(shapes.total[rows]),
        "FLUXERR_DETECTION_TOTAL": seen(shapes.total_error[rows]),
        "SEGMENTATION_AREA": np.maximum(found.area[rows], 1),
        "SEMIMAJOR_AXIS": seen(major),
        "SEMIMAJOR_AXIS_ERR": seen(major / signal),
        "POSITION_ANGLE": seen(found.angle[rows]),
        "POSITION_ANGLE_ERR": seen(np.minimum(60.0 / signal, 90.0)),
        "ELLIPTICITY": seen(1.0 - found.axis_ratio[rows]),
        "ELLIPTICITY_ERR": seen(1.0 / signal),
        "KRON_RADIUS": seen(found.kron[rows]),
        "KRON_RADIUS_ERR": seen(found.kron[rows] / signal),
        "FWHM": np.full(rows.size, COLOUR_FWHM),
    }


def _classes(
    truth: pd.DataFrame,
    found: Detections,
    rows: NDArray[np.intp],
    magnitude: Float64,
    quality: Int64,
    random: np.random.Generator,
) -> Columns:
    """Point-like, extended, blended and spurious probabilities, Gaia matches."""
    number = rows.size
    in_vis = found.in_vis[rows]
    peak = np.maximum(found.peak[rows], 1e-6) / PIXEL_ARCSEC**2
    mu_max = 23.9 - 2.5 * np.log10(peak)
    compactness = mu_max - magnitude
    faint = np.clip((magnitude - 21.0) / 4.0, 0.0, 1.0)
    excess = compactness - _POINT_CONCENTRATION
    point = 1.0 / (1.0 + np.exp(np.clip((excess - 0.25) / (0.05 + 0.10 * faint), -40, 40)))
    point = np.where(in_vis & np.isfinite(magnitude), point, np.nan)
    flagged = (point > _POINT_LIKE_THRESHOLD) & (quality == 0)
    artefact = (truth["kind"] == "artefact").to_numpy()
    spurious = np.where(artefact, random.beta(5.0, 1.6, number), random.beta(0.7, 14.0, number))
    gaia_id = truth["gaia_id"].to_numpy(dtype=np.int64)
    in_gaia = gaia_id > 0
    # The column is a nullable int64: NaN cannot say "none", the type's lowest value does.
    absent = np.int64(-(2**63))
    blended = (quality & BLENDED) > 0
    return {
        "POINT_LIKE_PROB": point,
        "POINT_LIKE_FLAG": np.where(flagged, 1.0, np.nan),
        "EXTENDED_PROB": np.where(in_vis, 1.0 - point, np.nan),
        "EXTENDED_FLAG": np.where(np.nan_to_num(point, nan=1.0) < 0.1, 1.0, 0.0),
        "BLENDED_PROB": np.where(blended, random.beta(6, 2, number), random.beta(1, 9, number)),
        "SPURIOUS_PROB": spurious,
        "SPURIOUS_FLAG": (spurious > 0.6).astype(np.int16),
        "SHE_FLAG": np.zeros(number, dtype=np.int16),
        "VARIABLE_FLAG": np.zeros(number, dtype=np.int16),
        "BINARY_FLAG": np.zeros(number, dtype=np.int16),
        "MAG_STARGAL_SEP": magnitude,
        "MU_MAX": np.where(in_vis, mu_max, np.nan),
        "MUMAX_MINUS_MAG": np.where(in_vis, compactness, np.nan),
        "GAIA_ID": np.where(in_gaia, gaia_id, absent),
        "GAIA_MATCH_QUALITY": np.where(in_gaia, random.beta(8, 1, number), np.nan),
    }


def _flags(
    truth: pd.DataFrame, exposure: Exposure, found: Detections, rows: NDArray[np.intp]
) -> tuple[Int64, Columns]:
    """DET_QUALITY_FLAG and the flags of the bands that have mosaics."""
    common = np.where(found.blended[rows], BLENDED, 0)
    common |= _near_bright_star(truth, found, rows)
    common |= np.where(_inside_extended(found, rows), INSIDE_EXTENDED, 0)
    columns: Columns = {}
    quality, infrared = common.copy(), common.copy()
    for index, band in enumerate(EUCLID_BANDS):
        window = gather(exposure.rms[index], found.position[rows], 21)
        holes = ~np.isfinite(window)
        flag = common | np.where(holes.any(axis=(1, 2)), NEIGHBOUR | BORDER, 0)
        limit = 0.95 * band.saturation * band.ujy_per_unit
        core = gather(exposure.images[index], found.position[rows], 3)
        flag |= np.where(core.max(axis=(1, 2)) > limit, SATURATED, 0)
        columns[f"FLAG_{band.name}"] = flag
        if band.name == "VIS":
            quality |= flag
            continue
        infrared |= flag
    columns["FLAG_NIR_STACK"] = infrared
    return quality.astype(np.int64), columns


def _near_bright_star(truth: pd.DataFrame, found: Detections, rows: NDArray[np.intp]) -> Int64:
    """Bits of the bright-star masks: discs about stars, wider for brighter ones."""
    magnitude = truth["vis_magnitude"].to_numpy()
    bright = np.flatnonzero((truth["kind"] == "star").to_numpy() & (magnitude < _BRIGHT_STAR))
    if bright.size == 0:
        return np.zeros(rows.size, dtype=np.int64)
    radius = 25.0 * 10.0 ** (0.12 * (_BRIGHT_STAR - magnitude[bright]))
    distance, which = cKDTree(found.position[bright]).query(found.position[rows])
    near = distance < radius[which]
    return np.where(near, BRIGHT_STAR_VIS | BRIGHT_STAR_NIR, 0).astype(np.int64)


def _inside_extended(found: Detections, rows: NDArray[np.intp]) -> Bool:
    """Whether a source lies in the total aperture of a much larger one."""
    large = np.flatnonzero(found.detected & (found.kron > 60.0))
    if large.size == 0:
        return np.zeros(rows.size, dtype=np.bool_)
    # The nearest few large sources decide; no source lies inside more than a handful.
    count = min(4, large.size)
    distance, which = cKDTree(found.position[large]).query(
        found.position[rows], k=[*range(1, count + 1)]
    )
    host = found.kron[large][which]
    inside = (distance < 0.6 * host) & (found.kron[rows, None] < 0.5 * host)
    return np.asarray(inside.any(axis=1))


def write_catalogues(
    folder: Path,
    tile: Tile,
    measured: Measured,
    truth: pd.DataFrame,
    shapes: Shapes,
    light: tuple[tuple[str, ...], Float64],
    seed: int,
    random: np.random.Generator,
) -> list[Path]:
    """Write the MER final and morphology catalogues of a tile.

    ``light`` holds the names and mean wavelengths (Angstrom) of the field's bands.
    """
    number = measured.rows.size
    wavelengths = {
        f"AVG_TRANS_WAVE_{name}": np.full(number, wave) for name, wave in zip(*light, strict=True)
    }
    final = {**measured.columns, **wavelengths}
    morphology = _morphology(measured, truth, shapes, random)
    place = folder / "catalogs" / "MER_FINAL_CATALOG" / str(tile.index)
    paths = []
    for kind, table, columns in (
        ("FINAL-CAT", "mer_catalogue", final),
        ("FINAL-MORPH-CAT", "mer_morphology", morphology),
    ):
        hdu = product_hdu(table, number, columns, "", {"TILE_INDEX": tile.index})
        _, when = stamp(seed, kind, tile.index)
        paths.append(write_tables(place / product_name(kind, tile, seed), [hdu], when))
    return paths


def _morphology(
    measured: Measured, truth: pd.DataFrame, shapes: Shapes, random: np.random.Generator
) -> Columns:
    """Columns of the morphology catalogue."""
    rows = measured.rows
    number = rows.size
    signal = np.clip(shapes.total[rows] / shapes.total_error[rows], 1.0, 1e5)
    radius, index, ratio = shapes.radius[rows], shapes.index[rows], shapes.axis_ratio[rows]
    asked = measured.magnitude < BRIGHT_MAGNITUDE
    asked |= np.asarray(measured.columns["SEGMENTATION_AREA"], np.int64) > LARGE_AREA
    measurable = np.isfinite(shapes.gini[rows]) & np.isfinite(measured.magnitude)

    def known(values: Float64) -> Float64:
        return np.where(measurable, values, np.nan)

    infrared = np.exp(0.06 * random.standard_normal((3, number)))
    return {
        "OBJECT_ID": measured.object_id,
        "CONCENTRATION": known(shapes.concentration[rows]),
        "CONCENTRATION_ERR": known(0.1 + 2.0 / signal),
        "ASYMMETRY": known(shapes.asymmetry[rows]),
        "ASYMMETRY_ERR": known(0.02 / signal),
        "SMOOTHNESS": known(shapes.smoothness[rows]),
        "SMOOTHNESS_ERR": known(0.5 / signal),
        "GINI": known(shapes.gini[rows]),
        "MOMENT_20": known(shapes.moment_20[rows]),
        "MOMENT_20_ERR": known(0.2 + 4.0 / signal),
        "SERSIC_VISNIR_REDUCED_CHI2": random.lognormal(-1.08, 0.6, number),
        "SERSIC_VISNIR_ITERATIONS": random.integers(42, 240, number),
        "SERSIC_VISNIR_FLAGS": np.zeros(number, dtype=np.int64),
        "SERSIC_VISNIR_DURATION": random.lognormal(0.5, 0.75, number),
        "SERSIC_SERSIC_VIS_RADIUS": radius,
        "SERSIC_SERSIC_VIS_RADIUS_ERR": radius / signal,
        "SERSIC_SERSIC_VIS_AXIS_RATIO": ratio,
        "SERSIC_SERSIC_VIS_AXIS_RATIO_ERR": 1.0 / signal,
        "SERSIC_SERSIC_VIS_INDEX": index,
        "SERSIC_SERSIC_VIS_INDEX_ERR": index * 2.0 / signal,
        "SERSIC_SERSIC_NIR_RADIUS": radius * 0.93 * infrared[0],
        "SERSIC_SERSIC_NIR_RADIUS_ERR": radius * 2.0 / signal,
        "SERSIC_SERSIC_NIR_AXIS_RATIO": np.clip(ratio * infrared[1], 0.01, 1.0),
        "SERSIC_SERSIC_NIR_AXIS_RATIO_ERR": 2.0 / signal,
        "SERSIC_SERSIC_NIR_INDEX": np.clip(index * 1.08 * infrared[2], 0.3, 5.5),
        "SERSIC_SERSIC_NIR_INDEX_ERR": index * 4.0 / signal,
        "SERSIC_ANGLE": np.asarray(measured.columns["POSITION_ANGLE"]),
        "SERSIC_ANGLE_ERR": 40.0 / signal,
        "SERSIC_EXT_REDUCED_CHI2": random.lognormal(-1.0, 0.7, number),
        "SERSIC_EXT_ITERATIONS": random.integers(40, 120, number),
        "SERSIC_EXT_FLAGS": np.zeros(number, dtype=np.int64),
        "SERSIC_EXT_DURATION": random.lognormal(0.6, 0.8, number),
        **draw_votes(truth.iloc[rows], radius, np.asarray(asked), random),
    }
