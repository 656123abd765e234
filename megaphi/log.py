"""What a run prints: one line per message, from the ranks that have something to say.

The main process logs at INFO, every other rank only warnings and errors, each marked with its rank. Progress bars go
to standard error and only where a person or a log can use them; results that a program may read go to standard out.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm

logger = logging.getLogger("megaphi")


def set_up_logging(*, rank: int = 0, world_size: int = 1) -> None:
    """Send `megaphi`'s log to standard error: INFO on rank 0, WARNING elsewhere, the rank named when there are many."""
    prefix = f"[rank {rank}] " if world_size > 1 and rank != 0 else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False


class _Unminded:
    """A stream whose reader may leave (a closed terminal, `| head`): nobody's work ends because nobody looks at it."""

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


def progress_bar(*, total: int, unit: str, initial: int = 0, label: str = "", visible: bool = True) -> tqdm[Any]:
    """A progress bar with rate and ETA; in a log file (no terminal) it prints a line at most every ten seconds."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        file=_Unminded(sys.stderr),  # pyright: ignore[reportArgumentType]
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
