"""`training.time_limit`: save and end a run before the queue's time limit.

The clock starts with the process, so imports and waiting for other ranks count. The time to leave for a last step and
its save is estimated from those before. No torch here.
"""

from __future__ import annotations

import os
import re
import time

from megaphi.errors import InputError

STEP_MARGIN, SAVE_MARGIN = 1.5, 2.0
"""Factors for the longest step and the longest save; a save may be under way when the last one starts."""
FIRST_SAVE_SECONDS = 60.0
"""Assumed duration of a save before the first; at most a twentieth of the limit."""


def limit_seconds(text: str, *, field: str = "training.time_limit") -> float:
    """`23:50:00` or `1-12:00:00`, as Slurm writes it. Raises InputError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    seconds = 0
    if found is not None:
        days, hours, minutes, rest = (int(part or 0) for part in found.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not seconds:
        raise InputError(f"{field}={text}: write it as hours:minutes:seconds or days-hours:minutes:seconds")
    return float(seconds)


class TimeLimit:
    """A clock for the time limit; `None` is no limit. Call `is_near` once after every step."""

    def __init__(self, text: str | None, *, age_seconds: float | None = None) -> None:
        self._limit = None if text is None else limit_seconds(text)
        self._began = time.monotonic() - (process_age_seconds() if age_seconds is None else age_seconds)
        self._longest_step = 0.0
        self._last: float | None = None

    def is_near(self, *, save_seconds: float) -> bool:
        """Could the limit pass during one more step and a save? `save_seconds`: of the longest so far; 0 if unknown."""
        if self._limit is None:
            return False
        now = time.monotonic()
        if self._last is not None:  # the first step takes longer than the others
            self._longest_step = max(self._longest_step, now - self._last)
        self._last = now
        save = save_seconds or min(FIRST_SAVE_SECONDS, self._limit / 20)
        return now - self._began + STEP_MARGIN * self._longest_step + SAVE_MARGIN * save >= self._limit


def process_age_seconds() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0
