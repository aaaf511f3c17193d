"""A process that reads files for the fuzz test: one path per line in, one JSON answer per line out.

It is a process of its own, so that a crash of a C library is seen as such and a hang can be ended.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

from astropt_db.astropt.checkpoint import read_checkpoint
from astropt_db.errors import AstroptDbError
from astropt_db.q1.readers import open_tables


def read(path: Path) -> int:
    """Read everything in a file; the number of rows, or of weights."""
    if path.suffix == ".safetensors":
        return len(read_checkpoint(path).weights)
    rows = 0
    for table in open_tables(path):
        with table:
            rows += sum(block.n_rows for block in table.blocks())
    return rows


def answer(path: Path) -> dict[str, object]:
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome: dict[str, object] = {"rows": read(path)}
    except AstroptDbError as error:
        outcome = {"refused": str(error)}
    except BaseException:
        outcome = {"crash": traceback.format_exc()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome | {"seconds": time.monotonic() - started, "peak": peak}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    say("ready")
    for line in sys.stdin:
        say(json.dumps(answer(Path(line.rstrip("\n")))))
