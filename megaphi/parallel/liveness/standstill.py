"""A job in which all ranks are alive and none moves: how long that may last, and whom the others wait for.

A rank moves when it enters a phase or starts a collective. How long none may do so follows the job's own history: three
times the longest recent pause in that phase, at least `patience.standstill_seconds`. The first steps of a process
(compilation, cold caches) and the phases that depend on storage may take `patience.collective_seconds`: a file server
that is restarted must not end a job, and the hung rank is named meanwhile. Where checkpoints are read or written no job
ends.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from megaphi.parallel.liveness.beats import Beat, Person, whereabouts
from megaphi.parallel.liveness.phases import LONG, UNLIMITED, named_phase
from megaphi.parallel.rendezvous.differences import named

TIMES_USUAL = 3.0
REMEMBERED = 16
"""Pauses of each phase that are remembered."""
FIRST_STEPS = 2
"""Steps of a process that may take longer than the later ones."""


class Pace:
    """Memory of how long the job has stood still in each phase before it moved on.

    Args:
        standstill_seconds: shortest limit of a standstill; 0 for no limit.
        long_seconds: limit in the phases `LONG` and in the first steps.
    """

    def __init__(self, *, standstill_seconds: float, long_seconds: float) -> None:
        self._shortest, self._long = standstill_seconds, max(long_seconds, standstill_seconds)
        self._pauses: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._phase, self._stood = "start", 0.0
        self._first_step = self._latest_step = 0

    def note(self, beats: Sequence[Beat], *, standing_seconds: float) -> None:
        """Note the beats of a look, after which the job has been standing for so long."""
        if standing_seconds < self._stood:
            self._pauses[self._phase].append(self._stood)
        self._phase, self._stood = _phase_of(beats), standing_seconds
        step = min(beat.step for beat in beats)
        self._first_step = self._first_step or step
        self._latest_step = max(self._latest_step, step)

    def naming_seconds(self) -> float:
        """Standstill after which the hung rank is named; infinite if that is switched off or training has not begun."""
        if not self._shortest or not self._first_step:
            return float("inf")
        is_early = self._latest_step - self._first_step < FIRST_STEPS
        if is_early and self._phase not in (*LONG, *UNLIMITED):
            return self._long
        return max(self._shortest, TIMES_USUAL * max(self._pauses[self._phase], default=0.0))

    def ending_seconds(self) -> float:
        """Standstill after which the job ends."""
        naming = self.naming_seconds()
        if self._phase in UNLIMITED:
            return float("inf")
        return max(naming, self._long) if self._phase in LONG else naming


def _phase_of(beats: Sequence[Beat]) -> str:
    return named_phase(min(beats, key=_place).phase)


def _place(beat: Beat) -> tuple[int, int]:
    return beat.step, beat.phases


def laggards(beats: Sequence[Beat]) -> list[int]:
    """The ranks that the others wait for; all ranks if nothing distinguishes them.

    Those that have entered the fewest phases; of these, those that wait for nobody; else those that have started fewer
    collectives than the others of their process group.
    """
    places = [_place(beat) for beat in beats]
    behind = [rank for rank, place in enumerate(places) if place == min(places)]
    idle = [rank for rank in behind if not beats[rank].whereabouts.get("communicates", True)]
    if idle and len(idle) < len(beats):
        return idle
    if len(behind) < len(beats) and len(behind) == 1:
        return behind
    absent = [rank for rank in behind if missed_operation(rank, beats)]
    return absent if absent and len(absent) < len(beats) else behind


def missed_operation(rank: int, beats: Sequence[Beat]) -> str:
    """The collective that others of its group have started and this rank has not; empty if there is none."""
    for group, (_, mine, _) in beats[rank].whereabouts.get("operations", {}).items():
        there = {
            other: beat.whereabouts["operations"][group]
            for other, beat in enumerate(beats)
            if group in beat.whereabouts.get("operations", {})
        }
        ahead = [other for other, (_, number, _) in there.items() if number > mine]
        if ahead:
            name, number, purpose = there[ahead[0]]
            return f"{name} {number:,} of the group {group} ({purpose}), in which {named(ahead, {})} waits"
    return ""


def describe(ranks: Sequence[int], people: Sequence[Person], beats: Sequence[Beat]) -> str:
    """Describe hung ranks: host, step, phase, frame, and the collective that they have not entered."""
    if len(ranks) == len(beats):
        return f"all ranks wait for each other: {whereabouts(ranks, people, beats)}; {_frames(ranks, beats)}"
    missed = next(filter(None, (missed_operation(rank, beats) for rank in ranks)), "")
    has_not = f"; has not entered {missed}" if missed else ""
    return f"{whereabouts(ranks, people, beats)}; {_frames(ranks, beats)}{has_not}"


def _frames(ranks: Sequence[int], beats: Sequence[Beat]) -> str:
    frames: dict[str, list[int]] = defaultdict(list)
    for rank in ranks:
        frames[beats[rank].whereabouts.get("at", "?")].append(rank)
    return "; ".join(f"{named(found, {})} at {frame}" for frame, found in frames.items())
