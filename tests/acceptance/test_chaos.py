"""The whole pipeline under fire, compared with an undisturbed run, table by table.

While ingestion, embedding, training, prediction, outliers, match and export run, a second thread
kills commands, backends and the server, freezes processes, and fills the disk. Every command is
simply run again until it ends well, as a person or a scheduler would. Nothing may be lost, doubled
or different. ``pytest -m slow``; the figures stand in docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import psutil
import psycopg
import pyarrow.parquet as pq
import pytest
from commands import CHECKOUT, kill_group
from psycopg import sql

from astropt_db.astropt.encoder import bundled_encoders
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.errors import AstroptDbError
from astropt_db.simulate import simulate

SOURCES = 300
WHERE = "mag_vis < 23"
DISK_MB = 900
LEAST_FAULTS = 30
# Imports once and forks each command from it, or most of the time would go into imports.
NURSERY = """
import json, os, sys
import torch, pandas, sklearn.linear_model, pyarrow.parquet
from astropt_db.cli.main import VERBS, main
import importlib
for module, _ in VERBS.values():
    importlib.import_module(module.split(":")[0])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        said = os.open(os.environ["CHAOS_SAID"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        main(json.loads(line))
    os.setpgid(child, child)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# What says who did it, when, and in which order; everything else must be the same.
OF_A_RUN = {
    *(
        "id",
        "run_id",
        "ingest_file_id",
        "file_id",
        "predictor_id",
        "outlier_run_id",
        "label_set_id",
    ),
    *("created_at", "started_at", "ended_at", "registered_at", "resolved_at", "applied_at"),
    "matched_at",
    *("attempts", "worker", "lease_until", "not_before", "parent_id", "error", "header_sha256"),
}
# Who did what, and how often it was tried; a predictor that was trained twice stands there twice.
JOURNALS = {
    *("astropt.run", "astropt.version", "astropt.alembic_version", "astropt.embed_chunk"),
    *("astropt.predictor", "astropt.outlier_run", "astropt.ingest_file", "astropt.map_run"),
}
VERSIONED = {"predictor_id": "predictor", "outlier_run_id": "outlier_run", "map_run_id": "map_run"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own needs root"),
]


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own, so that it can be filled."""
    folder = Path(tempfile.mkdtemp(prefix="adb-"))
    folder.chmod(0o755)
    size = f"size={DISK_MB}m,mode=755"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield folder
    finally:
        EmbeddedServer(folder / "home").stop()
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos") / "sky"
    simulate(folder, SOURCES, 2, "EDF-N", 3, jobs=1)
    truth = pq.read_table(folder / "truth.parquet", columns=["object_id", "redshift"]).to_pandas()
    labels = truth[truth["object_id"] != 0].dropna()
    labels.rename(columns={"redshift": "z"}).to_csv(folder / "labels.csv", index=False)
    return folder


def pipeline(sky: Path, out: Path) -> list[list[object]]:
    """The commands, in order."""
    embed = ["embed", "--mode", "reference", "--threads", 1, "--chunk-size", 8, "--lease", 3]
    steps: list[list[object]] = [
        ["init"],
        ["ingest", "catalogue", sky / "catalogs"],
        ["ingest", "mosaics", sky / "MER"],
        ["encoder", "add", sorted(bundled_encoders())[0], "--name", "vis"],
        [*embed, "--attempts", 1000, "--where", WHERE, "--workers", 2],
        ["ingest", "labels", sky / "labels.csv", "--set", "z", "--id", "object_id",
         "--column", "z=z", "--replace"],
        ["train", "photoz", "--labels", "z", "--head", "linear"],
        ["predict", "photoz"],
    ]  # fmt: skip
    steps += [
        ["outliers", "find"],
        ["survey", "add", "gaia", sky / "surveys" / "gaia_source.fits", "--recipe", "gaia",
         "--replace"],
        ["survey", "match", "gaia"],
    ]  # fmt: skip
    steps.append(["export", "catalogue", "-o", out / "catalogue.parquet", "--overwrite"])
    return steps


@dataclass
class Chaos:
    """A thread that strikes at random moments until it is told to stop."""

    home: Path
    seed: int
    pause_s: float
    faults: Counter[str] = field(default_factory=Counter)
    group: int | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        chance = random.Random(self.seed)
        kinds = ["kill_command", "kill_child", "kill_backend", "end_backend", "kill_server"]
        kinds += ["freeze_command", "freeze_backend", "fill_disk"]
        while not self.stopped.wait(chance.expovariate(1 / self.pause_s) + 0.3):
            kind = chance.choice(kinds)
            with contextlib.suppress(psutil.Error, ProcessLookupError, psycopg.Error, OSError):
                if getattr(self, kind)(chance):
                    self.faults[kind] += 1
            with contextlib.suppress(AstroptDbError):
                EmbeddedServer(self.home).start()

    def members(self) -> list[psutil.Process]:
        """Processes of the command that runs now, its workers too."""
        group = self.group
        if group is None:
            return []
        # None, if the command ends just now, would be everybody whose group cannot be told.
        found = [p for p in psutil.process_iter() if _group(p) == group]
        return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]

    def backends(self) -> list[psutil.Process]:
        pid = EmbeddedServer(self.home).status().pid
        children = psutil.Process(pid).children() if pid else []
        return [p for p in children if "astropt" in " ".join(p.cmdline()[:3])]

    def kill_command(self, chance: random.Random) -> bool:
        group = self.group
        if group is None:
            return False
        os.killpg(group, signal.SIGKILL)
        return True

    def kill_child(self, chance: random.Random) -> bool:
        return _signal(chance, self.members()[1:], signal.SIGKILL)

    def kill_backend(self, chance: random.Random) -> bool:
        return _signal(chance, self.backends(), signal.SIGKILL)

    def end_backend(self, chance: random.Random) -> bool:
        return _signal(chance, self.backends(), signal.SIGTERM)

    def kill_server(self, chance: random.Random) -> bool:
        pid = EmbeddedServer(self.home).status().pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        time.sleep(chance.uniform(0.2, 2))
        return True

    def freeze_command(self, chance: random.Random) -> bool:
        return self._freeze(chance, self.members(), 6)

    def freeze_backend(self, chance: random.Random) -> bool:
        return self._freeze(chance, self.backends(), 3)

    def _freeze(self, chance: random.Random, processes: list[psutil.Process], longest: int) -> bool:
        if not processes:
            return False
        victim = chance.choice(processes)
        victim.suspend()
        time.sleep(chance.uniform(1, longest))
        victim.resume()
        return True

    def fill_disk(self, chance: random.Random) -> bool:
        ballast = self.home.parent / "ballast"
        try:
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(1 << 20))
            time.sleep(chance.uniform(1, 4))
        finally:
            ballast.unlink()
        return True


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _signal(chance: random.Random, processes: list[psutil.Process], number: int) -> bool:
    if not processes:
        return False
    chance.choice(processes).send_signal(number)
    return True


def run_pipeline(home: Path, sky: Path, out: Path, chaos: Chaos | None = None) -> int:
    """Run every command until it ends well; how often one had to be repeated."""
    said = out / "said.txt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ASTROPT_DB_")}
    environment |= {"ASTROPT_DB_HOME": str(home), "OMP_NUM_THREADS": "1", "CHAOS_SAID": str(said)}
    repeats = 0
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for words in pipeline(sky, out):
            code: int | None = None
            for _ in range(80):
                nursery.stdin.write(json.dumps([str(word) for word in words]) + "\n")
                nursery.stdin.flush()
                group = int(nursery.stdout.readline())
                assert group > 1, "a process group of its own, or the test would strike itself"
                assert group != os.getpgrp()
                if chaos is not None:
                    chaos.group = group
                code = int(nursery.stdout.readline())
                if chaos is not None:
                    chaos.group = None
                # Workers that a killed parent left behind.
                kill_group(group)
                if code == 0:
                    break
                assert chaos is not None, f"{words}: {said.read_text()}"
                assert "Traceback" not in said.read_text(), f"{words}: {said.read_text()}"
                repeats += 1
            assert code == 0, f"{words} never ended well: {said.read_text()}"
        nursery.stdin.close()
    return repeats


def tables(home: Path) -> dict[str, tuple[int, object]]:
    """Rows and an order-independent checksum of every table, without what names a run."""
    found = {}
    with psycopg.connect(EmbeddedServer(home).url()) as connection:
        rows = connection.execute(
            "SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum) "
            "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p') "
            "AND NOT c.relispartition GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
        for schema, table, columns in rows:
            if f"{schema}.{table}" in JOURNALS:
                continue
            kept = [sql.Identifier(one) for one in columns if one not in OF_A_RUN]
            current = sql.SQL("")
            for key, parent in VERSIONED.items():
                if key in columns:
                    current = sql.SQL("WHERE {} IN (SELECT max(id) FROM astropt.{})").format(
                        sql.Identifier(key), sql.Identifier(parent)
                    )
            query = sql.SQL(
                "SELECT count(*), sum(hashtextextended(t::text, 0)) "
                "FROM (SELECT {} FROM {} {}) AS t"
            ).format(sql.SQL(", ").join(kept), sql.Identifier(schema, table), current)
            row = connection.execute(query).fetchone()
            assert row is not None
            found[f"{schema}.{table}"] = (row[0], row[1])
        row = connection.execute(
            "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM (SELECT sha256, product, "
            "release, tile, rows_read, rows_rejected FROM astropt.ingest_file "
            "WHERE state = 'done') AS t"
        ).fetchone()
        assert row is not None
        found["astropt.ingest_file (done)"] = (row[0], row[1])
    return found


def same_export(one: Path, other: Path) -> None:
    frames = [pq.read_table(path / "catalogue.parquet").to_pandas() for path in (one, other)]
    first, second = (
        frame.drop(columns=[c for c in frame.columns if c in OF_A_RUN])
        .sort_values("object_id")
        .reset_index(drop=True)
        for frame in frames
    )
    assert first.equals(second)


def test_the_pipeline_under_fire(
    sky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    with small_disk() as disk:
        started = time.monotonic()
        run_pipeline(disk / "home", sky, calm)
        quiet_s = time.monotonic() - started
        expected = tables(disk / "home")
    assert expected["astropt.embedding"][0] > 30
    faults: Counter[str] = Counter()
    repeats = rounds = 0
    seconds = 0.0
    while sum(faults.values()) < LEAST_FAULTS:
        with small_disk() as disk:
            # About two strikes while a command would run undisturbed.
            pause_s = quiet_s / len(pipeline(sky, stormy)) / 2
            chaos = Chaos(disk / "home", 20261128 + rounds, pause_s)
            thread = threading.Thread(target=chaos.run, daemon=True)
            started = time.monotonic()
            thread.start()
            try:
                again = run_pipeline(disk / "home", sky, stormy, chaos)
            finally:
                chaos.stopped.set()
                thread.join(60)
            seconds += time.monotonic() - started
            faults += chaos.faults
            repeats += again
            rounds += 1
            EmbeddedServer(disk / "home").start()
            found = tables(disk / "home")
            assert {name: found.get(name) for name in expected} == expected
            same_export(calm, stormy)
            shutil.rmtree(stormy)
            stormy.mkdir()
    report = {
        "tables": len(expected),
        "rows": int(np.sum([count for count, _ in expected.values()])),
        "faults": dict(faults),
        "total": sum(faults.values()),
        "commands repeated": repeats,
        "rounds": rounds,
        "seconds undisturbed": round(quiet_s),
        "seconds under fire": round(seconds),
    }
    with capsys.disabled():
        click.echo("\n" + json.dumps(report, indent=2))
