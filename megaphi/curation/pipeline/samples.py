"""Samples of documents for the report: chosen by a hash of their ids, so the same in every run, in any order.

A finished shard keeps as many as any report may show, whatever the recipe's `samples` and `seed` are: the report
chooses among them, so another seed makes no shard again.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from megaphi.curation.document import Document, Rejected
from megaphi.curation.recipe import MOST_SAMPLES

LONGEST_SAMPLE = 2_000
"""Characters of a sampled text that are kept."""
KEPT = "kept"
"""Reason under which finished documents are sampled, with no step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentSample:
    """A document as the report shows it."""

    order: str
    """The smallest ones are chosen."""
    step: str
    """"" for a document that was kept."""
    reason: str
    detail: str
    id: str
    source: str
    place: str
    text: str
    characters: int
    """Length of the whole text."""


class Samples:
    """The samples of a shard while it runs: of each reason those that come first by a hash of their ids."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], list[tuple[int, int, DocumentSample]]] = {}
        self._offered = 0

    def offer(self, step: str, found: Document | Rejected) -> None:
        self._offered += 1
        document = found.document if isinstance(found, Rejected) else found
        reason = found.reason if isinstance(found, Rejected) else KEPT
        held = self._held.setdefault((step, reason), [])
        order = _hashed(document.id)
        rank = -int(order[:16], 16)
        if len(held) < MOST_SAMPLES or rank > held[0][0]:
            sample = DocumentSample(
                order=order,
                step=step,
                reason=reason,
                detail=found.detail if isinstance(found, Rejected) else "",
                id=document.id,
                source=document.source,
                place=document.place,
                text=document.text[:LONGEST_SAMPLE],
                characters=len(document.text),
            )
            push = heapq.heappush if len(held) < MOST_SAMPLES else heapq.heapreplace
            push(held, (rank, -self._offered, sample))

    def records(self) -> list[dict[str, Any]]:
        """JSON of all of them, in one order."""
        found = [sample for held in self._held.values() for *_, sample in held]
        return [asdict(sample) for sample in sorted(found, key=_sorting)]


def chosen(samples: Iterable[DocumentSample], count: int, *, seed: int) -> dict[tuple[str, str], list[DocumentSample]]:
    """The samples of the whole run out of those of all shards: (step, reason) to at most `count`, in their order.

    The first `MOST_SAMPLES` of the whole run are the same however it is cut into shards; the seed chooses among them.
    """
    first: dict[tuple[str, str], list[DocumentSample]] = {}
    for sample in samples:
        held = first.setdefault((sample.step, sample.reason), [])
        held.append(sample)
        if len(held) >= 2 * MOST_SAMPLES:
            held[:] = heapq.nsmallest(MOST_SAMPLES, held, key=_sorting)
    return {
        reason: heapq.nsmallest(
            count,
            heapq.nsmallest(MOST_SAMPLES, held, key=_sorting),
            key=lambda sample: (_hashed(f"{seed} {sample.id}"), *_sorting(sample)),
        )
        for reason, held in first.items()
    }


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _sorting(sample: DocumentSample) -> tuple[str, str, str, str, str]:
    return sample.step, sample.reason, sample.order, sample.id, sample.text
