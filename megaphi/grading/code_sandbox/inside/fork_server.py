"""One warm interpreter within the box that forks a process per part of a test, watches them, and ends them.

The parent asks over a socket: `start` comes with the parts and their pipes, `finish` ends all of them and reports how
each ended. What a part runs arrives on its own pipe, which only that part reads: this process never holds a source, a
test or a nonce, so that no fork can find those of another in its memory. It runs nothing of theirs either, so nothing
of one test is there for the next. Between the two messages it looks at wall time and at the memory of all processes.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import shutil
import signal
import socket
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from megaphi.grading.code_sandbox.inside import candidate, checker, program
from megaphi.grading.code_sandbox.inside.channel import PipeChannel
from megaphi.grading.code_sandbox.inside.confinement import NEW_PROCESSES, call, confine
from megaphi.grading.code_sandbox.inside.plain_data import from_bytes, to_bytes
from megaphi.grading.code_sandbox.inside.system_calls import is_filtered, prepared_filter

USUAL_IMPORTS = (
    "abc bisect cmath collections.abc copy dataclasses datetime decimal enum fractions functools hashlib heapq inspect "
    "itertools json math operator random re statistics string textwrap types typing"
).split()
LONGEST_PAYLOAD = 64 << 20
LONGEST_REQUEST = 1 << 16
WATCH_SECONDS = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Part:
    """One process of a test, from its fork to its end."""

    def __init__(self, request: dict[str, Any], pipes: list[int], *, own_namespaces: bool) -> None:
        self.kind, self.limits = request["kind"], request["limits"]
        self.own_namespaces = own_namespaces
        self.folder = "/tmp" if own_namespaces else tempfile.mkdtemp()
        self.stopped_by: str | None = None
        self.status: int | None = None
        self.seconds = 0.0
        self.deadline = time.monotonic() + self.limits["wall_seconds"]
        ready, self._is_confined = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            self._live(pipes)
        os.close(self._is_confined)
        self._ready = ready

    def _live(self, pipes: list[int]) -> None:
        """The life of the new process; never returns."""
        try:
            confine(self.limits, own_namespaces=self.own_namespaces, folder=self.folder)
            os.write(self._is_confined, b"!")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        try:
            _run_kind(self.kind, _only(pipes), self.limits["output_bytes"])
        finally:
            os._exit(0)

    def stop(self, why: str | None) -> None:
        """Kill the process and all that it started, unless it has ended."""
        if self.status is not None:
            return
        self.stopped_by = self.stopped_by or why
        if not self.own_namespaces:
            _kill_group(self.process)
        os.kill(self.process, signal.SIGKILL)

    def wait(self, flags: int = 0) -> None:
        if self.status is None:
            process, status, usage = os.wait4(self.process, flags)
            if process:
                self.status, self.seconds = status, usage.ru_utime + usage.ru_stime

    def report(self) -> dict[str, Any]:
        """Kill what is left, and say how it ended."""
        self.wait(os.WNOHANG)
        self.stop(None)
        self.wait()
        confined = os.read(self._ready, 1) == b"!"
        os.close(self._ready)
        if not self.own_namespaces:
            shutil.rmtree(self.folder, ignore_errors=True)
        how = {"confined": confined, "status": self.status, "cpu_seconds": self.seconds}
        return how | {"stopped_by": self.stopped_by}


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:  # it has not made its session yet, or all have ended
        return


def _only(pipes: list[int]) -> list[int]:
    """The pipes as descriptors from 3 on, and nothing else open but /dev/null as 0, 1 and 2."""
    high = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 32) for pipe in pipes]
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    kept = [os.dup2(pipe, 3 + number) for number, pipe in enumerate(high)]
    os.closerange(3 + len(kept), 4096)
    return kept


def _run_kind(kind: str, pipes: list[int], longest: int) -> None:
    if kind == "checker":
        payload_read, verdict, replies, calls = pipes
        checker.check(
            PipeChannel(payload_read, verdict, longest=LONGEST_PAYLOAD), PipeChannel(replies, calls, longest=longest)
        )
        return
    payload, calls, replies = pipes
    serve = candidate.serve if kind == "candidate" else program.serve
    serve(PipeChannel(payload, -1, longest=LONGEST_PAYLOAD), PipeChannel(calls, replies, longest=longest))


class ForkServer:
    """Serves one parent until it closes the socket."""

    def __init__(self, control: socket.socket, *, own_namespaces: bool) -> None:
        self._control, self._own_namespaces = control, own_namespaces
        self._parts: list[Part] = []
        self._own_memory = resident(str(os.getpid())) if own_namespaces else 0
        self._self = os.pidfd_open(os.getpid()) if own_namespaces else -1

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        self._control.sendall(to_bytes({"ready": os.getpid()}))
        while True:
            if not poll.poll(WATCH_SECONDS * 1000 if self._parts else None):
                self._watch()
                continue
            message, pipes, _, _ = socket.recv_fds(self._control, LONGEST_REQUEST, 16)
            if not message:
                return
            request = from_bytes(message)
            if "start" in request:
                self._start(request["start"], pipes)
            else:
                self._finish()

    def _start(self, parts: list[dict[str, Any]], pipes: list[int]) -> None:
        taken = 0
        for request in parts:
            own = pipes[taken : taken + request["pipes"]]
            taken += len(own)
            if self._own_namespaces:
                call("unshare", NEW_PROCESSES)  # for the next fork; once the next setns is made, for none
            self._parts.append(Part(request, own, own_namespaces=self._own_namespaces))
            if self._own_namespaces:
                call("setns", self._self, NEW_PROCESSES)
        for pipe in pipes:
            os.close(pipe)

    def _finish(self) -> None:
        for part in self._parts:
            part.wait(os.WNOHANG)
            part.stop(None)
        reports = [part.report() for part in self._parts]
        self._parts.clear()
        self._control.sendall(to_bytes({"ended": reports}))

    def _watch(self) -> None:
        for part in self._parts:
            part.wait(os.WNOHANG)
            if time.monotonic() > part.deadline:
                part.stop("wall_seconds")
        if self._own_namespaces and self._parts:
            held = memory_of_others(allowance=self._own_memory)
            if held > self._parts[0].limits["memory_bytes"]:
                alive = [part for part in self._parts if part.status is None]
                for part in alive[:1]:  # the candidate comes first: the tests then see that it is gone
                    part.stop("memory_bytes")
                    part.wait()


def memory_of_others(*, allowance: int) -> int:
    """Bytes that all processes in the box but this one hold, each less what a fork shows without holding it alone."""
    own = ("1", str(os.getpid()))
    names = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sum(max(0, resident(name) - allowance) for name in names if name not in own)


def resident(process: str) -> int:
    """Bytes of a process that are in memory; 0 if it has just ended."""
    try:
        return int(Path("/proc", process, "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def main(control: int, *, own_namespaces: bool) -> None:
    for name in USUAL_IMPORTS:
        __import__(name)
    os.environ.clear()
    if own_namespaces:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    if is_filtered():
        prepared_filter()
    gc.collect()
    gc.freeze()  # forks share these pages for longer if no collection touches them
    ForkServer(socket.socket(fileno=control), own_namespaces=own_namespaces).run()
