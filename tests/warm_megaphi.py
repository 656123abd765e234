"""`python -m megaphi ...` without its imports: a process that is forked from the server which has them already.

It is a process like any other: its own arguments, environment, folder and pipes; signals, exit code, children. Ranks
that it starts are forked from it in the same way. What is left out is the start of an interpreter, 4 to 8 seconds of
each process; tests of that start itself (`python -m`, launchers, `-c`) use `subprocess`.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.gloo_world import forked_from_server


class WarmMegaphi:
    """The part of `subprocess.Popen` that tests use, for a process that runs `megaphi WORDS`."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preexec_fn: Callable[[], None] | None = None,
        typed: str = "",
    ) -> None:
        """`typed` is what it reads from its standard input, a few lines."""
        readers, ends = zip(os.pipe(), os.pipe(), strict=True)
        writers = [Connection(end, readable=False) for end in ends]  # which knows how to reach a forked process
        arguments = (list(words), dict(os.environ if env is None else env), str(cwd or Path.cwd()), preexec_fn, typed)
        self._process = forked_from_server(_main, *arguments, *writers)
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = (os.fdopen(reader, encoding="utf-8", errors="replace") for reader in readers)
        self.args = list(words)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(standard output, standard error), both to their ends."""
        said: dict[int, str] = {}
        files = (self.stdout, self.stderr)
        readers = [
            threading.Thread(target=lambda n=n, file=file: said.update({n: file.read()}), daemon=True)
            for n, file in enumerate(files)
        ]
        for reader in readers:
            reader.start()
        deadline = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if len(said) < 2:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        for file in files:
            file.close()
        return said[0], said[1]


def run_megaphi(*words: object, timeout: float = 120.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `megaphi WORDS` to its end."""
    process = WarmMegaphi([str(word) for word in words], **options)
    try:
        out, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.wait(), out, errors)


class _ForkedRank:
    """In the place of `subprocess.Popen` where a warm process starts its ranks."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], preexec_fn: Callable[[], None]) -> None:
        assert command[:3] == [sys.executable, "-m", "megaphi"]
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(command[3:], env, preexec_fn)
            _end(_run())

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _main(
    words: list[str],
    environment: dict[str, str],
    folder: str,
    preexec_fn: Callable[[], None] | None,
    typed: str,
    out: Connection,
    errors: Connection,
) -> None:
    from megaphi.parallel import launcher

    keyboard, end = os.pipe()
    os.write(end, typed.encode())
    os.close(end)
    for stream, descriptor in enumerate((keyboard, out.fileno(), errors.fileno())):
        os.dup2(descriptor, stream)
    os.close(keyboard)
    out.close()
    errors.close()
    os.chdir(folder)
    launcher.subprocess = _WithForkedRanks  # pyright: ignore[reportAttributeAccessIssue]
    _become(words, environment, preexec_fn or (lambda: None))
    _end(_run())


class _WithForkedRanks:
    Popen = _ForkedRank


def _become(words: Sequence[str], environment: Mapping[str, str], preexec_fn: Callable[[], None]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["megaphi", *words]
    sys.stdin = os.fdopen(0, closefd=False)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding=encoding, line_buffering=True)
        for number in (1, 2)
    )
    preexec_fn()


def _run() -> int:
    from megaphi.cli import main

    try:
        return main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        return 1


def _end(code: int) -> None:
    """As an interpreter ends: threads first, then what was registered for the exit, then buffers."""
    import atexit

    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
