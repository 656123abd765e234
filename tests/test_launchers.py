"""One run by torchrun, by mpirun and as tasks of srun: the same numbers, bit for bit (see benchmarks/launchers.py)."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.launchers import ROOT, finish, launchers, make_data, numbers
from tests.warm_python import warm_python

STEPS = 3
SMALL = ("batch.global_batch=4", "batch.micro_batch=2", "batch.sequence_length=64")
pytestmark = pytest.mark.slow


def test_launchers_give_the_same_numbers(tmp_path: Path) -> None:
    """The scripts of launch/ start two ranks each, one script after the other: torchrun cold ones, the others warm."""
    data = make_data(tmp_path)
    torchrun, mpi, srun = launchers(tmp_path / "programs", mpich=None)
    assert [torchrun.name, mpi.name, srun.name] == ["torchrun", "Open MPI", "srun"]
    mpi = replace(mpi, programs=tmp_path / "programs" / "mpi")
    mpi.programs.mkdir()
    records = []
    with warm_python(mpi.programs, srun.programs):
        for launcher in (torchrun, mpi, srun):
            folder = tmp_path / launcher.script
            finish(launcher.start(*SMALL, folder=folder, data=data, steps=STEPS), folder)
            records.append(numbers(folder))
    assert [record["step"] for record in records[0]] == [1, 2, 3]
    assert records[1] == records[0]
    assert records[2] == records[0]


def test_torchrun_says_that_its_ranks_have_refused_their_input(tmp_path: Path) -> None:
    """torchrun ends with 1 and would restart them; the script knows better, and names the reason."""
    (torchrun, *_) = launchers(tmp_path / "programs", mpich=None)
    words = [ROOT / "launch" / torchrun.script, "quickstart_pretrain", "training.stepz=3"]
    places = os.pathsep.join([str(torchrun.programs), os.environ["PATH"]])
    variables = {**os.environ, "PATH": places, "GPUS": "1", "MAX_RESTARTS": "1"}
    done = subprocess.run(words, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("megaphi: unknown field 'training.stepz'. Did you mean 'training.steps'?") == 1
    assert "traceback : unknown field 'training.stepz'" in done.stderr  # torchrun's own last lines
    assert "restart 1 of 1" not in done.stderr
