"""Run a function as the ranks of a job, on the CPU, in worlds of processes that live on from case to case.

A rank's imports take seconds; a fork server pays for them once per test session (`gloo_preload.py`). A world of so many
ranks starts when a file's first case asks for it, takes one case after the other, and ends with the file. Its ranks
meet once; what else a case has left (process groups, environment, folder, random states) is put back before the next
one. A case that fails ends its world, so that it fails alone: the next case gets a new one.

Worlds that live on talk through shared memory (`shared_memory_group.py`), new ones through gloo, as users' jobs do.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from megaphi.parallel.launcher import free_port
from megaphi.parallel.rendezvous.place import Place, export

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.gloo_preload"])
_worlds: dict[int, LivingWorld] = {}
"""By how many ranks they have."""


def run_in_world(
    function: Callable[..., Any], *arguments: Any, processes: int, timeout_seconds: float = 240.0
) -> list[Any]:
    """Call `function(*arguments)` on every rank; returns the results by rank, or fails with a rank's traceback."""
    world = _worlds.pop(processes, None)
    if world is None or not world.is_alive:
        world = LivingWorld(processes, through_memory=True)
    results = world.take(function, arguments, timeout_seconds)
    _worlds[processes] = world
    return results


def run_in_new_world(
    function: Callable[..., Any], *arguments: Any, processes: int, timeout_seconds: float = 240.0
) -> list[Any]:
    """As `run_in_world`, for what is about the start of a job, or about gloo: ranks that have not met before."""
    world = LivingWorld(processes, through_memory=False)
    results = world.take(function, arguments, timeout_seconds)
    world.end()
    return results


def end_worlds() -> None:
    """Dismiss all worlds that live. Nobody waits for their ranks, which end by themselves in a moment."""
    while _worlds:
        _worlds.popitem()[1].dismiss()


class LivingWorld:
    """Ranks that take case after case. One that has failed has ended."""

    def __init__(self, processes: int, *, through_memory: bool) -> None:
        self._ranks, self._cases = _started(processes, through_memory=through_memory)

    @property
    def is_alive(self) -> bool:
        return all(rank.is_alive() for rank in self._ranks)

    def take(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_seconds: float) -> list[Any]:
        """The results of a case by rank. A rank's error, or none within the time, is raised and ends the world."""
        try:
            for cases in self._cases:
                cases.send((function, arguments))
            return self._results(timeout_seconds)
        except BaseException:
            for rank in self._ranks:
                rank.kill()
            self.end()
            raise

    def _results(self, timeout_seconds: float) -> list[Any]:
        """Whoever fails first is named: the others then fail for having lost it."""
        found: dict[int, Any] = {}
        while len(found) < len(self._cases):
            missing = [cases for rank, cases in enumerate(self._cases) if rank not in found]
            ready = wait(missing, timeout_seconds)
            if not ready:
                late = ", ".join(str(self._cases.index(cases)) for cases in missing)
                raise TimeoutError(f"no result of rank {late} within {timeout_seconds} s")
            for rank, cases in enumerate(self._cases):
                if cases in ready:
                    found[rank] = _result(rank, cases)
        return [found[rank] for rank in range(len(self._cases))]

    def dismiss(self) -> None:
        for cases in self._cases:
            cases.close()

    def end(self) -> None:
        self.dismiss()
        for rank in self._ranks:
            rank.join(20)


def run_on_gpu(function: Callable[..., Any], *arguments: Any, timeout_seconds: float = 600.0) -> Any:
    """Call `function(*arguments)` as a job of one rank on the GPU, in a new interpreter: CUDA outlives no fork."""
    spawned = multiprocessing.get_context("spawn")
    cases, theirs = spawned.Pipe()
    rank = spawned.Process(target=_rank, args=(0, 1, free_port(), theirs, False), daemon=True)
    rank.start()
    theirs.close()
    try:
        cases.send((function, arguments))
        if not cases.poll(timeout_seconds):
            raise TimeoutError(f"no result within {timeout_seconds} s")
        return _result(0, cases)  # pyright: ignore[reportArgumentType] (of another context)
    finally:
        cases.close()
        rank.join(20)
        rank.kill()


def forked_from_server(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start `function(*arguments)` in a process that has the slow imports behind it."""
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def start_ranks(
    function: Callable[..., Any], *arguments: Any, processes: int
) -> tuple[list[ForkServerProcess], list[Connection]]:
    """Start `function(*arguments)` on every rank; returns the processes, and where each one's result will come."""
    ranks, cases = _started(processes, through_memory=False)
    for one in cases:
        one.send((function, arguments))
        one.send(None)
    return ranks, cases


def _started(processes: int, *, through_memory: bool) -> tuple[list[ForkServerProcess], list[Connection]]:
    """Ranks that wait for cases, and the ends of their pipes."""
    port = free_port()
    pipes = [_context.Pipe() for _ in range(processes)]
    ranks = [
        _context.Process(target=_rank, args=(rank, processes, port, theirs, through_memory), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for rank, (_, theirs) in zip(ranks, pipes, strict=True):
        rank.start()
        theirs.close()
    return ranks, [cases for cases, _ in pipes]  # pyright: ignore[reportReturnType] (no Windows here)


def _result(rank: int, cases: Connection) -> Any:
    try:
        failed, value = cases.recv()
    except (EOFError, ConnectionResetError):
        raise RuntimeError(f"rank {rank} ended without a result") from None
    if failed:
        raise RuntimeError(f"rank {rank} failed:\n{value}")
    return value


def _rank(rank: int, processes: int, port: int, cases: Connection, through_memory: bool) -> None:
    """Take cases until there are no more, or one fails."""
    import torch

    from megaphi.parallel.world import stop_world
    from tests.shared_memory_group import replace_gloo

    torch.set_num_threads(1)
    if through_memory:
        replace_gloo()
    place = Place(
        launcher="torchrun",
        rank=rank,
        world_size=processes,
        local_rank=rank,
        local_world_size=processes,
        address="127.0.0.1",
        port=port,
    )
    export(place, os.environ)
    put_back = _state_now()
    try:
        while (case := _next(cases)) is not None:
            put_back()
            function, arguments = case
            cases.send((False, function(*arguments)))
    except BaseException:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody reads it any more: the test has ended
            cases.send((True, traceback.format_exc()))
    finally:
        stop_world()


def _next(cases: Connection) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """None when there are no more."""
    try:
        return cases.recv()
    except (EOFError, ConnectionResetError):  # nobody asks any more
        return None


def _state_now() -> Callable[[], None]:
    """Function that makes the process as it is now again, but for its world: all ranks are between two cases then."""
    import random

    import numpy as np
    import torch

    environment, folder = dict(os.environ), Path.cwd()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def put_back() -> None:
        _leave_groups()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

    return put_back


def _leave_groups() -> None:
    """Leave all process groups but that of the whole world, which is joined once."""
    import gc

    import torch.distributed as distributed
    from megatron.core import parallel_state
    from torch.distributed import distributed_c10d

    if not distributed.is_initialized():
        return
    parallel_state.destroy_model_parallel()
    gc.collect()
    for group in list(distributed_c10d._world.pg_map):
        if group is not distributed.group.WORLD:
            distributed.destroy_process_group(group)
