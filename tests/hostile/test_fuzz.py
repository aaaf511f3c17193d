"""Files with flipped, lost and multiplied bytes: read or refused, never a crash, hang or half.

By default a few files of each format; ``pytest -m slow`` takes two thousand, as
docs/reliability.md reports.
"""

from __future__ import annotations

import json
import random
import re
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import from_table, writeto
from astropy.table import Table
from commands import CHECKOUT, ingest
from q1_files import make_rows, write_product

from astropt_db.astropt.checkpoint import save_checkpoint, sha256
from astropt_db.astropt.layouts import Preprocessing
from astropt_db.astropt.model import AstroPT, Modality, ModelConfig
from astropt_db.database.connect import Database

HANG_S = 10.0
MEMORY = 2 * 2**30
FORMATS = ("fits", "vot", "parquet", "ecsv", "safetensors")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small whole file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    path = write_product(folder, "phz_photo_z", make_rows("phz_photo_z", 40))
    found = {"fits": path.rename(folder / "a.fits")}
    rows = make_rows("phz_photo_z", 40)
    native = rows.astype(rows.dtype.newbyteorder("="))
    names = [name for name in native.dtype.names if native[name].ndim == 1][:12]
    table = Table({name: native[name] for name in names})
    found["vot"] = folder / "a.vot"
    writeto(from_table(table), str(found["vot"]), tabledata_format="binary2")
    found["ecsv"] = folder / "a.ecsv"
    table.write(found["ecsv"], format="ascii.ecsv")
    found["parquet"] = folder / "a.parquet"
    pq.write_table(pa.table({name: native[name] for name in names}), found["parquet"])
    found["safetensors"] = folder / "a.safetensors"
    small_checkpoint(found["safetensors"])
    return found


def small_checkpoint(path: Path) -> None:
    config = ModelConfig((Modality("images", 64),), n_layer=2, n_head=2, n_embd=16, block_size=36)
    how = Preprocessing(bands=1, image_size=48, patch_size=8)
    save_checkpoint(path, config, how, AstroPT(config).state_dict())


Mutation = Callable[[random.Random, bytearray], None]


def flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 1, 4, 32])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_in_the_head(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice([1, 2, 8])):
        data[chance.randrange(min(len(data), 600))] = chance.randrange(256)


def flip_in_the_tail(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice([1, 2, 8])):
        data[-1 - chance.randrange(min(len(data), 600))] = chance.randrange(256)


def cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def drop(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice([1, 7, 80, 2880])]


def repeat(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.choice([1, 80, 2880])]
    data[start:start] = piece * chance.choice([1, 3])


def wipe(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    stop = min(len(data), start + chance.choice([4, 64, 4096]))
    data[start:stop] = bytes([chance.choice([0, 0xFF])]) * (stop - start)


def enlarge_a_number(chance: random.Random, data: bytearray) -> None:
    """A count or size in a header that claims far more than there is."""
    numbers = [m for m in re.finditer(rb"\d+", bytes(data[:20000])) if len(m[0]) < 12]
    if numbers:
        one = chance.choice(numbers)
        digits = bytes(chance.choice(b"0123456789") for _ in range(len(one[0])))
        data[one.start() : one.end()] = chance.choice(
            [b"9" * len(one[0]), digits, b"9" * chance.choice([6, 10, 18]), b"0", b"-1"]
        )


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, flip, flip, flip_in_the_head, flip_in_the_tail),
    *(cut, drop, repeat, wipe, enlarge_a_number),
)


def mutants(originals: dict[str, Path], folder: Path, kind: str, count: int) -> Iterator[Path]:
    """``count`` damaged copies of one format; the same ones each time."""
    chance = random.Random(f"{kind} 20261128")
    whole = originals[kind].read_bytes()
    for number in range(count):
        data = bytearray(whole)
        chance.choice(MUTATIONS)(chance, data)
        path = folder / f"{kind}{number}.{kind}"
        path.write_bytes(data)
        card = originals[kind].with_suffix(".json")
        if kind == "safetensors":
            # With the right hash, or that alone would refuse every mutant.
            facts = json.loads(card.read_text()) | {"sha256": sha256(path)}
            path.with_suffix(".json").write_text(json.dumps(facts))
        yield path


@dataclass
class Reader:
    """The reading process; it is started anew when it had to be killed."""

    crashes: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    peak: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("fuzz_reader.py")],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == "ready\n"
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def read(self, path: Path) -> None:
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        # Four times the limit as the last resort: the machine of the tests may be busy.
        ready, _, _ = select.select([process.stdout], [], [], 4 * HANG_S)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.crashes.append(f"{path.name}: {'died' if ready else 'hangs'}")
            self.stop()
            return
        found = json.loads(line)
        self.slowest = max(self.slowest, found["seconds"])
        self.peak = max(self.peak, found["peak"])
        if "crash" in found:
            self.crashes.append(f"{path.name}: {found['crash']}")
        elif "refused" in found and path.name not in found["refused"]:
            self.crashes.append(f"{path.name}: its name is not in: {found['refused']}")
        self.outcomes["refused" if "refused" in found else "read"] += 1


def fuzz(originals: dict[str, Path], folder: Path, kind: str, count: int) -> Reader:
    reader = Reader()
    try:
        reader.read(originals[kind])
        assert not reader.crashes, reader.crashes
        assert reader.outcomes == {"read": 1}, f"the whole {kind} file is read"
        for path in mutants(originals, folder, kind, count):
            reader.read(path)
    finally:
        reader.stop()
    assert not reader.crashes, "\n".join(reader.crashes[:5])
    assert reader.slowest < HANG_S
    assert reader.peak < MEMORY
    return reader


@pytest.mark.parametrize("kind", FORMATS)
def test_some_damaged_files(originals: dict[str, Path], tmp_path: Path, kind: str) -> None:
    outcomes = fuzz(originals, tmp_path, kind, 30).outcomes
    assert outcomes["refused"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", FORMATS)
def test_two_thousand_damaged_files(
    originals: dict[str, Path], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = fuzz(originals, tmp_path, kind, 400)
    with capsys.disabled():
        click.echo(
            f"\n{kind}: {dict(reader.outcomes)}, slowest {reader.slowest:.2f} s, "
            f"peak {reader.peak / 2**20:.0f} MiB"
        )


# Into the database


def ingest_damaged(database: Database, originals: dict[str, Path], folder: Path, n: int) -> Counter:
    kinds = ("fits", "vot", "parquet", "ecsv")
    paths = [path for kind in kinds for path in mutants(originals, folder, kind, n)]
    done = ingest(database, folder)
    assert done.code in (0, 1), done.err
    assert "Traceback" not in done.err
    with psycopg.connect(database.url) as connection:
        rows = connection.execute(
            "SELECT f.path, f.state, f.rows_read, f.rows_inserted + f.rows_updated "
            "+ f.rows_unchanged + f.rows_rejected, f.rows_inserted, "
            "(SELECT count(*) FROM q1.phz_photo_z AS p WHERE p.ingest_file_id = f.id) "
            "FROM astropt.ingest_file AS f"
        ).fetchall()
        row = connection.execute("SELECT count(*) FROM q1.phz_photo_z").fetchone()
    assert {Path(path).name for path, *_ in rows} == {path.name for path in paths}
    for path, state, read, accounted, _, present in rows:
        if state == "done":
            assert read == accounted, path
        else:
            assert present == 0, f"{path} failed and left rows"
    assert row == (sum(inserted for *_, inserted, _ in rows),)
    return Counter(state for _, state, *_ in rows)


def test_no_half_written_table(
    ready_database: Database, originals: dict[str, Path], tmp_path: Path
) -> None:
    states = ingest_damaged(ready_database, originals, tmp_path, 12)
    assert states["done"] >= 4
    assert states["failed"] >= 4


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_half_written_table_after_many(
    ready_database: Database,
    originals: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    states = ingest_damaged(ready_database, originals, tmp_path, 100)
    with capsys.disabled():
        click.echo(f"\ningested: {dict(states)}")


def test_the_mutations_change_something(originals: dict[str, Path], tmp_path: Path) -> None:
    whole = originals["fits"].read_bytes()
    changed = [path.read_bytes() != whole for path in mutants(originals, tmp_path, "fits", 50)]
    assert np.mean(changed) > 0.9
