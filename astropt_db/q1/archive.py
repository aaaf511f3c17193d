"""Download query results of the ESA and IRSA archives, so that nothing is missing unnoticed.

An archive may cut a result short without a word: synchronous queries at ESA end at 2,000 rows.
So the rows are counted before the download (``COUNT(*)`` of the same WHERE) and compared with
what arrives, page by page. The files are what the service sent, unchanged; ingestion reads them
like any other file.

Every selection has a record beside its files (JSON: query, count, pages with rows and sha256).
A complete download is not fetched again, and an interrupted one goes on with the page at which
it stopped. The record is written after its page, both by rename, so that a kill at any moment
leaves a folder from which the same call continues.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astropt_db.errors import ConfigurationError, FileError, MissingExtraError
from astropt_db.q1.archive_queries import (
    ADQL_LABEL,
    Adql,
    Cone,
    Query,
    Selection,
    Tile,
    build,
    parse_cone,
)
from astropt_db.q1.archive_services import ESA, IRSA, ArchiveError, Service, find_service

if TYPE_CHECKING:
    from astropt_db.q1.archive_jobs import TapClient
    from astropt_db.q1.archive_results import Result

__all__ = [
    "ADQL_LABEL",
    "ESA",
    "IRSA",
    "Adql",
    "ArchiveError",
    "Cone",
    "Download",
    "Selection",
    "Service",
    "Tile",
    "fetch",
    "find_service",
    "parse_cone",
]

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Download:
    """The files of one product.

    Attributes
    ----------
    product
        Product table, or ``adql`` for a query whose product is not named.
    service
        Name of the service.
    query
        The ADQL that selects the rows.
    rows
        Number of rows, as counted by the archive and as found in the files.
    files
        One file per page in key order; none if the selection is empty.
    fetched
        False if all of it was there already.
    """

    product: str
    service: str
    query: str
    rows: int
    files: tuple[Path, ...]
    fetched: bool


@dataclass(frozen=True)
class _Page:
    file: str
    rows: int
    sha256: str
    last_key: tuple[str, ...] | None


@dataclass
class _Record:
    """How far a download has come; ``path`` is its JSON file."""

    path: Path
    service: str
    url: str
    query: Query
    count: int | None = None
    pages: list[_Page] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(page.rows for page in self.pages)

    @property
    def complete(self) -> bool:
        return self.rows == self.count

    @property
    def last_key(self) -> tuple[int, ...] | None:
        key = self.pages[-1].last_key if self.pages else None
        return None if key is None else tuple(map(int, key))

    def page_path(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.stem}_{len(self.pages) + 1:04d}{suffix}")

    def save(self) -> None:
        text = json.dumps(
            {
                "service": self.service,
                "url": self.url,
                "product": self.query.product,
                "query": self.query.adql,
                "count": self.count,
                "complete": self.complete,
                "updated": datetime.now(UTC).isoformat(timespec="seconds"),
                "pages": [asdict(page) for page in self.pages],
            },
            indent=2,
        )
        part = _part(self.path)
        with part.open("w", encoding="utf-8") as handle:
            handle.write(text + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        _put_in_place(part, self.path)


def fetch(
    service: Service,
    selection: Selection,
    products: Sequence[str],
    folder: Path,
    *,
    progress: Progress | None = None,
) -> list[Download]:
    """Download a selection of some products into ``folder``.

    Parameters
    ----------
    service
        From :func:`find_service`.
    selection
        A cone, a tile or one ADQL statement.
    products
        Product tables, such as ``mer_catalogue``. With :class:`Adql` one name at most: it says
        how the rows of a result of several pages are identified (``object_id`` if none).
    folder
        Where the files go; made if missing.
    progress
        Called with the rows at hand and the rows in all (``None`` until they are counted).

    Returns
    -------
    list of Download
        One per product, in the order given.

    Raises
    ------
    ArchiveError
        If the service fails for good or does not deliver what it counted. Pages that arrived
        whole are kept, and the same call continues after them.
    ConfigurationError
        If the service does not hold a product, or the ADQL is not one SELECT statement.
    FileError
        If the folder cannot be written.
    MissingExtraError
        If pyvo is not installed and something has to be downloaded.
    """
    if isinstance(selection, Adql):
        if len(products) > 1:
            raise ConfigurationError(f"ADQL gives one product, not {len(products)}.")
        products = products or [ADQL_LABEL]
    queries = [build(service, selection, product) for product in dict.fromkeys(products)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        records = [_load(folder, service, query) for query in queries]
        missing = [record for record in records if not record.complete]
        if missing:
            with _connect(service) as client:
                _complete(client, records, missing, progress or (lambda rows, total: None))
    except OSError as error:
        problem = f"cannot be used for downloads ({error.strerror})."
        raise FileError(folder, problem, "Choose another folder.") from error
    return [
        Download(
            product=record.query.product,
            service=service.name,
            query=record.query.adql,
            rows=record.rows,
            files=tuple(folder / page.file for page in record.pages),
            fetched=record in missing,
        )
        for record in records
    ]


def _connect(service: Service) -> TapClient:
    try:
        from astropt_db.q1.archive_jobs import TapClient
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pyvo", "requests"):
            raise
        raise MissingExtraError("pyvo", "archive", "ingest archive") from error
    return TapClient(service)


def _load(folder: Path, service: Service, query: Query) -> _Record:
    """Return what an earlier call left, up to the first page that is not as it was."""
    identity = "\n".join((service.url, service.response_format, query.product, query.adql))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    path = folder / f"{query.product}_{service.name}_{digest}.json"
    record = _Record(path, service.name, service.url, query)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        pages = [_Page(**page) for page in saved["pages"]]
        record.count = saved["count"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return record
    for page in pages:
        file = folder / page.file
        if not file.is_file() or _sha256(file) != page.sha256:
            break
        record.pages.append(page)
    return record


def _complete(
    client: TapClient, records: list[_Record], missing: list[_Record], progress: Progress
) -> None:
    done = sum(record.rows for record in records)
    progress(done, None)
    for record in missing:
        count = client.count(record.query.count)
        if count != record.count:
            # The archive holds other rows than when the download began.
            done -= record.rows
            record.pages.clear()
        record.count = count
    total = sum(record.count or 0 for record in records)
    progress(done, total)
    for record in missing:
        record.save()
        while not record.complete:
            done += _fetch_page(client, record)
            progress(done, total)


def _fetch_page(client: TapClient, record: _Record) -> int:
    """Download the next page and return its number of rows."""
    service, query = client.service, record.query
    left = (record.count or 0) - record.rows
    rows = min(left, service.page_rows)
    paged = bool(record.pages) or rows < left
    adql = query.page(rows, record.last_key) if paged else query.adql
    path = record.page_path(".fits" if service.response_format == "fits" else ".vot")
    part = _part(path)
    try:
        result = client.download(adql, rows, part, query.key)
        if result.rows != rows:
            raise ArchiveError(
                service.name,
                "The result is not the one that was counted, so nothing of it was kept; the "
                f"{len(record.pages)} pages before it are. Run the same command again, or ask "
                "for less.",
                adql,
                rows,
                result.rows,
            )
        last_key = _last_key(service, query, adql, record.last_key, result) if paged else None
        digest = _sha256(part)
        _put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)
    record.pages.append(_Page(path.name, rows, digest, last_key))
    record.save()
    return rows


def _last_key(
    service: Service, query: Query, adql: str, after: tuple[int, ...] | None, result: Result
) -> tuple[str, ...]:
    """Return the key of a page's last row, as text: JSON numbers cannot hold an object_id.

    Raises
    ------
    ArchiveError
        If the rows are not in strictly ascending order of a key that follows ``after``: a page
        boundary would then lose or repeat rows.
    """
    names = ", ".join(query.key)
    if result.keys is None:
        raise ArchiveError(
            service.name,
            f"The result needs more than one page of {service.page_rows} rows, and pages need "
            f"the columns {names} with a value in every row. Select them, or select less.",
            adql,
        )
    keys = result.keys if after is None else np.vstack([np.array([after], np.int64), result.keys])
    if not _ascends(keys):
        raise ArchiveError(
            service.name,
            f"The rows of a page are not in ascending order of a unique ({names}). Name the "
            "product that the query returns, or select less than one page of "
            f"{service.page_rows} rows.",
            adql,
        )
    return tuple(str(value) for value in keys[-1].tolist())


def _ascends(keys: np.ndarray[Any, np.dtype[np.int64]]) -> bool:
    """Whether rows of shape ``(n, k)`` strictly ascend in lexicographic order."""
    before, after = keys[:-1], keys[1:]
    less = np.zeros(len(before), dtype=bool)
    equal = np.ones(len(before), dtype=bool)
    for column in range(keys.shape[1]):
        less |= equal & (before[:, column] < after[:, column])
        equal &= before[:, column] == after[:, column]
    return bool(less.all())


def _part(path: Path) -> Path:
    """Return the name under which a file grows; a folder's readers skip hidden files."""
    return path.with_name(f".{path.name}.part")


def _put_in_place(part: Path, path: Path) -> None:
    """Rename a flushed file and flush its folder, so that a power cut finds old or new."""
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
