"""Activity of a rank: the step, the phase of the step, and the time that each phase has taken.

The main thread enters phases; the heartbeat tells them to the other ranks, and `engine/reporting/step_times.py` writes
them down. Marks are events of the device's stream, so that on a GPU a phase lasts as long as its kernels do (not yet
run on a GPU); on the CPU they are points on a clock.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import torch

MOST_MARKS = 4_096
"""Limit of marks kept if nobody asks for them."""


class Activity:
    """One rank's position in the work; `step` counts updates from 1, 0 is before the first."""

    def __init__(self) -> None:
        self.step = 0
        self.phase = "start"
        self._marks: deque[tuple[str, torch.cuda.Event]] = deque(maxlen=MOST_MARKS)

    def begin(self, step: int) -> None:
        """Begin the next step, with waiting for its data."""
        self.step = step
        self.enter("data")

    def enter(self, phase: str) -> None:
        """Enter a phase, which ends the previous one."""
        self.phase = phase
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self._marks.append((phase, mark))

    def take_seconds(self) -> dict[str, float]:
        """Seconds of every phase since the last call, up to now. Waits for what the device still has to do."""
        self.enter(self.phase)
        marks = list(self._marks)
        while len(self._marks) > 1:
            self._marks.popleft()
        marks[-1][1].synchronize()
        seconds: dict[str, float] = {}
        for (phase, began), (_, ended) in pairwise(marks):
            seconds[phase] = seconds.get(phase, 0.0) + began.elapsed_time(ended) / 1e3
        return seconds
