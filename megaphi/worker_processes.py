"""Jobs in several processes of this machine: results as they come, no process that outlives its parent.

Processes are spawned, so a job is a function of a module and its arguments are pickled. They start when there are jobs
for them, import once, and live on until the block ends, whichever lists of jobs come. Ctrl-C is left to the parent,
which ends the others without waiting for jobs that take minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from megaphi.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")


def each_in_processes(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    *arguments: Any,
    processes: int,
    prepare: Callable[[], object] | None = None,
    advice: str,
) -> Iterator[tuple[Job, Result]]:
    """One list of jobs in processes of its own: `WorkerProcesses.each`, with the arguments of both."""
    with worker_processes(min(processes, len(jobs)), prepare=prepare, advice=advice) as workers:
        yield from workers.each(function, jobs, *arguments)


@contextmanager
def worker_processes(
    processes: int, *, prepare: Callable[[], object] | None = None, advice: str
) -> Iterator[WorkerProcesses]:
    """Processes that work on lists of jobs, one list after the other, and end with the block; one process is this one.

    Args:
        prepare: called once in every process, before its first job.
        advice: what to do when a process dies, most likely for want of memory.
    """
    if processes <= 1:
        yield WorkerProcesses(None, prepare=prepare, advice=advice)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(prepare,)) as pool:
        workers = WorkerProcesses(pool, prepare=prepare, advice=advice)
        try:
            yield workers
        except BaseException:  # bad input or Ctrl-C: do not wait for jobs that take minutes
            workers.terminate()
            raise


class WorkerProcesses:
    """The processes of `worker_processes`; they work on one list of jobs at a time."""

    def __init__(self, pool: ProcessPoolExecutor | None, *, prepare: Callable[[], object] | None, advice: str) -> None:
        self._pool, self._prepare, self._advice = pool, prepare, advice
        self._others = set(multiprocessing.active_children())
        self._started: set[BaseProcess] = set()

    def each(
        self, function: Callable[..., Result], jobs: Sequence[Job], *arguments: Any
    ) -> Iterator[tuple[Job, Result]]:
        """Yield (job, result) of each job when it is done, in any order; they are begun in that of `jobs`.

        Args:
            function: called with a job and `arguments`.

        Raises:
            InputError: a process died.
        """
        if self._pool is None:
            yield from self._each_here(function, jobs, *arguments)
            return
        try:
            job_of = {self._pool.submit(_work, function, job, *arguments): job for job in jobs}
            self._note_started()
            for future in as_completed(job_of):
                yield job_of.pop(future), future.result()
        except BrokenProcessPool:
            self._pool.shutdown()  # it ends the others; then every process has an exit status
            raise InputError(f"a process died ({how_one_died(self._started)}): {self._advice}") from None

    def terminate(self) -> None:
        """End the processes, whatever they are at."""
        self._note_started()
        for process in self._started:
            process.terminate()

    def _each_here(
        self, function: Callable[..., Result], jobs: Sequence[Job], *arguments: Any
    ) -> Iterator[tuple[Job, Result]]:
        for job in jobs:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            yield job, function(job, *arguments)

    def _note_started(self) -> None:
        """Remember the processes of the pool, which starts them when jobs are submitted."""
        self._started |= set(multiprocessing.active_children()) - self._others


def how_one_died(processes: Iterable[BaseProcess]) -> str:
    """The end of a process that died, among others that were then ended by SIGTERM."""
    ends = [process.exitcode or 0 for process in processes]
    end = next((one for one in ends if one not in (0, -signal.SIGTERM)), -signal.SIGTERM)
    if end > 0:
        return f"exit status {end}"
    reason = ", most likely for want of memory" if end == -signal.SIGKILL else ""
    return f"{signal.Signals(-end).name}{reason}"


_unprepared: list[Callable[[], object]] = []
"""Work that this process has to do before its first job."""


def _start(prepare: Callable[[], object] | None) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch_parent() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()
    if prepare is not None:
        _unprepared.append(prepare)


def _work(function: Callable[..., Result], *job: Any) -> Result:
    """A job; what `prepare` raises is the error of the first one, where an initializer's would only end the process."""
    while _unprepared:
        _unprepared[-1]()
        _unprepared.pop()
    return function(*job)
