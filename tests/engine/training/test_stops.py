"""Early ends of a run: every signal that asks for one, and the time limit."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from megaphi.engine import time_limit
from megaphi.engine.run_sections import EvaluationPasses, TrainingLength
from megaphi.engine.time_limit import TimeLimit, limit_seconds, process_age_seconds
from megaphi.engine.training.evaluations import Evaluations
from megaphi.engine.training.stop_conditions import StopRequest
from megaphi.errors import InputError
from megaphi.parallel.launcher import STOP_SIGNALS
from tests.engine.layout_runs import tiny_run


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_signal_that_means_stop_asks_for_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest(TimeLimit(None)) as stop:
        os.kill(os.getpid(), number)
        assert stop.reason == number
    assert signal.getsignal(number) == before


def test_a_second_interrupt_does_not_wait() -> None:
    with StopRequest(TimeLimit(None)):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nohup_still_means_that_a_closed_terminal_is_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(TimeLimit(None)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.reason
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("23:50:00", 85_800), ("1-12:00:00", 129_600), ("0:00:30", 30), ("100:00:00", 360_000), ("7-00:00:01", 604_801)],
)
def test_a_limit_is_written_as_slurm_writes_it(text: str, seconds: int) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "3600", "23:50", "1:75:00", "0:00:00", "-1:00:00", "1-2", "24h", "1:00:00.5"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"training\.time_limit=.*: write it as hours:minutes:seconds"):
        limit_seconds(text)


def test_a_limit_leaves_room_for_a_step_and_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 s, saves of 100 s: 15 s and 200 s of an hour are kept back; the first step's time is no measure."""
    clock = [0.0]
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: clock[0])
    limit = TimeLimit("1:00:00", age_seconds=0.0)
    clock[0] = 400.0
    while not limit.is_near(save_seconds=100.0):
        clock[0] += 10.0
        assert clock[0] < 3_600
    assert 3_600 - 215 - 10 <= clock[0] < 3_600 - 200
    assert not TimeLimit(None).is_near(save_seconds=1e9)
    assert TimeLimit("1:00:00", age_seconds=3_590.0).is_near(save_seconds=0.0)
    assert not TimeLimit("1:00:00", age_seconds=3_400.0).is_near(save_seconds=0.0)


def test_the_clock_starts_with_the_process() -> None:
    first, began = process_age_seconds(), time.monotonic()
    time.sleep(0.2)
    assert 0.1 < process_age_seconds() - first < time.monotonic() - began + 0.1
    assert 0 < first < 86_400


def test_a_run_that_has_to_end_leaves_out_the_evaluation_that_is_due(caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_run(training=TrainingLength(steps=7), evaluation=EvaluationPasses(every=3))
    nobody: Any = None
    evaluations = Evaluations(run, nobody)
    assert [step for step in range(1, 8) if evaluations.are_due(step, in_haste=False)] == [3, 6, 7]
    with caplog.at_level("WARNING"):
        assert not any(evaluations.are_due(step, in_haste=True) for step in range(1, 8))
    assert [record.args for record in caplog.records] == [(3,), (6,), (7,)]
