"""Messages over a pair of pipes: four bytes of length, then so many bytes of JSON.

Both ends use it. The reader sets how long a message may be, and by when it must be there: whoever writes may be
hostile, so a length is checked before a byte behind it is read, and a writer that stops in the middle costs the reader
no more than its deadline.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

from megaphi.grading.code_sandbox.inside.plain_data import from_bytes, to_bytes

_LENGTH = struct.Struct("<I")
_PIECE = 1 << 16


class Closed(Exception):
    """The other side has ended, or closed its end of the pipe."""


class TooLong(Exception):
    """The other side announces a message longer than allowed."""


class Late(Exception):
    """The deadline has passed."""


class PipeChannel:
    """Sends to one pipe and receives from another; -1 stands for a pipe that is not there.

    Args:
        longest: bytes of the longest message that is read.
        deadline: a time of `time.monotonic`, after which waiting raises `Late`; without one it waits for ever.
    """

    def __init__(self, reads: int, writes: int, *, longest: int, deadline: float | None = None) -> None:
        self.reads, self.writes, self.longest, self.deadline = reads, writes, longest, deadline
        if deadline is not None:
            for pipe in (reads, writes):
                if pipe >= 0:
                    os.set_blocking(pipe, False)

    def send(self, message: Any) -> None:
        """Raises `Closed`, `Late`."""
        content = to_bytes(message)
        left = memoryview(_LENGTH.pack(len(content)) + content)
        while left:
            try:
                left = left[os.write(self.writes, left[:_PIECE]) :]
            except BlockingIOError:
                self._wait(self.writes, select.POLLOUT)
            except OSError:
                raise Closed from None

    def receive(self) -> Any:
        """Raises `Closed`, `Late`, `TooLong`, and `NotPlain` for what is not JSON."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self.longest:
            raise TooLong(f"{length:,} bytes, of at most {self.longest:,}")
        return from_bytes(self._read(length))

    def _read(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            try:
                piece = os.read(self.reads, min(length - len(parts), _PIECE))
            except BlockingIOError:
                self._wait(self.reads, select.POLLIN)
                continue
            except OSError:
                raise Closed from None
            if not piece:
                raise Closed
            parts += piece
        return bytes(parts)

    def _wait(self, pipe: int, event: int) -> None:
        assert self.deadline is not None
        seconds = self.deadline - time.monotonic()
        poll = select.poll()
        poll.register(pipe, event)
        if seconds <= 0 or not poll.poll(max(1, seconds * 1000)):
            raise Late
