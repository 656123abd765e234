"""Intervals of a share of successes, and of a linear difference of two shares.

Wilson's interval is the one in use; Clopper-Pearson's never covers less than it says; the Beta posterior (Jeffreys's
prior) gives the probability statements of `pairs`. Each takes `Counts`: a censored rollout may have been either, so the
low end counts it as a failure and the high end as a success.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from megaphi.pivotal.methods.findings import Band, Counts

JEFFREYS = 0.5


def middle(counts: Counts) -> float:
    """The middle of the bounds of the share of successes: the share itself if nothing was censored."""
    return sum(counts.bounds) / 2


def wilson(counts: Counts, confidence: float) -> Band:
    """Wilson (1927): the shares that a score test does not reject.

    (x + z^2 / 2) / (n + z^2) -+ z / (n + z^2) sqrt(x (n - x) / n + z^2 / 4)
    """
    n = counts.n
    if not n:
        return Band(0.5, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def end(x: int, sign: int) -> float:
        if x == (0 if sign < 0 else n):
            return 0.0 if sign < 0 else 1.0
        return (x + z * z / 2 + sign * z * math.sqrt(x * (n - x) / n + z * z / 4)) / (n + z * z)

    return Band(middle(counts), end(counts.successes, -1), end(counts.successes + counts.censored, 1))


def clopper_pearson(counts: Counts, confidence: float) -> Band:
    """Clopper and Pearson (1934): the shares that neither of two exact binomial tests rejects."""
    n, tail = counts.n, (1 - confidence) / 2
    if not n:
        return Band(0.5, 0.0, 1.0)
    low, high = counts.successes, counts.successes + counts.censored
    return Band(
        middle(counts),
        beta_quantile(tail, low, n - low + 1) if low else 0.0,
        beta_quantile(1 - tail, high + 1, n - high) if high < n else 1.0,
    )


def posterior(counts: Counts, confidence: float, prior: tuple[float, float] = (JEFFREYS, JEFFREYS)) -> Band:
    """The middle of the Beta posterior with equal tails; its estimate is the posterior mean."""
    tail, (alpha, beta), n = (1 - confidence) / 2, prior, counts.n
    low, high = counts.successes, counts.successes + counts.censored
    mean = (middle(counts) * n + alpha) / (n + alpha + beta)
    return Band(
        mean,
        beta_quantile(tail, low + alpha, n - low + beta),
        beta_quantile(1 - tail, high + alpha, n - high + beta),
    )


def linear_difference(*, scale: float, known: float, weight: float, first: Band, second: Band) -> Band:
    """Interval of scale (known + weight first - second) from the intervals of two independent shares.

    Newcombe's square-and-add (1998, method 10), in the linear form of Zou and Donner (2008): the ends lie as far from
    the estimate as the root of the summed squares of the distances that each share contributes.
    """
    estimate = known + weight * first.estimate - second.estimate
    down = math.hypot(weight * (first.estimate - first.low), second.high - second.estimate)
    up = math.hypot(weight * (first.high - first.estimate), second.estimate - second.low)
    # A share lies between 0 and 1, so the difference lies where the design allows it.
    lowest, highest = scale * (known - 1), scale * (known + weight)
    low, high = max(lowest, scale * (estimate - down)), min(highest, scale * (estimate + up))
    return Band(scale * estimate, low, high)


def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """x with I_x(alpha, beta) = share, by bisection to the last bit that matters."""
    return _root(lambda x: beta_distribution(x, alpha, beta) - share)


def _root(increasing: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle_x = (low + high) / 2
        low, high = (middle_x, high) if increasing(middle_x) < 0 else (low, middle_x)
    return (low + high) / 2


def beta_distribution(x: float, alpha: float, beta: float) -> float:
    """I_x(alpha, beta), the regularised incomplete beta function (NIST DLMF 8.17.22, continued fraction)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (alpha + 1) / (alpha + beta + 2):  # the fraction converges fast below the mean only
        return 1 - beta_distribution(1 - x, beta, alpha)
    logarithm = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    front = math.exp(logarithm + alpha * math.log(x) + beta * math.log1p(-x)) / alpha
    return front / _fraction(x, alpha, beta)


def _fraction(x: float, alpha: float, beta: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)) by Lentz's method."""
    tiny = 1e-300
    value, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2:
            d = -(alpha + m) * (alpha + beta + m) * x / ((alpha + 2 * m) * (alpha + 2 * m + 1))
        else:
            d = m * (beta - m) * x / ((alpha + 2 * m - 1) * (alpha + 2 * m))
        denominator = 1 / (1 + d * denominator or tiny)
        numerator = 1 + d / numerator or tiny
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return value
