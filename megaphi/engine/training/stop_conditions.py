"""Conditions that end a run early: a signal, or its time limit.

A signal only sets a flag. The ranks compare their flags between steps, so that all stop after the same one and save.
"""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as distributed

from megaphi.engine.time_limit import TimeLimit
from megaphi.log import logger
from megaphi.parallel.launcher import STOP_SIGNALS
from megaphi.parallel.world import World

TIME_IS_UP = 1_000.0
"""Number of the time limit, among the numbers of signals."""


class StopRequest:
    """Context in which signals and the time limit request a stop after the current step; a second SIGINT interrupts."""

    def __init__(self, limit: TimeLimit) -> None:
        self.reason = 0.0
        """The signal that requested a stop, or TIME_IS_UP; 0: none."""
        self.why = ""
        """The reason on which the ranks agreed, in words."""
        self.asked = 0
        """The largest number that a rank has passed along, since the last `agreed`."""
        self._limit = limit
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: closing the terminal means nothing
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = float(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def agreed(self, world: World, *, save_seconds: float, asked: int = 0) -> bool:
        """Return whether any rank was asked to stop, or is short of time. Collective.

        Args:
            save_seconds: duration of this process's longest save so far; 0 if there was none.
            asked: a number to compare too, for `asked`: steps that a request wants to be profiled.
        """
        if self._limit.is_near(save_seconds=save_seconds) and not self.reason:
            self.reason = TIME_IS_UP
        largest = torch.tensor([self.reason, asked], device=world.device)
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        number, self.asked = map(int, largest.tolist())
        if number:
            self.why = "training.time_limit is near" if number == TIME_IS_UP else signal.Signals(number).name
            if world.is_main:
                logger.info("%s: saving and ending", self.why)
        return bool(number)
