"""The items to look for, indexed by their runs of words.

The index itself is compiled (csrc/text/benchmark_items.h): short runs with the items that have them, long runs without
those that are allowed, and the items' letters. Items are known by their number. For another process the index is made
again from its items, which takes a second for some ten thousand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from megaphi.compiled.module import compiled
from megaphi.decontamination.rule import ContaminationRule
from megaphi.decontamination.words import characters


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkItem:
    """One item of an evaluated set."""

    set: str
    """Name of the set."""
    name: str
    """Name of the item in it: as its task names it; else the record's own id, or its file and line."""
    place: str
    """File and line that it stands in, or the files of its task."""
    text: str
    """All that a training text must not hold."""


@dataclass(frozen=True)
class ItemIndex:
    """The items to look for; make it with `index_items`."""

    rule: ContaminationRule
    items: Sequence[BenchmarkItem]
    allowed: Sequence[str]
    """Long runs that prove nothing, in alphabetical order."""
    compiled: Any = field(repr=False, compare=False)
    """`megaphi._C.BenchmarkItems`."""

    @cached_property
    def runs_of_item(self) -> list[int]:
        """Number of different short runs of each item; 0: it is too short to be checked."""
        return self.compiled.different_runs

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all that decides what is found."""
        content = repr((self.rule, list(self.allowed), [(item.set, item.name, item.text) for item in self.items]))
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def __reduce__(self) -> tuple[Callable[..., ItemIndex], tuple[Any, ...]]:
        return _again, (self.items, self.rule, self.allowed)


def index_items(
    items: Sequence[BenchmarkItem], rule: ContaminationRule | None = None, *, allowed: Collection[str] = ()
) -> ItemIndex:
    """Index the items.

    Args:
        allowed: runs of `rule.exact_words` words that are common anyway.
    """
    return _again(items, rule or ContaminationRule(), sorted(allowed))


def _again(items: Sequence[BenchmarkItem], rule: ContaminationRule, allowed: Sequence[str]) -> ItemIndex:
    texts = [item.text for item in items]
    index = compiled().BenchmarkItems(characters(), texts, rule.exact_words, rule.overlap_words, allowed)
    return ItemIndex(rule, items, allowed, index)
