"""events.jsonl in the run folder: what happened to a run, one JSON object a line, oldest first.

    {"time": "2026-11-30T02:10:00Z", "step": 400, "kind": "saved", "text": "...", ...facts of this kind}

Rank 0 writes it, each line whole and by itself, so that another process (a launcher) may append to the same file. A run
that continues keeps all earlier events, also those of steps that it takes again. A line that a crash cut off is left
out by the reader, and the next line does not join it. No failure here ends a run. No torch here.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from megaphi.errors import InputError, shortened
from megaphi.foreign.files import TEXT_BYTES, read_small
from megaphi.json_text import parse_json
from megaphi.log import logger

FILE = "events.jsonl"
Kind = Literal[
    "started",
    "resumed",
    "stopped",
    "saved",
    "save_failed",
    "skipped",
    "rolled_back",
    "replica_differs",
    "lost_rank",
    "straggler",
    "restarted",
    "profiled",
]
LONGEST_TEXT = 2_000
MOST_WAITING = 1_000
"""Lines that are kept in memory while the file cannot be written; of more, the oldest are lost."""


class Events:
    """Writer of the events of a run; without a folder (ranks other than 0) it writes nothing."""

    def __init__(self, folder: str | Path | None) -> None:
        self._path = None if folder is None else Path(folder) / FILE
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)

    def add(self, kind: Kind, *, step: int, text: str, **facts: Any) -> None:
        """Append an event: `text` is one sentence, `facts` are its numbers and names, ready for JSON."""
        if self._path is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = {"time": now, "step": step, "kind": kind, "text": shortened(text, LONGEST_TEXT), **facts}
        had_to_wait = bool(self._waiting)
        self._waiting.append(json.dumps(event).encode() + b"\n")
        try:
            while self._waiting:
                _append(self._path, self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not had_to_wait:
                logger.error("%s cannot be written (%s): its lines are kept in memory", self._path, error.strerror)

    @contextmanager
    def telling_failures(self, step: Callable[[], int]) -> Iterator[None]:
        """Context that adds a `stopped` event, with what was wrong, if an exception ends the run at `step`."""
        try:
            yield
        except BaseException as error:
            self.add("stopped", step=step(), text=str(error) or type(error).__name__, failed=True)
            raise


def _append(path: Path, line: bytes) -> None:
    """Write a whole line in one call, on a line of its own. Raises OSError if less than all of it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
    try:
        size = os.fstat(handle).st_size
        text = line if size == 0 or os.pread(handle, 1, size - 1) == b"\n" else b"\n" + line
        if os.write(handle, text) < len(text):
            raise OSError(None, "the disk is full")
    finally:
        os.close(handle)


def read_events(folder: str | Path) -> list[dict[str, Any]]:
    """All whole events of a run folder, in order; lines that a crash cut off, or that are not events, are left out."""
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    return [event for line in read_small(path, largest=TEXT_BYTES).splitlines() if (event := _event(line)) is not None]


def _event(line: bytes | str) -> dict[str, Any] | None:
    try:
        event = parse_json(line)
    except InputError:
        return None
    return event if _is_event(event) else None


def _is_event(event: Any) -> bool:
    return (
        isinstance(event, Mapping)
        and type(event.get("step")) is int
        and event.get("kind") in get_args(Kind)
        and all(isinstance(event.get(name), str) for name in ("time", "text"))
    )
