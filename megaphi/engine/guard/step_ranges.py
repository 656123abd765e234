"""Sets of steps as sorted, disjoint ranges: `57,120-140` for users, [[57, 57], [120, 140]] in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable

from megaphi.errors import InputError

StepRanges = tuple[tuple[int, ...], ...]
"""(first, last) of every range, both included, no two of them overlapping or touching."""
LONGEST_NUMBER = 18


def parse_ranges(texts: Iterable[str], *, where: str) -> StepRanges:
    """The steps of `("57", "120-140")`; `where` names the field. Raises InputError."""
    found: StepRanges = ()
    for text in texts:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip(), flags=re.ASCII)
        if match is None or max(map(len, match.groups(default=""))) > LONGEST_NUMBER:
            raise InputError(f"{where}: {text!r} is no step and no range of steps; write 57 or 120-140")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last:
            raise InputError(f"{where}: {text!r}: steps count from 1, and a range ends after it begins")
        found = with_steps(found, first, last)
    return found


def with_steps(ranges: StepRanges, first: int, last: int) -> StepRanges:
    """The ranges and steps `first` to `last`."""
    apart = [one for one in ranges if one[1] < first - 1 or one[0] > last + 1]
    joined = [one for one in ranges if one not in apart]
    first, last = min([first, *(one[0] for one in joined)]), max([last, *(one[1] for one in joined)])
    return tuple(sorted([*apart, (first, last)]))


def contains(ranges: StepRanges, step: int) -> bool:
    return any(first <= step <= last for first, last in ranges)
