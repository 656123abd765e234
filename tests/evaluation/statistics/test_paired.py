"""The paired test: McNemar's decisions where it applies, 5 % false positives, and the promised power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.evaluation_statistics import Design, paired
from megaphi.evaluation.statistics.paired import holm, mcnemar, paired_difference


def single(better: int, worse: int, items: int = 300):
    first, second = np.zeros(items), np.zeros(items)
    second[:better] = 1
    first[better : better + worse] = 1
    return paired_difference(first, second, np.arange(items))


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60)
def test_mcnemar_is_scipys_binomial_test_less_half_of_the_tie(better, worse):
    if better == worse:
        assert mcnemar(better, worse) == 1
        return
    exact = stats.binomtest(better, better + worse).pvalue
    assert mcnemar(better, worse) == pytest.approx(exact - stats.binom.pmf(better, better + worse, 0.5), rel=1e-9)


def test_single_answers_are_decided_as_mcnemar_decides():
    """All pairs of up to 35 items that differ, out of 300, but for p values within a thousandth of the level."""
    for better in range(25):
        for worse in range(min(better, 10)):
            found = single(better, worse)
            assert found.mcnemar is not None
            if abs(found.mcnemar - 0.05) > 0.001 and abs(found.p_value - 0.05) > 0.001:
                assert found.within_noise == (found.mcnemar >= 0.05), (better, worse)


def test_four_items_on_one_side_are_within_noise():
    """The plain t test of these differences has p = 0.045."""
    assert stats.ttest_1samp([1.0] * 4 + [0.0] * 296, 0).pvalue < 0.05
    assert single(4, 0).within_noise


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 6)), min_size=2, max_size=30))
def test_the_interval_excludes_0_exactly_where_p_is_below_the_level(rows):
    first, second, clusters = (np.array(column) for column in zip(*rows, strict=True))
    found = paired_difference(first, second, clusters)
    band = found.difference
    assert -1 <= band.low <= band.estimate <= band.high <= 1
    if abs(found.p_value - 0.05) > 1e-6:
        assert found.within_noise == (band.low <= 0 <= band.high)
    turned = paired_difference(second, first, clusters)
    assert turned.p_value == pytest.approx(found.p_value)
    assert (turned.better, turned.worse) == (found.worse, found.better)


def test_models_that_agree_everywhere_differ_by_no_more_than_one_item_could_show():
    found = paired_difference(np.ones(50), np.ones(50), np.arange(50))
    assert found.p_value == 1
    assert 0 < found.difference.high < 0.05
    assert found.correlation is None
    lost = paired_difference(np.ones(50), np.zeros(50), np.arange(50))
    assert not lost.within_noise


def test_one_cluster_says_nothing_about_others():
    found = paired_difference(np.zeros(5), np.ones(5), ["passage"] * 5)
    assert (found.p_value, found.difference.low, found.difference.high) == (1, -1, 1)


@pytest.mark.parametrize(
    ("design", "rate", "alike"),
    [
        (Design(clusters=164, of_items=0.7), 0.5, 0.8),
        (Design(clusters=198, repeats=10, of_items=0.5), 0.5, 0.0),
        (Design(clusters=100, largest=10, of_clusters=0.3), 0.1, 0.5),
    ],
)
def test_false_positives_and_power(design, rate, alike):
    """400 evaluations: standard errors of 1.1 points of the false positives and 2 of the power."""
    found = paired(design, rate, alike, 400, seed=11)
    assert found["false_positives"] == pytest.approx(0.05, abs=0.02)
    assert 0.76 <= found["power"] <= 0.90
    assert found["effect_covered"] == pytest.approx(0.95, abs=0.025)


def test_holm():
    """Holm's own order: each p times the number of tests that are left, never below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2, 0.9]) == pytest.approx([0.4, 0.9])
    assert holm([]) == []
