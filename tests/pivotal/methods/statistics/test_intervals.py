"""Intervals against scipy's, and their coverage summed over every outcome."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from megaphi.pivotal.methods.findings import Counts
from megaphi.pivotal.methods.statistics.intervals import (
    beta_distribution,
    beta_quantile,
    clopper_pearson,
    linear_difference,
    posterior,
    wilson,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (1, 20), (10, 20), (19, 20), (20, 20), (137, 529)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_intervals_are_those_of_scipy(successes, n, confidence):
    counts = Counts(successes, n - successes)
    test = stats.binomtest(successes, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        band, theirs = ours(counts, confidence), test.proportion_ci(confidence, method)
        assert (band.low, band.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert band.estimate == successes / n
    band = posterior(counts, confidence)
    theirs = stats.beta(successes + 0.5, n - successes + 0.5).interval(confidence)
    assert (band.low, band.high) == pytest.approx(theirs, abs=1e-9)


@given(st.floats(0.001, 0.999), st.floats(0.3, 400), st.floats(0.3, 400))
def test_beta_distribution_is_scipys(x, alpha, beta):
    assert beta_distribution(x, alpha, beta) == pytest.approx(special.betainc(alpha, beta, x), abs=1e-11)
    assert beta_distribution(beta_quantile(x, alpha, beta), alpha, beta) == pytest.approx(x, abs=1e-8)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson, posterior])
def test_a_censored_rollout_widens_to_both_sides(interval):
    censored = interval(Counts(10, 7, 3), 0.95)
    assert censored.low == interval(Counts(10, 10), 0.95).low
    assert censored.high == interval(Counts(13, 7), 0.95).high
    assert wilson(Counts(0, 0, 5), 0.95).low == 0.0
    assert wilson(Counts(0, 0, 5), 0.95).high == 1.0
    assert (interval(Counts(), 0.95).high - interval(Counts(), 0.95).low) > 0.9


def binomial(n, share):
    return stats.binom.pmf(np.arange(n + 1), n, share)


@pytest.mark.parametrize("n", [20, 50, 100])
def test_wilson_covers_as_it_says_on_average_and_clopper_pearson_at_least(n):
    shares = np.linspace(0.02, 0.98, 97)
    for interval, lowest, most in ((wilson, 0.90, 0.97), (clopper_pearson, 0.95, 1.0)):
        bands = [interval(Counts(x, n - x), 0.95) for x in range(n + 1)]
        coverage = [
            sum(binomial(n, share)[x] for x, band in enumerate(bands) if band.low <= share <= band.high)
            for share in shares
        ]
        assert lowest <= min(coverage)
        assert 0.94 <= np.mean(coverage) <= most + (interval is clopper_pearson)


@pytest.mark.parametrize(("n", "m"), [(21, 21), (32, 64), (64, 64)])
@pytest.mark.parametrize(("scale", "stay", "outcome"), [(1.0, 0.0, 0), (0.6, 0.1, 1), (0.3, 0.5, 0)])
def test_the_interval_of_an_effect_covers_93_to_97_percent(n, m, scale, stay, outcome):
    """Exactly: over every pair of outcomes, for shares across the square; on average, and nowhere below 90 %."""
    first = [wilson(Counts(x, n - x), 0.95) for x in range(n + 1)]
    second = [wilson(Counts(y, m - y), 0.95) for y in range(m + 1)]
    known, weight = outcome * stay, 1 - stay
    bands = [
        [linear_difference(scale=scale, known=known, weight=weight, first=a, second=b) for b in second] for a in first
    ]
    low = np.array([[band.low for band in row] for row in bands])
    high = np.array([[band.high for band in row] for row in bands])
    coverage = []
    for q in np.linspace(0.05, 0.95, 10):
        for a in np.linspace(0.05, 0.95, 10):
            truth = scale * (known + weight * q - a)
            holds = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
            coverage.append(binomial(n, q) @ holds @ binomial(m, a))
    assert 0.93 <= np.mean(coverage) <= 0.97
    assert min(coverage) >= 0.90
    assert np.abs(low).max() <= scale + 1e-12  # |D| <= 1 - pi
    assert np.abs(high).max() <= scale + 1e-12
