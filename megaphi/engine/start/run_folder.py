"""Checks of the run folder before anything is read: it belongs to this job alone, and every rank can write to it.

Rank 0 takes its lock (run_lock.py). Then every rank writes a file where its checkpoints will go and looks for that of
rank 0: a folder that is not shared, or that one host may not write to, ends the job here, not at its first save.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from megaphi.checkpoint.versions import versions
from megaphi.engine.model.training_model import check_machine
from megaphi.engine.reporting.events import Events, Kind
from megaphi.engine.reporting.lost_ranks import note_lost_ranks
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_lock import Lock, take
from megaphi.engine.saving.fallback import hold_fallback
from megaphi.engine.saving.writer import checkpoint_folders
from megaphi.engine.start.same_run import run_facts
from megaphi.errors import InputError
from megaphi.files import explain_write_errors
from megaphi.log import keep_rank_log, logger
from megaphi.parallel.agreement import agreed, refuse
from megaphi.parallel.exchange import broadcast, gathered
from megaphi.parallel.rendezvous.differences import named
from megaphi.parallel.world import World, keep_evidence, start_world

HANG = "hang"
"""Folder of a run for what its ranks write down when the job ends in error: dumps of torch's flight recorder."""
SECONDS_TO_APPEAR = 15.0
"""Seconds that a file may take to become visible on another host."""
_OF_A_RANK = re.compile(r"\.rank_[0-9]+\.[0-9a-f]{16}")
"""The name of a file that a rank writes here: its number and the lock's token."""


def start_run(run: RunConfig) -> World:
    """Join the job, compare its ranks, and take the run folder. Every rank calls this.

    Raises:
        InputError: ranks differ, kernels are missing, another job holds the folder, or a rank cannot see it or cannot
            write to it.
    """
    world = start_world(
        run.layout,
        seed=run.seed,
        facts=lambda: run_facts(run),
        patience=run.patience,
        deterministic=run.deterministic,
    )
    backend = check_machine(run, world)
    folder = Path(run.folder)
    locks = agreed(world, lambda: _take_folders(run) if world.is_main else [])
    if world.is_main:
        versions()  # those of the loaded code, even if the files change before the first checkpoint
    _check_places(run, world, broadcast(locks[0].token if locks else "", str))
    agreed(world, lambda: [lock.confirm() for lock in locks])
    keep_rank_log(folder / "logs" / f"rank_{world.rank:05d}.log", rank=world.rank, take_native_output=world.size > 1)
    keep_evidence(folder / HANG, partial(_note_event, folder))
    logger.info("attention by %s", backend)
    return world


def _note_event(folder: Path, kind: Kind, step: int, text: str, facts: Mapping[str, Any]) -> None:
    if kind == "lost_rank":
        note_lost_ranks(folder, text, step=step, **facts)
    else:
        Events(folder).add(kind, step=step, text=text, **facts)


def _take_folders(run: RunConfig) -> list[Lock]:
    """Take the locks of the run folder and of its fallback."""
    lock = take(Path(run.folder), take_over=run.start.take_over)
    try:
        return [lock, *hold_fallback(run)]
    except InputError:
        lock.release()
        raise


def _check_places(run: RunConfig, world: World, token: str) -> None:
    """End the job unless every rank sees rank 0's folder and can write its checkpoints. Collective."""
    usual, *fallback = checkpoint_folders(run)
    if problem := _problem_anywhere(world, Path(run.folder), token):
        refuse(world, problem)
    problems = {folder: _problem_anywhere(world, folder, token) for folder in (usual, *fallback)}
    if all(problems.values()):
        refuse(world, str(problems[usual]))
    for folder, problem in problems.items():
        if problem and world.is_main:
            logger.error("checkpoints cannot go to %s: %s", folder, problem)


def _problem_anywhere(world: World, folder: Path, token: str) -> str | None:
    """Describe the problem of a folder, with ranks and hosts; the same on all ranks. Collective."""
    mine = folder / f".rank_{world.rank}.{token}"
    main = folder / f".rank_0.{token}"
    if world.is_main:
        _clear(folder, token)
    problem = _attempt(folder, mine) if world.is_main else None
    if broadcast(problem, str | None) is None and not world.is_main:
        problem = _attempt(folder, mine)
        if problem is None and not _appears(main):
            problem = f"{folder} is another folder than that of rank 0: all hosts must share it"
    found = gathered((socket.gethostname(), problem), tuple[str, str | None])
    with suppress(OSError):
        mine.unlink(missing_ok=True)
    failed = [rank for rank, (_, text) in enumerate(found) if text is not None]
    if not failed:
        return None
    text = found[failed[0]][1]
    return text if world.size == 1 else f"{text}: {named(failed, {rank: host for rank, (host, _) in enumerate(found)})}"


def _clear(folder: Path, token: str) -> None:
    """Remove files of jobs that were killed during this check; the lock says that they have ended."""
    with suppress(OSError):  # a folder that cannot be listed is judged by the writing that follows
        for left in folder.glob(".rank_*.*"):
            if _OF_A_RANK.fullmatch(left.name) and left.suffix != f".{token}":
                left.unlink(missing_ok=True)


def _attempt(folder: Path, file: Path) -> str | None:
    """Write a file into a folder, as a save will; returns the error, or None."""
    try:
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with open(file, "wb") as opened:
                opened.write(b"x" * 4_096)
                opened.flush()
                os.fsync(opened.fileno())
    except (InputError, OSError) as error:
        return str(error)
    return None


def _appears(file: Path) -> bool:
    ends = time.monotonic() + SECONDS_TO_APPEAR
    while file not in list(file.parent.iterdir()):  # listing asks the server, where stat may answer from a cache
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True
