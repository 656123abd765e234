"""The n-grams of benchmark items as sorted arrays, each with the items that have it.

A text's n-grams are looked up in a table of bits first, which nearly all of them miss, so that a search by bisection is
rare. Items are known by their number; the index can be pickled for other processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megaphi.decontamination.rule import ContaminationRule
from megaphi.decontamination.words import Hashes, TextWords, words_of

TABLE_BITS_PER_GRAM = 32
"""One n-gram of others in this many passes the table."""
SMALLEST_TABLE_BITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkItem:
    """One item of an evaluated set."""

    set: str
    """Name of the set."""
    name: str
    """Name of the item in it: the record's own id, or its file and line."""
    place: str
    """File and line that it stands in."""
    text: str
    """All that a training text must not hold."""


class GramTable:
    """Sorted n-grams, and for each the numbers of the items that have it."""

    def __init__(self, hash_N: Hashes, item_N: NDArray[np.int64]) -> None:
        """`hash_N` and `item_N`: an n-gram and an item that has it, items in order; pairs may be repeated."""
        order = np.argsort(hash_N, kind="stable")
        hash_N, item_N = hash_N[order], item_N[order]
        is_new_N = np.ones(len(hash_N), bool)
        is_new_N[1:] = (hash_N[1:] != hash_N[:-1]) | (item_N[1:] != item_N[:-1])
        hash_N, self.item_P = hash_N[is_new_N], item_N[is_new_N]
        self.hash_G, self.first_G = np.unique(hash_N, return_index=True)
        self.end_G = np.append(self.first_G[1:], len(hash_N))
        bits = max(SMALLEST_TABLE_BITS, int(len(self.hash_G) * TABLE_BITS_PER_GRAM).bit_length())
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self.hash_G >> self._shift] = True

    def find(self, hash_N: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(indices of the n-grams that are known, their numbers here)."""
        if not len(self.hash_G):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        found_N = np.flatnonzero(self._table[hash_N >> self._shift])
        gram_N = np.minimum(np.searchsorted(self.hash_G, hash_N[found_N]), len(self.hash_G) - 1)
        is_known_N = self.hash_G[gram_N] == hash_N[found_N]
        return found_N[is_known_N], gram_N[is_known_N]

    def items_of(self, gram_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(index in `gram_N`, item) of every item that has one of these n-grams."""
        count_N = self.end_G[gram_N] - self.first_G[gram_N]
        owner_P = np.repeat(np.arange(len(gram_N)), count_N)
        place_P = np.arange(len(owner_P)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        return owner_P, self.item_P[np.repeat(self.first_G[gram_N], count_N) + place_P]


@dataclass(frozen=True)
class ItemIndex:
    """The items to look for; make it with `index_items`."""

    rule: ContaminationRule
    items: Sequence[BenchmarkItem]
    exact: GramTable
    """Runs of `rule.exact_words`, without those that are allowed."""
    overlap: GramTable
    """Runs of `rule.overlap_words`."""
    grams_I: NDArray[np.int64]
    """Number of different overlap runs of each item; 0: it is too short to be checked."""
    words: TextWords = field(repr=False)
    """The words of all items."""
    fingerprint: str
    """Hex SHA-256 of all that decides what is found."""
    _spelled: dict[int, str] = field(default_factory=dict, repr=False)
    """Words of the items that were compared by their letters."""

    def has_exact(self, item: int, gram: str) -> bool:
        """Return whether an item has this run of words, by its letters instead of by hash."""
        if item not in self._spelled:
            first, end = np.searchsorted(self.words.text_W, [item, item + 1])
            self._spelled[item] = f" {self.words.spelled(int(first), int(end - first))} "
        return f" {gram} " in self._spelled[item]


def index_items(
    items: Sequence[BenchmarkItem], rule: ContaminationRule | None = None, *, allowed: Collection[str] = ()
) -> ItemIndex:
    """Index the items.

    Args:
        allowed: runs of `rule.exact_words` words that are common anyway, as `TextWords.spelled` writes them.
    """
    rule = rule or ContaminationRule()
    words = words_of([item.text for item in items])
    exact, overlap = words.ngrams(rule.exact_words), words.ngrams(rule.overlap_words)
    allowed_G = words_of(sorted(allowed)).ngrams(rule.exact_words).hash_N
    is_kept_N = ~np.isin(exact.hash_N, allowed_G)
    table = GramTable(overlap.hash_N, words.text_W[overlap.first_N])
    content = repr((rule, sorted(allowed), [(item.set, item.name, item.text) for item in items]))
    return ItemIndex(
        rule=rule,
        items=items,
        exact=GramTable(exact.hash_N[is_kept_N], words.text_W[exact.first_N[is_kept_N]]),
        overlap=table,
        grams_I=np.bincount(table.item_P, minlength=len(items)),
        words=words,
        fingerprint=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
    )
