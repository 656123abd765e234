"""A shuffle that is a formula: position -> item, for any size, with nothing built and nothing stored.

`derive_key` turns (seed, source, epoch, purpose) into 64 bits; `KeyedPermutation` turns a size and such a key into a
bijection on [0, size) that can be asked at any position, and inverted. Up to 4,096 items it is an exact Fisher-Yates
table; above, a Feistel network, because the network is visibly biased on small sets and the table does not scale.
Every run ever started depends on these bits: a change of one constant is a new `ORDER_VERSION`, and
tests/golden/data_order.json holds vectors that any other implementation must reproduce.

All arithmetic is on unsigned 64-bit words, modulo 2^64. With G = 0x9E3779B97F4A7C15 and `mix` the finaliser of
SplitMix64 (Steele, Lea, Flood 2014, with Stafford's constants, variant 13),

    absorb(s, w) = mix((s xor w) + G)
    word(s, i)   = mix(s + i G),  i = 1, 2, ...       the SplitMix64 stream that starts at s
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

ORDER_VERSION = 1

LARGEST_TABLE = 4_096
LARGEST_SIZE = 1 << 62
ROUNDS = 8

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUND_MULTIPLIERS = (np.uint64(_GOLDEN), np.uint64(0xD6E8FEB86659FD93))
_32 = np.uint64(32)

_Pass = Callable[[NDArray[np.uint64]], NDArray[np.uint64]]


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
        self._rows = np.uint64(math.isqrt(size - 1) + 1)
        self._columns = np.uint64(-(-size // int(self._rows)))
        keys = [np.uint64(word) for word in itertools.islice(stream(key, size), ROUNDS)]
        self._round_keys = list(zip(keys[0::2], keys[1::2], strict=True))

    def __call__(self, positions: ArrayLike) -> NDArray[np.uint64]:
        """Items at `positions` (any shape, each in [0, size)), as uint64 of the same shape."""
        positions = self._checked(positions)
        if self.size <= LARGEST_TABLE:
            return _shuffled(self.size, self.key)[positions]
        return self._walk(positions, self._forward)

    def inverse(self, items: ArrayLike) -> NDArray[np.uint64]:
        """Positions that hold `items`: `permutation.inverse(permutation(x)) == x`."""
        items = self._checked(items)
        if self.size <= LARGEST_TABLE:
            return np.argsort(_shuffled(self.size, self.key)).astype(np.uint64)[items]
        return self._walk(items, self._backward)

    def _checked(self, values: ArrayLike) -> NDArray[np.uint64]:
        given = np.asarray(values)
        if given.size and (given.min() < 0 or given.max() >= self.size):
            raise IndexError(f"positions {given.min()} .. {given.max()} are outside a permutation of {self.size}")
        return given.astype(np.uint64)

    def _walk(self, values: NDArray[np.uint64], step: _Pass) -> NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            walked = step(values.reshape(-1))
            (outside,) = np.nonzero(walked >= self.size)
            while outside.size:
                walked[outside] = step(walked[outside])
                outside = outside[walked[outside] >= self.size]
        return walked.reshape(values.shape)

    def _forward(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = np.divmod(values, self._columns)
        for odd, even in self._round_keys:
            left = _add_modulo(left, _feistel_round(right, odd, self._rows), self._rows)
            right = _add_modulo(right, _feistel_round(left, even, self._columns), self._columns)
        return left * self._columns + right

    def _backward(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = np.divmod(values, self._columns)
        for odd, even in reversed(self._round_keys):
            right = _subtract_modulo(right, _feistel_round(left, even, self._columns), self._columns)
            left = _subtract_modulo(left, _feistel_round(right, odd, self._rows), self._rows)
        return left * self._columns + right


def _feistel_round(half: NDArray[np.uint64], key: np.uint64, modulus: np.uint64) -> NDArray[np.uint64]:
    """F(v, k, m) of `KeyedPermutation`: a keyed, well mixed number in [0, m)."""
    mixed = (half + key) * _ROUND_MULTIPLIERS[0]
    mixed ^= mixed >> _32
    mixed *= _ROUND_MULTIPLIERS[1]
    return ((mixed >> _32) * modulus) >> _32


def _add_modulo(x: NDArray[np.uint64], y: NDArray[np.uint64], modulus: np.uint64) -> NDArray[np.uint64]:
    total = x + y
    # Below the modulus, the subtraction wraps around to a huge number: the smaller of the two is the residue.
    return np.minimum(total, total - modulus)


def _subtract_modulo(x: NDArray[np.uint64], y: NDArray[np.uint64], modulus: np.uint64) -> NDArray[np.uint64]:
    difference = x - y
    return np.minimum(difference, difference + modulus)


@functools.lru_cache(maxsize=256)
def _shuffled(size: int, key: int) -> NDArray[np.uint64]:
    """The Fisher-Yates table of a small permutation; cached, as a loader asks for the same few again and again."""
    words = stream(key, size)
    table = list(range(size))
    for index in range(size - 1, 0, -1):
        other = draw_below(index + 1, words)
        table[index], table[other] = table[other], table[index]
    shuffled = np.array(table, dtype=np.uint64)
    shuffled.flags.writeable = False
    return shuffled


def _absorb(state: int, word: int) -> int:
    return _mix(((state ^ word) + _GOLDEN) & _MASK)


def _mix(word: int) -> int:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)
