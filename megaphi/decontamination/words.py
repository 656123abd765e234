"""Texts to words, and words to n-grams, as arrays of 64-bit hashes: many texts in one pass, without a loop in Python.

A word is a run of letters, marks and digits, in NFKC form and lower case; everything else separates words, so `3.14` is
two words, and so is `don't`. Scripts that put no blanks between words (Han, kana, Thai, Lao, Burmese, Khmer) show no
words: each of their letters and digits counts as one. The hash of a run of words is a difference of two sums, whatever
its length.

Legend: C characters, L characters of words, W words, N n-grams, of all texts of a call, one behind the other.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SEPARATES, JOINS, STANDS_ALONE, MARKS = range(4)
"""Kinds of characters: no word; a part of a word; a word; what belongs to the character before it."""
WITHOUT_BLANKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Burmese
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F),  # kana
    (0x20000, 0x323AF),  # Han
)
"""First and last code points of the scripts whose letters and digits each count as a word."""
LETTER_FACTOR, WORD_FACTOR = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
"""Bases of the polynomials that are the hashes of a word and of a run of words; odd, so they have inverses mod 2^64."""


@dataclass(frozen=True, slots=True)
class NGrams:
    """All n-grams of some texts, in order, also those that are repeated."""

    hash_N: Hashes
    first_N: NDArray[np.int64]
    """Index of the first word of each."""


@dataclass(frozen=True)
class TextWords:
    """The words of some texts, in order."""

    text: str
    """All texts in their normal form, one behind the other."""
    start_W: NDArray[np.int64]
    """First character of each word."""
    end_W: NDArray[np.int64]
    text_W: NDArray[np.int64]
    """Number of the text that it belongs to."""
    hash_W: Hashes

    def ngrams(self, size: int) -> NGrams:
        """All runs of `size` words that lie within one text."""
        count = max(0, len(self.hash_W) - size + 1)
        is_within_one_N = self.text_W[:count] == self.text_W[size - 1 : size - 1 + count]
        first_N = np.flatnonzero(is_within_one_N)
        return NGrams(self.run_hashes(first_N, size), first_N)

    def run_hashes(self, first_N: NDArray[np.int64], size: int) -> Hashes:
        """Hashes of the runs of `size` words from these words on."""
        _, inverses = _powers(WORD_FACTOR, len(self.hash_W))
        sum_N = (self._sums[first_N + size] - self._sums[first_N]) * inverses[first_N]
        return mixed(sum_N + np.uint64(size))

    def spelled(self, first: int, size: int) -> str:
        """An n-gram as text: its words, one blank between them."""
        words = range(first, first + size)
        return " ".join(self.text[self.start_W[word] : self.end_W[word]] for word in words)

    @cached_property
    def _sums(self) -> Hashes:
        """Sum of w_j f^j over the words j before each word; of a run, the difference of two divided by f^start."""
        powers, _ = _powers(WORD_FACTOR, len(self.hash_W))
        return np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.hash_W * powers)])


def words_of(texts: Sequence[str]) -> TextWords:
    """The words of `texts`; word i belongs to text `text_W[i]`."""
    normal = [normalized(text) for text in texts]
    joined = "\n".join(normal)
    code_C = _codes(joined)
    kind_C = _kinds()[code_C]
    behind_C = np.concatenate([np.zeros(1, np.uint8), kind_C])[:-1]
    is_start_C = (
        (kind_C == STANDS_ALONE)
        | ((kind_C == JOINS) & ((behind_C == SEPARATES) | (behind_C == STANDS_ALONE)))
        | ((kind_C == MARKS) & (behind_C == SEPARATES))
    )
    character_L = np.flatnonzero(kind_C)
    start_W = np.flatnonzero(is_start_C)
    first_W = np.searchsorted(character_L, start_W)
    length_W = np.diff(first_W, append=len(character_L))
    text_ends = np.cumsum(np.fromiter(map(len, normal), np.int64, len(normal)) + 1)
    return TextWords(
        text=joined,
        start_W=start_W,
        end_W=start_W + length_W,
        text_W=np.searchsorted(text_ends, start_W, side="right"),
        hash_W=_word_hashes(code_C[character_L], first_W, length_W),
    )


def normalized(text: str) -> str:
    """The text in the form in which words are compared."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def mixed(value: Hashes) -> Hashes:
    """Spread every bit over all others (the finaliser of splitmix64), so that any bits of a hash can be an index."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _word_hashes(code_L: NDArray[Any], first_W: NDArray[np.int64], length_W: NDArray[np.int64]) -> Hashes:
    """Hash of each word from the code points of all words; `first_W` is the index of its first one."""
    if not len(first_W):
        return np.zeros(0, np.uint64)
    place_L = np.arange(len(code_L)) - np.repeat(first_W, length_W)
    powers, _ = _powers(LETTER_FACTOR, int(length_W.max()))
    sum_W = np.add.reduceat(_letter_hashes()[code_L] * powers[place_L], first_W)
    return mixed(sum_W + length_W.astype(np.uint64))


def _codes(text: str) -> NDArray[Any]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@cache
def _kinds() -> NDArray[np.uint8]:
    """Kind of every code point: uint8 [1,114,112]."""
    major = (unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1))
    kinds = np.fromiter(({"L": JOINS, "N": JOINS, "M": MARKS}.get(one, SEPARATES) for one in major), np.uint8)
    for first, last in WITHOUT_BLANKS:
        script = kinds[first : last + 1]
        script[script == JOINS] = STANDS_ALONE
    return kinds


@cache
def _letter_hashes() -> Hashes:
    return mixed(np.arange(1, sys.maxunicode + 2, dtype=np.uint64) * np.uint64(LETTER_FACTOR))


_known_powers: dict[int, tuple[Hashes, Hashes]] = {}


def _powers(factor: int, count: int) -> tuple[Hashes, Hashes]:
    """The first `count` powers of an odd number modulo 2^64, from 1 on, and their inverses."""
    powers, inverses = _known_powers.get(factor, (np.zeros(0, np.uint64),) * 2)
    if len(powers) < count:
        powers, inverses = (
            np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(2 * count, base, np.uint64)]))
            for base in (factor, pow(factor, -1, 1 << 64))
        )
        _known_powers[factor] = powers, inverses
    return powers[:count], inverses[:count]
