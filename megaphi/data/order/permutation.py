"""A shuffle that is a formula: position -> item, for any size, with nothing built and nothing stored.

`derive_key` turns (seed, source, epoch, purpose) into 64 bits; `KeyedPermutation` turns a size and such a key into a
bijection on [0, size) that can be evaluated at any position, and inverted. Up to 4,096 items it is an exact
Fisher-Yates table; above, a Feistel network, because the network is visibly biased on small sets and the table does not
scale. Every run ever started depends on these bits: a change of one constant is a new `ORDER_VERSION`, and
tests/golden/data_order.json holds vectors that any other implementation must reproduce. Keys are made here; the
bijections are compiled from csrc/index/permutation.h.

All arithmetic is on unsigned 64-bit words, modulo 2^64. With G = 0x9E3779B97F4A7C15 and `mix` the finaliser of
SplitMix64 (Steele, Lea, Flood 2014, with Stafford's constants, variant 13),

    absorb(s, w) = mix((s xor w) + G)
    word(s, i)   = mix(s + i G),  i = 1, 2, ...       the SplitMix64 stream that starts at s
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.compiled.module import compiled
from megaphi.compiled.numbers import whole_numbers

ORDER_VERSION = 1

LARGEST_SIZE = 1 << 62

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from a path of names and numbers, different for every path; equal on every machine.

    s = absorb(0, ORDER_VERSION), then for each part: an integer (0 <= part < 2^64) absorbs the words 1, part; a string
    absorbs 2, the length of its UTF-8 bytes, then the bytes as little-endian words, the last one padded with zeros.
    The tags and the length keep ("ab", "c") apart from ("a", "bc"), and "1" from 1.
    """
    state = _absorb(0, ORDER_VERSION)
    for part in parts:
        if isinstance(part, str):
            data = part.encode()
            words = [int.from_bytes(data[start : start + 8], "little") for start in range(0, len(data), 8)]
            state = functools.reduce(_absorb, [2, len(data), *words], state)
        elif 0 <= part <= _MASK:
            state = functools.reduce(_absorb, [1, part], state)
        else:
            raise ValueError(f"key part {part} is outside 0 .. 2^64 - 1")
    return state


def draw_below(bound: int, words: Iterator[int]) -> int:
    """An exactly uniform number in [0, bound), bound <= 2^32, from the next words of a stream (Lemire 2019).

    x = word >> 32 and p = x * bound; the word is thrown away while p mod 2^32 < 2^32 mod bound; the draw is p >> 32.
    """
    rejected = (1 << 32) % bound
    for word in words:
        product = (word >> 32) * bound
        if product & 0xFFFFFFFF >= rejected:
            return product >> 32
    raise ValueError("the stream of words ended before a draw was made")


def stream(key: int, size: int = 0) -> Iterator[int]:
    """The endless words word(s, 1), word(s, 2), ... with s = absorb(absorb(0, key), size)."""
    start = _absorb(_absorb(0, key), size)
    return (_mix((start + index * _GOLDEN) & _MASK) for index in itertools.count(1))


class KeyedPermutation:
    """The bijection on [0, size) that belongs to a 64-bit key; 1 <= size <= 2^62.

    Let w_1, w_2, ... be `stream(key, size)`.

    size <= 4096: table = 0 .. size - 1; for i = size - 1 down to 1: swap table[i] with table[draw_below(i + 1)], the
    draws taking w_1, w_2, ... in order. Position x holds table[x].

    size > 4096: a = ceil(sqrt(size)), b = ceil(size / a), so a b >= size, with fewer than a + b points to spare.
    Write x = l b + r with l in Z_a and r in Z_b, and for i = 1 .. 8

        odd i:   l = (l + F(r, w_i, a)) mod a              F(v, k, m) = ((z >> 32) m) >> 32, where
        even i:  r = (r + F(l, w_i, b)) mod b              z = y D, y = t xor (t >> 32), t = (v + k) G,
                                                           D = 0xD6E8FEB86659FD93
    (the alternating generalised Feistel of Black and Rogaway 2002, additive), and repeat the eight rounds while
    x >= size ("cycle walking": at most a few per cent of the points, and still a bijection).
    """

    def __init__(self, size: int, key: int) -> None:
        if not 1 <= size <= LARGEST_SIZE:
            raise ValueError(f"a permutation needs 1 <= size <= 2^62, got {size}")
        if not 0 <= key <= _MASK:
            raise ValueError(f"a permutation needs a key of 64 bits, got {key}")
        self.size = size
        self.key = key
        self._compiled = compiled().Permutation(size, key)

    def __call__(self, positions: ArrayLike) -> NDArray[np.uint64]:
        """Items at `positions` (any shape, each in [0, size)), as uint64 of the same shape."""
        return self._compiled.items_at(whole_numbers(positions))

    def inverse(self, items: ArrayLike) -> NDArray[np.uint64]:
        """Positions that hold `items`: `permutation.inverse(permutation(x)) == x`."""
        return self._compiled.positions_of(whole_numbers(items))


def _absorb(state: int, word: int) -> int:
    return _mix(((state ^ word) + _GOLDEN) & _MASK)


def _mix(word: int) -> int:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)
