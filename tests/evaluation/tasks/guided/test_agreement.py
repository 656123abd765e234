"""Weighted kappa from means of moments, against scikit-learn's on the same points."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from megaphi.evaluation.tasks.guided.agreement import MOMENTS, moments, share_equal, weighted_kappa

POINTS = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=40)


def kappa_of(pairs: list[tuple[int, int]]) -> float:
    each = [moments(first / 10, second / 10) for first, second in pairs]
    return weighted_kappa({name: sum(one[name] for one in each) / len(each) for name in MOMENTS})


@given(POINTS)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    assume(len({point for pair in pairs for point in pair}) > 1)
    first, second = zip(*pairs, strict=True)
    expected = cohen_kappa_score(first, second, weights="quadratic", labels=range(11))
    assert kappa_of(pairs) == pytest.approx(expected, abs=1e-9)


def test_kappa_of_a_judge_that_repeats_itself_guesses_or_tells_nothing_apart() -> None:
    draw = random.Random(1)
    assert kappa_of([(point, point) for point in range(11)]) == pytest.approx(1)
    assert abs(kappa_of([(draw.randrange(11), draw.randrange(11)) for _ in range(20_000)])) < 0.02
    assert kappa_of([(10, 10)] * 5) == 0


def test_equal_points_are_counted_by_criterion() -> None:
    assert share_equal([3, 0, 2, 1], [3, 1, 2, 0]) == 0.5
