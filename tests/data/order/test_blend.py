"""The blend: exact totals, never a sample away from the share, and the rank that a replay of the run would count.

Few samples are compared with the plain reference, whole runs and a thousand sources with the NumPy form. The bounds on
every prefix are checked in exact fractions.
"""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.compiled.module import compiled
from megaphi.data.order.blend import LARGEST_TABLE, Blend
from megaphi.errors import InputError
from tests.data.order import numpy_order
from tests.data.order import order_reference as reference

GOLDEN = json.loads(reference.GOLDEN.read_text())
PHI4 = [15.0, 15.0, 40.0, 20.0, 10.0]
ROUND_WEIGHTS = st.lists(st.integers(1, 100).map(float), min_size=1, max_size=8)
ANY_WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8)
EXTREME_WEIGHTS = st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=8)


def replay(sources, sources_of_samples):
    """Counts of each source before and after every sample: int64 [N + 1, sources]."""
    return np.vstack([np.zeros((1, sources), int), np.cumsum(np.eye(sources, dtype=int)[sources_of_samples], axis=0)])


def check_every_prefix(weights, samples, *, total_samples=None):
    blend = Blend(weights, total_samples=total_samples)
    placed = blend.locate(np.arange(samples))
    counts = replay(len(weights), placed.source_B)
    assert np.array_equal(placed.rank_B, counts[np.arange(samples), placed.source_B])
    shares = reference.shares_of(weights)
    for share, count_of_prefix in zip(shares, counts.T, strict=True):
        # |count - n a / b| = |count b - n a| / b, in whole numbers where they fit
        if share.denominator < 1 << 40:
            error = np.abs(count_of_prefix * share.denominator - np.arange(samples + 1) * share.numerator).max()
            worst = Fraction(int(error), share.denominator)
        else:
            worst = max(abs(int(count) - n * share) for n, count in enumerate(count_of_prefix))
        assert worst < 1 if blend.horizon is None else worst <= blend.prefix_bound
    for n in (0, 1, samples // 3, samples):
        assert blend.counts(n).tolist() == counts[n].tolist()
    return blend, counts


def test_the_mixture_of_phi4_is_exact_and_within_one_sample_at_every_prefix():
    blend, counts = check_every_prefix(PHI4, 20_000)
    assert blend.period == 20
    assert counts[20_000].tolist() == [3_000, 3_000, 8_000, 4_000, 2_000]


@given(weights=ROUND_WEIGHTS, samples=st.integers(1, 2_000))
@settings(max_examples=60, deadline=None)
def test_round_weights_are_within_one_sample_at_every_prefix(weights, samples):
    blend, _ = check_every_prefix(weights, samples)
    assert blend.prefix_bound == 1
    assert blend.horizon is None


@given(weights=ANY_WEIGHTS, total=st.integers(1, 2_000))
@settings(max_examples=100, deadline=None)
def test_any_weights_are_within_one_sample_at_every_prefix_of_their_run(weights, total):
    blend, _ = check_every_prefix(weights, total, total_samples=total)
    assert blend.prefix_bound == 1
    assert blend.horizon is None


@given(weights=ANY_WEIGHTS)
@settings(max_examples=30, deadline=None)
def test_a_longer_run_begins_like_a_shorter_one(weights):
    short, long = (Blend(weights, total_samples=total).locate(np.arange(500)) for total in (500, 2_000))
    assert np.array_equal(short, long)


def test_which_form_a_blend_takes_is_part_of_the_order():
    assert Blend([1, (1 << 20) - 1]).horizon is None
    assert Blend([1, 1 << 20]).horizon == 1 << 48
    assert Blend([1, 1 << 20], total_samples=1 << 20).horizon is None
    assert Blend([1, 1 << 20], total_samples=(1 << 20) + 1).horizon == (1 << 20) + 1


def test_a_source_of_next_to_no_weight_is_served_at_most_once():
    counts = Blend([1.0, 1e-18, 1e18], total_samples=10_000).counts(10_000)
    assert counts.sum() == 10_000
    assert counts[0] <= 1
    assert counts[1] <= 1


@given(weights=ANY_WEIGHTS)
@settings(max_examples=40, deadline=None)
def test_long_runs_of_any_weights_keep_the_bound_of_their_tree(weights):
    total = LARGEST_TABLE + 12_345
    blend, _ = check_every_prefix(weights, 1_000, total_samples=total)
    ideal = [share * total for share in reference.shares_of(weights)]
    totals = blend.counts(total).tolist()
    assert sum(totals) == total
    assert all(abs(count - exact) < 1 for count, exact in zip(totals, ideal, strict=True))
    assert blend.prefix_bound < 2.5


def test_a_tree_keeps_its_bound_at_every_prefix_of_a_long_run():
    weights = [0.1500001, 0.1499999, 0.4000003, 0.1999998, 0.0999997]
    total = LARGEST_TABLE + 1
    blend = Blend(weights, total_samples=total)
    placed = blend.locate(np.arange(total))
    for source, share in enumerate(reference.shares_of(weights)):
        counts = np.cumsum(placed.source_B == source)
        # |count - n a / b| = |count b - n a| / b in whole numbers: b is 10^7 and n about 10^6
        errors = np.abs(counts * share.denominator - np.arange(1, total + 1) * share.numerator)
        assert errors.max() / share.denominator <= blend.prefix_bound < 2.5
    assert blend.horizon == total


@given(weights=ROUND_WEIGHTS)
@settings(max_examples=25, deadline=None)
def test_the_table_is_the_schedule_of_the_reference(weights):
    placed = Blend(weights).locate(np.arange(300))
    assert list(zip(*map(np.ndarray.tolist, placed), strict=True)) == reference.periodic_blend(weights, 300)


@given(weights=ANY_WEIGHTS.filter(lambda weights: Blend(weights).horizon), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_tree_is_that_of_the_reference_up_to_the_longest_run(weights, data):
    total = data.draw(st.integers(LARGEST_TABLE + 1, 1 << 48))
    numbers = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=5))
    placed = Blend(weights, total_samples=total).locate(numbers)
    assert list(zip(*map(np.ndarray.tolist, placed), strict=True)) == reference.tree_blend(weights, total, numbers)


def test_golden_blends():
    periodic, tree = GOLDEN["periodic_blend"], GOLDEN["tree_blend"]
    placed = Blend(periodic["weights"]).locate(np.arange(len(periodic["placements"])))
    assert np.column_stack(placed).tolist() == periodic["placements"]
    placed = Blend(tree["weights"], total_samples=tree["total"]).locate(tree["numbers"])
    assert np.column_stack(placed).tolist() == tree["placements"]


def test_far_samples_of_a_long_run_agree_with_the_counts():
    blend = Blend(PHI4)
    far = 10**14 + 7
    assert blend.counts(far).sum() == far
    placed = blend.locate([far])
    assert placed.rank_B[0] == blend.counts(far)[placed.source_B[0]]


def test_weights_are_read_as_they_are_written():
    assert Blend([0.1, 0.2, 0.7]).period == 10
    assert Blend([0.1, 0.2, 0.7]).shares == (Fraction(1, 10), Fraction(2, 10), Fraction(7, 10))
    assert Blend([1.0, 1 / LARGEST_TABLE]).period > LARGEST_TABLE


def random_weights(sources):
    return np.random.default_rng(sources).uniform(0.01, 1, sources).tolist()


@given(weights=ROUND_WEIGHTS, seed=st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_a_repeating_table_is_what_numpy_computes(weights, seed):
    blend = Blend(weights)
    numbers = np.random.default_rng(seed).integers(0, 1 << 61, 200) >> np.random.default_rng(seed).integers(0, 60, 200)
    expected = numpy_order.table_blend(blend.shares, blend.period, numbers)
    assert np.array_equal(blend.locate(numbers), expected)


@given(weights=ANY_WEIGHTS | EXTREME_WEIGHTS, total=st.integers(1, 2_000))
@settings(max_examples=60, deadline=None)
def test_a_table_for_one_run_is_what_numpy_computes(weights, total):
    blend = Blend(weights, total_samples=total)
    slots = blend.period if blend.period <= LARGEST_TABLE else total
    expected = numpy_order.table_blend(blend.shares, slots, np.arange(total))
    assert np.array_equal(blend.locate(np.arange(total)), expected)


def test_the_longest_table_is_what_numpy_computes():
    blend = Blend(random_weights(40), total_samples=LARGEST_TABLE)
    expected = numpy_order.table_blend(blend.shares, LARGEST_TABLE, np.arange(LARGEST_TABLE))
    assert np.array_equal(blend.locate(np.arange(LARGEST_TABLE)), expected)


@given(weights=ANY_WEIGHTS | EXTREME_WEIGHTS, total=st.integers(LARGEST_TABLE + 1, 1 << 48), seed=st.integers(0, 1_000))
@settings(max_examples=60, deadline=None)
def test_a_tree_is_what_numpy_computes(weights, total, seed):
    blend = Blend(weights, total_samples=total)
    numbers = np.random.default_rng(seed).integers(0, total, 500)
    if blend.horizon is not None:
        assert np.array_equal(blend.locate(numbers), numpy_order.tree_blend(blend.shares, total, numbers))


@pytest.mark.parametrize("sources", [100, 1_000])
@pytest.mark.parametrize("total", [LARGEST_TABLE // 4, LARGEST_TABLE + 1])
def test_many_sources_keep_their_bound_at_every_prefix(sources, total):
    """A source is farthest from its share just before or just after one of its samples, or at the end."""
    blend = Blend(random_weights(sources), total_samples=total)
    assert (blend.horizon is None) == (total <= LARGEST_TABLE)
    placed = blend.locate(np.arange(total))
    by_source = np.split(np.argsort(placed.source_B, kind="stable"), blend.counts(total).cumsum()[:-1])
    for share, numbers in zip(blend.shares, by_source, strict=True):
        assert np.array_equal(placed.rank_B[numbers], np.arange(len(numbers)))
        prefixes = np.concatenate([numbers, numbers + 1, [total]])
        counts = np.concatenate([np.arange(len(numbers)), np.arange(len(numbers)) + 1, [len(numbers)]])
        worst = np.argmax(np.abs(counts - prefixes * float(share)))
        error = abs(int(counts[worst]) - int(prefixes[worst]) * share)
        assert error < 1 if blend.horizon is None else error <= blend.prefix_bound
        assert abs(len(numbers) - total * share) < 1
    if blend.horizon is not None:
        assert np.array_equal(placed, numpy_order.tree_blend(blend.shares, total, np.arange(total)))
        assert blend.prefix_bound < 2.5


def test_the_order_and_shape_of_the_numbers_do_not_matter():
    for blend in (Blend(PHI4), Blend([0.1234567, 0.7654321])):
        placed = blend.locate(np.arange(60))
        mixed = np.random.default_rng(0).integers(0, 60, (5, 8))
        for one, other in zip(blend.locate(mixed), placed, strict=True):
            assert np.array_equal(one, other[mixed])
        assert [part.shape for part in blend.locate([])] == [(0,), (0,)]


def test_refuses_numbers_that_are_none():
    for blend in (Blend(PHI4), Blend([0.1234567, 0.7654321], total_samples=100)):
        with pytest.raises(InputError, match="sample number -1 is outside this blend"):
            blend.locate([3, -1])
        with pytest.raises(TypeError, match="whole numbers are needed here, not float64"):
            blend.locate([0.5])
        for samples in (-1, (1 << 62) + 1):
            with pytest.raises(InputError, match="were asked for"):
                blend.counts(samples)


def test_the_compiled_blend_trusts_nobody():
    """Arguments that would make it read outside its arrays, or never end, are refused on construction."""
    half = (2, bytes(8), (1).to_bytes(8, "little"))
    native = compiled().Blend
    for shares, slots, message in [
        ([], 2, "sources"),
        ([half, half], 0, "slots"),
        ([half, (2, bytes(8), bytes(7))], 2, "whole eight-byte words"),
        ([half, (2, bytes(16), bytes(8))], 2, "differ in length"),
        ([half, (0, bytes(8), bytes(8))], 2, "a share is in"),
        ([half], 2, "sum to less than one"),
    ]:
        with pytest.raises(ValueError, match=message):
            native.table(shares, slots, True)
    for root, nodes, sources in [(1, [(-1, -2, 5)], 2), (0, [(0, -2, 5)], 2), (0, [(-1, -4, 5)], 2), (-3, [], 2)]:
        with pytest.raises(ValueError, match="not a tree"):
            native.tree(root, nodes, sources, 100)
    with pytest.raises(TypeError):
        native.table([half, half], 2, True).locate(np.arange(3.0))


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
def test_refuses_weights_that_are_none(weights):
    with pytest.raises(InputError):
        Blend(weights)


def test_a_run_of_fixed_length_ends():
    with pytest.raises(InputError, match="outside this blend of 100 samples"):
        Blend([0.1234567, 0.7654321], total_samples=100).locate([100])
