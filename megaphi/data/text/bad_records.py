"""Records that cannot be used: all of a data set are named at once, or left out and counted, as the user chooses.

Readers report each with its location and the reason. Stopping at the first would make a user find a hundred of them one
run at a time; continuing for ever through a file of another kind would help nobody, so `MOST_NAMED` is the limit.
Reasons that differ in their numbers only are one reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from megaphi.errors import InputError, shortened

OnBadRecords = Literal["error", "skip"]
"""Treatment of unusable records: stop and name all of them, or leave them out and count them."""
Refuse = Callable[[object, str], None]
"""Callback that takes the location, whose text may take a pass over the file to find, and the reason; may raise."""

LONGEST_REASON = 400
"""Characters: a record's own names may be as long as it is."""
MOST_NAMED = 1_000
PLACES_NAMED = 20
REASONS_NAMED = 10
HOW_TO_SKIP = "bad_records=skip (--bad-records skip) leaves such records out and counts them"


def refuse_at_once(where: object, reason: str) -> NoReturn:
    raise InputError(f"{where}: {reason}")


@dataclass(slots=True)
class BadRecords:
    """The unusable records that were found."""

    rule: OnBadRecords
    places: dict[str, list[str]] = field(default_factory=dict)
    """By reason, the first places."""
    counts: dict[str, int] = field(default_factory=dict)
    """By reason."""
    _reason_of: dict[str, str] = field(default_factory=dict)

    def add(self, where: object, reason: str) -> None:
        """Add one. Raises `InputError` when there are too many to continue."""
        reason = shortened(reason, LONGEST_REASON)
        reason = self._reason_of.setdefault(re.sub(r"\d[\d,]*", "#", reason), reason)
        places = self.places.setdefault(reason, [])
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(places) < PLACES_NAMED:
            places.append(str(where))
        if self.rule == "error" and sum(self.counts.values()) >= MOST_NAMED:
            raise InputError(self._message(beginning="at least "))

    def summary(self) -> dict[str, list[Any]]:
        """Count and first location by reason; fit for JSON."""
        return {reason: [count, self.places[reason][0]] for reason, count in self.counts.items()}

    def raise_if_refused(self) -> None:
        """Raises `InputError` with all of them, if there are any and they are not to be skipped."""
        if self.counts and self.rule == "error":
            raise InputError(self._message())

    def _message(self, beginning: str = "") -> str:
        total = sum(self.counts.values())
        if total == 1:
            (reason, (where, *_)), *_ = self.places.items()
            return f"{where}: {reason}"
        lines = [f"{beginning}{total:,} records cannot be used; {HOW_TO_SKIP}"]
        for reason, places in list(self.places.items())[:REASONS_NAMED]:
            count = self.counts[reason]
            more = f", and {count - len(places):,} more" if count > len(places) else ""
            lines.append(f"  {count:,} x {reason}: {', '.join(places)}{more}")
        if len(self.places) > REASONS_NAMED:
            lines.append(f"  and {len(self.places) - REASONS_NAMED:,} reasons more")
        return "\n".join(lines)
