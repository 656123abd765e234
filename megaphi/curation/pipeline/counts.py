"""Counts of a step: what went in, what came out, what was rejected, how long it took. Sums over shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from megaphi.curation.document import Document


@dataclass(slots=True)
class Amount:
    """Documents, and their size."""

    documents: int = 0
    characters: int = 0
    """Length of the texts."""
    content_bytes: int = 0
    """Contents that have not been extracted."""

    def add(self, document: Document) -> None:
        self.documents += 1
        self.characters += len(document.text)
        self.content_bytes += len(document.content)

    def merge(self, other: Amount) -> None:
        self.documents += other.documents
        self.characters += other.characters
        self.content_bytes += other.content_bytes

    @property
    def size(self) -> int:
        """Characters and bytes together, for rates."""
        return self.characters + self.content_bytes


@dataclass(slots=True)
class StepCounts:
    """Counts of one step: `read`, the name of a step, `gather NAME`, or `write`."""

    name: str
    came: Amount = field(default_factory=Amount)
    left: Amount = field(default_factory=Amount)
    rejected: dict[str, int] = field(default_factory=dict)
    """Documents by reason."""
    rejected_characters: dict[str, int] = field(default_factory=dict)
    """Length of their texts by reason."""
    seconds: float = 0.0

    def reject(self, reason: str, *, characters: int) -> None:
        _add(self.rejected, {reason: 1})
        _add(self.rejected_characters, {reason: characters})

    def merge(self, other: StepCounts) -> None:
        self.came.merge(other.came)
        self.left.merge(other.left)
        _add(self.rejected, other.rejected)
        _add(self.rejected_characters, other.rejected_characters)
        self.seconds += other.seconds

    def record(self) -> dict[str, Any]:
        """Everything but the seconds: the same in every run."""
        return {
            "name": self.name,
            "in": asdict(self.came),
            "out": asdict(self.left),
            "rejected": dict(sorted(self.rejected.items())),
            "rejected_characters": dict(sorted(self.rejected_characters.items())),
        }


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for reason, count in more.items():
        total[reason] = total.get(reason, 0) + count


def counts_of(record: Mapping[str, Any], seconds: float) -> StepCounts:
    """Inverse of `StepCounts.record`."""
    came, left = Amount(**record["in"]), Amount(**record["out"])
    rejected, characters = dict(record["rejected"]), dict(record["rejected_characters"])
    return StepCounts(record["name"], came, left, rejected, characters, seconds)


def summed(shards: Iterable[Iterable[StepCounts]]) -> list[StepCounts]:
    """Counts of all shards together, steps in the order in which they first come."""
    found: dict[str, StepCounts] = {}
    for shard in shards:
        for one in shard:
            if one.name in found:
                found[one.name].merge(one)
            else:
                found[one.name] = one
    return list(found.values())
