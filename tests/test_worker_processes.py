"""Jobs in other processes: each is prepared once, errors come through, and a process that dies is one message."""

from __future__ import annotations

import os
import signal

import pytest

from megaphi.errors import InputError
from megaphi.worker_processes import each_in_processes

prepared: list[str] = []


def prepare() -> None:
    prepared.append("here")


def job(number: int, kind: str) -> tuple[int, int, list[str]]:
    if kind == "refuse" and number == 3:
        raise InputError("the third cannot be done")
    if kind == "die" and number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
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


def test_a_process_that_dies_is_one_message() -> None:
    with pytest.raises(InputError, match=r"a process died, most likely for want of memory: take fewer"):
        list(each_in_processes(job, range(6), "die", processes=2, advice="take fewer"))
