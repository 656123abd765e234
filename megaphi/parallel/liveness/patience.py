"""Time that ranks wait for each other: the configuration's section `patience`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from megaphi.config import Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Time that ranks wait for each other (config section `patience`)."""

    start_seconds: Annotated[float, Range(above=0, maximum=86_400)] = 600.0
    """Time for all ranks of the job to arrive; the missing ones are named every 15 s."""
    heartbeat_seconds: Annotated[float, Range(minimum=0, maximum=3_600)] = 40.0
    """Longest silence of a rank before it is named and the others end; 0: no limit (for debuggers)."""
    standstill_seconds: Annotated[float, Range(minimum=0, maximum=86_400)] = 50.0
    """Longest time in which no rank moves, though all are alive, before the hung rank is named and the job ends; three
    times the usual pause if that is longer, and `collective_seconds` in the first steps and where storage may be slow
    (data, validation, evaluation); a save is never ended. 0: no limit (for debuggers)."""
    collective_seconds: Annotated[float, Range(above=0, maximum=86_400)] = 600.0
    """Time for one communication between ranks, which may wait for the slowest rank's compute or data."""
