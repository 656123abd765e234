"""A job that stands still ends in time, one that is only slow does not; the rank that the others wait for is named."""

from __future__ import annotations

from typing import Any

import pytest

from megaphi.parallel.liveness.beats import Beat, Person, Roll
from megaphi.parallel.liveness.standstill import Pace, describe, laggards

INTERVAL = 2.0
PHASES: list[str] = [*"data forward_backward gradients validation evaluation metrics save start serving".split()]


def beat(step: int, phase: str = "forward_backward", *, at: str = "", talks: bool = True, entered: int = 0) -> Beat:
    where: dict[str, Any] = {"at": at, "communicates": talks, "operations": {}} if at else {}
    if entered:
        where["operations"] = {"5": ["all_reduce", entered, "tensor model parallel"]}
    phases = PHASES.index(phase.partition(",")[0])
    return Beat(number=1, step=step, phase=phase, state="here", whereabouts=where, phases=phases)


class Job:
    """Two ranks that take steps, as rank 0 sees them."""

    def __init__(self, *, standstill_seconds: float = 50.0, long_seconds: float = 600.0) -> None:
        self.pace = Pace(standstill_seconds=standstill_seconds, long_seconds=long_seconds)
        self._roll = Roll(2, interval_seconds=INTERVAL, now=0.0)
        self._now = self._number = 0.0
        self.named_after = self.ended_after = None

    def stay(self, step: int, phase: str, *, seconds: float) -> None:
        """Both ranks are in this phase for so long; notes when the hung rank would be named and the job end."""
        self.named_after = self.ended_after = None
        for look in range(int(seconds / INTERVAL) + 1):
            self._now += INTERVAL
            self._number += 1
            self._roll.note([beat(step, phase)._replace(number=int(self._number))] * 2, now=self._now)
            self.pace.note(self._roll.beats, standing_seconds=self._roll.standing_seconds)
            if self.named_after is None and self._roll.standing_seconds >= self.pace.naming_seconds():
                self.named_after = look * INTERVAL
            if self.ended_after is None and self._roll.standing_seconds >= self.pace.ending_seconds():
                self.ended_after = look * INTERVAL

    def train(self, *, steps: int, seconds: float) -> None:
        for step in range(1, steps + 1):
            self.stay(step, "data", seconds=INTERVAL)
            self.stay(step, "forward_backward", seconds=seconds)
            assert self.ended_after is None


def test_a_hung_step_ends_within_a_minute() -> None:
    job = Job()
    job.train(steps=5, seconds=4.0)
    job.stay(6, "forward_backward", seconds=100)
    assert job.ended_after == 50.0


def test_the_first_steps_may_compile() -> None:
    job = Job()
    job.stay(1, "forward_backward", seconds=500)
    assert job.ended_after is None
    job.stay(2, "forward_backward", seconds=700)
    assert job.ended_after == 600.0


def test_steps_between_two_looks_count_too() -> None:
    job = Job()
    job.stay(3, "data", seconds=INTERVAL)
    job.stay(11, "forward_backward", seconds=100)
    assert job.ended_after == 50.0


def test_a_job_of_long_phases_is_measured_by_its_own() -> None:
    job = Job()
    job.train(steps=5, seconds=40.0)
    job.stay(6, "forward_backward", seconds=200)
    assert job.ended_after == 120.0


@pytest.mark.parametrize("phase", ["data", "metrics", "validation", "evaluation, pass 3"])
def test_slow_storage_is_named_soon_and_ends_late(phase: str) -> None:
    job = Job()
    job.train(steps=5, seconds=4.0)
    job.stay(6, phase, seconds=700)
    assert (job.named_after, job.ended_after) == (50.0, 600.0)


@pytest.mark.parametrize("phase", ["save", "start"])  # start: a run that the guard takes back
def test_checkpoints_may_take_their_time(phase: str) -> None:
    job = Job()
    job.stay(1, phase, seconds=7_000)
    assert (job.named_after, job.ended_after) == (50.0, None)


def test_it_can_be_switched_off_for_a_debugger_and_says_nothing_before_training() -> None:
    job = Job(standstill_seconds=0.0)
    job.train(steps=5, seconds=4.0)
    job.stay(6, "forward_backward", seconds=10_000)
    assert job.ended_after is None
    serving = Job()
    serving.stay(0, "serving", seconds=10_000)
    assert serving.named_after is None


def test_a_collective_that_was_started_is_a_move() -> None:
    roll = Roll(2, interval_seconds=INTERVAL, now=0.0)
    for tick in range(1, 50):
        beats = [beat(3)._replace(number=tick, collectives=0), beat(3)._replace(number=tick, collectives=min(tick, 30))]
        roll.note(beats, now=INTERVAL * tick)
    assert roll.standing_seconds == 19 * INTERVAL


CASES = {
    "one is in an earlier phase": ([beat(7, "gradients", at="x"), beat(7, "data", at="read")], [1]),
    "one is a step behind": ([beat(8, "data", at="x"), beat(7, "save", at="x")], [1]),
    "one talks to nobody": ([beat(7, at="x"), beat(7, at="read", talks=False), beat(7, at="x")], [1]),
    "one has not entered a collective": ([beat(7, at="x", entered=9), beat(7, at="x", entered=8)], [1]),
    "a pipeline waits for one of its stages": (
        [beat(7, at="x"), beat(7, "gradients", at="x"), beat(7, at="lock", talks=False)],
        [2],
    ),
    "nothing distinguishes them": ([beat(7, at="x", entered=9)] * 3, [0, 1, 2]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rank_that_the_others_wait_for(case: str) -> None:
    beats, culprits = CASES[case]
    assert laggards(beats) == culprits


def test_the_message_names_rank_host_step_frame_and_collective() -> None:
    people = [Person("node0", 100), Person("node1", 101)]
    beats = [beat(7, at="x", entered=4_712), beat(7, at="read (tokens.py:52)", talks=False, entered=4_711)]
    assert describe([1], people, beats) == (
        "rank 1 on node1 (process 101), last heard in step 7, forward_backward; rank 1 at read (tokens.py:52); has not "
        "entered all_reduce 4,712 of the group 5 (tensor model parallel), in which rank 0 waits"
    )
    assert "all ranks wait for each other" in describe([0, 1], people, beats)
