"""The place of this process's main thread, seen from another thread: its Python frame, its last collectives.

A thread that waits for other ranks has torch's collectives among its innermost frames, or waits for their handle; one
that hangs elsewhere (a read that never returns, a lock, an endless loop) does not. On a GPU collectives only queue work
and the thread may wait anywhere, so there the sequence numbers of the collectives tell more.
"""

from __future__ import annotations

import linecache
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from megaphi.parallel.liveness.flight_recorder import LastOperation, last_operations

INNERMOST = 4
"""Frames in which a collective is looked for."""


class Standing:
    """Memory of how long this process's main thread has not moved."""

    def __init__(self) -> None:
        self._place: Any = None
        self._since = 0.0
        self._operations: dict[str, LastOperation] = {}

    def noted(self, place: Any, *, patience_seconds: float) -> dict[str, Any]:
        """Describe the main thread once it has been at `place` for longer than that; until then empty.

        `seconds`: for how long; `at`: its frame; `communicates`: whether it waits for other ranks there; `operations`:
        the last collective of every process group (`LastOperation`).
        """
        now = time.monotonic()
        if place != self._place:
            self._place, self._since, self._operations = place, now, {}
        if now - self._since < patience_seconds:
            return {}
        self._operations = self._operations or last_operations()
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        return {
            "seconds": round(now - self._since, 1),
            "at": _described(frame),
            "communicates": _communicates(frame),
            "operations": self._operations,
        }


def _described(frame: FrameType | None) -> str:
    """`read (storage/tokens.py:52)`: the innermost frame that is not torch's."""
    while frame is not None and frame.f_back is not None and "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "?"
    path = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    return f"{frame.f_code.co_name} ({path}:{frame.f_lineno})"


def _communicates(frame: FrameType | None) -> bool:
    if frame is not None and ".wait(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
        return True
    for _ in range(INNERMOST):
        if frame is None:
            return False
        if "/torch/distributed/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
