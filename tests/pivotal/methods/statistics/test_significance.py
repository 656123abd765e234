"""P values: their size summed over every outcome wherever the null hypothesis holds, and their power."""

import numpy as np
import pytest
from scipy import stats

from megaphi.pivotal.methods.findings import Counts
from megaphi.pivotal.methods.statistics.significance import p_value

CASES = [
    # n, m, scale, known, weight, null_effect
    (12, 12, 1.0, 0.0, 1.0, 0.0),
    (20, 9, 0.6, 0.3, 0.7, 0.0),
    (15, 15, 0.5, 0.0, 0.8, 0.1),
    (0, 20, 0.7, 1.0, 0.0, 0.1),
    (24, 24, 0.25, 0.0, 1.0, 0.05),
]


def p_values(n, m, rises, **design):
    return np.array(
        [
            [p_value(after=Counts(x, n - x), otherwise=Counts(y, m - y), rises=rises, **design) for y in range(m + 1)]
            for x in range(n + 1)
        ]
    )


@pytest.mark.parametrize("rises", [True, False])
@pytest.mark.parametrize(("n", "m", "scale", "known", "weight", "null_effect"), CASES)
def test_p_values_are_valid_wherever_the_null_hypothesis_holds(n, m, scale, known, weight, null_effect, rises):
    """P(p <= level) <= level, at points of the null hypothesis that the p value did not try, inside it too."""
    p = p_values(n, m, rises, scale=scale, known=known, weight=weight, null_effect=null_effect)
    checked = 0
    for q in np.linspace(0.013, 0.987, 41):
        for a in np.linspace(0.0077, 0.9921, 41):
            effect = scale * (known + weight * q - a)
            if (effect if rises else -effect) <= null_effect:
                law = np.outer(stats.binom.pmf(np.arange(n + 1), n, q), stats.binom.pmf(np.arange(m + 1), m, a))
                for level in (0.2, 0.05, 0.01, 0.001):
                    assert law[p <= level].sum() <= level * 1.01
                checked += 1
    assert checked > 100


def test_strong_evidence_is_recognised():
    design = {"scale": 0.5, "known": 0.0, "weight": 1.0, "null_effect": 0.0}
    strong = p_value(after=Counts(60, 4), otherwise=Counts(20, 44), rises=True, **design)
    assert strong < 1e-10
    assert p_value(after=Counts(60, 4), otherwise=Counts(20, 44), rises=False, **design) > 0.99
    # Success and failure change places, the effect its sign.
    assert p_value(after=Counts(4, 60), otherwise=Counts(44, 20), rises=False, **design) == pytest.approx(strong)
    # A test that knows one side has more power than one that samples it.
    known = p_value(
        after=Counts(), otherwise=Counts(8, 12), rises=True, scale=0.5, known=1.0, weight=0.0, null_effect=0.1
    )
    assert known == pytest.approx(stats.binom.cdf(8, 20, 0.8))


def test_power_is_near_that_of_a_normal_test():
    n, q, a = 64, 0.8, 0.4
    design = {"scale": 0.6, "known": 0.0, "weight": 1.0, "null_effect": 0.0}
    random = np.random.default_rng(0)
    draws = zip(random.binomial(n, q, 200), random.binomial(n, a, 200), strict=True)
    rejected = [
        p_value(after=Counts(int(x), n - int(x)), otherwise=Counts(int(y), n - int(y)), rises=True, **design) <= 0.001
        for x, y in draws
    ]
    error = np.sqrt((q * (1 - q) + a * (1 - a)) / n)
    assert np.mean(rejected) > stats.norm.cdf((q - a) / error - stats.norm.isf(0.001)) - 0.1


def test_censored_rollouts_are_counted_for_the_null_hypothesis():
    design = {"scale": 0.6, "known": 0.1, "weight": 0.9, "null_effect": 0.0}
    for rises in (True, False):
        worst = max(
            p_value(after=Counts(12 + i, 8 - i), otherwise=Counts(7 + j, 13 - j), rises=rises, **design)
            for i in range(4)
            for j in range(4)
        )
        censored = p_value(after=Counts(12, 5, 3), otherwise=Counts(7, 10, 3), rises=rises, **design)
        assert censored == pytest.approx(worst, rel=1e-6)
    assert p_value(after=Counts(0, 0, 20), otherwise=Counts(0, 0, 20), rises=True, **design) > 0.99
