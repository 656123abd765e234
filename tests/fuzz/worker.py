"""A process that reads input after input, until one ends it: with limits that the kernel keeps.

The worker is a fork of a process that has the target's imports and no threads. CPU time and the clock end it by
signals that nobody handles; address space beyond the target's limit gives MemoryError, and resident memory is compared
with it after every input. What it answers is one line of JSON for each input; that there is no answer is one too.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.errors import LONGEST_MESSAGE, InputError
from tests.fuzz.target import Target

SPARE_ADDRESSES = 1 << 30
"""Address space beyond the limit of memory: libraries reserve what they do not use."""
WALL_FACTOR = 10
"""Other work on the machine is no fault of the target."""
LIBC = ctypes.CDLL(None)
PACKAGE = str(Path(__file__).parents[2] / "megaphi")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one input."""

    kind: str
    """`accepted`, `refused`; of findings `crash`, `hang`, `memory`, `exception`, `message`."""
    detail: str = ""
    place: str = ""
    """Type of an exception and the innermost function of megaphi: findings of one place are one. Or the target's
    reason for a refusal.
    """
    seconds: float = 0.0
    memory_bytes: int = 0

    @property
    def is_finding(self) -> bool:
        return self.kind in ("crash", "hang", "memory", "exception", "message")

    @property
    def cause(self) -> tuple[str, str]:
        return self.kind, self.place


class Worker:
    """The process of a target; a new one is started when it has ended."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._pid = 0

    def ask(self, content: bytes) -> Outcome:
        """Let the target read one input."""
        if not self._pid:
            self._start()
        began = time.monotonic()
        try:
            self._requests.write(struct.pack("<Q", len(content)) + content)
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = b""
        return Outcome(**json.loads(line)) if line.endswith(b"\n") else self._ended(time.monotonic() - began)

    def close(self) -> None:
        """End the process."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._ended(0.0)

    def _start(self) -> None:
        here, there = os.pipe(), os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if not self._pid:
            os.close(here[1])
            os.close(there[0])
            _serve(self.target, here[0], there[1])
        os.close(here[0])
        os.close(there[1])
        self._requests, self._answers = os.fdopen(here[1], "wb"), os.fdopen(there[0], "rb")

    def _ended(self, seconds: float) -> Outcome:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        code = os.waitstatus_to_exitcode(status)
        if -code in (signal.SIGALRM, signal.SIGPROF):
            return Outcome(
                "hang", f"more than {self.target.seconds:g} s of CPU time, or {WALL_FACTOR} times that", "", seconds
            )
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Outcome("crash", name, name, seconds)


def _serve(target: Target, requests: int, answers: int) -> None:
    """Read inputs until the parent hangs up; never returns."""
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        faulthandler.disable()
        for end in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(end, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        addresses = _status("VmSize") + target.memory_bytes + SPARE_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (addresses, resource.getrlimit(resource.RLIMIT_AS)[1]))
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            os.chdir(folder)
            _answer_all(target, requests, answers)
    finally:
        os._exit(0)


def _answer_all(target: Target, requests: int, answers: int) -> None:
    with os.fdopen(requests, "rb") as given, os.fdopen(answers, "wb") as said:
        while head := given.read(8):
            outcome = _limited(target, given.read(struct.unpack("<Q", head)[0]))
            said.write(json.dumps(outcome).encode() + b"\n")
            said.flush()


def _limited(target: Target, content: bytes) -> dict[str, Any]:
    """The outcome of one input as the fields of `Outcome`."""
    LIBC.malloc_trim(0)  # memory that was freed before and stays resident would hide what this input takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this input
    before, began = _status("VmRSS"), time.monotonic()
    signal.setitimer(signal.ITIMER_PROF, target.seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * target.seconds)
    found = _called(target, content)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    grown = max(_status("VmHWM") - before, _peak_of_children())
    if grown > target.memory_bytes and found["kind"] != "exception":
        found = {"kind": "memory", "detail": f"{grown >> 20} MiB, more than {target.memory_bytes >> 20}"}
    return {**found, "seconds": time.monotonic() - began, "memory_bytes": grown}


def _called(target: Target, content: bytes) -> dict[str, str]:
    try:
        reason = target.run(content)
    except InputError as error:
        message = str(error)
        unclear = not message.strip() or len(message) > LONGEST_MESSAGE + 100 or "Traceback" in message
        return {"kind": "message" if unclear else "refused", "detail": message[:LONGEST_MESSAGE]}
    except BaseException as error:  # the finding that it is
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename.startswith(PACKAGE)] or frames
        place = f"{type(error).__name__} in {own[-1].filename.removeprefix(PACKAGE)}:{own[-1].name}"
        kind = "memory" if isinstance(error, MemoryError) else "exception"
        return {"kind": kind, "detail": "".join(traceback.format_exception(error))[-LONGEST_MESSAGE:], "place": place}
    return {"kind": "refused", "place": reason} if isinstance(reason, str) else {"kind": "accepted"}


def _status(field: str, process: str = "self") -> int:
    """Bytes of a line of /proc/PROCESS/status."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    return 0


def _peak_of_children() -> int:
    """Largest peak of the processes that this one has started and that still live."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return max((_status("VmHWM", child) for child in children), default=0)
    except OSError:  # one ended just now
        return 0
