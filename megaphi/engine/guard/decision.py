"""The decision on a step: apply its update, skip it, roll back, or end the run; a pure function of a small record.

The record is in every checkpoint, so a resumed run decides as the uninterrupted one. A step that is left out, for
whatever reason, does not enter it but as left out: a run that is told to leave out the same steps from the beginning
(`guard.skip_steps`) has the same record, decides the same, and gets the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from megaphi.config import Range
from megaphi.engine.guard.settings import Guard
from megaphi.engine.guard.spikes import badness
from megaphi.engine.guard.step_ranges import StepRanges, contains, with_steps

Count = Annotated[int, Range(minimum=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardRecord:
    """The guard's knowledge of a run after a step."""

    stage: str = ""
    """The mixture stage of the accepted steps: another one has other losses, and begins with none."""
    accepted: tuple[tuple[float, ...], ...] = ()
    """(loss, gradient norm) of the last accepted steps."""
    bad: tuple[Count, ...] = ()
    """Bad steps whose updates were left out, among the last `window`."""
    skipped: tuple[tuple[Count, ...], ...] = ()
    """All steps of the run whose updates were left out, as ranges."""
    left_out: tuple[tuple[Count, ...], ...] = ()
    """Steps that roll backs leave out, as ranges."""
    roll_backs: Count = 0

    @property
    def skipped_count(self) -> int:
        return sum(last - first + 1 for first, last in self.skipped)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A decision on a step's update."""

    action: Literal["apply", "skip", "roll_back", "end"]
    reason: str = ""
    """The reason why the step is bad, and of `end`, why it is not skipped."""


APPLY = Decision(action="apply")


def decide(record: GuardRecord, settings: Guard, *, step: int, loss: float, gradient_norm: float) -> Decision:
    """The decision on a step that was computed; `record` is of the step before, in the same stage (`entering`)."""
    reason = badness(loss, gradient_norm, record.accepted, window=settings.window, deviations=settings.deviations)
    if reason is None:
        return APPLY
    if settings.action == "end":
        return Decision(action="end", reason=reason)
    recent = [*_recent(record.bad, settings, step=step), step]
    if len(recent) <= settings.most_skips:
        return Decision(action="skip", reason=reason)
    reason = f"{reason}; {len(recent)} of the last {settings.window} steps were bad"
    if settings.action == "skip":
        return Decision(action="end", reason=f"{reason}, more than guard.most_skips={settings.most_skips}")
    if record.roll_backs >= settings.most_roll_backs:
        limit = f"guard.most_roll_backs={settings.most_roll_backs}"
        return Decision(action="end", reason=f"{reason}, and {limit} allows no other roll back")
    return Decision(action="roll_back", reason=reason)


def entering(record: GuardRecord, stage: str) -> GuardRecord:
    """The record at a step of this stage: after a change of stage, losses before it say nothing of those after it."""
    return record if record.stage == stage else replace(record, stage=stage, accepted=())


def after_applied(record: GuardRecord, settings: Guard, *, loss: float, gradient_norm: float) -> GuardRecord:
    """The record after an update."""
    return replace(record, accepted=(*record.accepted, (loss, gradient_norm))[-settings.window :])


def after_skipped(record: GuardRecord, settings: Guard, *, step: int, is_bad: bool) -> GuardRecord:
    """The record after a step that was left out: `is_bad` if its own loss or gradient norm was the reason."""
    bad = (*_recent(record.bad, settings, step=step), step) if is_bad else record.bad
    return replace(record, bad=bad, skipped=with_steps(record.skipped, step, step))


def is_left_out(record: GuardRecord, planned: StepRanges, step: int) -> bool:
    """Return whether a step is left out before it is computed; `planned` are the steps of `guard.skip_steps`."""
    return contains(planned, step) or contains(record.left_out, step)


@dataclass(frozen=True, kw_only=True, slots=True)
class RollBack:
    """A way back: to the checkpoint of step `to`, and then without the data of steps `first` to `last`."""

    to: int
    first: int
    last: int


def way_back(record: GuardRecord, settings: Guard, *, step: int, checkpoints: Sequence[int]) -> RollBack | None:
    """The newest checkpoint before the offending data; None if there is none before the first bad step.

    The offending data is that of the bad steps and of `steps_before` steps before them: what damaged the weights was
    accepted. If only a checkpoint between the two is there, the data after it is left out.
    """
    first_bad = min([*_recent(record.bad, settings, step=step), step])
    first = max(1, first_bad - settings.steps_before)
    before = [one for one in checkpoints if one < first] or [one for one in checkpoints if one < first_bad]
    if not before:
        return None
    return RollBack(to=max(before), first=max(first, max(before) + 1), last=step)


def rolled_back(stored: GuardRecord, before: GuardRecord, way: RollBack) -> GuardRecord:
    """The record of the checkpoint that a run went back to, with what it knew before (`before`) of roll backs."""
    left_out = stored.left_out
    for first, last in (*before.left_out, (way.first, way.last)):
        left_out = with_steps(left_out, first, last)
    return replace(stored, left_out=left_out, roll_backs=before.roll_backs + 1)


def _recent(bad: Sequence[int], settings: Guard, *, step: int) -> list[int]:
    return [one for one in bad if step - settings.window < one < step]
