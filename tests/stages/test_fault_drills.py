"""Fault drills: a rank is killed, stopped or hangs, a job is asked to stop, a node is lost; the run comes to its end.

Each is `megaphi train --processes 4 --restarts 2` on two tensor ranks times two replicas, as a user runs it, with a
shorter patience. The curve is held against that of a run that nothing happens to. Seconds from the fault until the job
has named the rank, and until it trains again, are printed (`pytest -s`); `benchmarks/fault_drills.py` keeps them.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stages.fault_drills import EVERY, FAULT_STEP, SLOW, STEPS, Curve, Drill
from tests.stages.test_training_runs import token_files  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow
PATIENCE = ("patience.heartbeat_seconds=3", "patience.standstill_seconds=3")
Start = Callable[..., Drill]


@pytest.fixture
def start(token_files: Path, tmp_path: Path) -> Iterator[Start]:  # noqa: F811
    drills: list[Drill] = []

    def started(*words: str, **options: Any) -> Drill:
        drills.append(Drill(tmp_path, token_files, *words, **options))
        return drills[-1]

    yield started
    for drill in drills:
        drill.job.kill()


@pytest.fixture(scope="module")
def clean(token_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Curve:  # noqa: F811
    """The curve of the run that nothing happens to."""
    drill = Drill(tmp_path_factory.mktemp("clean"), token_files)
    code, errors = drill.end()
    assert code == 0, errors
    return drill.curve()


def test_a_rank_that_is_lost_is_named_and_the_job_restarts_by_itself_each_time(start: Start, clean: Curve) -> None:
    """Killed, stopped, hung: three restarts, where one in a row without a new checkpoint is allowed."""
    strikes = {8: "killed", 14: "stopped", 23: "hung"}
    drill = start("--restarts", "1", *PATIENCE, strikes=strikes)
    last_heard = r"rank 1 on \S+ \(process \d+\), last heard in step \d+, \w+"
    for number, (step, strike) in enumerate(strikes.items()):
        drill.seconds_until(lambda strike=strike: drill.has_struck(strike), strike)
        named = drill.seconds_until(lambda number=number: drill.events("lost_rank")[number:], "the rank is named")
        again = named + drill.seconds_until(lambda number=number: drill.events("restarted")[number:], "the restart")
        lost, restarted = drill.events("lost_rank")[number], drill.events("restarted")[number]
        assert lost["ranks"] == [1]
        assert step - 1 <= lost["step"] <= step + 1  # the metrics may lag behind a rank
        assert re.search("rank 1 of 4 was killed by SIGKILL" if strike == "killed" else last_heard, lost["text"])
        assert named < 15
        assert restarted["step"] == step // EVERY * EVERY
        assert restarted["count"] == number + 1
        print(f"{strike}: named after {named:.1f} s, trains again after {again:.1f} s")
    code, errors = drill.end()
    assert code == 0, errors
    assert len(drill.events("lost_rank")) == len(drill.events("restarted")) == 3
    assert all(f"restart {number} in 0 s, from step" in errors for number in (1, 2, 3))
    assert drill.curve() == clean


def test_a_job_that_is_asked_to_stop_saves_in_time_and_continues_on_fewer_processes(start: Start, clean: Curve) -> None:
    for number, processes, step in ((signal.SIGTERM, 4, FAULT_STEP), (signal.SIGUSR1, 2, FAULT_STEP + 7)):
        drill = start("--restarts", "2", processes=processes)
        drill.seconds_until(lambda drill=drill, step=step: drill.step() >= step, "a step")
        asked = time.monotonic()
        drill.job.send_signal(number)
        code, errors = drill.end()
        took = time.monotonic() - asked
        assert code == 0, errors
        assert "restart" not in errors
        reached = drill.step()
        assert (drill.run / "checkpoints/latest").read_text() == f"step_{reached:08d}\n"
        assert took < 10
        name = signal.Signals(number).name
        print(f"{name}: {processes} processes have saved and ended after {took:.1f} s, at step {reached}")
    drill = start()
    code, errors = drill.end()
    assert code == 0, errors
    assert f"from step {reached}" in errors
    assert [step for step, *_ in drill.curve()] == list(range(1, STEPS + 1))
    for mine, theirs in zip(drill.curve(), clean, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)


def test_a_slow_rank_is_named_while_the_job_runs(start: Start) -> None:
    """The job ends as soon as it has been named: asked to, long before its last step."""
    drill = start(SLOW, "layout.tensor=1", "training.steps=200", "saving.every=200", *PATIENCE, processes=2)
    drill.seconds_until(lambda: drill.events("straggler"), "the rank is named")
    drill.job.send_signal(signal.SIGTERM)
    code, errors = drill.end()
    assert code == 0, errors
    (slow,) = drill.events("straggler")
    assert slow["ranks"] == [1]
    assert slow["phase"] == "forward_backward"
    assert slow["step"] <= 30
    assert re.search(r"rank 1 on \S+ is slow: [0-9.]+ x the own work of the others", errors)


def test_processes_that_cannot_share_the_batch_are_refused_with_those_that_can(start: Start) -> None:
    code, errors = start(processes=6).end()
    assert code == 2
    assert "batch.micro_batch=2 x 3 replicas: use a multiple of 6, or 4 processes" in errors
