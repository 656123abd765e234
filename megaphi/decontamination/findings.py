"""The findings of a scan: for each item the training texts that hold it, merged over parts of the data in any order.

Kept of each item are the first text with a long run, the text with the largest share of short runs, and the number of
texts with a long run. Shares that make nothing partial are not kept. Findings are plain values in JSON, so a part that
was scanned before need not be scanned again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from megaphi.decontamination.item_index import ItemIndex
from megaphi.decontamination.matching import ItemMatch, match_text
from megaphi.decontamination.rule import STATUSES, Status


@dataclass(frozen=True, order=True, slots=True)
class TextPlace:
    """A text of the training data, in the order of the data."""

    part: int
    """Number of the part of the data that it is in."""
    number: int
    """Number of the text in that part."""
    name: str
    """Its file and line, for people; the file alone where `byte` is given."""
    byte: int | None = None
    """First byte of its line, where lines were not counted."""


@dataclass(frozen=True, slots=True)
class ExactFinding:
    """Texts that share a long run with an item."""

    texts: int
    first: TextPlace
    gram: str
    """The first shared run of the first text."""


@dataclass(frozen=True, slots=True)
class OverlapFinding:
    """The text that shares the largest part of the short runs with an item; of equals, the first."""

    shared: int
    smaller: int
    text: TextPlace

    @property
    def share(self) -> float:
        return self.shared / self.smaller


@dataclass(slots=True)
class ScanFindings:
    """The findings of a part of the data, or of all of it."""

    exact: dict[int, ExactFinding] = field(default_factory=dict)
    """By item."""
    overlap: dict[int, OverlapFinding] = field(default_factory=dict)
    """By item; only shares above `rule.partial_share`."""
    texts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    """Number of training texts by their own status."""

    def add(self, match: ItemMatch, place: TextPlace, *, partial_share: float) -> None:
        """Add what one text shares with one item."""
        if match.exact is not None:
            self._add_exact(match.item, ExactFinding(1, place, match.exact))
        if match.share > partial_share:
            self._add_overlap(match.item, OverlapFinding(match.shared, match.smaller, place))

    def merge(self, other: ScanFindings) -> None:
        for item, exact in other.exact.items():
            self._add_exact(item, exact)
        for item, overlap in other.overlap.items():
            self._add_overlap(item, overlap)
        for status, count in other.texts.items():
            self.texts[status] += count

    def _add_exact(self, item: int, new: ExactFinding) -> None:
        old = self.exact.get(item)
        if old is not None:
            first = min(old, new, key=lambda one: one.first)
            new = ExactFinding(old.texts + new.texts, first.first, first.gram)
        self.exact[item] = new

    def _add_overlap(self, item: int, new: OverlapFinding) -> None:
        old = self.overlap.get(item)
        if old is None or (-new.share, new.text) < (-old.share, old.text):
            self.overlap[item] = new

    def places(self) -> Iterator[TextPlace]:
        """Every text that is kept."""
        yield from (one.first for one in self.exact.values())
        yield from (one.text for one in self.overlap.values())

    def renamed(self, place_of: Callable[[TextPlace], TextPlace]) -> ScanFindings:
        """The same with other places."""
        return ScanFindings(
            {item: replace(one, first=place_of(one.first)) for item, one in self.exact.items()},
            {item: replace(one, text=place_of(one.text)) for item, one in self.overlap.items()},
            dict(self.texts),
        )

    def to_plain(self) -> dict[str, Any]:
        """The findings of one part, without its number: fit for JSON."""
        return {
            "exact": [[item, one.texts, one.gram, *_plain(one.first)] for item, one in self.exact.items()],
            "overlap": [[item, one.shared, one.smaller, *_plain(one.text)] for item, one in self.overlap.items()],
            "texts": self.texts,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], *, part: int) -> ScanFindings:
        """Inverse of `to_plain`, for the part of this number."""
        return cls(
            {item: ExactFinding(texts, TextPlace(part, *at), gram) for item, texts, gram, *at in plain["exact"]},
            {item: OverlapFinding(some, least, TextPlace(part, *at)) for item, some, least, *at in plain["overlap"]},
            {status: plain["texts"][status] for status in STATUSES},
        )

    def status_of(self, item: int, index: ItemIndex) -> Status:
        if not index.runs_of_item[item]:
            return "unchecked"
        share = self.overlap[item].share if item in self.overlap else 0.0
        return index.rule.status(has_exact=item in self.exact, share=share)


def _plain(place: TextPlace) -> tuple[int, str, int | None]:
    return place.number, place.name, place.byte


def scan_texts(texts: Iterable[tuple[TextPlace, str]], index: ItemIndex) -> ScanFindings:
    """Compare all `texts` with the items of `index`."""
    findings = ScanFindings()
    for place, text in texts:
        found = match_text(text, index)
        findings.texts[found.status] += 1
        for match in found.matches:
            findings.add(match, place, partial_share=index.rule.partial_share)
    return findings
