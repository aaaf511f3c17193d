"""Mosaics: registered from their headers, never copied.

A registered mosaic is a row of plain numbers (:meth:`Mosaic.as_row`): enough to find a source's
pixels in the file without opening it, and to notice when the file is no longer the same.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astropt_db.errors import FileError
from astropt_db.images.source import BANDS, PIXEL_ARCSEC, SCALE_TOLERANCE
from astropt_db.images.storage import RangedFile, Version, absolute, open_ranged
from astropt_db.images.wcs import TanWcs, WcsError

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_BLOCK = 2880
_CARD = 80
_FIRST_READ = 4 * _BLOCK
_LONGEST_HEADER = 256 * _BLOCK
_PIXEL_BYTES = 4
_NAME = re.compile(r"EUC_MER_(?P<what>[A-Z0-9-]+)_TILE(?P<tile>\d+)-", re.IGNORECASE)
_IMAGE = re.compile(r"(?P<kind>BGSUB-)?MOSAIC-(?P<band>[A-Z]+(?:-[A-Z])?)(?:-(?P<map>RMS|FLAG))?")


@dataclass(frozen=True)
class MosaicName:
    """What the name of a MER product says.

    Attributes
    ----------
    kind
        ``BGSUB`` for the image that is embedded, ``RMS``, ``FLAG``, else the product's own name
        such as ``CATALOG-PSF-VIS``.
    band
        ``VIS``, ``NIR_Y``, ``DES_G``, ...; empty where the product is no mosaic.
    tile
        Tile index.
    """

    kind: str
    band: str
    tile: int


def parse_name(uri: str) -> MosaicName | None:
    """Kind, band and tile from a MER product's file name; ``None`` for any other name."""
    found = _NAME.match(unquote(urlsplit(uri).path).rpartition("/")[2])
    if found is None:
        return None
    what, tile = found["what"].upper(), int(found["tile"])
    image = _IMAGE.fullmatch(what)
    if image is None or bool(image["kind"]) == bool(image["map"]):
        return MosaicName(what, "", tile)
    return MosaicName(image["map"] or "BGSUB", image["band"].replace("-", "_"), tile)


@dataclass(frozen=True)
class Mosaic:
    """One band of one tile.

    Attributes
    ----------
    uri
        Absolute path, or URI.
    kind
        ``BGSUB``, or ``RMS`` for the map that tells where nothing was observed.
    tile
        Tile index.
    band
        One of :data:`~astropt_db.images.source.BANDS`.
    width, height
        Pixels.
    wcs
        Projection.
    magzero
        AB magnitude of 1 unit of flux; NaN for an RMS map without one.
    bitpix
        -32: big-endian float32.
    data_offset
        Bytes before the first pixel.
    size, tag, header_sha256
        Size in bytes, entity tag or time of change (nanoseconds), and hash of the header: the
        identity that :meth:`verify` compares.
    """

    uri: str
    kind: str
    tile: int
    band: str
    width: int
    height: int
    wcs: TanWcs
    magzero: float
    bitpix: int
    data_offset: int
    size: int
    tag: str
    header_sha256: str

    def as_row(self) -> dict[str, Any]:
        """Plain values by column name, the projection's numbers among them."""
        row = {name: value for name, value in asdict(self).items() if name != "wcs"}
        return row | asdict(self.wcs)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Mosaic:
        """Rebuild a mosaic from :meth:`as_row`; other columns are ignored."""
        wcs = TanWcs(*(float(row[one.name]) for one in fields(TanWcs)))
        own = {one.name: row[one.name] for one in fields(cls) if one.name != "wcs"}
        return cls(**own, wcs=wcs)

    def contains(self, ra: Float64, dec: Float64) -> Bool:
        """Whether positions in degrees lie on a pixel, bool of their shape."""
        x, y = self.wcs.to_pixel(ra, dec)
        inside = (x >= -0.5) & (x < self.width - 0.5) & (y >= -0.5) & (y < self.height - 0.5)
        return np.asarray(inside)

    def verify(self, file: RangedFile) -> None:
        """Refuse a file that is not the one that was registered.

        Raises
        ------
        FileError
            If its size, tag or header differ.
        """
        found = file.version()
        if found != Version(self.size, self.tag):
            raise _changed(
                self.uri,
                f"{self.size} bytes, tag {self.tag}",
                f"{found.size} bytes, tag {found.tag}",
            )
        header = np.empty(self.data_offset, dtype=np.uint8)
        file.read_into(0, header)
        if hashlib.sha256(header.data).hexdigest() != self.header_sha256:
            raise _changed(self.uri, f"tile {self.tile} in {self.band}", "another header")


def read_header(uri: str, tile: int | None = None) -> Mosaic:
    """Register a mosaic: read its header, a few kilobytes, and nothing else.

    Parameters
    ----------
    uri
        Local path, or a URI that fsspec knows (``file``, ``s3``, ``https``). Public buckets need
        ``FSSPEC_S3='{"anon": true}'`` in the environment.
    tile
        Tile index, for a file whose name is not that of the archive.

    Raises
    ------
    FileError
        If the file is compressed, truncated, or not a mosaic in a Euclid band; says which.
    MissingExtraError
        If the store needs a package that is not installed.
    """
    uri = absolute(uri)
    with open_ranged(uri) as file:
        version = file.version()
        raw = _read_header(file, version.size)
    header = _parse(uri, raw)
    kind, band, index = _identify(uri, parse_name(uri), header, tile)
    width, height = _shape(uri, header)
    _refuse_truncated(uri, version.size, len(raw), width, height)
    return Mosaic(
        uri=uri,
        kind=kind,
        tile=index,
        band=band,
        width=width,
        height=height,
        wcs=_wcs(uri, header),
        magzero=_magzero(uri, header, kind),
        bitpix=int(header["BITPIX"]),
        data_offset=len(raw),
        size=version.size,
        tag=version.tag,
        header_sha256=hashlib.sha256(raw).hexdigest(),
    )


def _read_header(file: RangedFile, size: int) -> bytes:
    """The primary header with its padding, found by its END card."""
    raw = np.empty(0, dtype=np.uint8)
    while len(raw) < min(size, _LONGEST_HEADER):
        more = np.empty(min(max(_FIRST_READ, len(raw)), size - len(raw)), dtype=np.uint8)
        file.read_into(len(raw), more)
        raw = np.concatenate([raw, more])
        _refuse_packed(file.uri, bytes(raw[:4]))
        if not bytes(raw[:30]).startswith(b"SIMPLE  ="):
            raise FileError(file.uri, "is not a FITS file.")
        cards = raw[: len(raw) // _CARD * _CARD].view(f"S{_CARD}")
        ends = np.flatnonzero(cards == b"END" + b" " * (_CARD - 3))
        if len(ends):
            return bytes(raw[: -(-(int(ends[0]) + 1) * _CARD // _BLOCK) * _BLOCK])
    raise FileError(
        file.uri, f"has no END of its header within {len(raw)} bytes: it was truncated or damaged."
    )


def _refuse_packed(uri: str, magic: bytes) -> None:
    packed = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
    if kind := packed.get(magic[:2]):
        raise FileError(
            uri,
            f"is compressed ({kind}); parts can only be read from an uncompressed file.",
            "Unpack it first.",
        )


def _parse(uri: str, raw: bytes) -> fits.Header:
    try:
        with warnings.catch_warnings():
            # Whatever astropy warns of: the cards that matter are checked one by one.
            warnings.simplefilter("ignore")
            header = fits.Header.fromstring(raw)
            # Cards are parsed when they are read: a broken one must fail here.
            _ = [card.value for card in header.cards]
    except (ValueError, TypeError, KeyError, fits.VerifyError) as error:
        raise FileError(uri, f"has a header that cannot be read: {error}.") from error
    return header


def _shape(uri: str, header: fits.Header) -> tuple[int, int]:
    """Width and height of a float32 image in the primary HDU."""
    count = header.get("NAXIS")
    known = range(1, count + 1) if isinstance(count, int) else ()
    axes = [header.get(f"NAXIS{axis}") for axis in known]
    if len(axes) != 2 or not all(isinstance(axis, int) and axis > 0 for axis in axes):
        found = " x ".join(map(str, axes)) or "no image"
        raise FileError(uri, f"expected one 2-D image in the primary HDU, found {found}.")
    if header.get("BITPIX") != -32:
        raise FileError(uri, f"expected BITPIX -32 (float32), found {header.get('BITPIX')}.")
    if header.get("BSCALE", 1.0) != 1.0 or header.get("BZERO", 0.0) != 0.0:
        raise FileError(uri, "expected plain values, found BSCALE or BZERO in the header.")
    return int(axes[0]), int(axes[1])


def _refuse_truncated(uri: str, size: int, data_offset: int, width: int, height: int) -> None:
    needed = data_offset + width * height * _PIXEL_BYTES
    if size < needed:
        raise FileError(
            uri,
            f"has {size} bytes, but its header asks for {needed} ({width} x {height} pixels): it "
            "was truncated.",
            "Fetch it again.",
        )


def _wcs(uri: str, header: fits.Header) -> TanWcs:
    try:
        wcs = TanWcs.from_header(header)
    except WcsError as error:
        remedy = "Only tangent-plane mosaics of the MER archive can be read."
        raise FileError(uri, f"has {error}.", remedy) from error
    if abs(wcs.pixel_scale / PIXEL_ARCSEC - 1.0) > SCALE_TOLERANCE:
        raise FileError(
            uri, f"expected pixels of {PIXEL_ARCSEC} arcsec, found {wcs.pixel_scale:.4g}."
        )
    return wcs


def _identify(
    uri: str, name: MosaicName | None, header: fits.Header, tile: int | None
) -> tuple[str, str, int]:
    """Kind, band and tile index, from the name and the header's FILTER."""
    own = str(header.get("FILTER", "")).strip().upper().replace("-", "_")
    if name is None:
        found = tile if tile is not None else _tile_of_folder(uri)
        if found is None:
            raise FileError(
                uri, "has no tile index in its name or folder.", "Give the tile index (--tile)."
            )
        name = MosaicName("BGSUB", own, found)
    if name.kind not in ("BGSUB", "RMS"):
        raise FileError(
            uri, f"is a {name.kind} product; expected EUC_MER_BGSUB-MOSAIC-... or ...-RMS."
        )
    if name.band not in BANDS:
        raise FileError(
            uri, f"is in band {name.band or '(none)'}; the encoders take {', '.join(BANDS)}."
        )
    if name.kind == "BGSUB" and own in BANDS and own != name.band:
        raise FileError(uri, f"is named as {name.band}, but its header says FILTER {own}.")
    if tile is not None and tile != name.tile:
        raise FileError(uri, f"is named as tile {name.tile}, not {tile}.")
    return name.kind, name.band, name.tile


def _tile_of_folder(uri: str) -> int | None:
    """Tile index in the innermost folder that has one, as in ``MER/102018665/VIS``."""
    folders = unquote(urlsplit(uri).path).split("/")[:-1]
    return next((int(part) for part in reversed(folders) if re.fullmatch(r"1\d{8}", part)), None)


def _magzero(uri: str, header: fits.Header, kind: str) -> float:
    value = header.get("MAGZERO")
    if isinstance(value, int | float) and np.isfinite(value):
        return float(value)
    if kind == "RMS":
        return float("nan")
    raise FileError(uri, f"expected a zero point in MAGZERO, found {value!r}.")


def _changed(uri: str, expected: str, found: str) -> FileError:
    return FileError(
        uri,
        f"changed since it was registered: expected {expected}; found {found}.",
        "Register it again (astropt-db ingest mosaics).",
    )
