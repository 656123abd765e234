"""A run of curation that is killed with SIGKILL again and again, at random moments, until it comes to its end."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from megaphi.curation.pipeline.run import curate
from megaphi.curation.recipe import Curation


@dataclass(slots=True)
class Killed:
    """Kills that a run survived."""

    kills: int = 0
    moments: list[str] | None = None
    """The state of the folder at each kill: finished shards of every stage, and `d` where decisions are there."""


def run_here(curation: Curation) -> None:
    curate(curation, show_progress=False)


def killed_until_finished(
    start: Callable[[], multiprocessing.process.BaseProcess], folder: Path, *, most_seconds: float, seed: int
) -> Killed:
    """Start and kill until a start is not killed in time.

    Args:
        start: starts the run; its process is killed.
        most_seconds: a start lives between 0 and this many seconds, unless it ends before.
    """
    draw, found = random.Random(seed), Killed(moments=[])
    while True:
        process = start()
        process.join(draw.uniform(0, most_seconds))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return found
        process.kill()
        process.join()
        found.kills += 1
        assert found.moments is not None
        found.moments.append(_state(folder))


def forked(curation: Curation) -> Callable[[], multiprocessing.process.BaseProcess]:
    """Start the run in a process that has its imports already."""
    context = multiprocessing.get_context("fork")

    def start() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=run_here, args=(curation,))
        process.start()
        return process

    return start


def straight_seconds(curation: Curation, folder: Path) -> float:
    """Seconds of the run that nobody kills, into another folder."""
    began = time.monotonic()
    run_here(replace(curation, folder=str(folder)))
    return time.monotonic() - began


def _state(folder: Path) -> str:
    stages = sorted((folder / "stages").glob("0*")) if folder.exists() else []
    shards = [sum(each.name[0].isdigit() for each in stage.iterdir()) for stage in stages]
    decided = "d" if list(folder.glob("stages/*/decisions-*")) else ""
    return "+".join(map(str, shards)) + decided
