"""Texts against an index of items: which items each text shares runs of words with, and how many.

The long runs are looked for only where enough short ones in a row are shared, because a run of 13 words holds seven
runs of 7. A long run that is found by its hash is compared letter by letter; the counts of short ones are counts of
hashes of 64 bits, in which a chance agreement changes one count by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megaphi.decontamination.item_index import ItemIndex
from megaphi.decontamination.rule import Status
from megaphi.decontamination.words import Hashes, TextWords, words_of


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


def match_texts(texts: Sequence[str], index: ItemIndex) -> list[TextMatches]:
    """Compare each text with all items; the status of a text is by the item that is worst for it."""
    words = words_of(texts)
    overlap = words.ngrams(index.rule.overlap_words)
    text_N = words.text_W[overlap.first_N]
    has_grams = np.bincount(text_N, minlength=len(texts)) > 0
    found = [TextMatches("clean" if has else "unchecked") for has in has_grams.tolist()]
    known_N, gram_N = index.overlap.find(overlap.hash_N)
    known_text_N = text_N[known_N]
    all_of = np.searchsorted(text_N, np.arange(len(texts) + 1))
    known_of = np.searchsorted(known_text_N, np.arange(len(texts) + 1))
    for text in np.flatnonzero(np.diff(known_of)).tolist():
        known = slice(known_of[text], known_of[text + 1])
        exact = _exact_runs(words, overlap.first_N[known_N[known]], index)
        own = overlap.hash_N[all_of[text] : all_of[text + 1]]
        matches = _shared_runs(index, gram_N[known], own, exact)
        share = max(match.share for match in matches)
        found[text] = TextMatches(index.rule.status(has_exact=bool(exact), share=share), matches)
    return found


def _shared_runs(
    index: ItemIndex, gram_N: NDArray[np.int64], hash_N: Hashes, exact: Mapping[int, str]
) -> list[ItemMatch]:
    """Items that share short runs with a text: `gram_N` those of its runs that are known, `hash_N` all of them."""
    own = len(np.unique(hash_N))
    _, item_P = index.overlap.items_of(np.unique(gram_N))
    items, counts = np.unique(item_P, return_counts=True)
    smaller = np.minimum(index.grams_I[items], own)
    return [
        ItemMatch(item, shared, least, exact.get(item))
        for item, shared, least in zip(items.tolist(), counts.tolist(), smaller.tolist(), strict=True)
    ]


def _exact_runs(words: TextWords, first_N: NDArray[np.int64], index: ItemIndex) -> dict[int, str]:
    """Item -> the first long run of a text that it has; `first_N`: the first words of the text's known short runs."""
    size = index.rule.exact_words
    needed = size - index.rule.overlap_words + 1
    last = needed - 1
    whole_N = np.flatnonzero(first_N[last:] - first_N[: max(0, len(first_N) - last)] == last)
    if not len(whole_N):
        return {}
    candidate_N = first_N[whole_N]
    known_N, gram_N = index.exact.find(words.run_hashes(candidate_N, size))
    owner_P, item_P = index.exact.items_of(gram_N)
    runs: dict[int, str] = {}
    for owner, item in zip(owner_P.tolist(), item_P.tolist(), strict=True):
        if item not in runs:
            spelled = words.spelled(int(candidate_N[known_N[owner]]), size)
            if index.has_exact(item, spelled):
                runs[item] = spelled
    return runs
