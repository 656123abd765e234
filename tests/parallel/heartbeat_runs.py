"""Ranks of the heartbeat tests: they meet, and then one of them fails."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def hang(folder: str, heartbeat_seconds: float, victim: int, how: str) -> None:
    """All ranks but the victim hang where nothing wakes them, as in a collective; what they say goes to files."""
    import torch.distributed as distributed

    from megaphi.parallel.heartbeat import Patience
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.world import end_in_error, start_world

    said = open(Path(folder) / f"rank_{os.environ['RANK']}", "w")  # noqa: SIM115 (open until the process ends)
    sys.stderr = said
    world = start_world(ParallelLayout(), seed=0, patience=Patience(heartbeat_seconds=heartbeat_seconds))
    distributed.barrier()
    world.activity.step, world.activity.phase = 7, "forward_backward"
    time.sleep(heartbeat_seconds / 2)  # a beat or two with this step
    if world.rank == victim:
        (Path(folder) / "pid").write_text(str(os.getpid()))
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "failed":
            end_in_error(ZeroDivisionError("its own fault"))
            os._exit(1)
        elif how == "all stopped":
            pass
    time.sleep(600)


def meet_and_go(folder: str) -> str:
    """A healthy world, with a heartbeat so short that a false alarm would show, and work that keeps the GIL."""
    from megaphi.parallel.heartbeat import Patience
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.world import start_world

    world = start_world(ParallelLayout(), seed=0, patience=Patience(heartbeat_seconds=8.0))
    began, pattern = time.monotonic(), "a" * 2_000_000
    while world.rank == 1 and time.monotonic() - began < 6.0:
        sum(pattern.count("b" * length) for length in range(1, 20))
    return "done"
