"""Starting ranks on one machine that cannot be left behind."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from megaphi.parallel.launcher import (
    LOST_RANK_CODE,
    LOWEST_PORT,
    STOP_SIGNALS,
    first_ephemeral_port,
    free_port,
    start_processes,
)
from tests.processes import is_running
from tests.test_house import ROOT

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


def test_ranks_know_nothing_of_an_outer_launcher(tmp_path, monkeypatch):
    """An interactive step of srun, a stopped torchrun's variables: the ranks that we start are ours alone."""
    outer = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}
    for name, value in {**outer, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "elsewhere"}.items():
        monkeypatch.setenv(name, value)
    body = "(folder / f'seen_{rank}').write_text(' '.join(sorted(k for k in os.environ if k.startswith(('SLURM_', "
    body += "'TORCHELASTIC_')))) + ' ' + os.environ['MASTER_ADDR'])"
    assert start(tmp_path, body, processes=2) == 0
    assert [(tmp_path / f"seen_{rank}").read_text() for rank in (0, 1)] == ["SLURM_JOB_ID 127.0.0.1"] * 2


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
    assert start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if rank == 2 else time.sleep(100)") == LOST_RANK_CODE
    assert "rank 2 of 3 was killed by SIGKILL (out of memory?)" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [*((number, 0) for number in STOP_SIGNALS), (signal.SIGKILL, -9)])
def test_signals_reach_every_rank_and_a_killed_launcher_leaves_none(tmp_path, number, code):
    body = "def end(*_): (folder / f'ended_{rank}').touch(); sys.exit(0)\n"
    body += f"[signal.signal(number, end) for number in {list(map(int, STOP_SIGNALS))}]\n"
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


def test_free_ports_are_none_that_an_outgoing_connection_may_get():
    assert all(LOWEST_PORT <= free_port() < first_ephemeral_port() for _ in range(50))


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        drawn = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(drawn))
        assert free_port() != taken.getsockname()[1]
