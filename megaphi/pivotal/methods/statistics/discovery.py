"""The effects that stand: false-discovery control over all confirmed tokens of all questions.

Benjamini and Hochberg (1995) on fresh p values. The search chooses the hypotheses without seeing a confirm rollout, so
given the search they are a fixed family with valid p values; the rate that is controlled given every outcome of the
search is controlled. A token of which several true neighbours depend on the same rollouts is the one departure from
independence; tests/pivotal/methods measures the rate as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megaphi.pivotal.methods.findings import Findings, TokenEffect


def benjamini_hochberg(p_values: Sequence[float], level: float) -> list[bool]:
    """True for the k smallest p values, k the largest with p_(k) <= level k / m."""
    count = len(p_values)
    if not count:
        return []
    ordered = np.sort(np.asarray(p_values, dtype=float))
    passing = np.flatnonzero(ordered <= level * np.arange(1, count + 1) / count)
    return [bool(passing.size and value <= ordered[passing[-1]]) for value in p_values]


def discoveries(findings: Sequence[Findings], *, gap: float, level: float = 0.05) -> list[list[TokenEffect]]:
    """The pivotal tokens of each trace: refuted null hypothesis, and an estimate of at least `gap`.

    Tokens without a p value (a search that was told not to confirm) are claims of the search alone: kept by their
    estimate, and no rate is controlled.
    """
    tested = [token.p_value for found in findings for token in found.tokens if token.p_value is not None]
    refuted = iter(benjamini_hochberg(tested, level))
    return [
        [
            token
            for token in found.tokens
            if (token.p_value is None or next(refuted)) and abs(token.effect.estimate) >= gap
        ]
        for found in findings
    ]
