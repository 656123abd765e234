"""Jobs in other processes: each is prepared once, errors come through, and a process that dies is one message."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal

import pytest

from megaphi.errors import InputError
from megaphi.worker_processes import each_in_processes, worker_processes

prepared: list[str] = []


def prepare() -> None:
    prepared.append("here")


def cannot_prepare() -> None:
    raise InputError("no model there")


def job(number: int, kind: str) -> tuple[int, int, list[str]]:
    if kind == "refuse" and number == 3:
        raise InputError("the third cannot be done")
    if kind == "die" and number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "crash" and number == 3:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "exit" and number == 3:
        os._exit(7)
    return number * 10, os.getpid(), prepared


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once_in_a_process_that_is_prepared(processes: int) -> None:
    prepared.clear()
    found = dict(each_in_processes(job, range(6), "do", processes=processes, prepare=prepare, advice=""))
    assert {number: result for number, (result, _, _) in found.items()} == {number: number * 10 for number in range(6)}
    assert all(there == ["here"] for _, _, there in found.values())
    assert (os.getpid() in {process for _, process, _ in found.values()}) == (processes == 1)
    with pytest.raises(InputError, match="the third cannot be done"):
        list(each_in_processes(job, range(6), "refuse", processes=processes, advice=""))


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_are_prepared_once_for_all_lists_of_jobs(processes: int) -> None:
    prepared.clear()
    seen: set[int] = set()
    with worker_processes(processes, prepare=prepare, advice="") as workers:
        for jobs in (range(3), range(3), []):
            for number, (result, process, preparations) in workers.each(job, jobs, "do"):
                assert (result, preparations) == (number * 10, ["here"])
                seen.add(process)
    assert len(seen) <= processes
    assert not {child.pid for child in multiprocessing.active_children()} & seen


@pytest.mark.parametrize("processes", [1, 2])
def test_what_cannot_be_prepared_is_said(processes: int) -> None:
    with pytest.raises(InputError, match="no model there"):
        list(each_in_processes(job, range(2), "do", processes=processes, prepare=cannot_prepare, advice=""))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("die", r"a process died \(SIGKILL, most likely for want of memory\): take fewer"),
        ("crash", r"a process died \(SIGSEGV\): take fewer"),
        ("exit", r"a process died \(exit status 7\): take fewer"),
    ],
)
def test_a_process_that_dies_is_one_message(kind: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(each_in_processes(job, range(6), kind, processes=2, advice="take fewer"))
