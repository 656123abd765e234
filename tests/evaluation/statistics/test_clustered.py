"""Intervals of clustered means: known forms where they reduce to them, and coverage of 95 % by simulation elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.evaluation_statistics import Design, coverage, function_coverage
from megaphi.evaluation.statistics.clustered import clustered_function, clustered_mean, degrees_of_freedom
from megaphi.evaluation.statistics.strength import elo_difference
from megaphi.pivotal.methods.findings import Band


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 20), (82, 164), (164, 164)])
def test_single_answers_have_wilsons_interval(right, n):
    band = clustered_mean([1.0] * right + [0.0] * (n - right), [str(place) for place in range(n)]).interval()
    exact = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (band.low, band.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_ten_equal_answers_to_each_item_are_no_more_than_one():
    """Repeats that always agree add nothing; taken as independent they would make the interval a third as long."""
    rng = np.random.default_rng(1)
    scores = (rng.random(200) < 0.6).astype(float)
    once = clustered_mean(scores, np.arange(200)).interval()
    repeated = clustered_mean(np.repeat(scores, 10), np.repeat(np.arange(200), 10)).interval()
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.02)


def test_variance_is_that_of_a_bootstrap_of_clusters():
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 11, 80)
    clusters = np.repeat(np.arange(80), sizes)
    scores = np.clip(rng.random(80)[clusters] + rng.normal(0, 0.2, len(clusters)), 0, 1)
    found = clustered_mean(scores, clusters)
    totals = np.bincount(clusters, scores)
    drawn = rng.integers(0, 80, (20_000, 80))
    means = totals[drawn].sum(1) / sizes[drawn].sum(1)
    assert found.variance**0.5 == pytest.approx(means.std(), rel=0.05)


def test_two_clusters_by_hand():
    """u = -1/4, 1/4 and w = 1/2: CR2's sum is 2 (1/16) / (1/2) = 1/4, and k = 2 makes it 3/8."""
    assert clustered_mean([0, 0, 1, 1], ["a", "a", "b", "b"]).variance == pytest.approx(3 / 8)


def test_degrees_of_freedom_are_those_of_the_gram_matrix():
    assert degrees_of_freedom(np.full(12, 3.0)) == pytest.approx(11)
    sizes = np.array([1.0, 4, 2, 9, 3])
    total = sizes.sum()
    scale = 1 / (total * np.sqrt(1 - sizes / total))
    gram = np.outer(scale, scale) * (np.diag(sizes) - np.outer(sizes, sizes) / total)
    assert degrees_of_freedom(sizes) == pytest.approx(np.trace(gram) ** 2 / (gram**2).sum())


def test_one_cluster_says_nothing_about_others():
    band = clustered_mean([1.0, 0.0, 1.0, 1.0], ["passage"] * 4).interval()
    assert (band.estimate, band.low, band.high) == (0.75, 0.0, 1.0)
    with pytest.raises(ValueError, match="nothing was answered"):
        clustered_mean([], [])


@given(
    st.lists(
        st.tuples(st.integers(0, 1_000).map(lambda part: part / 1_000), st.integers(0, 5)), min_size=1, max_size=40
    )
)
def test_an_interval_holds_its_estimate_within_0_and_1(answers):
    scores, clusters = [score for score, _ in answers], [str(cluster) for _, cluster in answers]
    band = clustered_mean(scores, clusters).interval()
    assert 0 <= band.low <= band.estimate + 1e-12
    assert band.estimate - 1e-12 <= band.high <= 1
    mirrored = clustered_mean([1 - score for score in scores], clusters).interval()
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - band.high, 1 - band.low), abs=1e-9)


@pytest.mark.parametrize(
    ("design", "rate"),
    [
        (Design(clusters=164), 0.98),
        (Design(clusters=100, largest=10, of_clusters=0.5), 0.1),
        (Design(clusters=30, largest=10, of_clusters=0.1), 0.5),
        (Design(clusters=198, repeats=10, of_items=0.5), 0.5),
        (Design(clusters=198, repeats=10, of_items=0.9), 0.02),
    ],
)
def test_intervals_cover_95_of_100_evaluations(design, rate):
    """800 evaluations each: the standard error of the share is 0.8 points."""
    assert coverage(design, rate, 800, seed=5)["covered"] == pytest.approx(0.95, abs=0.025)


def test_intervals_of_an_f1_cover_95_of_100_evaluations():
    assert function_coverage(1_000, 0.4, 0.9, 1_000, seed=3)["covered"] == pytest.approx(0.95, abs=0.02)


def test_a_linear_function_has_the_scaled_interval_and_division_by_nothing_is_left_to_the_caller():
    rng = np.random.default_rng(4)
    scores, clusters = (rng.random((300, 2)) < 0.3).astype(float), np.arange(300) // 3
    band = clustered_function(lambda means: 150 * means[0], scores, clusters).interval()
    mean = clustered_mean(scores[:, 0], clusters).interval()
    assert (band.low, band.high) == pytest.approx((150 * mean.low, 150 * mean.high), rel=1e-6)
    with pytest.raises(ZeroDivisionError):
        clustered_function(lambda means: 1 / float(means[0]), np.zeros((4, 1)), np.arange(4))


def test_bradley_terry_of_two_models_is_the_logit_of_the_win_rate():
    """Against the maximum of the likelihood itself, ties being half a win for each."""
    wins, losses, ties = 130, 60, 10
    strengths = np.linspace(-3, 3, 60_001)
    likelihood = -(wins + ties / 2) * np.log1p(np.exp(-strengths)) - (losses + ties / 2) * np.log1p(np.exp(strengths))
    best = strengths[likelihood.argmax()] * 400 / np.log(10)
    rate = (wins + ties / 2) / 200
    found = elo_difference(Band(rate, 0.0, 0.5))
    assert found.estimate == pytest.approx(best, abs=0.02)
    assert (found.low, found.high) == (-np.inf, 0.0)
