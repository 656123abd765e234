"""Jobs in several processes of this machine: results as they come, no process that outlives its parent.

Processes are spawned, so a job is a function of a module and its arguments are pickled. Ctrl-C is left to the parent,
which ends the others without waiting for jobs that take minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
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
    """Yield (job, result) of each job when it is done, in any order; one process is this one.

    Args:
        function: called with a job and `arguments`.
        prepare: called once in every process, before its first job.
        advice: what to do when a process dies, most likely for want of memory.

    Raises:
        InputError: a process died.
    """
    if processes <= 1:
        if prepare is not None:
            prepare()
        for job in jobs:
            yield job, function(job, *arguments)
        return
    spawn = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(prepare,)) as pool:
        try:
            job_of = {pool.submit(function, job, *arguments): job for job in jobs}
            for future in as_completed(job_of):
                yield job_of.pop(future), future.result()
        except BrokenProcessPool:
            raise InputError(f"a process died, most likely for want of memory: {advice}") from None
        except BaseException:  # bad input or Ctrl-C: do not wait for jobs that take minutes
            for process in set(multiprocessing.active_children()).difference(others):
                process.terminate()
            raise


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
        prepare()
