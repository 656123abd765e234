"""`megaphi inspect ranks`: what every rank spends its steps with, and which one the others wait for.

A step takes all ranks the same time, so they are compared by their own work; the ratio is to the median of all ranks.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from megaphi.engine.reporting.step_times import OWN_WORK, WAITING, RankTimes, read_step_times
from megaphi.errors import InputError

SLOW = 1.1
"""A rank whose own work takes so many times the median is named."""
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


def verdict(times: Mapping[int, RankTimes]) -> str:
    """Name the slow rank, by how much it is slower, and in which part of the step."""
    usual = statistics.median_low(rank.own_work for rank in times.values())
    slowest = max(times, key=lambda rank: times[rank].own_work)
    ratio = times[slowest].own_work / usual if usual else 1.0
    about = f"rank {slowest} on {times[slowest].host}: {ratio:.2f} x the median of its own work"
    if ratio < SLOW:
        return f"no rank stands out; the slowest is {about}"

    def excess(name: str) -> float:
        return times[slowest].seconds.get(name, 0.0) - _median(times, name)

    phase = max(OWN_WORK, key=excess)
    base = _median(times, phase)
    by = f"{times[slowest].seconds[phase] / base:.2f} x the median" if base else "which costs the others nothing"
    return f"slow: {about}, most of it in {phase} ({by}; {1e3 * excess(phase):.2f} ms more)"


def _median(times: Mapping[int, RankTimes], phase: str) -> float:
    return statistics.median_low(rank.seconds.get(phase, 0.0) for rank in times.values())
