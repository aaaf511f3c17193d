"""The launchers in ``jobs/``: they parse, and the commands in them are ours and run as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import CHECKOUT, run, select
from embed_sky import states, tiny_encoder, vectors

from astropt_db.database.connect import connect
from astropt_db.embed.queue import plan

JOBS = CHECKOUT / "jobs"
SCRIPTS = sorted([*JOBS.glob("*.sh"), *JOBS.glob("*.slurm")])


@pytest.fixture
def encoder(sky_database, tmp_path):
    return tiny_encoder(sky_database, tmp_path)


@pytest.fixture
def environment(sky_database, tmp_path) -> dict[str, str]:
    """The database in the environment, and ``astropt-db`` on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "astropt-db"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m astropt_db "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return os.environ | {
        "PATH": path,
        "PYTHONPATH": str(CHECKOUT),
        "ASTROPT_DB_URL": sky_database.url,
        "LOCK": str(tmp_path / "lock"),
        "OMP_NUM_THREADS": "1",
    }


def execute(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=280
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(script: Path):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_commands_in_scripts_exist(script: Path):
    from astropt_db.cli.main import VERBS

    verbs = set(re.findall(r"^[^#\n]*\bastropt-db (\w+)", script.read_text(), re.MULTILINE))
    assert verbs
    assert verbs <= set(VERBS) | {"outliers", "predict", "index"}


def test_the_slurm_script_works_on_the_queue(sky_database, encoder, environment):
    text = (JOBS / "embed.slurm").read_text()
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert directives["array"]
    assert directives["signal"] == "B:TERM@120"
    with connect(sky_database, autocommit=True) as connection:
        sources = plan(connection, encoder, size=100).sources
    lacking = execute(["bash", str(JOBS / "embed.slurm")], environment)
    assert lacking.returncode != 0
    assert "ENCODER" in lacking.stderr
    given = environment | {"ENCODER": encoder.name, "SLURM_CPUS_PER_TASK": "1"}
    outcome = execute(["bash", str(JOBS / "embed.slurm")], given)
    assert outcome.returncode == 0, outcome.stderr
    assert len(vectors(sky_database, encoder)) == sources


def test_the_kubernetes_job_works_on_the_queue(sky_database, encoder):
    (job,) = yaml.safe_load_all((JOBS / "embed.k8s.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["parallelism"] > 1
    assert "completions" not in job["spec"]  # a work queue
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    (container,) = pod["containers"]
    (variable,) = container["env"]
    assert variable["name"] == "ASTROPT_DB_URL"
    program, *arguments = container["command"]
    assert program == "astropt-db"
    with connect(sky_database, autocommit=True) as connection:
        sources = plan(connection, encoder).sources
    arguments = [encoder.name if one == "mini-vis_nisp" else one for one in arguments]
    outcome = run(sky_database, *arguments)
    assert outcome.code == 0, outcome.err
    assert len(vectors(sky_database, encoder)) == sources


@pytest.mark.slow
def test_ingest_q1_can_be_repeated(environment, small_sky):
    outcome = execute([str(JOBS / "ingest_q1.sh"), str(small_sky)], environment)
    assert outcome.returncode == 0, outcome.stderr
    # The database of the small sky has it all already.
    assert "inserted 0" in outcome.stdout
    assert "mosaics: new 0 / updated 0 / unchanged 16 / failed 0" in outcome.stdout
    assert execute([str(JOBS / "ingest_q1.sh")], environment).returncode == 2


def test_the_night_goes_on_after_a_failure(sky_database, encoder, environment):
    """With no predictor there is nothing to predict; a wrong encoder is named at the end."""
    given = environment | {"ENCODERS": f"nothing {encoder.name}", "TASKS": ""}
    outcome = execute([str(JOBS / "nightly.sh")], given)
    assert outcome.returncode == 1
    assert "failed: embed nothing" in outcome.stderr
    assert set(states(sky_database)) == {"done"}
    assert len(vectors(sky_database, encoder)) > 0


def test_nights_do_not_overlap(environment):
    script = shlex.quote(str(JOBS / "nightly.sh"))
    held = f'exec 8>"$LOCK"; flock 8; {script} --would-fail'
    outcome = execute(["bash", "-c", held], environment)
    assert outcome.returncode == 0
    assert "still at work" in outcome.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_actors_on_a_local_ray(sky_database, encoder, environment):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'astropt-db[ray]'")
    command = [sys.executable, str(JOBS / "embed_ray.py"), "--encoder", encoder.name,
               "--actors", "2", "--gpus", "0"]  # fmt: skip
    outcome = subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=580
    )
    assert outcome.returncode == 0, outcome.stderr
    found = vectors(sky_database, encoder)
    assert f"embedded {len(found):,} / without a vector 0" in outcome.stdout
    ((n,),) = select(sky_database, "SELECT count(*) FROM q1.mer_catalogue")
    assert len(found) == n
