"""Objectives with a fault on rank 1: `faulty_objectives.py:HangsOnce` and `faulty_objectives.py:Slow`.

HANG names the file that tells of the hang, which comes once in the life of a run, in forward pass number HANG_AFTER.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from megaphi.engine.objective import NextToken

SHORTEST_SECONDS = 0.1


class HangsOnce(NextToken):
    """The usual objective, but for one read that never returns."""

    def __init__(self) -> None:
        self._passes = 0

    def forward(self, batch: Any, chunk: Any, device: Any) -> Any:
        self._passes += 1
        mark = Path(os.environ["HANG"])
        if os.environ["RANK"] == "1" and self._passes == int(os.environ["HANG_AFTER"]) and not mark.exists():
            mark.touch()
            time.sleep(600)
        return super().forward(batch, chunk, device)


class Slow(NextToken):
    """The usual objective, on a rank whose host throttles: its forward pass takes five times as long."""

    def forward(self, batch: Any, chunk: Any, device: Any) -> Any:
        began = time.monotonic()
        found = super().forward(batch, chunk, device)
        if os.environ["RANK"] == "1":
            time.sleep(max(SHORTEST_SECONDS, 4 * (time.monotonic() - began)))
        return found
