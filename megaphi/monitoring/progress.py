"""Progress of a run, the time that is left, and whether it is alive: arithmetic on what its folder shows.

A run on another machine cannot be asked whether it lives. Then the age of its last record decides, compared with what
its steps usually take.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from megaphi.monitoring.history import History
from megaphi.monitoring.observed_run import ObservedRun
from megaphi.monitoring.quantities import duration

State = Literal["running", "silent", "finished", "stopped", "failed", "lost"]
RECENT_STEPS = 200
"""Steps whose duration predicts that of the rest."""
LEAST_SILENCE_SECONDS = 60.0
USUAL_SILENCES = 5.0
"""A run is silent if its last record is so many times as old as it usually gets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The state of a run at one moment."""

    step: int
    steps: int
    """0 if the configuration does not say."""
    tokens: int
    seconds_per_step: float | None
    """Mean over the last steps, validation, evaluation and saving included."""
    silent_seconds: float | None
    """Age of the last record."""
    state: State
    text: str
    """The state in words."""

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def seconds_left(self) -> float | None:
        if self.state not in ("running", "silent") or not self.steps or self.seconds_per_step is None:
            return None
        return max(0, self.steps - self.step) * self.seconds_per_step


def progress_of(run: ObservedRun, *, now: float | None = None) -> Progress:
    """The state of a run at `now`, in seconds since 1970 (by default the present)."""
    history, now = run.history, time.time() if now is None else now
    steps, step, each = run.number("training.steps"), history.step, seconds_per_step(history)
    silent = None if history.written_at is None else max(0.0, now - history.written_at)
    state, text = _state(run, step, steps, silent=silent, each=each)
    return Progress(
        step=step,
        steps=steps,
        tokens=int(history.last.get("tokens", 0)),
        seconds_per_step=each,
        silent_seconds=silent,
        state=state,
        text=text,
    )


def seconds_per_step(history: History) -> float | None:
    """Mean time from record to record over the last steps; of records without phases, that of the steps alone."""
    phases = history.names("seconds/")
    count = min(RECENT_STEPS, len(history["step"].steps))
    first = history["step"].steps[-count] if count else 0
    total = sum(
        sum(value for at, value in zip(reversed(steps), reversed(values), strict=True) if at >= first)
        for steps, values in (_end(history, name, count) for name in phases or ["seconds"])
    )
    return total / count if count and total > 0 else None


def _end(history: History, name: str, count: int) -> tuple[list[int], list[float]]:
    column = history[name]
    return list(column.steps[-count:]), list(column.values[-count:])


def _state(run: ObservedRun, step: int, steps: int, *, silent: float | None, each: float | None) -> tuple[State, str]:
    ends = run.of_kind("started", "resumed", "stopped")
    ended = ends[-1] if ends and ends[-1]["kind"] == "stopped" else None
    if run.holder is None:
        if ended is not None and ended.get("failed") is True:
            return "failed", f"failed: {ended['text']}"
        if steps and step >= steps:
            return "finished", "finished"
        return "stopped", ended["text"] if ended else "stopped before its last step"
    if run.holder.alive is False:
        return "lost", f"lost: {run.holder.described}, has ended without a word"
    limit = max(LEAST_SILENCE_SECONDS, USUAL_SILENCES * (each or 0.0))
    if silent is not None and silent > limit:
        sight = "is alive" if run.holder.alive else "cannot be seen from here"
        return "silent", f"silent for {duration(silent)}: {run.holder.described}, {sight}"
    sight = "" if run.holder.alive else " (which cannot be seen from here)"
    return "running", f"running: {run.holder.described}{sight}"
