"""Progress of a stage as its folder shows it: shards that are finished, and how far those are that are worked on.

Whoever works on a shard, on whichever machine, writes now and then into the unfinished folder how much of the input it
has read. A thread of the worker that has a progress bar adds it all up, so that the bar moves, and knows when the stage
will end, also where it is a single shard that takes hours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from megaphi.curation.pipeline.plan import ShardJob, StagePlan

PROGRESS = ".progress"
"""In an unfinished folder: bytes of the shard's input that have been read."""
EVERY_SECONDS = 2.0


class ShardProgress:
    """Tells how far a shard is; costs nothing but a look at the clock most of the time."""

    def __init__(self, folder: Path, job: ShardJob) -> None:
        self._path, self._size, self._told = folder / PROGRESS, job.size_bytes, monotonic()

    def at(self, share: float) -> None:
        """Say which share of the input has been read."""
        now = monotonic()
        if now - self._told >= EVERY_SECONDS:
            self._path.write_text(str(int(min(1.0, share) * self._size)))
            self._told = now

    def end(self) -> None:
        """Remove what was told, before the folder is finished."""
        self._path.unlink(missing_ok=True)


def position_of(stage: StagePlan) -> int:
    """Bytes of the input that the stage has done, in all processes of all workers."""
    folder = stage.jobs[0].output.parent if stage.jobs else Path()
    finished, begun = set(), {}
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".partial"):
                begun[entry.name.split(".")[1]] = entry.path
            else:
                finished.add(entry.name)
    position = 0
    for job in stage.jobs:
        if job.output.name in finished:
            position += job.size_bytes
        elif job.output.name in begun:
            with suppress(OSError, ValueError):  # nothing was told yet, or it is finished by now
                position += int((Path(begun[job.output.name]) / PROGRESS).read_text())
    return position


@contextmanager
def showing(stage: StagePlan, bar: Any) -> Iterator[None]:
    """Move a progress bar while the block works on the stage."""
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(EVERY_SECONDS):
            bar.update(max(0, position_of(stage) - bar.n))

    thread = threading.Thread(target=show, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if not bar.disable:
            thread.join()
        bar.update(max(0, position_of(stage) - bar.n))
