"""Slow ranks, found while the job runs from the medians of own work that every beat carries: no extra communication.

A step takes all ranks the same time, so they are compared by their own work (data, forward and backward pass,
optimizer), with those of the same pipeline stage, which have the same to do. A straggler takes a quarter longer than
the median of the others, by more than five of their deviations; it is named once, and again only after it was not.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

SLOWER = 1.25
"""Ratio to the median of the others."""
DEVIATIONS = 5.0
"""In robust standard deviations of the others (1.4826 x the median absolute deviation)."""
SHORTEST_SECONDS = 0.01
"""Smaller differences are noise of the host."""
LOOKS = 3
"""Looks in a row at which a rank must be slow."""


class Straggler(NamedTuple):
    """A slow rank."""

    rank: int
    seconds: float
    """Its own work in a step."""
    usual_seconds: float
    """Median of the others'."""
    phase: str
    """Phase in which it loses the most."""
    lost_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.seconds / self.usual_seconds:.2f} x the own work of the others ({1e3 * self.seconds:,.0f} ms per "
            f"step against {1e3 * self.usual_seconds:,.0f}), most of it in {self.phase} "
            f"({1e3 * self.lost_seconds:,.0f} ms more)"
        )


def stragglers(work: Sequence[Mapping[str, float]], peers: Sequence[int]) -> list[Straggler]:
    """The slow ranks.

    Args:
        work: median seconds per step of each rank, by phase; empty for a rank that has not reported any yet.
        peers: a number for each rank, the same for those that are compared with each other.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for rank, group in enumerate(peers):
        if work[rank]:
            groups[group].append(rank)
    return [slow for ranks in groups.values() for slow in _of_group({rank: work[rank] for rank in ranks})]


def _of_group(work: Mapping[int, Mapping[str, float]]) -> Iterator[Straggler]:
    """The slow ranks among those that have the same to do; a job of thousands is judged in milliseconds."""
    ordered = sorted((sum(phases.values()), rank) for rank, phases in work.items())
    totals = [total for total, _ in ordered]
    for place, (total, rank) in enumerate(ordered):
        usual = _median_without(totals, place)
        if not usual or total - usual < max((SLOWER - 1) * usual, SHORTEST_SECONDS):
            continue
        others = [other for other in work if other != rank]
        deviation = statistics.median(abs(one - usual) for one in (*totals[:place], *totals[place + 1 :]))
        if total - usual >= DEVIATIONS * 1.4826 * deviation:
            yield _described(rank, total, usual, work, others)


def _median_without(ordered: Sequence[float], place: int) -> float:
    """Median of all but one of the sorted values; 0 if there is no other."""
    count = len(ordered) - 1

    def at(index: int) -> float:
        return ordered[index if index < place else index + 1]

    return (at((count - 1) // 2) + at(count // 2)) / 2 if count else 0.0


def _described(
    rank: int, total: float, usual: float, work: Mapping[int, Mapping[str, float]], others: Sequence[int]
) -> Straggler:
    def lost(phase: str) -> float:
        return work[rank][phase] - statistics.median(work[other].get(phase, 0.0) for other in others)

    phase = max(work[rank], key=lost)
    return Straggler(rank, total, usual, phase, lost(phase))


class StragglerWatch:
    """Names a straggler once it has been slow at several looks in a row."""

    def __init__(self, peers: Sequence[int]) -> None:
        self._peers = peers
        self._looks: dict[int, int] = defaultdict(int)
        self._steps: list[int] = []

    def note(self, steps: Sequence[int], work: Sequence[Mapping[str, float]]) -> list[Straggler]:
        """The ranks to name now. Looks at which a rank has not taken a step since the last one do not count."""
        if self._steps and any(step <= before for step, before in zip(steps, self._steps, strict=True)):
            return []
        self._steps = list(steps)
        slow = {straggler.rank: straggler for straggler in stragglers(work, self._peers)}
        for rank in list(self._looks):
            if rank not in slow:
                del self._looks[rank]
        for rank in slow:
            self._looks[rank] += 1
        return [straggler for rank, straggler in slow.items() if self._looks[rank] == LOOKS]
