"""A run of curation that is killed with SIGKILL again and again, at random moments, until it comes to its end."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from megaphi.curation.pipeline.run import curate
from megaphi.curation.recipe import Curation


@dataclass(slots=True)
class Killed:
    """Kills that a run survived."""

    kills: int = 0
    moments: list[str] | None = None
    """The state of the folder at each kill: finished shards of every stage, and `d` where decisions are there."""


class Start(Protocol):
    """A run that was started: what `multiprocessing` gives, or a command."""

    @property
    def exitcode(self) -> int | None: ...

    def join(self, timeout: float | None = None) -> None: ...

    def kill(self) -> None: ...


class Command:
    """A command with all processes that it starts."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run_here(curation: Curation) -> None:
    curate(curation, show_progress=False)


def killed_until_finished(start: Callable[[], Start], folder: Path, *, most_seconds: float, seed: int) -> Killed:
    """Start and kill until a start is not killed in time.

    Args:
        start: starts the run; its process is killed.
        most_seconds: a start is killed up to this long after it began its first shard, or one time in four, after its
            first moment.
    """
    draw, found = random.Random(seed), Killed(moments=[])
    while True:
        begun = time.time()
        process = start()
        at_once = draw.random() < 0.25
        while process.exitcode is None and not (at_once or _works(folder, since=begun)):
            process.join(0.01)
        process.join(draw.uniform(0, most_seconds))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return found
        process.kill()
        process.join()
        found.kills += 1
        assert found.moments is not None
        found.moments.append(_state(folder))


def forked(curation: Curation) -> Callable[[], Start]:
    """Start the run in a process that has its imports already."""
    context = multiprocessing.get_context("fork")

    def start() -> Start:
        process = context.Process(target=run_here, args=(curation,))
        process.start()
        return process

    return start


def straight_seconds(curation: Curation, folder: Path) -> float:
    """Seconds of the run that nobody kills, into another folder."""
    began = time.monotonic()
    run_here(replace(curation, folder=str(folder)))
    return time.monotonic() - began


def _works(folder: Path, *, since: float) -> bool:
    """Return whether a folder is being filled that was begun since."""
    with suppress(FileNotFoundError):  # it got its name meanwhile
        return any(path.stat().st_mtime >= since for path in folder.glob("stages/0*/.*.partial"))
    return False


def _state(folder: Path) -> str:
    stages = sorted((folder / "stages").glob("0*")) if folder.exists() else []
    shards = [sum(each.name[0].isdigit() for each in stage.iterdir()) for stage in stages]
    decided = "d" if list(folder.glob("stages/*/decisions-*")) else ""
    return "+".join(map(str, shards)) + decided
