"""What the name of a ready-made cut-out says: the object's id and the band."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from astropt_db.errors import FileError
from astropt_db.images.source import BANDS

_ID = re.compile(r"(?P<sign>NEG[-_]?|-)?(?P<digits>\d{15,})", re.IGNORECASE)
"""Ids have 18 or 19 digits, fewer near RA 0; tile indices have 9."""
_BAND = re.compile(r"(?<![A-Z])(?:(?P<vis>VIS)|(?:NIR|NISP)[-_ ]?(?P<nir>[YJH]))(?![A-Z])")
_BARE = {"Y": "NIR_Y", "J": "NIR_J", "H": "NIR_H"} | {band: band for band in BANDS}
_LIMIT = 1 << 63


def object_id_of(path: str) -> int:
    """Object id in a file's name, exact; ``NEG`` and a leading minus make it negative.

    ``102018665_NEG570040238507752998.fits`` is object -570040238507752998, and so is
    ``-570040238507752998.fits``.

    Raises
    ------
    FileError
        If there is none, or several, or if a minus may be a mere separator.
    """
    stem = re.sub(r"(\.fits?)?(\.fz|\.gz)?$", "", PurePosixPath(path).name, flags=re.IGNORECASE)
    found = list(_ID.finditer(stem))
    if len({match.group(0) for match in found}) != 1 or int(found[0]["digits"]) >= _LIMIT:
        raise FileError(
            path,
            f"expected one object id in the name, found {len(found) or 'none'}.",
            "Name it {object_id}.fits, with NEG or a leading minus for a negative id.",
        )
    sign, start = found[0]["sign"] or "", found[0].start()
    if sign == "-" and start > 0 and stem[start - 1] != "_":
        raise FileError(
            path,
            "has a minus in its name that may be a sign or a separator.",
            "Write NEG before a negative id, and an underscore before a positive one.",
        )
    number = int(found[0]["digits"])
    return -number if sign else number


def band_of(text: str) -> str | None:
    """Band named in an extension's name, a FILTER card, a folder or a file name.

    ``NIR_Y``, ``NIR-Y``, ``NISP_Y`` and a text that is nothing but ``Y`` are the same band.
    Returns ``None`` where no band or several are named.
    """
    upper = text.strip().upper()
    if upper in _BARE:
        return _BARE[upper]
    found = {"VIS" if match["vis"] else f"NIR_{match['nir']}" for match in _BAND.finditer(upper)}
    return found.pop() if len(found) == 1 else None


def image_band_of(extension: str) -> str | None:
    """Band of an image extension such as ``VIS_BGSUB``; ``None`` for PSF, RMS and flag maps."""
    upper = extension.strip().upper()
    if re.search(r"(PSF|RMS|FLAG|WEIGHT|MASK|VAR|ERR)", upper):
        return None
    return band_of(upper)
