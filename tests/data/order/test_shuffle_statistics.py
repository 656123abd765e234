"""Randomness of the keyed shuffle: the same tests look at it, at numpy's, and at ciphers that are known to be weak.

Every test turns a whole permutation into a p-value: uniform on [0, 1] for a fair shuffle. For five fixed keys each, the
p-values of the keyed shuffle and of numpy's stay away from both ends; a Feistel network of two rounds and a linear
congruential generator end up beyond 1e-12, so the tests would see it. Keys are fixed: nothing here is left to chance.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from megaphi.data.order.permutation import KeyedPermutation, derive_key
from tests.data.order import numpy_order

SIZE = 1_000_000
COLUMNS = 1_000  # of the Feistel network for this size: positions that far apart share a half
POSITIONS = np.arange(SIZE)
KEYS = range(5)
PRIMES = (2, 3, 5, 7, 11, 13)
CELLS = 64


def keyed(key):
    return KeyedPermutation(SIZE, derive_key("statistics", key))(POSITIONS).astype(np.int64)


def by_numpy(key):
    return np.random.default_rng(key).permutation(SIZE)


def two_rounds(key):
    return numpy_order.permute(SIZE, derive_key("statistics", key), POSITIONS, rounds=2).astype(np.int64)


def congruential(key):
    return (POSITIONS * 618_033 + 2 * key + 1) % SIZE


def chi_square(counts, expected, degrees):
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor(degrees / 2).double(), torch.tensor(statistic / 2)))


def contingency(rows, columns, kinds):
    """Test whether two labels in [0, kinds) of every position are independent."""
    counts = np.bincount(rows * kinds + columns, minlength=kinds * kinds).reshape(kinds, kinds)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / SIZE
    return chi_square(counts, expected, (kinds - 1) ** 2)


def normal(value, mean, variance):
    return math.erfc((value - mean) / math.sqrt(2 * variance)) / 2


def correlation(one, other):
    return normal(np.corrcoef(one, other)[0, 1], 0, 1 / len(one))


def gaps(items):
    """Distances of two neighbours, over pairs that share no item; distance d has the weight 2 (n - d) / (n (n - 1))."""
    distance = np.abs(items[0::2] - items[1::2])
    edges = np.arange(CELLS + 1) * (SIZE // CELLS)
    edges[0], edges[-1] = 1, SIZE
    below = (edges - 1) * (2 * SIZE - edges) / (SIZE * (SIZE - 1))
    counts, _ = np.histogram(distance, edges)
    return chi_square(counts, np.diff(below) * len(distance), CELLS - 1)


def runs(items):
    """Falls end the rising runs: their number, and that of the peaks between two neighbours, are nearly normal."""
    rises = np.diff(items) > 0
    falls, peaks = (~rises).sum(), (rises[:-1] & ~rises[1:]).sum()
    return {
        "rising runs": normal(falls, (SIZE - 1) / 2, (SIZE + 1) / 12),
        "turns": normal(peaks, (SIZE - 2) / 3, 2 * (SIZE + 1) / 45),
    }


def p_values(items, items_of_next_epoch):
    cell, cell_of_next = items * CELLS // SIZE, items_of_next_epoch * CELLS // SIZE
    return {
        "position x item": contingency(POSITIONS * CELLS // SIZE, cell, CELLS),
        "neighbours": contingency(cell, np.roll(cell, 1), CELLS),
        "gaps": gaps(items),
        **runs(items),
        **{f"lag {lag}": correlation(items[:-lag], items[lag:]) for lag in (1, 2, COLUMNS)},
        **{f"modulo {prime}": contingency(POSITIONS % prime, items % prime, prime) for prime in PRIMES},
        "epoch x epoch": contingency(cell, cell_of_next, CELLS),
        "epoch to epoch": correlation(items, items_of_next_epoch),
    }


@pytest.mark.parametrize("shuffle", [keyed, by_numpy])
@pytest.mark.parametrize("key", KEYS)
def test_the_keyed_shuffle_passes_what_numpy_passes(shuffle, key):
    items = shuffle(key)
    assert np.array_equal(np.sort(items), POSITIONS)
    found = p_values(items, shuffle(key + len(KEYS)))
    assert {name: p for name, p in found.items() if not 1e-3 < p < 1 - 1e-3} == {}


@pytest.mark.parametrize("weak", [two_rounds, congruential])
@pytest.mark.parametrize("key", KEYS)
def test_a_weak_cipher_is_found_out(weak, key):
    items = weak(key)
    assert np.array_equal(np.sort(items), POSITIONS)
    found = p_values(items, weak(key + len(KEYS)))
    assert [name for name, p in found.items() if not 1e-12 < p < 1 - 1e-12]


@pytest.mark.parametrize("size", [7, 1_000, 5_003, 100_003])
def test_every_item_lands_everywhere_equally_often(size):
    """Chi-square over 16 x 16 cells of (position, item), summed over keys: within six deviations of its mean."""
    cells, keys = np.zeros((16, 16)), max(20, 4_000 // size)
    row_share = np.bincount(np.arange(size) * 16 // size, minlength=16) / size
    for key in range(keys):
        items = KeyedPermutation(size, derive_key("chi", key))(np.arange(size)).astype(np.int64)
        np.add.at(cells, (np.arange(size) * 16 // size, items * 16 // size), 1)
    expected = np.outer(row_share, row_share) * size * keys
    occupied = expected > 0
    degrees = (np.count_nonzero(row_share) - 1) ** 2
    statistic = ((cells - expected)[occupied] ** 2 / expected[occupied]).sum()
    assert abs(statistic - degrees) < 6 * np.sqrt(2 * degrees)
