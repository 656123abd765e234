"""One job has a run folder: whoever comes second is told who has it, and what a dead job left holds nobody up."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megaphi.engine import run_lock
from megaphi.engine.run_lock import LOCK, Lock, take
from megaphi.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from megaphi.engine.run_lock import take
take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"
    for lock in [*run_lock._held.values()]:
        lock.release()


@pytest.fixture
def other_job(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        yield job
        job.kill()


def left_by(folder: Path, **changed: Any) -> None:
    """A lock as a job left it that nobody holds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK).write_text(json.dumps({**run_lock._myself(), **changed}))


def test_a_second_job_is_refused_until_the_first_is_dead(folder: Path, other_job: subprocess.Popen[str]) -> None:
    for take_over in (False, True):  # nobody may take a folder from a job that lives
        with pytest.raises(InputError, match=f"in use by process {other_job.pid} on .*, started 20.*: end that job"):
            take(folder, take_over=take_over)
    other_job.send_signal(signal.SIGKILL)
    other_job.wait()
    assert (folder / LOCK).exists()
    take(folder)
    assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()


def test_a_folder_that_was_given_free_has_no_lock(folder: Path) -> None:
    lock = take(folder)
    assert take(folder) is lock  # of the same process
    lock.confirm()
    lock.release()
    lock.release()
    assert not (folder / LOCK).exists()
    take(folder)


def test_a_run_folder_that_was_deleted_is_taken_anew(folder: Path) -> None:
    take(folder)
    (folder / LOCK).unlink()
    folder.rmdir()
    take(folder).confirm()


def test_a_job_on_another_host_is_named_and_can_be_taken_over(folder: Path) -> None:
    left_by(folder, host="node17", boot="another", pid=7)
    with pytest.raises(
        InputError, match=r"process 7 on node17.*if it is surely dead, start with start\.take_over=true"
    ):
        take(folder)
    assert json.loads((folder / LOCK).read_text())["host"] == "node17"
    take(folder, take_over=True)


def test_an_earlier_life_of_the_same_slurm_job_is_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    left_by(folder, host="node17", boot="another", job="4711", life=0)
    with pytest.raises(InputError, match="Slurm job 4711"):
        take(folder)  # a second step of the same job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    take(folder)


def test_a_job_that_torchrun_has_restarted_takes_its_folder_along(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "phi4")
    monkeypatch.setenv("MEGAPHI_JOB_SECRET", "ours")
    left_by(folder, host="another", boot="another")
    with pytest.raises(InputError, match=r"in use by process .* on another, torchrun job"):
        take(folder)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("MEGAPHI_JOB_SECRET", "of another job with this name, which was refused and restarted")
    with pytest.raises(InputError, match="in use by"):
        take(folder)
    monkeypatch.setenv("MEGAPHI_JOB_SECRET", "ours")
    take(folder)


def test_a_host_that_was_started_anew_has_no_old_jobs(folder: Path) -> None:
    left_by(folder, boot="before")
    take(folder)


@pytest.mark.parametrize("damage", ["", "{", "[1]", "null"])
def test_a_lock_that_was_half_written_holds_nobody_up(folder: Path, damage: str) -> None:
    folder.mkdir()
    (folder / LOCK).write_text(damage)
    take(folder)


def test_without_flock_the_process_and_its_start_decide(
    folder: Path, monkeypatch: pytest.MonkeyPatch, other_job: subprocess.Popen[str]
) -> None:
    def no_flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with pytest.raises(InputError, match=f"in use by process {other_job.pid}"):
        take(folder)
    holder = json.loads((folder / LOCK).read_text())
    left_by(folder, **{**holder, "started": "1"})  # the number of the process is in use again
    take(folder).release()
    left_by(folder, **{**holder, "processes": "pid:[1]"})  # a container: its numbers mean nothing here
    with pytest.raises(InputError, match=f"in use by process {other_job.pid}"):
        take(folder)
    left_by(folder, **holder)
    other_job.kill()
    other_job.wait()
    take(folder)


def test_of_two_hosts_that_took_it_at_once_one_has_it(folder: Path) -> None:
    lock = take(folder)
    left_by(folder, host="node17", token="other")
    with pytest.raises(InputError, match=r"in use by process .* on node17"):
        lock.confirm()


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"cannot write .*a part of this path is a file|there is a file where a folder"
    ):
        Lock(tmp_path / "file" / "run" / LOCK, take_over=False)
