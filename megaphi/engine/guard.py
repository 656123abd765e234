"""What may end a run early: a signal, or a loss that is no number.

A signal only raises a flag; the ranks agree on it between two steps, so that they stop at the same one and save.
"""

from __future__ import annotations

import math
import signal
from types import FrameType

import torch
import torch.distributed as distributed

from megaphi.engine.train_step import StepResult
from megaphi.errors import RunFailed
from megaphi.parallel.world import World


class StopRequest:
    """While entered, SIGINT and SIGTERM ask for a stop at the next step; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def agreed(self, world: World) -> bool:
        """Has any rank been asked to stop? Collective."""
        flag = torch.tensor(float(self.requested), device=world.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())


def check_finite(result: StepResult, *, step: int, world: World) -> None:
    """End the run at a loss or gradient norm that is not finite; the weights are spoilt, nothing is saved."""
    if math.isfinite(result.loss) and math.isfinite(result.gradient_norm):
        return
    raise RunFailed(
        f"step {step}: loss {result.loss}, gradient norm {result.gradient_norm}: the run has diverged and was ended "
        "without saving. Continue from an earlier checkpoint with a lower optimizer.learning_rate"
        if world.is_main
        else ""
    )
