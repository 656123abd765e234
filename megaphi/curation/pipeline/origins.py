"""Counts of where finished documents come from, by what their metadata say: licences, and kinds of synthetic data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from megaphi.curation.document import Document

LICENCE_KEYS = ("licence", "license")
MOST_NAMES, LONGEST_NAME = 200, 100
OTHERS = "others"
"""Name under which documents are counted when there are `MOST_NAMES` names already."""


@dataclass(slots=True)
class DocumentOrigins:
    """Finished documents by licence and by synthetic kind; documents that say nothing are not among them."""

    licences: dict[str, int] = field(default_factory=dict)
    synthetic: dict[str, int] = field(default_factory=dict)

    def add(self, document: Document) -> None:
        licence = next((document.metadata[key] for key in LICENCE_KEYS if key in document.metadata), None)
        if isinstance(licence, str):
            _count(self.licences, licence[:LONGEST_NAME], 1)
        made = document.metadata.get("synthetic")
        if isinstance(made, dict) and isinstance(made.get("kind"), str):
            _count(self.synthetic, made["kind"][:LONGEST_NAME], 1)


def summed_origins(shards: Iterable[DocumentOrigins]) -> DocumentOrigins:
    """Counts of all shards together, by name."""
    total = DocumentOrigins()
    for shard in shards:
        for ours, theirs in ((total.licences, shard.licences), (total.synthetic, shard.synthetic)):
            for name, count in theirs.items():
                _count(ours, name, count)
    return DocumentOrigins(dict(sorted(total.licences.items())), dict(sorted(total.synthetic.items())))


def _count(counts: dict[str, int], name: str, count: int) -> None:
    name = name if name in counts or len(counts) < MOST_NAMES else OTHERS
    counts[name] = counts.get(name, 0) + count
