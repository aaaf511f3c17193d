"""A small TAP service on 127.0.0.1 that can be told to misbehave.

It speaks enough of TAP 1.1 and UWS 1.1 for pyvo: ``/async`` jobs (create, run, phase, result,
delete) and ``/sync``. Queries run in SQLite after two changes of dialect (``TOP n`` becomes
``LIMIT n``, geometry becomes functions), so joins, sub-selects, ordering, COUNT(*) and integer
division are those of a real database.

    with TapServer({"catalogue.mer_catalogue": {"object_id": ids, ...}}) as server:
        server.faults.unavailable = 2
        ... server.url ...
"""

from __future__ import annotations

import gzip
import io
import itertools
import math
import re
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import numpy as np
from astropy.io.votable import from_table
from astropy.io.votable.tree import Info
from astropy.table import MaskedColumn, Table

VOTABLE = "application/x-votable+xml"


@dataclass
class Faults:
    """What goes wrong. Numbers of requests count down to zero.

    Attributes
    ----------
    keep_rows
        Results end silently after so many rows (a COUNT(*) is one row and stays right).
    overflow_rows
        The same, with QUERY_STATUS=OVERFLOW.
    job_seconds
        Every job executes for so long.
    unavailable
        So many requests get a 503.
    drop_results
        So many results break off in the middle, with the Content-Length of the whole.
    cut_results
        So many results end in the middle without any Content-Length.
    stall_results, stall_seconds
        So many results fall silent in the middle, for so long.
    error
        Every job ends in phase ERROR with this message.
    error_document
        Every result is a complete VOTable that says QUERY_STATUS=ERROR.
    web_page
        Every answer is an HTML page with status 200, as a proxy's login page is.
    ids_as_double
        object_id is sent as double, as a careless service would.
    unordered
        ORDER BY is ignored.
    unmarked_gzip
        Results are gzip files without a Content-Encoding.
    fail_after_results
        After so many results every further one gets a 500.
    """

    keep_rows: int | None = None
    overflow_rows: int | None = None
    job_seconds: float = 0.0
    unavailable: int = 0
    drop_results: int = 0
    cut_results: int = 0
    stall_results: int = 0
    stall_seconds: float = 0.0
    error: str = ""
    error_document: str = ""
    web_page: bool = False
    ids_as_double: bool = False
    unordered: bool = False
    unmarked_gzip: bool = False
    fail_after_results: int | None = None


@dataclass
class Job:
    """One asynchronous job, kept after its deletion for the tests to look at."""

    id: str
    parameters: dict[str, str]
    phase: str = "PENDING"
    started: float = 0.0
    deleted: bool = False
    served: int = 0


def _separation(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Angle between two directions in degrees (haversine)."""
    a1, d1, a2, d2 = map(math.radians, (ra1, dec1, ra2, dec2))
    half = math.sin((d2 - d1) / 2) ** 2
    half += math.cos(d1) * math.cos(d2) * math.sin((a2 - a1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(half))))


def _point(_frame: str, ra: float, dec: float) -> str:
    return f"{ra!r} {dec!r}"


def _circle(_frame: str, ra: float, dec: float, radius: float) -> str:
    return f"{ra!r} {dec!r} {radius!r}"


def _contains(point: str, circle: str) -> int:
    ra, dec = map(float, point.split())
    centre_ra, centre_dec, radius = map(float, circle.split())
    return int(_separation(ra, dec, centre_ra, centre_dec) <= radius)


def _to_sqlite(adql: str) -> str:
    """Move every TOP to the end of its own select."""
    while found := re.search(r"\bSELECT(\s+DISTINCT)?\s+TOP\s+(\d+)", adql, re.I):
        depth, end = 0, len(adql)
        for place in range(found.end(), len(adql)):
            depth += (adql[place] == "(") - (adql[place] == ")")
            if depth < 0:
                end = place
                break
        head = f"{adql[: found.start()]}SELECT{found[1] or ''}"
        adql = f"{head}{adql[found.end() : end]} LIMIT {found[2]}{adql[end:]}"
    return adql


@dataclass
class Database:
    """Tables in SQLite; a vector column is stored as the bytes of its values."""

    types: dict[str, np.dtype] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.connection.execute("ATTACH ':memory:' AS catalogue")
        for name, arity, function in (
            ("POINT", 3, _point),
            ("CIRCLE", 4, _circle),
            ("CONTAINS", 2, _contains),
        ):
            self.connection.create_function(name, arity, function, deterministic=True)

    def add(self, table: str, columns: Mapping[str, np.ndarray]) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        self.connection.execute(f"CREATE TABLE {table} ({names})")
        cells = []
        for name, values in columns.items():
            plain = np.ma.getdata(values)
            self.types[name], self.shapes[name] = plain.dtype, plain.shape[1:]
            vector = plain.ndim > 1
            cells.append([row.tobytes() for row in plain] if vector else np.ma.asarray(values))
        rows = zip(*(c if isinstance(c, list) else c.tolist() for c in cells), strict=True)
        marks = ", ".join("?" * len(columns))
        self.connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

    def select(self, adql: str) -> Table:
        with self.lock:
            cursor = self.connection.execute(_to_sqlite(adql))
            names = [re.sub(r"\W", "_", entry[0]) for entry in cursor.description]
            rows = cursor.fetchall()
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        table = Table(masked=True)
        for name, values in zip(names, columns, strict=True):
            table[name] = self._column(name, values)
        return table

    def _column(self, name: str, values: tuple) -> MaskedColumn:
        dtype, shape = self.types.get(name, np.dtype(np.int64)), self.shapes.get(name, ())
        if shape:
            return MaskedColumn(np.frombuffer(b"".join(values), dtype).reshape(-1, *shape))
        empty = "" if dtype.kind == "U" else dtype.type(0)
        mask = [value is None for value in values]
        data = [empty if value is None else value for value in values]
        return MaskedColumn(np.array(data, dtype=dtype), mask=mask)


class TapServer:
    """The service, in a thread of its own; a context manager.

    Attributes
    ----------
    url
        Base URL.
    faults
        May be changed at any time.
    jobs
        Every job ever made, in order.
    requests
        Number of requests answered.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self.faults = Faults()
        self.jobs: list[Job] = []
        self.requests = 0
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.database = Database()
        for name, columns in tables.items():
            self.database.add(name, columns)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/tap"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> TapServer:
        self.thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
        self.database.connection.close()

    @property
    def queries(self) -> list[str]:
        """The ADQL of every job, in order."""
        return [job.parameters["QUERY"] for job in self.jobs]

    def take(self, fault: str) -> bool:
        """Whether this fault strikes now; counts it down."""
        with self.lock:
            left = getattr(self.faults, fault)
            setattr(self.faults, fault, max(0, left - 1))
        return left > 0

    def result(self, parameters: Mapping[str, str]) -> tuple[bytes, str]:
        """Run a query; return the document and its type."""
        faults, adql = self.faults, parameters["QUERY"]
        if faults.error_document:
            return _error_document(faults.error_document), VOTABLE
        if faults.unordered:
            adql = re.sub(r"ORDER BY [^)]*$", "", adql)
        table = self.database.select(adql)
        limits = [int(parameters["MAXREC"])] if "MAXREC" in parameters else []
        limits += [faults.overflow_rows] if faults.overflow_rows is not None else []
        overflow = bool(limits) and len(table) > min(limits)
        limits += [faults.keep_rows] if faults.keep_rows is not None else []
        if limits:
            table = table[: min(limits)]
        if faults.ids_as_double and "object_id" in table.colnames:
            table["object_id"] = table["object_id"].astype(np.float64)
        if parameters.get("RESPONSEFORMAT") == "fits":
            buffer = io.BytesIO()
            table.write(buffer, format="fits")
            return buffer.getvalue(), "application/fits"
        return _votable(table, overflow), VOTABLE


def _votable(table: Table, overflow: bool) -> bytes:
    document = from_table(table)
    resource = document.resources[0]
    resource.type = "results"
    resource.infos.append(Info(name="QUERY_STATUS", value="OVERFLOW" if overflow else "OK"))
    buffer = io.BytesIO()
    document.to_xml(buffer, tabledata_format="binary2")
    return buffer.getvalue()


def _error_document(message: str) -> bytes:
    return (
        '<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        '<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">'
        f"{escape(message)}</INFO></RESOURCE></VOTABLE>"
    ).encode()


def _job_document(server: TapServer, job: Job) -> bytes:
    base = f"{server.url}/async/{job.id}"
    result = f'<uws:result id="result" xlink:href="{base}/results/result"/>'
    error = f"<uws:message>{escape(server.faults.error)}</uws:message>"
    return (
        '<uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" version="1.1" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<uws:jobId>{job.id}</uws:jobId><uws:phase>{job.phase}</uws:phase>"
        f"<uws:results>{result if job.phase == 'COMPLETED' else ''}</uws:results>"
        + (f'<uws:errorSummary type="fatal">{error}</uws:errorSummary>' * (job.phase == "ERROR"))
        + "</uws:job>"
    ).encode()


def _handler(server: TapServer) -> type[BaseHTTPRequestHandler]:
    """Make the request handler of one server."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            """Keep quiet."""

        def do_GET(self) -> None:
            self.answer("GET")

        def do_POST(self) -> None:
            self.answer("POST")

        def do_DELETE(self) -> None:
            self.answer("DELETE")

        def answer(self, verb: str) -> None:
            server.requests += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            parts = urlsplit(self.path)
            fields = parse_qs(parts.query) | parse_qs(body)
            parameters = {name.upper(): values[-1] for name, values in fields.items()}
            if server.take("unavailable"):
                return self.send(503, b"busy", "text/plain", {"Retry-After": "0"})
            if server.faults.web_page:
                return self.send(200, b"<html><body>Please log in<br></body></html>", "text/html")
            steps = parts.path.strip("/").split("/")[1:]
            if steps == ["sync"]:
                return self.send_result(parameters)
            if steps == ["async"] and verb == "POST":
                job = Job(str(next(server.numbers)), parameters)
                server.jobs.append(job)
                return self.see_other(job)
            job = next((j for j in server.jobs if steps[1:2] == [j.id] and not j.deleted), None)
            if job is None:
                return self.send(404, b"no such job", "text/plain")
            return self.answer_job(verb, job, steps[2:], parameters)

        def answer_job(
            self, verb: str, job: Job, steps: list[str], parameters: dict[str, str]
        ) -> None:
            if verb == "DELETE":
                job.deleted = True
                return self.send(200, b"", "text/plain")
            if verb == "POST" and steps == ["phase"] and parameters.get("PHASE") == "RUN":
                job.phase, job.started = "EXECUTING", time.monotonic()
                return self.see_other(job)
            finished = time.monotonic() - job.started >= server.faults.job_seconds
            if job.phase == "EXECUTING" and finished:
                job.phase = "ERROR" if server.faults.error else "COMPLETED"
            if steps == ["results", "result"]:
                if server.faults.fail_after_results is not None:
                    if server.faults.fail_after_results == 0:
                        return self.send(500, b"out of order", "text/plain")
                    server.faults.fail_after_results -= 1
                job.served += 1
                return self.send_result(job.parameters)
            return self.send(200, _job_document(server, job), "text/xml")

        def see_other(self, job: Job) -> None:
            self.send(303, b"", "text/plain", {"Location": f"{server.url}/async/{job.id}"})

        def send_result(self, parameters: dict[str, str]) -> None:
            try:
                body, kind = server.result(parameters)
            except sqlite3.Error as error:
                return self.send(400, _error_document(str(error)), VOTABLE)
            if server.faults.unmarked_gzip:
                body = gzip.compress(body)
            half = body[: len(body) // 2]
            if server.take("drop_results"):
                return self.send(200, half, kind, {"Content-Length": str(len(body))})
            if server.take("cut_results"):
                return self.send(200, half, kind, {"Content-Length": ""})
            if server.take("stall_results"):
                self.send(200, half, kind, {"Content-Length": str(len(body))})
                self.wfile.flush()
                time.sleep(server.faults.stall_seconds)
                return None
            return self.send(200, body, kind)

        def send(
            self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            defaults = {"Content-Type": kind, "Content-Length": str(len(body))}
            for name, value in (defaults | dict(headers or {})).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
