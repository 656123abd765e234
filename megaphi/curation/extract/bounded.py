"""An extractor in a process of its own, with limits on memory and time.

Libraries that parse hostile files may allocate without end, loop, or crash. Such an extractor runs in a child that
lives on from file to file (its imports cost more than most files) and that the system ends: at `memory_bytes` of
address space, or after `cpu_seconds` of its own time for one file. CPU time, because a busy machine must not change
which files are taken. The child stops by a signal that it never handles, so neither C code nor a loop of Python can
outlast it; the next file gets a new child. Nothing of a child's answer is trusted: it is JSON, and its length is
limited.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.errors import InputError
from megaphi.json_text import json_bytes, parse_json

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 30.0
WALL_FACTOR = 10
"""A file that waits without computing is ended after this many times its CPU time."""
LONGEST_ANSWER = 256 << 20
ANSWERS_OF_A_CHILD = 2_000
"""A child is replaced after so many files: libraries leak."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """`MODULE:FUNCTION`, an extractor, called in a child."""

    function: str
    memory_bytes: int = MEMORY_BYTES
    cpu_seconds: float = CPU_SECONDS
    options: tuple[tuple[str, Any], ...] = ()
    """Further arguments of the function by name, JSON values: its settings."""

    def __call__(self, content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
        return _pool(self).ask(content, media_type=media_type, files=files)


@cache
def _pool(bounded: Bounded) -> _Child:
    """The child of this process for an extractor; it ends with this process."""
    child = _Child(bounded)
    atexit.register(child.close)
    os.register_at_fork(after_in_child=child.forget)
    return child


class _Child:
    """One process, and the two pipes to it."""

    def __init__(self, bounded: Bounded) -> None:
        self.bounded = bounded
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = 0
        self._lock = threading.Lock()

    def ask(self, content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            header = json_bytes({"media_type": media_type, "files": {name: len(data) for name, data in files.items()}})
            try:
                _send(process.stdin, header, content, *files.values())
                answer = _receive(process.stdout, LONGEST_ANSWER)
            except (OSError, EOFError):
                raise self._why_it_ended() from None
            except ValueError:
                self.close()
                raise NotExtracted("too_large", f"more than {LONGEST_ANSWER >> 20} MiB of text") from None
            self._answers += 1
            if self._answers >= ANSWERS_OF_A_CHILD:
                self.close()
        found: dict[str, Any] = parse_json(answer)
        if "missing" in found:
            raise InputError(f"{found['missing']}: pip install 'megaphi[curation]'")
        if "reason" in found:
            raise NotExtracted(found["reason"], found["detail"])
        return Extracted(found["text"], found["metadata"])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not written yet
                        pipe.close()
            self._process = None

    def forget(self) -> None:
        """Leave the child to the parent: this process is a fork of it."""
        self._process, self._lock = None, threading.Lock()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            own = self.bounded
            options = json_bytes(dict(own.options)).decode()
            command = [
                sys.executable,
                "-m",
                __name__,
                own.function,
                str(own.memory_bytes),
                str(own.cpu_seconds),
                options,
            ]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            self._answers = 0
        return self._process

    def _why_it_ended(self) -> NotExtracted:
        process = self._process
        assert process is not None
        code = process.wait()
        self.close()
        if -code in (signal.SIGPROF, signal.SIGALRM):
            return NotExtracted("too_slow", f"more than {self.bounded.cpu_seconds:g} s")
        if code == -signal.SIGKILL:
            return NotExtracted("out_of_memory", "killed, most likely by the kernel")
        return NotExtracted("crashed", f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}")


def _send(pipe: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        pipe.write(struct.pack("<Q", len(part)))
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes], longest: int = 1 << 62) -> bytes:
    """One part. Raises EOFError at the end, ValueError where it is longer than `longest`."""
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    length = struct.unpack("<Q", head)[0]
    if length > longest:
        raise ValueError(length)
    part = pipe.read(length)
    if len(part) < length:
        raise EOFError
    return part


def serve(function: str, memory_bytes: int, cpu_seconds: float, options: Mapping[str, Any]) -> None:
    """Answer the parent's files until it hangs up."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints
    _end_with(os.getppid())
    module, _, name = function.partition(":")

    def extractor(content: bytes, **given: Any) -> Extracted:
        return getattr(importlib.import_module(module), name)(content, **given, **options)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    while True:
        try:
            header = parse_json(_receive(requests))
        except EOFError:
            return
        content = _receive(requests)
        files = {name: _receive(requests) for name in header["files"]}
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, cpu_seconds * WALL_FACTOR)
        answer = _answer(extractor, content, header["media_type"], files)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _answer(extractor: Any, content: bytes, media_type: str, files: Mapping[str, bytes]) -> bytes:
    try:
        found = extractor(content, media_type=media_type, files=files)
        text = found.text.encode("utf-8", "replace").decode()  # lone surrogates have no place in a file
        return json_bytes({"text": text, "metadata": dict(found.metadata)})
    except NotExtracted as error:
        return json_bytes({"reason": error.reason, "detail": error.detail})
    except ImportError as error:
        return json_bytes({"missing": str(error)})
    except MemoryError:
        return json_bytes({"reason": "out_of_memory", "detail": ""})
    except RecursionError:
        return json_bytes({"reason": "malformed", "detail": "nested too deeply"})
    except Exception as error:  # libraries raise anything on a damaged file
        detail = f"{type(error).__name__}: {error}"[:200].encode("utf-8", "replace").decode()
        return json_bytes({"reason": "malformed", "detail": detail})


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also while it is at work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), parse_json(sys.argv[4]))
