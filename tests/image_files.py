"""Small mosaics and cut-outs under their real names, for the tests of images."""

from pathlib import Path

import numpy as np
from astropy.io import fits

NAMES = {"VIS": "VIS", "NIR_Y": "NIR-Y", "NIR_J": "NIR-J", "NIR_H": "NIR-H"}
ZERO_POINTS = {"VIS": 24.6, "NIR_Y": 29.8, "NIR_J": 30.0, "NIR_H": 29.9}
TILE = 102018665
CENTRE = (57.3828797, -51.0)
STAMP = "20241018T151059.123456Z_00.00"


def sky_header(shape, centre=CENTRE, rotation=0.0):
    """Cards of a tangent projection of 0.1 arcsec per pixel about the middle."""
    header = fits.Header()
    cos, sin = np.cos(rotation), np.sin(rotation)
    matrix = np.array([[-cos, sin], [sin, cos]]) / 36000.0
    header["RADESYS"] = "ICRS"
    for axis, name in ((1, "RA---TAN"), (2, "DEC--TAN")):
        header[f"CTYPE{axis}"] = name
        header[f"CUNIT{axis}"] = "deg"
        header[f"CRVAL{axis}"] = centre[axis - 1]
        header[f"CRPIX{axis}"] = shape[2 - axis] / 2.0
        for other in (1, 2):
            header[f"CD{axis}_{other}"] = matrix[axis - 1, other - 1]
    return header


def mosaic_header(band, shape, centre=CENTRE, rotation=0.0):
    header = sky_header(shape, centre, rotation)
    header["MAGZERO"] = ZERO_POINTS[band]
    header["FILTER"] = band
    return header


def mosaic_path(folder, band, tile=TILE, kind="BGSUB"):
    what = f"BGSUB-MOSAIC-{NAMES[band]}" if kind == "BGSUB" else f"MOSAIC-{NAMES[band]}-{kind}"
    return Path(folder) / f"EUC_MER_{what}_TILE{tile}-8A3F1C_{STAMP}.fits"


def write_mosaic(
    folder, band, data, tile=TILE, kind="BGSUB", centre=CENTRE, rotation=0.0, cards=()
):
    """Write a mosaic; ``cards`` change its header, a value of None deletes."""
    header = mosaic_header(band, data.shape, centre, rotation)
    for name, value in dict(cards).items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    path = mosaic_path(folder, band, tile, kind)
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)
    return path


def noise(shape, seed=0):
    """Pixels none of which is 0."""
    return np.random.default_rng(seed).normal(1.0, 0.1, shape).astype(np.float32)
