"""A file of JSON lines that only grows, and that may be killed at any moment: journals and stores of paid work.

Every record is one line, written in one call from any thread. A last line that a crash cut short is dropped when the
file is opened again; any other line that cannot be read is an error, because the file is somebody's paid work. A write
that failed half way (a full disk) is taken back, so that the file stays whole and the next process can go on.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import explain_write_errors
from megaphi.foreign.files import refuse_other_files
from megaphi.json_text import parse_json

READ_BYTES = 8 << 20


class HeldElsewhere(InputError):
    """Another process has the log open exclusively."""


class JsonLog:
    """An open log. What it held when it was opened was given to `on_record`, in order."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        on_record: Callable[[Any], object],
        *,
        what: str,
        exclusive: bool = False,
    ) -> None:
        """Open or create the file, and read it.

        Args:
            on_record: called with the value of each whole line; a KeyError, TypeError or ValueError that it raises
                means that the line is not `what`.
            what: a line, in words, for the message ("an answer of a server").
            exclusive: refuse a file that another process has open exclusively.

        Raises:
            InputError: a line is damaged, or the file cannot be written.
            HeldElsewhere: another process has it.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
        refuse_other_files(self._handle, self.path)
        try:
            if exclusive:
                self._hold()
            with explain_write_errors(self.path):
                os.ftruncate(self._handle, self._read(on_record, what))
        except BaseException:
            self.close()
            raise

    def add(self, *records: Any) -> None:
        """Append records, all or none. Raises InputError if they cannot be written."""
        self.add_all(records)

    def add_all(self, records: Iterable[Any]) -> None:
        content = b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
        with self._lock, explain_write_errors(self.path):
            end = os.fstat(self._handle).st_size
            try:
                while content:
                    content = content[os.write(self._handle, content) :]
            except OSError:
                os.ftruncate(self._handle, end)
                raise

    def close(self) -> None:
        os.close(self._handle)

    def _hold(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another process is writing {self.path} now: let it end, or write elsewhere"
            raise HeldElsewhere(message) from None
        except OSError:  # some network file systems lock nothing
            return

    def _read(self, on_record: Callable[[Any], object], what: str) -> int:
        """Hand out all whole lines; returns the bytes up to the end of the last one."""
        number, whole_bytes, rest = 0, 0, b""
        while block := os.read(self._handle, READ_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                number += 1
                whole_bytes += len(line) + 1
                try:
                    on_record(parse_json(line))
                except (ValueError, TypeError, KeyError):
                    message = f"{self.path}: line {number} is not {what}: mend it, or remove the file"
                    raise InputError(message) from None
        return whole_bytes
