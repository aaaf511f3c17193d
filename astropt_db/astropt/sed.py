"""Spectral energy distributions as tokens: one token for each band slot.

The tokenisation of the SEDs in arXiv:2503.15312 is not public; this one is ours. What it must do,
and how:

**Keep brightness and colour.** The image tokens have lost the total flux, so SED tokens carry it:
``s = (asinh(f / 0.1 uJy) - 4) / 2``, logarithmic for bright sources, linear through zero for
faint and negative fluxes (Lupton, Gunn & Szalay 1999, AJ 118, 1406). 0.1 uJy is about the noise
of Q1 in one band.

**Not tell the field.** Q1's northern field has MegaCam u and r, HSC g and z and Pan-STARRS i; the
southern ones have DECam g, r, i and z. Bands of about the same wavelength share one slot, and u,
which exists in the north only, has none. The slots are g, r, VIS, i, z, Y, J, H.

**Use the errors without telling the depth.** The second number is ``tanh(f / (5 sigma))``: near 1
for every well measured band, whatever the survey's depth, and near 0 where the flux is noise.

**Live with absent bands.** The third number is 1 for a present band; an absent one is all zeros,
keeps its place, and is left out of the loss and of the pooled vector. Only the flux is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

SED_SLOTS: dict[str, tuple[str, ...]] = {
    "g": ("g_ext_hsc", "g_ext_decam"),
    "r": ("r_ext_megacam", "r_ext_decam"),
    "VIS": ("vis",),
    "i": ("i_ext_panstarrs", "i_ext_decam"),
    "z": ("z_ext_hsc", "z_ext_decam"),
    "Y": ("y",),
    "J": ("j",),
    "H": ("h",),
}
"""Slots by rising wavelength, each with the MER bands that can fill it, first choice first."""

SED_TOKEN_SIZE = 3
SOFTENING_UJY = 0.1


def sed_from_columns(
    columns: Mapping[str, npt.ArrayLike], measure: str = "2fwhm_aper"
) -> npt.NDArray[np.float32]:
    """Gather MER flux columns into the array that becomes tokens.

    See :func:`~astropt_db.astropt.tokens.sed_tokens`.

    Parameters
    ----------
    columns
        Arrays (n,) under MER names in any case, such as ``FLUX_G_EXT_HSC_2FWHM_APER`` and
        ``FLUXERR_G_EXT_HSC_2FWHM_APER``, in microjansky; NaN or masked where not measured.
        Columns of other bands are ignored, absent ones count as not measured.
    measure
        The kind of photometry at the end of the column names.

    Returns
    -------
    ndarray
        float32 (n, 8, 2): flux and its error in microjansky by slot, NaN where absent.

    Raises
    ------
    ValueError
        If no column is a flux of this measure.
    """
    given = {name.lower(): values for name, values in columns.items()}
    suffix = measure.lower()
    wanted = {band for bands in SED_SLOTS.values() for band in bands}
    found = [name for band in wanted if (name := f"flux_{band}_{suffix}") in given]
    if not found:
        raise ValueError(f"no column named like FLUX_VIS_{measure.upper()} among {sorted(given)}")
    sed = np.full((len(np.ma.asarray(given[found[0]])), len(SED_SLOTS), 2), np.nan, np.float32)
    for slot, bands in enumerate(SED_SLOTS.values()):
        for band in bands:
            flux = _column(given, f"flux_{band}_{suffix}", len(sed))
            error = _column(given, f"fluxerr_{band}_{suffix}", len(sed))
            fill = np.isnan(sed[:, slot, 0]) & np.isfinite(flux)
            sed[fill, slot] = np.stack([flux, error], axis=1)[fill]
    return sed


def _column(columns: Mapping[str, npt.ArrayLike], name: str, rows: int) -> npt.NDArray[np.float32]:
    values = np.ma.asarray(columns.get(name, np.full(rows, np.nan)), dtype=np.float32)
    return np.asarray(values.filled(np.nan), dtype=np.float32)
