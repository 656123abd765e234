"""Restarts of a job that has ended in error: whoever started it starts it again, and the run continues by itself.

Restarted is what may go better the next time: a lost or hung rank, a signal, an error of a device. Bad input (exit code
2), a user's interruption and a job that was asked to stop are not. The budget is of restarts in a row without a new
checkpoint, so a fault that comes back at once ends, and one that comes once a day does not. No torch here.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping

from megaphi.parallel.launcher import JobEnd

COUNT = "MEGAPHI_RESTART"
"""Variable of the ranks that `--restarts`, or a script of `launch/`, has started again: how often."""
COUNTS = {COUNT: "megaphi's launcher", "TORCHELASTIC_RESTART_COUNT": "torchrun", "SLURM_RESTART_COUNT": "Slurm"}
"""Variables with the number of restarts of this job, and who sets them."""
BAD_INPUT_CODE, INTERRUPTED_CODE = 2, 130
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Pause before a restart; it doubles with every one that has brought no new checkpoint."""


def run_restarting(start: Callable[[int], JobEnd], *, restarts: int, progress: Callable[[], int]) -> int:
    """Run a job, and run it again while it ends in error; returns the last exit code.

    Args:
        start: runs the job; takes the number of restarts so far.
        restarts: most restarts in a row without progress.
        progress: step of the newest checkpoint; 0 for none.
    """
    life, left, reached = 0, restarts, progress()
    while not is_final(ended := start(life)):
        if (now := progress()) > reached:
            left, reached = restarts, now
        if not left:
            if restarts:
                _say(f"exit code {ended.code} after {restarts} restarts in a row without a new checkpoint: giving up")
            return ended.code
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (restarts - left), LONGEST_PAUSE_SECONDS)
        life, left = life + 1, left - 1
        _say(
            f"the job ended with exit code {ended.code}: restart {life} in {pause:.0f} s, from step {reached} "
            f"({left} more without a new checkpoint)"
        )
        time.sleep(pause)
    return ended.code


def is_final(ended: JobEnd) -> bool:
    """Return whether a job's end is not one to be followed by a restart."""
    return ended.was_asked or ended.code in (0, BAD_INPUT_CODE, INTERRUPTED_CODE)


def restarts_so_far(environment: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """(restarts of this job before this start, who has restarted it)."""
    for name, launcher in COUNTS.items():
        if (count := environment.get(name, "")).isdigit() and int(count):
            return int(count), launcher
    return 0, ""


def _say(text: str) -> None:
    print(f"megaphi: {text}", file=sys.stderr, flush=True)
