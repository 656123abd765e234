"""steps/rank_00003.jsonl: the duration of each phase of each step on one rank, which reveals a slow rank.

All ranks of a job end a step together, so its duration does not tell which one was slow; the time that a rank spends on
its own work does. Lines are buffered for up to ten seconds and appended to the file; a file that has reached its limit
is rotated, replacing the previous one. No failure here ends a run. No torch here.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from megaphi.errors import InputError
from megaphi.foreign.files import TEXT_BYTES, read_small
from megaphi.json_text import parse_json
from megaphi.log import host_name, logger

FOLDER = "steps"
OWN_WORK = ("data", "forward_backward", "optimizer", "save")
"""Phases in which a rank does its own work. In the second, tensor and pipeline neighbours also wait for each other, and
all wait for a rank that is late with its share of gathered parameters: there a slow rank stands out less."""
WAITING = ("gradients", "exchange")
"""Phases in which ranks synchronise: a fast rank waits there for the slow ones."""
SLOW = 1.1
"""A rank whose own work takes so many times the median is named."""
FLUSH_SECONDS = 10.0
LONGEST_FILE_BYTES = 4 << 20


class StepTimes:
    """Writer of one rank's file."""

    def __init__(self, folder: Path, *, rank: int, place: str) -> None:
        self._path = folder / FOLDER / f"rank_{rank:05d}.jsonl"
        self._about = json.dumps({"host": host_name(), "place": place})
        self._lines = [self._about]
        self._flushed = time.monotonic()
        self._has_failed = False
        self._of_step: dict[str, float] = {}
        self._unreported: dict[str, float] = {}

    def __enter__(self) -> StepTimes:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def since_last_record(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """The metrics `seconds/PHASE`: these times of the step, and what the step before took after its record.

        Args:
            seconds: as `Activity.take_seconds` returned them; the step's line will have them too.
        """
        self._of_step = _sum(self._of_step, seconds)
        reported, self._unreported = _sum(self._unreported, seconds), {}
        return {f"seconds/{phase}": round(value, 6) for phase, value in reported.items()}

    def add(self, step: int, seconds: Mapping[str, float]) -> None:
        """Write the line of a step; `seconds` is what it took since `since_last_record`."""
        phases = ", ".join(f'"{phase}": {value:.6f}' for phase, value in _sum(self._of_step, seconds).items())
        self._of_step, self._unreported = {}, _sum(self._unreported, seconds)
        self._lines.append(f'{{"step": {step}, {phases}}}')
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        text = "".join(f"{line}\n" for line in self._lines)
        self._lines, self._flushed = [], time.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_file() and self._path.stat().st_size > LONGEST_FILE_BYTES:
                self._path.replace(_old(self._path))
                text = f"{self._about}\n{text}"
            with open(self._path, "a", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                file.write(text)
        except OSError as error:
            if not self._has_failed:
                logger.error("%s cannot be written (%s): times of steps are lost", self._path, error.strerror)
            self._has_failed = True


def _sum(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {**first, **{phase: first.get(phase, 0.0) + value for phase, value in second.items()}}


def _old(path: Path) -> Path:
    return path.with_suffix(".old.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankTimes:
    """Typical durations of one rank's phases over some steps."""

    host: str
    place: str
    """Its coordinates in the layout."""
    steps: int
    seconds: Mapping[str, float]
    """Seconds by phase: the median, or the mean of a phase that is not part of most steps."""

    @property
    def own_work(self) -> float:
        return sum(self.seconds.get(phase, 0.0) for phase in OWN_WORK)


def read_step_times(folder: Path, *, last: int) -> dict[int, RankTimes]:
    """Typical durations by rank, over the last `last` steps that it wrote; of a repeated step the last time counts."""
    found = {}
    for path in sorted((folder / FOLDER).glob("rank_*.jsonl")):
        name = path.stem.removeprefix("rank_")
        if not name.isdigit():
            continue
        about, steps = {"host": "?", "place": "?"}, {}
        for line in (*_lines(_old(path)), *_lines(path)):
            if "step" in line:
                steps[line.pop("step")] = line
            else:
                about = {**about, **line}
        chosen = [steps[step] for step in sorted(steps)[-last:]]
        if chosen:
            seconds = {phase: _usual([step.get(phase, 0.0) for step in chosen]) for step in chosen for phase in step}
            found[int(name)] = RankTimes(host=about["host"], place=about["place"], steps=len(chosen), seconds=seconds)
    return found


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


def _usual(seconds: list[float]) -> float:
    is_rare = sum(value > 0 for value in seconds) < len(seconds) / 2
    return statistics.fmean(seconds) if is_rare else statistics.median(seconds)


def _lines(path: Path) -> Iterator[dict]:
    """Yield the records; lines cut off by a crash, or not ours, are skipped."""
    for text in read_small(path, largest=TEXT_BYTES).splitlines() if path.is_file() else ():
        with suppress(InputError):
            line = parse_json(text)
            if isinstance(line, dict) and _is_ours(line):
                yield line


def _is_ours(line: dict) -> bool:
    if "step" not in line:
        return all(isinstance(value, str) for value in line.values())
    return isinstance(line["step"], int) and all(isinstance(value, int | float) for value in line.values())
