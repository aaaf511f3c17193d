"""Asynchronous TAP jobs: submit, wait, download, delete, and try again when the network fails.

The only module that talks to an archive; it needs pyvo (extra ``archive``). Jobs follow UWS 1.1
and TAP 1.1. A step that fails for a passing reason (5xx, 429, a connection that is refused,
reset, silent or cut short) is tried again; an answer that the service means is an error at once.
"""

from __future__ import annotations

import html
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeVar
from xml.parsers.expat import ExpatError

import pyvo
import requests
from pyvo.dal import DALServiceError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError as Urllib3Error

from astropt_db.errors import FileError
from astropt_db.q1 import archive_results
from astropt_db.q1.archive_results import BrokenResultError, RefusedResultError, Result
from astropt_db.q1.archive_services import ArchiveError, Service

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FINAL_PHASES = frozenset({"COMPLETED", "ERROR", "ABORTED", "ARCHIVED"})
_LONGEST_POLL = 10.0
_LONGEST_WAIT = 120.0
_CHUNK = 1 << 20

# pyvo wraps most failures, but not those in the body of a job description.
_FAILURES = (
    DALServiceError,
    requests.RequestException,
    Urllib3Error,
    BrokenResultError,
)


class _TimeLimit(HTTPAdapter):
    """Gives every request a time limit, which pyvo does not do for most of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__()

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
        options["timeout"] = self.seconds
        return super().send(request, **options)


class TapClient:
    """A connection to one service; use as a context manager."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _TimeLimit(service.read_limit))
        # pyvo leaves answers open that it does not read; they are closed after each step.
        self._answers: list[requests.Response] = []
        self._session.hooks["response"].append(
            lambda answer, **_options: self._answers.append(answer)
        )
        self._tap = pyvo.dal.TAPService(service.url, session=self._session)

    def __enter__(self) -> TapClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()

    def count(self, adql: str) -> int:
        """Run a COUNT(*) and return its number.

        Raises
        ------
        ArchiveError
            If the service does not answer with one number.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / "count.vot"
            return self._run(adql, 1, "votable", path, archive_results.single_value)

    def download(self, adql: str, rows: int, path: Path, key: Sequence[str]) -> Result:
        """Run a query and write its result to ``path``, as the service sends it.

        Parameters
        ----------
        rows
            Number of rows that are expected, sent as MAXREC.
        path
            File to write, flushed to disk. Its content counts for nothing after an error.
        key
            Columns that identify a row.

        Raises
        ------
        ArchiveError
            If the service refuses, fails for good, runs over its time, leaves rows out with
            notice, or sends keys as floating-point numbers.
        FileError
            If the file cannot be written.
        """
        form = self.service.response_format
        return self._run(
            adql, rows, form, path, lambda file: archive_results.inspect(file, form, key)
        )

    def _run(self, adql: str, maxrec: int, form: str, path: Path, judge: Callable[[Path], T]) -> T:
        def deliver(uri: str) -> T:
            self._save(uri, path)
            return judge(path)

        with self._job(adql, maxrec, form) as job:
            self._wait(job, adql)
            if job.result_uri is None:
                raise ArchiveError(self.service.name, "The job ended without a result.", adql)
            return self._retry(adql, lambda: deliver(job.result_uri))

    @contextmanager
    def _job(self, adql: str, maxrec: int, form: str) -> Iterator[Any]:
        """Start a job; delete it in the end, whatever happens (Ctrl-C included)."""
        job = self._retry(adql, lambda: self._submit(adql, maxrec, form))
        try:
            yield job
        finally:
            self._delete(job)

    def _submit(self, adql: str, maxrec: int, form: str) -> Any:
        job = _described(lambda: self._tap.submit_job(adql, maxrec=maxrec, RESPONSEFORMAT=form))
        try:
            return job.run()
        except BaseException:
            self._delete(job)
            raise

    def _delete(self, job: Any) -> None:
        # A job that cannot be deleted now is destroyed by the service in its own time.
        with suppress(*_FAILURES):
            job.delete()
        self._close_answers()

    def _close_answers(self) -> None:
        while self._answers:
            self._answers.pop().close()

    def _wait(self, job: Any, adql: str) -> None:
        deadline = time.monotonic() + self.service.job_limit
        pause = 0.1
        while (phase := self._retry(adql, lambda: _phase(job))) not in _FINAL_PHASES:
            if time.monotonic() > deadline:
                raise ArchiveError(
                    self.service.name,
                    f"The job was still {phase} after {self.service.job_limit:g} s and was "
                    "deleted. Select less, or try again when the service is less busy.",
                    adql,
                )
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_POLL)
        if phase != "COMPLETED":
            summary = self._retry(adql, lambda: _described(lambda: job.job)).errorsummary
            message = getattr(getattr(summary, "message", None), "content", None)
            reason = (message or "no reason given").strip()
            raise ArchiveError(self.service.name, f"The job ended as {phase}: {reason}", adql)

    def _save(self, uri: str, path: Path) -> None:
        answer = self._session.get(uri, stream=True)
        answer.raise_for_status()
        try:
            with path.open("wb") as handle:
                for chunk in answer.iter_content(_CHUNK):
                    handle.write(chunk)
                handle.flush()
                os.fsync(handle.fileno())
        except requests.RequestException:  # an OSError too, but not the disk's
            raise
        except OSError as error:
            problem = f"the archive's result cannot be written ({error.strerror})."
            raise FileError(path, problem, "Make room or choose another folder.") from error

    def _retry(self, adql: str, action: Callable[[], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return action()
            except RefusedResultError as error:
                raise ArchiveError(self.service.name, str(error), adql) from error
            except _FAILURES as error:
                reason = _reason(error)
                if not _is_passing(error):
                    raise ArchiveError(self.service.name, reason, adql) from error
                if attempt >= self.service.attempts:
                    problem = f"Gave up after {attempt} attempts; the last one ended with: {reason}"
                    raise ArchiveError(self.service.name, problem, adql) from error
                wait = max(self.service.backoff * 2 ** (attempt - 1), _retry_after(error))
            finally:
                self._close_answers()
            logger.warning("Archive %s: %s; trying again in %g s", self.service.name, reason, wait)
            time.sleep(wait)


def _described(action: Callable[[], T]) -> T:
    """Run a pyvo call that reads a job description, which may be a proxy's page instead."""
    try:
        return action()
    except (ValueError, ExpatError) as error:
        raise BrokenResultError(f"the answer is no job description ({error})") from error


def _phase(job: Any) -> str:
    phase = _described(lambda: job.phase)
    if not phase:
        raise BrokenResultError("the answer is no job description (it has no phase)")
    return str(phase)


def _response(error: BaseException) -> requests.Response | None:
    """Return the HTTP answer behind a failure, if there was one."""
    response = getattr(getattr(error, "cause", None) or error, "response", None)
    return response if isinstance(response, requests.Response) else None


def _is_passing(error: BaseException) -> bool:
    response = _response(error)
    return response is None or response.status_code >= 500 or response.status_code in (408, 429)


def _reason(error: BaseException) -> str:
    """Say what failed; from a TAP error document (DALI) its own words."""
    response = _response(error)
    if response is None:
        return str(error) or type(error).__name__
    words = str(error)
    with suppress(requests.RequestException):
        found = re.search(r"<INFO[^>]*QUERY_STATUS[^>]*>(.*?)</INFO>", response.text, re.S)
        words = html.unescape(found[1]).strip() if found else words
    return f"HTTP {response.status_code}: {words}"


def _retry_after(error: BaseException) -> float:
    """Seconds that the service asks to wait, at most two minutes."""
    response = _response(error)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else 0.0
