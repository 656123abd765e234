"""Worker processes that compare: kept running, ended when one takes too long or too much, and restarted.

A worker that hangs, dies or runs out of memory costs the pair that it was given its verdict, and no other pair. The
limit of processor time is what ends a pair; the wall clock only ends a worker that does not get to run at all, so that
verdicts do not depend on how busy the machine is.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path

from megaphi.errors import InputError, RunFailed
from megaphi.grading.math_answer.exact_verifier import ValueComparison

START_SECONDS = 120.0
WALL_PER_CPU_SECOND = 30
"""Seconds on the clock for each of processor time."""
LONGEST_LINE = 1 << 20
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""The whole environment of a worker. SymPy's paths depend on the order of sets: the same pair gets the same finding."""


@dataclass(frozen=True, slots=True)
class BothComparisons:
    """The findings of both verifiers on one pair."""

    exact: ValueComparison
    sympy: ValueComparison


class VerifierProcess:
    """One worker; started by the first pair, and again by the pair after one that ended it."""

    def __init__(self, cpu_seconds: int, memory_megabytes: int) -> None:
        self._limits = (cpu_seconds, memory_megabytes)
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def compare(self, key: str, answer: str) -> BothComparisons:
        """Findings on one pair; where the worker ended, they say why."""
        process = self._started()
        found: list[ValueComparison] = []
        reason = "the verifier ended"
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps([key, answer]).encode() + b"\n")
            process.stdin.flush()
            deadline = time.monotonic() + self._limits[0] * WALL_PER_CPU_SECOND
            for _ in range(2):
                found.append(ValueComparison(*json.loads(self._line(process, deadline))))
        except TimeoutError:
            reason = f"no result after {self._limits[0] * WALL_PER_CPU_SECOND} s on the clock"
        except (OSError, EOFError):
            reason = self._reason_of_end()
        if len(found) < 2:
            self.close()
            found.append(ValueComparison("not known", reason))
        return BothComparisons(found[0], found[1] if len(found) > 1 else ValueComparison("not known", reason))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            # Not -m: a parent that runs from its source folder has a path that the child would not have.
            paths = [str(Path(path).absolute()) for path in sys.path]
            program = f"import sys; sys.path[:] = {paths!r}; from megaphi.grading.math_answer.worker import main; "
            command = [sys.executable, "-s", "-c", program + f"main{self._limits}"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
            )
            try:
                ready = json.loads(self._line(self._process, time.monotonic() + START_SECONDS))
            except (EOFError, TimeoutError):
                ready = None
            if ready != "ready":
                self.close()
                raise RunFailed("the verifier of mathematical answers does not start: is math-verify whole?")
        return self._process

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """The next line. Raises `TimeoutError`, and `EOFError` where the worker has ended."""
        assert process.stdout is not None
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not wait([process.stdout.fileno()], left):  # select() refuses descriptors above 1,023
                raise TimeoutError
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block or len(self._unread) > LONGEST_LINE:
                raise EOFError
            self._unread += block
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _reason_of_end(self) -> str:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        status = self._process.returncode
        if status == -signal.SIGXCPU:
            return f"the limit of {self._limits[0]} s of processor time"
        return f"it died of {signal.Signals(-status).name}" if status and status < 0 else f"it ended with {status}"

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._process, self._unread = None, b""


class Verifiers:
    """Several workers, used by as many threads."""

    def __init__(self, *, processes: int, cpu_seconds: int, memory_megabytes: int) -> None:
        if find_spec("math_verify") is None:
            raise InputError("mathematical answers need math-verify: pip install 'megaphi[grading]'")
        self._all = [VerifierProcess(cpu_seconds, memory_megabytes) for _ in range(processes)]
        self._idle: queue.SimpleQueue[VerifierProcess] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="verifier")

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[BothComparisons]:
        """Findings on (key, answer) pairs, in order."""
        return list(self._threads.map(self._compare_one, pairs))

    def _compare_one(self, pair: tuple[str, str]) -> BothComparisons:
        worker = self._idle.get()
        try:
            return worker.compare(*pair)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all workers."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()
