"""The keyed shuffle: a bijection with an inverse, bit for bit as its docstring says, at any size and in any order.

Golden vectors and single positions come from the plain reference, whole arrays from the NumPy form. How random the
shuffle looks is tested in test_shuffle_statistics.py.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.compiled import module
from megaphi.data.order.permutation import ORDER_VERSION, KeyedPermutation, derive_key, draw_below, stream
from megaphi.errors import InputError
from tests.data.order import numpy_order
from tests.data.order import order_reference as reference

GOLDEN = json.loads(reference.GOLDEN.read_text())
WORDS = st.integers(0, (1 << 64) - 1)
SIZES = st.integers(1, 4_097) | st.integers(1, 1 << 62) | st.integers((1 << 62) - 1_000, 1 << 62)


def test_the_golden_file_is_what_the_reference_says():
    assert json.loads(json.dumps(reference.golden())) == GOLDEN
    assert GOLDEN["version"] == ORDER_VERSION


@pytest.mark.parametrize(("parts", "key"), GOLDEN["keys"], ids=lambda value: str(value)[:30])
def test_golden_keys(parts, key):
    assert derive_key(*parts) == int(key)


@pytest.mark.parametrize("vector", GOLDEN["permutations"], ids=lambda vector: f"n={vector['size']}")
def test_golden_permutations(vector):
    permutation = KeyedPermutation(vector["size"], int(vector["key"]))
    assert permutation(vector["positions"]).tolist() == vector["items"]
    assert permutation.inverse(vector["items"]).tolist() == vector["positions"]


@given(size=SIZES, key=WORDS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_position_is_what_the_reference_says_and_inverts(size, key, data):
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    permutation = KeyedPermutation(size, key)
    items = permutation(positions)
    assert items.tolist() == [reference.permute(size, key, position) for position in positions]
    assert permutation.inverse(items).tolist() == positions


@given(size=SIZES, key=WORDS, seed=st.integers(0, 1_000))
@settings(max_examples=100, deadline=None)
def test_arrays_are_what_numpy_computes(size, key, seed):
    """Any order, with repeats, at the ends too."""
    positions = np.random.default_rng(seed).integers(0, size, 300)
    positions[:2] = 0, size - 1
    permutation = KeyedPermutation(size, key)
    items = permutation(positions)
    assert items.dtype == np.uint64
    assert np.array_equal(items, numpy_order.permute(size, key, positions))
    assert np.array_equal(permutation.inverse(items), positions.astype(np.uint64))


@given(size=st.integers(1, 20_000) | st.sampled_from([4_096, 4_097]), key=WORDS)
@settings(max_examples=60, deadline=None)
def test_is_a_bijection(size, key):
    items = KeyedPermutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(items), np.arange(size))


@pytest.mark.parametrize("size", [root * root + step for root in (65, 1_000, 3_037_000) for step in (-1, 0, 1)])
def test_around_squares_the_sides_of_the_network_are_exact(size):
    positions = np.array([0, size // 2, size - 1])
    items = KeyedPermutation(size, 5)(positions).tolist()
    assert items == [reference.permute(size, 5, int(position)) for position in positions]


@given(bound=st.integers(1, 1 << 32), key=WORDS)
@settings(max_examples=50, deadline=None)
def test_draws_are_those_of_the_reference(bound, key):
    words, expected = stream(key), reference.Stream(key)
    assert [draw_below(bound, words) for _ in range(3)] == [expected.below(bound) for _ in range(3)]


@pytest.mark.parametrize("size", [10, 10_000])
def test_positions_have_any_shape_and_type_of_whole_numbers(size):
    permutation = KeyedPermutation(size, 7)
    expected = permutation(np.arange(6)).reshape(2, 3)
    for positions in (np.arange(6, dtype=np.uint8).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))):
        assert np.array_equal(permutation(positions), expected)
    assert permutation(3).shape == ()
    assert permutation(3) == expected[1, 0]
    assert permutation([]).shape == (0,)
    assert permutation.inverse(np.empty((4, 0), dtype=np.int64)).shape == (4, 0)


@pytest.mark.parametrize("size", [10, 10_000])
@pytest.mark.parametrize("outside", [-1, 10_000, np.uint64((1 << 64) - 1)])
def test_refuses_what_is_outside(size, outside):
    permutation = KeyedPermutation(size, 0)
    for look_up in (permutation, permutation.inverse):
        with pytest.raises(IndexError, match=f"is outside a permutation of {size}"):
            look_up(np.array([outside]))


def test_refuses_what_is_no_permutation():
    for size in (0, -1, (1 << 62) + 1):
        with pytest.raises(ValueError, match="1 <= size"):
            KeyedPermutation(size, 0)
    for key in (-1, 1 << 64):
        with pytest.raises(ValueError, match="key of 64 bits"):
            KeyedPermutation(10, key)
    with pytest.raises(TypeError, match="whole numbers"):
        KeyedPermutation(10, 0)([1.5])
    with pytest.raises(ValueError, match="outside 0"):
        derive_key(-1)


def test_without_the_compiled_part_one_message_says_what_to_do(monkeypatch):
    module.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "megaphi._C", None)
    with pytest.raises(InputError, match=r"installed without its compiled part .* pip install --force-reinstall"):
        KeyedPermutation(10, 0)
