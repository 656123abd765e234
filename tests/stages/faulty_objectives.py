"""Objectives with a fault on rank 1: `faulty_objectives.py:Struck` and `faulty_objectives.py:Slow`.

STRIKES says what happens in the forward pass of which step, as "8 killed 20 hung"; each comes once in the life of a
run, and leaves a file of its name in the folder STRUCK.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from megaphi.engine.objective import NextToken

GLOBAL_BATCH = 4
SHORTEST_SECONDS = 0.1


def hang() -> None:
    time.sleep(600)


STRIKES = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hung": hang,
}


class Struck(NextToken):
    """The usual objective, on a rank to which something happens."""

    def __init__(self) -> None:
        words = os.environ["STRIKES"].split()
        self._strikes = {int(step): name for step, name in zip(words[::2], words[1::2], strict=True)}

    def forward(self, batch: Any, chunk: Any, device: Any) -> Any:
        name = self._strikes.get(int(batch.sample_numbers_B[0]) // GLOBAL_BATCH + 1)
        if name is not None and os.environ["RANK"] == "1" and not (mark := Path(os.environ["STRUCK"]) / name).exists():
            mark.touch()
            STRIKES[name]()
        return super().forward(batch, chunk, device)


class Slow(NextToken):
    """The usual objective, on a rank whose host throttles: its forward pass takes five times as long."""

    def forward(self, batch: Any, chunk: Any, device: Any) -> Any:
        began = time.monotonic()
        found = super().forward(batch, chunk, device)
        if os.environ["RANK"] == "1":
            time.sleep(max(SHORTEST_SECONDS, 4 * (time.monotonic() - began)))
        return found
