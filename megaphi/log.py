"""The log of a run: one line per message, from the ranks that have something to say.

The main process logs at INFO, every other rank only warnings and errors, each marked with its rank and host; a rank's
file in the run folder takes everything, with tracebacks. Progress bars go to standard error and only where a person or
a log can use them; results that a program may read go to standard out. All of it may hold names and texts that somebody
else chose, so none of it reaches a terminal or a log before what a terminal obeys has been made visible.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from megaphi.foreign.visible_text import VisibleStream, one_message

logger = logging.getLogger("megaphi")
rank_log: int | None = None
"""File descriptor of this rank's log in the run folder, where there is one."""
LONGEST_LOG_BYTES = 16 << 20
"""Size limit: a log that would become longer is rotated to `.log.old`, replacing the previous one."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (a name of logging's)
        record.message = one_message(record.message)
        return super().formatMessage(record)


def host_name() -> str:
    """This machine's name, without its domain."""
    return socket.gethostname().split(".")[0]


def set_up_logging(*, rank: int = 0, world_size: int = 1) -> None:
    """Send `megaphi`'s log to standard error: INFO on rank 0, WARNING elsewhere, the rank named when there are many."""
    where = f"[rank {rank} on {host_name()}] " if world_size > 1 and rank != 0 else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s {where}%(message)s", datefmt="%H:%M:%S"))
    handler.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    files = [handler for handler in logger.handlers if isinstance(handler, _RankFile)]
    logger.handlers[:] = [handler, *files]
    logger.setLevel(logging.DEBUG if files else handler.level)
    logger.propagate = False


class _Unminded:
    """A stream whose reader may leave (a closed terminal, `| head`): a job does not end because its output is not
    read.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def keep_rank_log(path: Path, *, rank: int, take_native_output: bool) -> None:
    """Append everything that this rank logs to `path` as well; a run continues if that fails.

    With `take_native_output`, what libraries write to file descriptor 2 by themselves (communication errors with
    addresses of C++ frames, one such page per rank) goes there instead of to the terminal; Python still has the latter.
    """
    global rank_log
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rank_log = os.open(path, _APPEND, 0o666)
        handler = _RankFile(path, [rank_log, 2] if take_native_output else [rank_log])
    except OSError as error:
        logger.warning("no log is kept in %s: %s", path, error.strerror)
        return
    handler.setFormatter(
        _Formatter(f"%(asctime)s {host_name()} rank {rank} process %(process)d %(levelname)s %(message)s")
    )
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    if take_native_output:
        encoding = sys.stderr.encoding
        terminal = os.dup(2)
        os.dup2(rank_log, 2)
        sys.stderr = VisibleStream(  # pyright: ignore[reportAttributeAccessIssue]
            open(terminal, "w", buffering=1, encoding=encoding, errors="backslashreplace")  # noqa: SIM115
        )
        for shown in logger.handlers:
            if type(shown) is logging.StreamHandler:
                shown.setStream(sys.stderr)  # it wrote to what is the log now


def terminal() -> int:
    """The file descriptor of standard error, for callers that cannot wait for one of Python's locks."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return 2


class _RankFile(logging.handlers.RotatingFileHandler):
    """A log file; one that cannot be written (a full disk) is reported once, and never ends a run.

    Args:
        shared: other file descriptors that write to the same file, and follow when it is set aside.
    """

    _has_failed = False

    def __init__(self, path: Path, shared: list[int]) -> None:
        super().__init__(path, maxBytes=LONGEST_LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self.namer = lambda _: f"{self.baseFilename}.old"
        self._shared = shared

    def doRollover(self) -> None:  # noqa: N802 (a name of logging's)
        super().doRollover()
        new = os.open(self.baseFilename, _APPEND, 0o666)
        for descriptor in self._shared:
            os.dup2(new, descriptor, inheritable=descriptor == 2)
        os.close(new)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (a name of logging's)
        if not self._has_failed:
            self._has_failed = True
            print(f"megaphi: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


_BAR_LOCK = threading.RLock()


def progress_bar(*, total: int, unit: str, initial: int = 0, label: str = "", visible: bool = True) -> tqdm[Any]:
    """A progress bar with rate and ETA; in a log file (no terminal) it prints a line at most every ten seconds."""
    on_terminal = sys.stderr.isatty()
    # Not tqdm's own lock, which all processes forked from this one share: a killed one would keep it from the others.
    tqdm.set_lock(_BAR_LOCK)
    return tqdm(
        file=_Unminded(getattr(sys.stderr, "raw", sys.stderr)),  # pyright: ignore[reportArgumentType]
        total=total,
        initial=initial,
        desc=label or None,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=on_terminal,
        mininterval=0.2 if on_terminal else 10.0,
        disable=not visible or os.environ.get("TQDM_DISABLE") == "1",
        leave=True,
    )
