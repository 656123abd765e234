"""Ranks of the heartbeat tests: they meet, and then one of them fails."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

STANDSTILL = {
    "hung": {"standstill_seconds": 4.0},
    "slow storage": {"standstill_seconds": 4.0, "collective_seconds": 12.0},
}
"""Patience of the cases in which no rank is silent."""


def hang(folder: str, heartbeat_seconds: float, victim: int, how: str) -> None:
    """All ranks but the victim hang where nothing wakes them, as in a collective; what they say goes to files."""
    import torch
    import torch.distributed as distributed

    from megaphi import log
    from megaphi.engine.reporting.events import Events
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.liveness.patience import Patience
    from megaphi.parallel.world import end_in_error, keep_evidence, start_world

    said = open(Path(folder) / f"rank_{os.environ['RANK']}", "w")  # noqa: SIM115 (open until the process ends)
    sys.stderr = said
    patience = Patience(heartbeat_seconds=heartbeat_seconds, **STANDSTILL.get(how, {}))
    world = start_world(ParallelLayout(), seed=0, patience=patience)
    log.keep_rank_log(Path(folder) / f"log_{world.rank}", rank=world.rank, take_native_output=False)
    keep_evidence(
        Path(folder) / "hang", lambda kind, step, text, facts: Events(folder).add(kind, step=step, text=text, **facts)
    )
    beats = 3 * heartbeat_seconds / 10
    for step in range(4, 8):
        distributed.barrier()
        world.activity.begin(step)
        if (how, world.rank, step) != ("slow storage", victim, 7):
            world.activity.enter("forward_backward")
        time.sleep(beats)
    if world.rank == victim:
        (Path(folder) / "pid").write_text(str(os.getpid()))
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "failed":
            end_in_error(ZeroDivisionError("its own fault"))
            os._exit(1)
    elif how in STANDSTILL:
        with suppress(RuntimeError):  # the others have ended
            distributed.all_reduce(torch.ones(5))
    read_for_ever()


def read_for_ever() -> None:
    """A read that never returns."""
    time.sleep(600)


def meet_and_go(folder: str) -> str:
    """A healthy world, with a heartbeat so short that a false alarm would show, and work that keeps the GIL."""
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.liveness.patience import Patience
    from megaphi.parallel.world import start_world

    world = start_world(ParallelLayout(), seed=0, patience=Patience(heartbeat_seconds=8.0))
    began, pattern = time.monotonic(), "a" * 2_000_000
    while world.rank == 1 and time.monotonic() - began < 6.0:
        sum(pattern.count("b" * length) for length in range(1, 20))
    return "done"
