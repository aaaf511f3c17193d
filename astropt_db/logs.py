"""Log lines for people or as JSON, each with the run that it belongs to and without passwords."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

current_run: ContextVar[int | None] = ContextVar("current_run", default=None)
"""Number of the run (``astropt.run``) that this thread works for; set by ``recorded_run``."""

# user:password@ in any address, and password=… as libpq writes it.
_SECRETS = (
    (re.compile(r"(\w[\w+.-]*://[^\s:/@]*):[^\s/]+@"), r"\1:***@"),
    (re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE), r"\1***"),
)
_NOT_EXTRA = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "run"}


def without_passwords(text: str) -> str:
    """The text with the passwords of connection strings and addresses taken out."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class TextFormatter(logging.Formatter):
    """``LEVEL logger: message``, with ``[run N]`` inside a run."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, passwords taken out."""
        run = current_run.get()
        head = f"{record.levelname} {record.name}: " + ("" if run is None else f"[run {run}] ")
        text = head + record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return without_passwords(text)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, run, pid, message, extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, passwords taken out."""
        moment = datetime.fromtimestamp(record.created, UTC)
        facts: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": current_run.get(),
            "pid": record.process,
            "message": without_passwords(record.getMessage()),
        }
        extras = {key: value for key, value in vars(record).items() if key not in _NOT_EXTRA}
        facts |= {key: without_passwords(str(value)) for key, value in extras.items()}
        if record.exc_info:
            facts["exception"] = without_passwords(self.formatException(record.exc_info))
        return json.dumps(facts, ensure_ascii=False)


def set_up(level: int, log_format: str) -> None:
    """Send log lines of this process to stderr, as ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
