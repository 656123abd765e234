"""The blend: exact totals, never a sample away from the share, and the rank that a replay of the run would count."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.blend import LARGEST_TABLE, Blend
from megaphi.errors import InputError
from tests.data import order_reference as reference

GOLDEN = json.loads(reference.GOLDEN.read_text())
PHI4 = [15.0, 15.0, 40.0, 20.0, 10.0]
ROUND_WEIGHTS = st.lists(st.integers(1, 100).map(float), min_size=1, max_size=8)
ANY_WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8)


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


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
def test_refuses_weights_that_are_none(weights):
    with pytest.raises(InputError):
        Blend(weights)


def test_a_run_of_fixed_length_ends():
    with pytest.raises(InputError, match="outside this blend of 100 samples"):
        Blend([0.1234567, 0.7654321], total_samples=100).locate([100])
