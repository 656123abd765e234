"""Decisions of the guard: limits, ways back, and that a run with the same steps left out decides the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from megaphi.config import from_plain, to_plain
from megaphi.engine.guard.decision import (
    Decision,
    GuardRecord,
    RollBack,
    after_applied,
    after_skipped,
    decide,
    entering,
    is_left_out,
    rolled_back,
    way_back,
)
from megaphi.engine.guard.settings import Guard
from megaphi.engine.guard.step_ranges import StepRanges

SETTINGS = Guard(window=8, most_skips=2, steps_before=2, most_roll_backs=1)
BAD = math.nan


def test_bad_steps_are_skipped_up_to_a_limit_and_then_taken_back_up_to_another() -> None:
    record = GuardRecord()
    for step in (11, 12):
        assert _decide(record, step).action == "skip"
        record = after_skipped(record, SETTINGS, step=step, is_bad=True)
    third = _decide(record, 13)
    assert third.action == "roll_back"
    assert third.reason == "loss is not finite; 3 of the last 8 steps were bad"
    ended = _decide(replace(record, roll_backs=1), 13)
    assert ended.action == "end"
    assert ended.reason == f"{third.reason}, and guard.most_roll_backs=1 allows no other roll back"
    assert _decide(record, 18).action == "roll_back"
    assert _decide(record, 19).action == "skip"  # the last eight steps are 12 to 19


def test_other_actions_end_earlier() -> None:
    record = GuardRecord(bad=(11, 12))
    assert _decide(record, 13, action="end").action == "end"
    assert _decide(GuardRecord(), 13, action="end").reason == "loss is not finite"
    assert _decide(GuardRecord(), 13, action="skip").action == "skip"
    assert _decide(record, 13, action="skip").reason.endswith("more than guard.most_skips=2")


def _decide(record: GuardRecord, step: int, **changes: Any) -> Decision:
    return decide(record, replace(SETTINGS, **changes), step=step, loss=BAD, gradient_norm=1.0)


def test_the_way_back_leads_before_the_steps_that_may_have_done_the_damage() -> None:
    record = GuardRecord(bad=(11, 12))
    assert way_back(record, SETTINGS, step=13, checkpoints=(4, 8, 10, 12)) == RollBack(to=8, first=9, last=13)
    assert way_back(record, SETTINGS, step=13, checkpoints=(9, 10, 12)) == RollBack(to=10, first=11, last=13)
    assert way_back(record, SETTINGS, step=13, checkpoints=(11, 12)) is None
    assert way_back(record, SETTINGS, step=30, checkpoints=(12,)) == RollBack(to=12, first=28, last=30)


def test_another_stage_begins_without_a_reference() -> None:
    record = entering(GuardRecord(), "web")
    for step in range(1, 9):
        record = after_applied(entering(record, "web"), SETTINGS, loss=2.0 + step % 2, gradient_norm=1.0)
    assert decide(record, SETTINGS, step=9, loss=50.0, gradient_norm=1.0).action == "skip"
    assert decide(entering(record, "long"), SETTINGS, step=9, loss=50.0, gradient_norm=1.0).action == "apply"


def test_the_record_survives_a_checkpoint() -> None:
    record = GuardRecord(stage="all", accepted=((2.5, 0.1),), bad=(3,), skipped=((3, 3), (7, 9)), roll_backs=1)
    assert from_plain(GuardRecord, to_plain(record)) == record
    assert record.skipped_count == 4


@given(st.lists(st.sampled_from([1.9, 2.0, 2.1, 2.2, 30.0, BAD]), min_size=1, max_size=60), st.integers(1, 9))
def test_a_run_that_leaves_out_the_same_steps_decides_the_same(losses: list[float], saves_every: int) -> None:
    """Weights are stood for by the sequence of applied steps; a checkpoint is them and the record."""
    done, applied, record = _run(losses, (), saves_every)
    repeated = _run(losses[:done], record.skipped, saves_every)
    assert repeated[:2] == (done, applied)
    assert repeated[2].accepted == record.accepted


@given(st.lists(st.sampled_from([1.9, 2.0, 2.1, 30.0, BAD]), min_size=2, max_size=40), st.data())
def test_a_resumed_run_decides_as_the_uninterrupted_one(losses: list[float], data: st.DataObject) -> None:
    stopped: list[tuple[int, tuple[int, ...], GuardRecord]] = []
    straight = _run(losses, (), 5, after=lambda *state: stopped.append(state))
    if stopped:
        step, applied, record = data.draw(st.sampled_from(stopped))
        record = from_plain(GuardRecord, to_plain(record))
        assert straight[2].roll_backs or _run(losses, (), 5, start=(step, applied, record)) == straight


def _run(
    losses: list[float],
    planned: StepRanges,
    saves_every: int,
    *,
    start: tuple[int, tuple[int, ...], GuardRecord] = (0, (), GuardRecord()),
    after: Callable[[int, tuple[int, ...], GuardRecord], object] = lambda *_: None,
) -> tuple[int, tuple[int, ...], GuardRecord]:
    """(steps done, those applied, record) at the end, or where the guard ended the run."""
    step, applied, record = start
    checkpoints = {0: start} if not start[0] else {start[0]: start}
    while step < len(losses):
        step += 1
        loss = losses[step - 1]
        decision = decide(record, SETTINGS, step=step, loss=loss, gradient_norm=1.0)
        if is_left_out(record, planned, step):
            record = after_skipped(record, SETTINGS, step=step, is_bad=False)
        elif decision.action == "apply":
            applied, record = (*applied, step), after_applied(record, SETTINGS, loss=loss, gradient_norm=1.0)
        elif decision.action == "skip":
            record = after_skipped(record, SETTINGS, step=step, is_bad=True)
        else:
            way = way_back(record, SETTINGS, step=step, checkpoints=sorted(checkpoints))
            if decision.action == "end" or way is None:
                return step - 1, applied, record
            step, applied, stored = checkpoints[way.to]
            checkpoints = {one: at for one, at in checkpoints.items() if one <= way.to}
            record = rolled_back(stored, record, way)
            continue
        if step % saves_every == 0:
            checkpoints[step] = (step, applied, record)
            after(step, applied, record)
    return step, applied, record
