"""Run a function as the ranks of a job, on gloo, in processes that are forked after the slow imports.

A rank's imports take seconds; a fork server pays for them once per test session (`gloo_preload.py`), so that starting
a world of four costs about as much as four forks. Results and errors come back through pipes.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from megaphi.parallel.launcher import free_port
from megaphi.parallel.rendezvous.place import Place, export

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.gloo_preload"])


def run_in_world(
    function: Callable[..., Any], *arguments: Any, processes: int, timeout_seconds: float = 240.0
) -> list[Any]:
    """Call `function(*arguments)` on every rank; returns the results by rank, or fails with a rank's traceback."""
    ranks, readers = start_ranks(function, *arguments, processes=processes)
    try:
        results = [_result(number, reader, timeout_seconds) for number, reader in enumerate(readers)]
    except BaseException:
        for rank in ranks:
            rank.kill()
        raise
    finally:
        for rank in ranks:
            rank.join(20)
    return results


def run_on_gpu(function: Callable[..., Any], *arguments: Any, timeout_seconds: float = 600.0) -> Any:
    """Call `function(*arguments)` as a job of one rank on the GPU, in a new interpreter: CUDA outlives no fork."""
    spawned = multiprocessing.get_context("spawn")
    reader, writer = spawned.Pipe(duplex=False)
    rank = spawned.Process(target=_rank, args=(0, 1, free_port(), function, arguments, writer), daemon=True)
    rank.start()
    writer.close()
    try:
        return _result(0, reader, timeout_seconds)
    finally:
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
    port = free_port()
    pipes = [_context.Pipe(duplex=False) for _ in range(processes)]
    ranks = [
        _context.Process(target=_rank, args=(rank, processes, port, function, arguments, writer), daemon=True)
        for rank, (_, writer) in enumerate(pipes)
    ]
    for rank, (_, writer) in zip(ranks, pipes, strict=True):
        rank.start()
        writer.close()
    return ranks, [reader for reader, _ in pipes]


def _result(rank: int, reader: Connection, timeout_seconds: float) -> Any:
    if not reader.poll(timeout_seconds):
        raise TimeoutError(f"rank {rank} gave no result within {timeout_seconds} s")
    try:
        failed, value = reader.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} ended without a result") from None
    if failed:
        raise RuntimeError(f"rank {rank} failed:\n{value}")
    return value


def _rank(
    rank: int, processes: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...], out: Connection
) -> None:
    import torch

    from megaphi.parallel.world import stop_world

    torch.set_num_threads(1)
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
    try:
        out.send((False, function(*arguments)))
    except BaseException:
        out.send((True, traceback.format_exc()))
    finally:
        stop_world()
