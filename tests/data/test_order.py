"""The keyed shuffle: a bijection with an inverse, bit for bit as its docstring says, as even as a fair shuffle."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.order import LARGEST_TABLE, KeyedPermutation, derive_key, draw_below, stream
from tests.data import order_reference as reference

GOLDEN = json.loads(reference.GOLDEN.read_text())
WORDS = st.integers(0, (1 << 64) - 1)


def test_the_golden_file_is_what_the_reference_says():
    assert json.loads(json.dumps(reference.golden())) == GOLDEN


@pytest.mark.parametrize(("parts", "key"), GOLDEN["keys"], ids=lambda value: str(value)[:30])
def test_golden_keys(parts, key):
    assert derive_key(*parts) == int(key)


@pytest.mark.parametrize("vector", GOLDEN["permutations"], ids=lambda vector: f"n={vector['size']}")
def test_golden_permutations(vector):
    permutation = KeyedPermutation(vector["size"], int(vector["key"]))
    assert permutation(vector["positions"]).tolist() == vector["items"]
    assert permutation.inverse(vector["items"]).tolist() == vector["positions"]


@given(size=st.integers(1, 1 << 62), key=WORDS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_position_is_what_the_reference_says_and_inverts(size, key, data):
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    permutation = KeyedPermutation(size, key)
    items = permutation(positions)
    assert items.tolist() == [reference.permute(size, key, position) for position in positions]
    assert permutation.inverse(items).tolist() == positions


@given(size=st.integers(1, 20_000) | st.sampled_from([LARGEST_TABLE, LARGEST_TABLE + 1]), key=WORDS)
@settings(max_examples=60, deadline=None)
def test_is_a_bijection(size, key):
    items = KeyedPermutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(items), np.arange(size))


@given(bound=st.integers(1, 1 << 32), key=WORDS)
@settings(max_examples=50, deadline=None)
def test_draws_are_those_of_the_reference(bound, key):
    words, expected = stream(key), reference.Stream(key)
    assert [draw_below(bound, words) for _ in range(3)] == [expected.below(bound) for _ in range(3)]


@pytest.mark.parametrize("size", [7, 1_000, 100_003])
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


def test_neighbours_are_torn_apart():
    """Serial correlation of a shuffle of n items has a deviation of 1 / sqrt(n)."""
    items = KeyedPermutation(1_000_000, 7)(np.arange(1_000_000)).astype(float)
    correlation = np.corrcoef(items[:-1], items[1:])[0, 1]
    assert abs(correlation) < 5e-3


def test_refuses_what_is_outside():
    with pytest.raises(IndexError, match="outside a permutation of 10"):
        KeyedPermutation(10, 0)([10])
    with pytest.raises(ValueError, match="1 <= size"):
        KeyedPermutation(0, 0)
    with pytest.raises(ValueError, match="outside 0"):
        derive_key(-1)
