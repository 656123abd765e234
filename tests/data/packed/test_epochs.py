"""Epochs of packed rows against packing the permuted units again, and against what an epoch has to be."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.order.permutation import KeyedPermutation, derive_key
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.packing import pack
from megaphi.errors import InputError

CASES = st.integers(1, 40).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), min_size=1, max_size=60))
)
SEEDS = st.integers(0, (1 << 64) - 1)


def rows_of_epoch(epochs, epoch):
    start = epoch * epochs.rows_per_epoch
    return [epochs.row(number) for number in range(start, start + epochs.rows_per_epoch)]


@given(CASES, SEEDS, st.integers(0, 5))
@settings(max_examples=200)
def test_an_epoch_is_the_permuted_units_packed_and_the_rows_permuted(case, seed, epoch):
    capacity, lengths = case
    epochs = PackedEpochs(lengths, capacity=capacity, seed=seed)
    units = KeyedPermutation(len(lengths), derive_key("packed units", seed, epoch))(np.arange(len(lengths)))
    packing = pack([lengths[unit] for unit in units.tolist()], capacity=capacity)
    order = KeyedPermutation(packing.rows, derive_key("packed rows", seed, epoch))(np.arange(packing.rows))
    assert rows_of_epoch(epochs, epoch) == [units[packing.row(int(row))].tolist() for row in order]


@given(CASES, SEEDS, st.integers(0, 1 << 40))
@settings(max_examples=200)
def test_every_unit_once_in_an_epoch_and_no_row_too_full(case, seed, epoch):
    capacity, lengths = case
    rows = rows_of_epoch(PackedEpochs(lengths, capacity=capacity, seed=seed), epoch)
    assert sorted(unit for row in rows for unit in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[unit] for unit in row) <= capacity for row in rows)


@given(CASES, SEEDS, SEEDS, st.randoms())
@settings(max_examples=200)
def test_rows_of_an_epoch_depend_on_the_multiset_of_lengths_alone(case, seed, other_seed, random):
    capacity, lengths = case
    shuffled = random.sample(lengths, len(lengths))
    counts = [
        PackedEpochs(some, capacity=capacity, seed=any_seed).rows_per_epoch
        for some in (lengths, shuffled)
        for any_seed in (seed, other_seed)
    ]
    assert counts == [pack(lengths, capacity=capacity).rows] * 4


@given(CASES, SEEDS, st.lists(st.integers(0, 400), max_size=20))
@settings(max_examples=100)
def test_a_row_depends_on_its_number_and_not_on_what_was_asked_before(case, seed, numbers):
    capacity, lengths = case
    epochs = PackedEpochs(lengths, capacity=capacity, seed=seed)
    asked = [epochs.row(number) for number in numbers]
    assert asked == [PackedEpochs(np.array(lengths), capacity=capacity, seed=seed).row(number) for number in numbers]


def test_neighbours_and_order_change_from_epoch_to_epoch_and_with_the_seed():
    lengths = np.random.default_rng(0).integers(20, 120, size=20_000)
    first = PackedEpochs(lengths, capacity=512, seed=1)

    def neighbours(rows):
        return {frozenset((a, b)) for row in rows for a in row for b in row if a < b}

    epochs = [rows_of_epoch(first, epoch) for epoch in range(3)]
    epochs.append(rows_of_epoch(PackedEpochs(lengths, capacity=512, seed=2), 0))
    for left in range(4):
        for right in range(left):
            pairs = neighbours(epochs[left]), neighbours(epochs[right])
            assert len(pairs[0] & pairs[1]) < 0.05 * len(pairs[0])
            shapes = [[tuple(int(lengths[unit]) for unit in row) for row in epochs[side]] for side in (left, right)]
            assert shapes[0] != shapes[1]
            assert Counter(shapes[0]) == Counter(shapes[1]), "rows are cut alike"


def test_the_shape_of_a_row_is_no_clue_to_its_place():
    """The first rows of a packing hold the longest units; an epoch must not begin with them."""
    lengths = np.random.default_rng(0).integers(1, 256, size=4_000)
    epochs = PackedEpochs(lengths, capacity=256, seed=3)
    longest = [max(int(lengths[unit]) for unit in row) for row in rows_of_epoch(epochs, 0)]
    half = len(longest) // 2
    assert abs(np.mean(longest[:half]) - np.mean(longest[half:])) < 12


def test_two_threads_in_two_epochs():
    lengths = np.random.default_rng(0).integers(1, 60, size=3_000).tolist()
    epochs = PackedEpochs(lengths, capacity=128, seed=5)
    numbers = [number + epoch * epochs.rows_per_epoch for number in range(150) for epoch in (0, 1, 0, 1)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(epochs.row, numbers))
    alone = PackedEpochs(lengths, capacity=128, seed=5)
    assert together == [alone.row(number) for number in numbers]


def test_fingerprint_tells_what_rows_depend_on():
    same = [PackedEpochs(kind, capacity=9, seed=1).fingerprint for kind in ([3, 4], np.array([3, 4], dtype=np.uint16))]
    others = [
        PackedEpochs([4, 3], capacity=9, seed=1).fingerprint,
        PackedEpochs([3, 4], capacity=9, seed=2).fingerprint,
        PackedEpochs([3, 4], capacity=8, seed=1).fingerprint,
    ]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 4


def test_units_of_lengths_of_their_own_keep_their_neighbours():
    """The price of one packing for all epochs, and of a row count that never changes."""
    epochs = PackedEpochs([9, 8, 7, 3, 2, 1], capacity=10, seed=1)
    assert {frozenset(row) for row in rows_of_epoch(epochs, 0)} == {frozenset(row) for row in rows_of_epoch(epochs, 9)}


def test_the_order_is_a_promise():
    """A run resumes with a number alone, so these bits must not change without a new ORDER_VERSION."""
    epochs = PackedEpochs([3, 5, 2, 2, 3, 5, 1, 7], capacity=8, seed=7)
    assert [epochs.row(number) for number in range(2 * epochs.rows_per_epoch)] == GOLDEN_ROWS


GOLDEN_ROWS = [[5, 0], [2, 3], [1, 4], [7, 6], [1, 0], [2, 3], [7, 6], [5, 4]]


@pytest.mark.parametrize(
    ("lengths", "capacity", "seed", "message"),
    [
        ([], 8, 0, "cannot fill rows of 8 tokens: there is no unit"),
        ([3, 9], 8, 0, "cannot fill rows of 8 tokens: the longest unit has 9 tokens"),
        ([9], 8, 0, "the longest unit has 9 tokens"),
        ([3, 0, 2], 8, 0, "sample 1 has 0 tokens"),
        ([3], 0, 0, "rows of 0 tokens"),
        ([3], 8, -1, "seed=-1 is outside"),
        ([3], 8, 1 << 64, "is outside 0"),
    ],
)
def test_refuses_what_makes_no_rows(lengths, capacity, seed, message):
    with pytest.raises(InputError, match=message):
        PackedEpochs(lengths, capacity=capacity, seed=seed)


def test_there_is_no_row_before_the_first():
    with pytest.raises(IndexError):
        PackedEpochs([3], capacity=8, seed=0).row(-1)
