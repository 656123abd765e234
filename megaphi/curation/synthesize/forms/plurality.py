"""The plurality filter: independent answers to one question, and whether their largest group makes it worth keeping.

An answer's votes are the answers equal to it, itself among them; the reference is the answer with most votes, of
several the shortest, then the first in alphabetical order, so that nothing depends on the order of the samples. Its
share is of all answers asked for, those without a result included. All alike means that the question is too easy, none
agreeing that it is too hard or ambiguous (phi-4 report, section 2.2). Equality need not be transitive here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

Equal = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Tells of each pair of texts if they are the same answer."""


@dataclass(frozen=True, slots=True)
class Plurality:
    """The finding on all answers of one question."""

    verdict: Literal["kept", "too_easy", "inconsistent", "no_result"]
    votes: int
    answers: int
    reference: int | None = None
    """Place of the answer that is the reference from now on; None if no answer has a result."""
    members: tuple[int, ...] = ()
    """Places of all answers equal to it."""

    @property
    def share(self) -> float:
        return self.votes / self.answers


def plurality(results: Sequence[str | None], equal: Equal, *, least: float, most: float) -> Plurality:
    """Judge a question by the results of its answers, None for one that states none.

    Args:
        equal: asked once, for pairs of different texts in alphabetical order.
        least: share of the plurality below which a question is inconsistent.
        most: share above which it is too easy.
    """
    texts = sorted({result for result in results if result is not None})
    if not texts:
        return Plurality("no_result", 0, len(results))
    pairs = list(combinations(texts, 2))
    same = {pair for pair, is_same in zip(pairs, equal(pairs), strict=True) if is_same}
    groups = {text: {text} | {other for pair in same if text in pair for other in pair} for text in texts}
    votes = {text: sum(result in groups[text] for result in results) for text in texts}
    best = min(texts, key=lambda text: (-votes[text], len(text), text))
    members = tuple(place for place, result in enumerate(results) if result in groups[best])
    share = votes[best] / len(results)
    verdict = "too_easy" if share > most else "inconsistent" if share < least else "kept"
    return Plurality(verdict, votes[best], len(results), results.index(best), members)
