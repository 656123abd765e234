"""The numbers of a growing metrics.jsonl, as columns; each look reads only what was added since the last.

A run that resumes replaces the file by a shorter one: then it is read from its beginning. The file may be another
machine's, cut off, or a stranger's: lines that are no records are counted and left out, and what a record holds beside
finite numbers is not looked at.
"""

from __future__ import annotations

import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from megaphi.errors import InputError
from megaphi.foreign.files import open_regular
from megaphi.json_text import is_number, parse_json

PART_BYTES = 1 << 24
LONGEST_LINE_BYTES = 1 << 20
MOST_NAMES = 5_000
LARGEST_STEP = 1 << 53


class Column(NamedTuple):
    """One metric: the steps that have it, in ascending order, and its values."""

    steps: array[int]
    values: array[float]

    def last(self, count: int) -> list[float]:
        """Up to `count` last values."""
        return list(self.values[-count:])


EMPTY = Column(array("q"), array("d"))


class History:
    """The records of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clear()

    def _clear(self) -> None:
        self._read, self._file, self._rest = 0, 0, b""
        self._columns: dict[str, Column] = {}
        self.last: dict[str, float] = {}
        """Numbers of the newest record."""
        self.damaged = 0
        """Lines that are no records."""
        self.written_at: float | None = None
        """Time of the last change of the file, in seconds since 1970; None while there is no file."""

    def __getitem__(self, name: str) -> Column:
        return self._columns.get(name, EMPTY)

    def names(self, prefix: str = "") -> list[str]:
        """Names of the metrics seen so far that begin with `prefix`, in the order in which they appeared."""
        return [name for name in self._columns if name.startswith(prefix)]

    @property
    def step(self) -> int:
        """Number of the newest step; 0 before the first."""
        return int(self.last.get("step", 0))

    def update(self) -> None:
        """Read what was added. Raises InputError if the file cannot be read."""
        try:
            file = open(open_regular(self._path), "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            self._clear()
            return
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._file or found.st_size < self._read:
                self._clear()
                self._file = found.st_ino
            file.seek(self._read)
            while part := file.read(PART_BYTES):
                self._read += len(part)
                self._take(part)
            self.written_at = found.st_mtime

    def _take(self, part: bytes) -> None:
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            record = _record(line)
            if record is None:
                self.damaged += 1
            else:
                self._add(record)
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise InputError(
                f"{self._path} has a line of more than {LONGEST_LINE_BYTES:,} bytes: it is no metrics.jsonl"
            )

    def _add(self, record: dict[str, float]) -> None:
        step = int(record["step"])
        if step <= self.step:
            self._forget_from(step)
        self.last = record
        for name, value in record.items():
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) == MOST_NAMES:
                    continue
                column = self._columns[name] = Column(array("q"), array("d"))
            column.steps.append(step)
            column.values.append(value)

    def _forget_from(self, step: int) -> None:
        """A step that is taken again replaces itself and all that came after."""
        for steps, values in self._columns.values():
            kept = bisect_left(steps, step)
            del steps[kept:], values[kept:]


def _record(line: bytes) -> dict[str, float] | None:
    """The numbers of a line; None if it is no record of a step."""
    try:
        record = parse_json(line)
    except InputError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or not 0 < record["step"] < LARGEST_STEP:
        return None
    return dict(_numbers(record))


def _numbers(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    return ((name, float(value)) for name, value in record.items() if is_number(value) and math.isfinite(value))
