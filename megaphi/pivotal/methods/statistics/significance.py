"""Exact p values for the difference between two shares of successes.

A test is valid if P(p <= level) <= level wherever the null hypothesis holds, and false-discovery control works far out
in the tail, where a normal approximation of 30 rollouts is wrong by factors. So the tail is summed over all outcomes
of the two binomials, at the worst point of the null hypothesis (Barnard 1945).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from megaphi.pivotal.methods.findings import Counts

GRID = 257
"""Points on the border of the null hypothesis. Between two of them the tail hardly moves: the rejection region is a
union of cells, so the tail is a polynomial of the shares."""


def p_value(
    *, after: Counts, otherwise: Counts, scale: float, known: float, weight: float, null_effect: float, rises: bool
) -> float:
    """P value of `D <= null_effect` (rises) or `D >= -null_effect` (falls), D = scale (known + weight q - a).

    `after` counts draws of q, `otherwise` draws of a. The direction must have been chosen before these rollouts were
    seen; the search does. A censored rollout counts for the null hypothesis.
    """
    if rises:
        x, y = after.successes, otherwise.successes + otherwise.censored
    else:  # with failures for successes: 1 - p = (1 - known - weight) + weight (1 - q)
        x, y = after.failures, otherwise.failures + otherwise.censored
        known = 1 - known - weight
    return _tail(x, after.n, y, otherwise.n, known, weight, null_effect / scale)


def _tail(x: int, n: int, y: int, m: int, known: float, weight: float, least: float) -> float:
    """Sup of P(Z(X, Y) >= Z(x, y)) where known + weight q - a = least, X ~ Binomial(n, q), Y ~ Binomial(m, a)."""
    if not m:
        return 1.0
    q = np.linspace(0, 1, GRID)
    a = known + weight * q - least
    inside = (a >= 0) & (a <= 1)
    if not inside.any():
        return 1.0  # no point of the null hypothesis borders on an alternative: nothing can refute it
    evidence_NM = _evidence(n, m, known, weight, least)
    rejected_NM = (evidence_NM >= evidence_NM[x, y] - 1e-12).astype(float)
    tails = ((_binomial(n, q[inside]) @ rejected_NM) * _binomial(m, a[inside])).sum(1)
    return float(min(1.0, tails.max()))


@lru_cache(maxsize=256)
def _evidence(n: int, m: int, known: float, weight: float, least: float) -> NDArray[np.float64]:
    """Z of every outcome: the difference beyond `least`, over its standard error with half a success added.

    Made monotone (more successes after the token, or fewer without it, are never less evidence), so that the worst
    point of the null hypothesis lies on its border.
    """
    share_N = (np.arange(n + 1) / n if n else np.zeros(1))[:, None]
    share_M = (np.arange(m + 1) / m)[None, :]
    soft_N = (np.arange(n + 1) + 0.5)[:, None] / (n + 1)
    soft_M = (np.arange(m + 1) + 0.5)[None, :] / (m + 1)
    variance = weight**2 * soft_N * (1 - soft_N) / max(n, 1) + soft_M * (1 - soft_M) / m
    evidence = (known + weight * share_N - share_M - least) / np.sqrt(variance)
    evidence = np.maximum.accumulate(evidence, axis=0)
    return np.maximum.accumulate(evidence[:, ::-1], axis=1)[:, ::-1]


def _binomial(n: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(X = x) by share and x."""
    x = np.arange(n + 1)
    ways = _log_factorials(n)
    logarithm = ways[n] - ways[x] - ways[n - x]
    with np.errstate(divide="ignore", invalid="ignore"):
        successes = np.where(x > 0, x * np.log(shares)[:, None], 0.0)
        failures = np.where(x < n, (n - x) * np.log1p(-shares)[:, None], 0.0)
    return np.exp(logarithm + successes + failures)


@lru_cache(maxsize=64)
def _log_factorials(n: int) -> NDArray[np.float64]:
    return np.array([math.lgamma(x + 1) for x in range(n + 1)])
