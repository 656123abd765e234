"""Reports of ranks about themselves, and how long each has been silent or standing still.

`Roll` is the watcher's memory. Silence is measured in time during which the watcher itself was running: when a whole
job is frozen (a suspended laptop, a paused container), no rank counts as silent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from megaphi.parallel.rendezvous.differences import named


class Person(NamedTuple):
    """Host and process of a rank."""

    host: str
    pid: int


class Beat(NamedTuple):
    """A rank's report about itself; it travels as a JSON list."""

    number: int
    """Number of this beat among its rank's."""
    step: int
    phase: str
    state: str
    """`here`, `left` (done), `cut off: ` with its communication error, or `failed: ` with its error."""
    collectives: int = 0
    """Collectives that it has started."""
    work: Mapping[str, float] = {}
    """Median seconds of its own work in a step, by phase; empty before there are enough steps."""
    whereabouts: Mapping[str, Any] = {}
    """The place of its main thread, if that has not moved for a while (`Standing.noted`)."""
    phases: int = 0
    """Phases that it has entered in this step; all ranks enter the same ones, so who has entered fewer is behind."""
    asks: int = 0
    """From rank 0: how often it has asked all ranks to write down their stacks."""

    @property
    def is_cut_off(self) -> bool:
        return self.state.startswith("cut off")


FIRST = Beat(number=0, step=0, phase="start", state="here")


class Roll:
    """Silence of each rank in seconds, updated by `note` whenever the beats are read."""

    def __init__(self, ranks: int, *, interval_seconds: float, now: float) -> None:
        self.beats = [FIRST] * ranks
        self.silent_seconds = [0.0] * ranks
        self.standing_seconds = 0.0
        """Seconds since any rank was last seen to enter a phase or to start a collective."""
        self.cut_off_seconds = 0.0
        """Seconds since a rank first reported that its communication has failed."""
        self._longest_tick, self._at = 3 * interval_seconds, now

    def note(self, beats: Sequence[Beat], *, now: float) -> None:
        """Note new beats. The time since the last call is capped, in case this process was frozen meanwhile."""
        passed, self._at = min(now - self._at, self._longest_tick), now
        self.standing_seconds += passed
        self.cut_off_seconds += passed if any(beat.is_cut_off for beat in self.beats) else 0.0
        for rank, (before, beat) in enumerate(zip(self.beats, beats, strict=True)):
            is_silent = beat.number == before.number and beat.state != "left"
            self.silent_seconds[rank] = self.silent_seconds[rank] + passed if is_silent else 0.0
            if _position(beat) != _position(before):
                self.standing_seconds = 0.0
        self.beats = list(beats)

    def silent(self, *, longer_than: float) -> list[int]:
        return [rank for rank, seconds in enumerate(self.silent_seconds) if seconds > longer_than]


def _position(beat: Beat) -> tuple[int, int, str, int, str]:
    return beat.step, beat.phases, beat.phase, beat.collectives, beat.state


def whereabouts(ranks: Sequence[int], people: Sequence[Person], beats: Sequence[Beat]) -> str:
    """Describe the ranks and where they were last heard; ranks of one host, step and phase share a line."""
    groups: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for rank in ranks:
        groups[people[rank].host, beats[rank].step, beats[rank].phase].append(rank)
    return "; ".join(
        f"{named(group, {})} on {host}{f' (process {people[group[0]].pid})' * (len(group) == 1)}, "
        f"last heard in step {step}, {phase}"
        for (host, step, phase), group in groups.items()
    )
