"""Activity of a rank: the step, the phase of the step, and the duration of each phase.

The main thread enters phases; the heartbeat reports them to the other ranks, and `engine/reporting/step_times.py`
writes their durations to a file. Phases are timed by events of the device's stream, so that on a GPU a phase lasts as
long as its kernels do (not yet run on a GPU); on the CPU the events are clock times.
"""

from __future__ import annotations

import statistics
from collections import deque
from itertools import pairwise

import torch

from megaphi.parallel.liveness.phases import COMPUTED

MOST_MARKS = 4_096
"""Most events that are kept if nobody takes them."""
RECENT_STEPS, FEWEST_STEPS = 32, 8
"""Steps of which the usual work is the median, and the fewest that tell it."""


class Activity:
    """One rank's current step and phase; `step` counts updates from 1 (0: before the first), `phases` within a step."""

    def __init__(self) -> None:
        self.step = self.phases = 0
        self.phase = self._entered = "start"
        self._marks: deque[tuple[str, torch.cuda.Event]] = deque(maxlen=MOST_MARKS)
        self._work: deque[tuple[float, ...]] = deque(maxlen=RECENT_STEPS)
        self._work_now = dict.fromkeys(COMPUTED, 0.0)

    def begin(self, step: int) -> None:
        """Begin the next step; its first phase is waiting for data."""
        if any(self._work_now.values()):
            self._work.append(tuple(self._work_now.values()))
            self._work_now = dict.fromkeys(COMPUTED, 0.0)
        self.step, self.phases = step, 0
        self.enter("data")

    def enter(self, phase: str) -> None:
        """Enter a phase; this ends the previous one."""
        self.phase = self._entered = phase
        self.phases += 1
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self._marks.append((phase, mark))

    def reach(self, place: str) -> None:
        """Say how far a long phase has come, so that the heartbeat sees it move; its duration goes on."""
        self.phase = f"{self._entered}, {place}"

    def take_seconds(self) -> dict[str, float]:
        """Seconds of every phase since the last call. Waits for the work that the device has queued."""
        self.enter(self._entered)
        marks = list(self._marks)
        while len(self._marks) > 1:
            self._marks.popleft()
        marks[-1][1].synchronize()
        seconds: dict[str, float] = {}
        for (phase, began), (_, ended) in pairwise(marks):
            seconds[phase] = seconds.get(phase, 0.0) + began.elapsed_time(ended) / 1e3
        for phase in COMPUTED:
            self._work_now[phase] += seconds.get(phase, 0.0)
        return seconds

    def usual_work(self) -> dict[str, float]:
        """Median seconds of a step's own work by phase, over recent steps; empty before there are enough of them."""
        recent = list(self._work)
        if len(recent) < FEWEST_STEPS:
            return {}
        return {
            phase: statistics.median(column) for phase, column in zip(COMPUTED, zip(*recent, strict=True), strict=True)
        }
