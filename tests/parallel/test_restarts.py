"""A job is started again while that may help, and no crash repeats itself for ever."""

from __future__ import annotations

import pytest

from megaphi.parallel import restarts
from megaphi.parallel.launcher import LOST_RANK_CODE, JobEnd
from megaphi.parallel.restarts import restarts_so_far, run_restarting


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(restarts.time, "sleep", found.append)
    return found


def lives(ends: list[JobEnd], steps: list[int], *, allowed: int) -> tuple[int, int]:
    """(exit code, number of starts) of a job whose n-th life ends so, with the newest checkpoint of such a step."""
    started = []

    def start(life: int) -> JobEnd:
        assert life == len(started)
        started.append(life)
        return ends[life]

    code = run_restarting(start, restarts=allowed, progress=lambda: ([0, *steps])[len(started)])
    return code, len(started)


LOST, DONE = JobEnd(LOST_RANK_CODE, False), JobEnd(0, False)


def test_a_lost_rank_restarts_the_job_until_it_is_done() -> None:
    assert lives([LOST, LOST, DONE], [10, 20, 30], allowed=1) == (0, 3)


def test_restarts_without_a_new_checkpoint_come_to_an_end(
    pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lives([LOST] * 9, [0, 10, 10, 10, 10], allowed=3) == (LOST_RANK_CODE, 5)
    assert "exit code 75 after 3 restarts in a row without a new checkpoint: giving up" in capsys.readouterr().err
    assert pauses == [1.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("end", [JobEnd(2, False), JobEnd(130, False), JobEnd(1, True), JobEnd(0, True)])
def test_bad_input_and_a_requested_stop_are_final(end: JobEnd) -> None:
    assert lives([end], [5], allowed=3) == (end.code, 1)


def test_without_restarts_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert lives([LOST], [5], allowed=0) == (LOST_RANK_CODE, 1)
    assert capsys.readouterr().err == ""


def test_who_has_restarted_the_job() -> None:
    assert restarts_so_far({}) == (0, "")
    assert restarts_so_far({"TORCHELASTIC_RESTART_COUNT": "0", "SLURM_RESTART_COUNT": "2"}) == (2, "Slurm")
    assert restarts_so_far({"MEGAPHI_RESTART": "1"}) == (1, "megaphi's launcher")
