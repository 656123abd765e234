"""Finding one's place under every launcher, and starting ranks that cannot be left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megaphi.errors import InputError
from megaphi.parallel.launcher import detect, export, first_node, free_port, start_processes
from tests.processes import is_running
from tests.test_house import ROOT

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "MASTER_ADDR": "node7",
    "PMIX_NAMESPACE": "prterun-node7-20431@1",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "3", "MPI_LOCALNRANKS": "4"}
SLURM = {
    "SLURM_PROCID": "11",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "3",
    "SLURM_NTASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "gpu[017-018]",
}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29999",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("single", 0, 1, 0, 1, "127.0.0.1", None)),
        (TORCHRUN, ("torchrun", 1, 2, 1, 2, "10.0.0.7", 29_999)),
        (OPEN_MPI, ("Open MPI", 5, 8, 1, 4, "node7", 20_000 + 7_204_311 % 12_000)),
        (HYDRA, ("Hydra", 3, 4, 3, 4, "127.0.0.1", 29_500)),
        (SLURM, ("Slurm", 11, 16, 3, 8, "gpu017", 20_000 + 123_456 % 12_000)),
        ({**SLURM, **TORCHRUN}, ("torchrun", 1, 2, 1, 2, "10.0.0.7", 29_999)),  # torchrun started by srun
    ],
    ids=["alone", "torchrun", "Open MPI", "Hydra", "Slurm", "torchrun in Slurm"],
)
def test_place_under_a_launcher(environment, expected):
    place = detect(environment)
    found = (place.launcher, place.rank, place.world_size, place.local_rank, place.local_world_size)
    assert (*found, place.address, place.port) == expected
    exported: dict[str, str] = {}
    export(place, exported)
    assert exported["RANK"] == str(place.rank)
    assert exported["WORLD_SIZE"] == str(place.world_size)
    again = detect(exported)
    assert (again.rank, again.local_rank, again.local_world_size) == (place.rank, place.local_rank, expected[4])


def test_a_shell_inside_an_allocation_is_alone():
    assert detect({**SLURM, "SLURM_STEP_ID": "0"}).launcher == "Slurm"
    without_step = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert detect(without_step).launcher == "single"


def test_environments_that_do_not_say_enough():
    far = {**OPEN_MPI}
    del far["MASTER_ADDR"]
    with pytest.raises(InputError, match="several hosts, but MASTER_ADDR is not set: export MASTER_ADDR"):
        detect(far)
    with pytest.raises(InputError, match="RANK='first' is not a whole number"):
        detect({**TORCHRUN, "RANK": "first"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu017", "gpu017"),
        ("a1,b2", "a1"),
        ("gpu[003-010,020]", "gpu003"),
        ("gpu[7]", "gpu7"),
        ("login1,gpu[003-010]", "login1"),
        ("rack[1-2]-node", "rack1-node"),
    ],
)
def test_first_node_of_a_slurm_list(nodes, first):
    assert first_node(nodes) == first


RANK = """
import os, signal, sys, time
from pathlib import Path
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
(folder / f"rank_{rank}").write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']} {os.environ['OMP_NUM_THREADS']}")
"""


def start(tmp_path: Path, body: str, *, processes: int = 3, grace_seconds: float = 20.0) -> int:
    return start_processes(
        [sys.executable, "-c", RANK + body, str(tmp_path)], processes=processes, grace_seconds=grace_seconds
    )


def pids(tmp_path: Path) -> list[int]:
    return [int(path.read_text().split()[0]) for path in sorted(tmp_path.glob("rank_*"))]


def test_every_rank_knows_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert start(tmp_path, "") == 0
    assert [path.read_text().split()[1:] for path in sorted(tmp_path.glob("rank_*"))] == [["3", "1"]] * 3


def test_the_code_of_the_rank_that_failed_first_is_the_jobs(tmp_path):
    began = time.monotonic()
    assert start(tmp_path, "sys.exit(2) if rank == 1 else time.sleep(100)") == 2
    assert time.monotonic() - began < 15
    assert not any(map(is_running, pids(tmp_path)))


def test_ranks_that_will_not_end_are_killed(tmp_path):
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    body += "while len(list(folder.glob('ready_*'))) < 2 and rank == 0: time.sleep(0.01)\n"
    body += "(folder / f'ready_{rank}').touch()\nsys.exit(3) if rank == 0 else time.sleep(100)"
    assert start(tmp_path, body, grace_seconds=0.5) == 3
    assert not any(map(is_running, pids(tmp_path)))


def test_a_rank_killed_by_a_signal_is_named(tmp_path, capfd):
    assert start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if rank == 2 else time.sleep(100)") == 1
    assert "rank 2 of 3 was killed by SIGKILL (out of memory?)" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_signals_reach_every_rank_and_a_killed_launcher_leaves_none(tmp_path, number, code):
    body = "def end(*_): (folder / f'ended_{rank}').touch(); sys.exit(0)\n"
    body += "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)\n"
    body += "(folder / f'ready_{rank}').touch()\ntime.sleep(100)"
    program = "import sys; from megaphi.parallel.launcher import start_processes; "
    program += "sys.exit(start_processes(sys.argv[1:], processes=2))"
    command = [sys.executable, "-c", program, sys.executable, "-c", RANK + body, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as job:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("ready_*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert all(map(is_running, pids(tmp_path)))
        job.send_signal(number)
        assert job.wait(30) == code
    while any(map(is_running, pids(tmp_path))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(list(tmp_path.glob("ended_*"))) == (0 if number == signal.SIGKILL else 2)


def test_free_ports_are_free():
    assert 1_024 < free_port() < 65_536
