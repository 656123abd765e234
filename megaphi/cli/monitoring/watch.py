"""Show how runs are going: progress, loss, validation, speed, memory, phases, slow ranks, sources and events.

One run fills the terminal and is refreshed until Ctrl-C; several runs are compared by their losses at the same tokens.
Only files are read, so a run of another machine, or a copy of its folder, can be watched too.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from typing import TYPE_CHECKING

from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.monitoring.observed_run import ObservedRun

HELP = "how runs are going: progress, loss, speed, phases, events; several runs side by side"
EXAMPLE = """examples:
  megaphi watch runs/quickstart/run                     refreshed until Ctrl-C
  megaphi watch runs/quickstart/run --once | less       one frame
  megaphi watch runs/first runs/second --once           losses at the same tokens
"""
TO_THE_TOP, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
OTHER_SCREEN, FORMER_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="run folders")
    parser.add_argument("--once", action="store_true", help="print one frame and end, as where there is no terminal")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="refresh (default: %(default)g)")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.monitoring.observed_run import open_runs

    if not 0.1 <= arguments.every <= 3_600:
        raise InputError(f"--every {arguments.every:g}: from 0.1 to 3600 seconds")
    runs = open_runs(arguments.runs)
    if arguments.once or not sys.stdout.isatty():
        print(*_lines(runs, width=shutil.get_terminal_size((100, 24)).columns), sep="\n")
        return 0
    _refresh_forever(runs, every=arguments.every)
    return 0


def _lines(runs: list[ObservedRun], *, width: int) -> list[str]:
    from megaphi.monitoring.comparison import comparison
    from megaphi.monitoring.frame import frame

    unicode = (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")
    if len(runs) == 1:
        return frame(runs[0], width=width, unicode=unicode)
    return comparison(runs, width=width, unicode=unicode)


def _refresh_forever(runs: list[ObservedRun], *, every: float) -> None:
    """Draw frames over each other on the terminal's second screen, which is left behind however this ends."""
    terminal = getattr(sys.stdout, "raw", sys.stdout)
    terminal.write(OTHER_SCREEN)
    try:
        while True:
            size = shutil.get_terminal_size((100, 24))
            lines = _lines(runs, width=size.columns)[: size.lines - 1]
            terminal.write(TO_THE_TOP + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
            terminal.flush()
            time.sleep(every)
            for one in runs:
                one.refresh()
    except KeyboardInterrupt:
        pass
    finally:
        terminal.write(FORMER_SCREEN)
        terminal.flush()
