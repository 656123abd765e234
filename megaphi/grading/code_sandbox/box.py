"""A box as the parent sees it: a fork server behind its isolation, asked over a socket to start and end parts of tests.

The parent gives each part its pipes and talks to it directly; the fork server only starts, watches and ends. A server
that does not answer in time has failed, not the program that was tested: the box is closed, which ends every process in
it, and `BoxFailed` says so. Its thread must outlive it: bubblewrap ends with the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from megaphi.grading.code_sandbox.inside.channel import PipeChannel
from megaphi.grading.code_sandbox.inside.plain_data import NotPlain, from_bytes, to_bytes
from megaphi.grading.code_sandbox.isolation import Isolation
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.runtime import Mapped

PartKind = Literal["candidate", "checker", "program"]
START_SECONDS = 60.0
ANSWER_SECONDS = 20.0
LONGEST_ANSWER = 1 << 16


class BoxFailed(Exception):
    """The box itself failed: nothing is known of the program."""


@dataclass(frozen=True, slots=True)
class PartRequest:
    """A part to be started, with its ends of the pipes and its limits."""

    kind: PartKind
    pipes: tuple[int, ...]
    limits: Limits

    def as_message(self) -> dict[str, Any]:
        return {"kind": self.kind, "pipes": len(self.pipes), "limits": self.limits.as_message()}


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a part: the status that `waitpid` gives, and which limit stopped it if one did."""

    confined: bool
    status: int
    cpu_seconds: float
    stopped_by: str | None

    def said(self, limits: Limits) -> str:
        """The end in words."""
        if self.stopped_by == "wall_seconds":
            return f"no result after {limits.wall_seconds:g} s"
        if self.stopped_by == "memory_bytes":
            return f"more than {limits.memory_bytes >> 20} MiB of memory"
        code = os.waitstatus_to_exitcode(self.status)
        if code == -signal.SIGKILL:
            used_up = self.cpu_seconds > limits.cpu_seconds - 0.5
            return f"more than {limits.cpu_seconds} s of CPU time" if used_up else "it hung up"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


class CodeBox:
    """One fork server, which runs one test at a time. Raises `BoxFailed` where it cannot be opened."""

    def __init__(self, isolation: Isolation, limits: Limits, toolchains: tuple[Mapped, ...] = ()) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the box
        command = isolation.command(theirs.fileno(), folder_bytes=limits.folder_bytes, toolchains=toolchains)
        with theirs:
            self.process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                start_new_session=True,
                cwd="/",
            )
        if "ready" not in self._receive(seconds=START_SECONDS):
            raise self._failed("the box did not start")

    def start(self, parts: Sequence[PartRequest]) -> None:
        message = to_bytes({"start": [part.as_message() for part in parts]})
        try:
            socket.send_fds(self._control, [message], [pipe for part in parts for pipe in part.pipes])
        except OSError:
            raise self._failed("the box is gone") from None

    def finish(self) -> list[Ended]:
        """End all parts, and say how each ended."""
        try:
            self._control.sendall(to_bytes({"finish": True}))
        except OSError:
            raise self._failed("the box is gone") from None
        return [Ended(**each) for each in self._receive(seconds=ANSWER_SECONDS)["ended"]]

    def messages(self) -> str:
        """The last line that came out of the box on its standard error."""
        self._said.seek(0)
        lines = self._said.read(1 << 20).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it says nothing"

    def kill(self) -> None:
        """End every process in the box; whoever waits for an answer of it gets `BoxFailed`."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End every process in the box, and wait until they have."""
        self._control.close()
        self.kill()
        self.process.wait()
        self._said.close()

    def _receive(self, *, seconds: float) -> Any:
        self._control.settimeout(seconds)
        try:
            answer = self._control.recv(LONGEST_ANSWER)
            return from_bytes(answer)
        except (OSError, NotPlain):
            raise self._failed("the box does not answer") from None

    def _failed(self, what: str) -> BoxFailed:
        failure = BoxFailed(f"{what}: {self.messages()}")
        self.close()
        return failure


class WorkerBoxes:
    """The box or boxes of one worker, opened when they are needed and again after a failure.

    Where each process of a test has namespaces of its own, one box is used for every test; else each process gets a box
    that is closed behind it.
    """

    def __init__(self, isolation: Isolation, limits: Limits, toolchains: tuple[Mapped, ...] = ()) -> None:
        self._isolation, self._limits, self._toolchains = isolation, limits, toolchains
        self._open: list[CodeBox] = []
        self._killed = False
        self._stays_open = isolation.own_namespaces or isolation.kind == "none"

    def start(self, parts: Sequence[PartRequest]) -> None:
        groups = [parts] if self._stays_open else [[part] for part in parts]
        if any(box.process.poll() is not None for box in self._open):  # killed while nobody used it
            self.close()
        try:
            while len(self._open) < len(groups):
                self._open.append(CodeBox(self._isolation, self._limits, self._toolchains))
            if self._killed:  # while a box was being opened
                raise BoxFailed("the sandbox is being closed")
            for box, group in zip(self._open, groups, strict=True):
                box.start(group)
        except BoxFailed:
            self.close()
            raise

    def finish(self) -> list[Ended]:
        try:
            ended = [each for box in self._open for each in box.finish()]
        except BoxFailed:
            self.close()
            raise
        if not self._stays_open:
            self.close()
        return ended

    def messages(self) -> str:
        return self._open[0].messages() if self._open else "it says nothing"

    def kill(self) -> None:
        """End the boxes for good, from another thread than the one that uses them."""
        self._killed = True
        for box in list(self._open):
            box.kill()

    def close(self) -> None:
        for box in self._open:
            box.close()
        self._open.clear()


class Pipes:
    """Pipes between the parent and the parts; what one test opened is closed behind it."""

    def __init__(self) -> None:
        self._ends: set[int] = set()

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*self._ends)

    def new(self) -> tuple[int, int]:
        """(end to read from, end to write to)."""
        ends = os.pipe()
        self._ends.update(ends)
        return ends

    def close(self, *ends: int) -> None:
        """Close ends that another process has taken, so that its end is noticed."""
        for end in ends:
            if end in self._ends:
                self._ends.remove(end)
                os.close(end)


def channel(reads: int, writes: int, limits: Limits, *, deadline: float) -> PipeChannel:
    """The parent's end: it waits no longer than until `deadline`."""
    return PipeChannel(reads, writes, longest=limits.output_bytes, deadline=deadline)
