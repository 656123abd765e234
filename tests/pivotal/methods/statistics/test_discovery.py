"""False-discovery control against scipy's, and its rate where half of the hypotheses are true."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from megaphi.pivotal.methods.findings import Counts, Findings, Spent
from megaphi.pivotal.methods.statistics.discovery import benjamini_hochberg, discoveries
from megaphi.pivotal.methods.statistics.effects import Contrast, token_effect


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=40))
def test_it_is_benjamini_and_hochbergs(p_values):
    adjusted = stats.false_discovery_control(p_values)
    for value, ours in zip(adjusted, benjamini_hochberg(p_values, 0.05), strict=True):
        assert ours == (value <= 0.05) or abs(value - 0.05) < 1e-12
    assert benjamini_hochberg([], 0.05) == []


def effect(position, change, p):
    counts = Counts(50 + round(50 * change), 50 - round(50 * change))
    contrast = Contrast(
        scale=1.0,
        known=0.0,
        weight=1.0,
        after=counts,
        otherwise=Counts(50 - round(50 * change), 50 + round(50 * change)),
    )
    return token_effect(contrast, position=position, token=1, probability=None, alternatives=(), confidence=0.95, p=p)


def found(*tokens):
    return Findings(method="m", selected=(), tokens=tokens, curve=(), spent=Spent(), martingale=None)


def test_all_questions_share_one_level_and_the_estimate_must_reach_the_gap():
    runs = [found(effect(3, 0.4, 0.02), effect(5, 0.1, 1e-6)), found(*(effect(at, 0.3, 0.9) for at in range(8)))]
    # 0.02 is above 0.05 * 2 / 10, so it falls; alone in its question it would have passed. 1e-6 is below the gap.
    assert discoveries(runs, gap=0.2) == [[], []]
    assert [token.position for token in discoveries(runs[:1], gap=0.2)[0]] == [3]
    assert [
        token.position for token in discoveries([found(effect(1, -0.4, None), effect(2, 0.1, None))], gap=0.2)[0]
    ] == [1]


def test_the_rate_of_false_discoveries_is_at_most_its_level():
    """Exact p values of 24 rollouts on each side, half of the tokens without effect: 400 runs of 40 tokens."""
    random = np.random.default_rng(1)
    table: dict[tuple[int, int], float] = {}
    rates = []
    for _ in range(400):
        is_null = random.random(40) < 0.5
        after = random.binomial(24, np.where(is_null, 0.5, 0.85))
        otherwise = random.binomial(24, 0.5, 40)
        values = []
        for x, y in zip(after.tolist(), otherwise.tolist(), strict=True):
            if (x, y) not in table:
                contrast = Contrast(
                    scale=1.0, known=0.0, weight=1.0, after=Counts(x, 24 - x), otherwise=Counts(y, 24 - y)
                )
                table[x, y] = contrast.p_value(null_effect=0.0, rises=True)
            values.append(table[x, y])
        kept = np.array(benjamini_hochberg(values, 0.05))
        counts = Counter(zip(kept.tolist(), is_null.tolist(), strict=True))
        rates.append(counts[True, True] / max(1, kept.sum()))
        assert counts[True, False] > 0
    assert np.mean(rates) <= 0.05 * 0.5 + 2 * np.std(rates) / 20  # level times the share of true null hypotheses
    assert np.mean(rates) > 0.002
