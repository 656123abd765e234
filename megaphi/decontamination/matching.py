"""A text against an index of items: the items that it shares runs of words with, and how many.

The comparison is compiled (csrc/text/benchmark_items.h). A long run that is found by its hash is compared letter by
letter; the counts of short ones are counts of hashes of 64 bits, in which a chance agreement changes one count by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from megaphi.decontamination.item_index import ItemIndex
from megaphi.decontamination.rule import Status
from megaphi.decontamination.words import characters


@dataclass(frozen=True, slots=True)
class ItemMatch:
    """The runs that a text and an item share."""

    item: int
    """Number of the item in the index."""
    shared: int
    """Different short runs that both have."""
    smaller: int
    """Different short runs of the one that has fewer."""
    exact: str | None
    """The first long run of the text that the item has too, and that is not allowed."""

    @property
    def share(self) -> float:
        return self.shared / self.smaller


@dataclass(slots=True)
class TextMatches:
    """All that one text shares with items."""

    status: Status
    matches: list[ItemMatch] = field(default_factory=list)
    """In the order of the items."""


def match_text(text: str, index: ItemIndex) -> TextMatches:
    """Compare a text with all items; its status is by the item that is worst for it."""
    has_runs, found = index.compiled.match(characters(), text)
    if not found:
        return TextMatches("clean" if has_runs else "unchecked")
    matches = [ItemMatch(*one) for one in found]
    has_exact = any(match.exact is not None for match in matches)
    return TextMatches(index.rule.status(has_exact=has_exact, share=max(match.share for match in matches)), matches)
