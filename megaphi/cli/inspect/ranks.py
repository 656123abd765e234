"""`megaphi inspect ranks`: what every rank spends its steps with, and which one the others wait for.

A step takes all ranks the same time, so they are compared by their own work; the ratio is to the median of all ranks.
"""

from __future__ import annotations

from pathlib import Path

from megaphi.engine.reporting.step_times import OWN_WORK, WAITING, read_step_times, verdict
from megaphi.errors import InputError

MOST_ROWS = 16


def show_ranks(folder: Path, *, last: int) -> int:
    """Print one row per rank (the slowest, if there are many) and the verdict; returns the exit code."""
    if last < 1:
        raise InputError(f"--last {last}: must be at least 1")
    times = read_step_times(folder, last=last)
    if not times:
        raise InputError(f"{folder} holds no steps/rank_*.jsonl: give the folder of a run that has taken a step")
    slowest_first = sorted(times, key=lambda rank: times[rank].own_work, reverse=True)
    shown = sorted(slowest_first[:MOST_ROWS])
    phases = [*OWN_WORK, *WAITING, *sorted({name for rank in times.values() for name in rank.seconds})]
    phases = [name for name in dict.fromkeys(phases) if any(rank.seconds.get(name) for rank in times.values())]
    print(f"milliseconds per step over the last {max(rank.steps for rank in times.values())} steps; own work is")
    print(f"{', '.join(OWN_WORK)}; in {' and '.join(WAITING)} ranks wait for the slowest")
    widths = [max(9, len(name)) for name in phases]
    names = "".join(f"  {name:>{width}}" for name, width in zip(phases, widths, strict=True))
    print(f"{'rank':>6}  {'own work':>9}{names}  host, place")
    for rank in shown:
        row = times[rank]
        columns = zip(phases, widths, strict=True)
        cells = "".join(f"  {1e3 * row.seconds.get(name, 0.0):{width}.2f}" for name, width in columns)
        print(f"{rank:>6}  {1e3 * row.own_work:9.2f}{cells}  {row.host}, {row.place}")
    if len(shown) < len(times):
        print(f"and {len(times) - len(shown)} ranks that are faster")
    print(verdict(times))
    return 0
