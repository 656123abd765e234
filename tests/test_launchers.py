"""One run by torchrun, by mpirun and as tasks of srun: the same numbers, bit for bit (see benchmarks/launchers.py)."""

from __future__ import annotations

import pytest

from benchmarks.launchers import finish, launchers, make_data, numbers

STEPS = 3


@pytest.mark.slow
def test_launchers_give_the_same_numbers(tmp_path):
    """The scripts of launch/ start two ranks of the quickstart each, one script after the other."""
    data = make_data(tmp_path)
    found = launchers(tmp_path / "programs", mpich=None)
    assert [launcher.name for launcher in found] == ["torchrun", "Open MPI", "srun"]
    records = []
    for launcher in found:
        folder = tmp_path / launcher.script
        finish(launcher.start(folder=folder, data=data, steps=STEPS), folder)
        records.append(numbers(folder))
    assert [record["step"] for record in records[0]] == [1, 2, 3]
    assert records[1] == records[0]
    assert records[2] == records[0]
