"""Shards on the processes of a Ray cluster: an actor per processor, a shard at a time to whichever is free.

The machines share a file system: inputs and the folder of the run have the same paths on all of them, and megaphi is
installed on each. An actor loads the recipe once, as a process of this machine does, so that steps stay open between
shards. What a task of Ray returns is counts only; documents go through the shared folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from megaphi.curation.pipeline.counts import StepCounts
from megaphi.curation.pipeline.plan import ShardJob
from megaphi.curation.pipeline.process import ProcessStart, work_on
from megaphi.curation.pipeline.run import EachShard, Executor
from megaphi.errors import InputError, RunFailed

LOCAL = "local"


@contextmanager
def ray_processes(address: str, *, processes: int | None) -> Iterator[Executor]:
    """An executor on a cluster.

    Args:
        address: HOST:PORT of its head, `auto` for the one that this machine belongs to, or `local` for processes of
            this machine that end with this one.
        processes: how many work at a time; None means one for each processor of the cluster.

    Raises:
        InputError: Ray is not installed, or there is no cluster at that address.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray: pip install 'megaphi[ray]'") from None
    try:
        if address == LOCAL:
            count = processes or len(os.sched_getaffinity(0))
            ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no cluster answers there ({error})") from None
    try:
        count = processes or int(ray.cluster_resources().get("CPU", 1))

        @contextmanager
        def opened(start: ProcessStart, shards: int) -> Iterator[EachShard]:
            with _actors(ray, replace(start, folder=os.getcwd()), count=min(count, shards)) as actors:  # noqa: PTH109
                yield partial(_each, ray, actors)

        yield opened
    finally:
        ray.shutdown()


class _ShardActor:
    """A process of the cluster."""

    def __init__(self, start: ProcessStart) -> None:
        start()

    def work(self, job: ShardJob) -> list[StepCounts] | None:
        return work_on(job)


@contextmanager
def _actors(ray: Any, start: ProcessStart, *, count: int) -> Iterator[list[Any]]:
    """Actors for all stages of a run."""
    actor = ray.remote(_ShardActor)
    actors = [actor.options(num_cpus=1, max_restarts=0).remote(start) for _ in range(count)]
    try:
        yield actors
    finally:
        for one in actors:
            with suppress(Exception):  # it may have died, which was said
                ray.kill(one)


def _each(
    ray: Any, actors: Sequence[Any], jobs: Sequence[ShardJob]
) -> Iterator[tuple[ShardJob, list[StepCounts] | None]]:
    """Each job with its result when it is done, in any order. Raises InputError, RunFailed as the job did."""
    waiting = list(reversed(jobs))
    running: dict[Any, tuple[Any, ShardJob]] = {}

    def give(one: Any) -> None:
        if waiting:
            job = waiting.pop()
            running[one.work.remote(job)] = (one, job)

    for one in actors:
        give(one)
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        one, job = running.pop(ready)
        result = _result(ray, ready)
        give(one)
        yield job, result


def _result(ray: Any, ready: Any) -> Any:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise (cause if isinstance(cause, InputError | RunFailed) else error) from None
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        cause = getattr(error, "cause", None)
        if isinstance(cause, InputError | RunFailed):
            raise cause from None
        raise InputError(
            f"a process of the cluster died ({first}), for want of memory or because its machine was lost: run the same"
            " command again; finished shards are kept"
        ) from None
