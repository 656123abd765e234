"""Two evaluations over the same items: the difference, its interval, its p value, and the smallest one to be detected.

Items are hard or easy for both models, so differences of the same item scatter less than the scores do; their mean is a
clustered mean. Its variance has the factor (k + 1) / k of `clustered`: for single right or wrong answers that adds one
pair that differs to the n pairs that do, which decides as McNemar's test does (docs/statistics.md). Without it, four
pairs that all fall on one side would be called significant. The interval excludes 0 exactly where p < 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit

from megaphi.evaluation.statistics.clustered import CONFIDENCE, Clusters, Floats, estimate_of, variance_of_totals
from megaphi.pivotal.methods.findings import Band

POWER = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """The second evaluation minus the first, over shared items that weigh the same."""

    difference: Band
    p_value: float
    smallest_detectable: float
    """A true difference that comes out significant in 80 % of evaluations with as many items, that scatter as these;
    1 if none would."""
    correlation: float | None
    """Correlation of the scores of the same item; None where one side is constant."""
    items: int
    clusters: int
    better: int
    worse: int
    """Items whose score rose, or fell."""
    mcnemar: float | None
    """Exact p value (mid-p) for single right or wrong answers that are independent; None for all others."""

    @property
    def within_noise(self) -> bool:
        return self.p_value >= 1 - CONFIDENCE


def paired_difference(
    first_N: Floats, second_N: Floats, clusters: Clusters, *, answers_per_item: float = 1.0
) -> PairedDifference:
    """Args:
    first_N, second_N: mean score of each item, over its answers.
    answers_per_item: of the second evaluation, for the smallest detectable difference.

    Raises:
        ValueError: no items.
    """
    change_N = second_N - first_N
    items = len(change_N)
    mean = float(change_N.mean()) if items else math.nan
    found = estimate_of(mean, (change_N - mean) / max(1, items), clusters, low=-1.0)
    # Where no item differs from the mean, one that does is the least that could have been missed.
    error = math.sqrt(max(found.variance, 1 / items**2))
    degrees = found.degrees
    if degrees > 0:
        t = float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))
        band = Band(mean, max(-1.0, mean - t * error), min(1.0, mean + t * error))
        p_value = float(2 * stdtr(degrees, -abs(mean) / error))
        detectable = smallest_detectable(
            first_N, second_N, clusters, degrees=degrees, answers_per_item=answers_per_item
        )
    else:  # one cluster says nothing about others
        band, p_value, detectable = Band(mean, -1.0, 1.0), 1.0, 1.0
    better, worse = int((change_N > 1e-12).sum()), int((change_N < -1e-12).sum())
    is_single = found.clusters == items and bool(np.isin(np.concatenate([first_N, second_N]), (0.0, 1.0)).all())
    return PairedDifference(
        difference=band,
        p_value=p_value,
        smallest_detectable=detectable,
        correlation=_correlation(first_N, second_N),
        items=items,
        clusters=found.clusters,
        better=better,
        worse=worse,
        mcnemar=mcnemar(better, worse) if is_single else None,
    )


def smallest_detectable(
    first_N: Floats, second_N: Floats, clusters: Clusters, *, degrees: float, answers_per_item: float
) -> float:
    """The least delta that the t test finds with a probability of 80 %, upwards or downwards, the larger one.

    With a standard error s, delta / s must be the noncentrality at which a noncentral t is above t_0.975 with 80 %.
    A model that is better by delta gives other answers, which scatter too: at low scores that is most of the scatter.
    Upwards, each wrong answer b of the second model becomes right with probability q = delta / mean(1 - b). So s^2 is
    the clustered variance of d + q (1 - b), for wrong answers come in clusters too, and of these coins, which do not:
    q (1 - q) mean(1 - b) / (items answers). Downwards the same with b for 1 - b.
    """
    _, numbers, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    items, weights_C = len(first_N), sizes / len(first_N)
    errors = float(nctdtrinc(degrees, 1 - POWER, stdtrit(degrees, 0.5 + CONFIDENCE / 2)))

    def totals(values_N: Floats) -> Floats:
        return np.bincount(numbers, weights=(values_N - values_N.mean()) / items).astype(float)

    found, change_C = [], totals(second_N - first_N)
    for lost_N, sign in ((1 - second_N, 1.0), (second_N, -1.0)):
        room, lost_C = float(lost_N.mean()), sign * totals(lost_N)

        def excess(delta: float, room: float = room, lost_C: Floats = lost_C) -> float:
            q = delta / room
            coins = q * (1 - q) * room / (items * answers_per_item)
            variance = variance_of_totals(change_C + q * lost_C, weights_C) + coins
            return delta - errors * math.sqrt(max(variance, 1 / items**2))

        if room > 0 and excess(room) >= 0:
            found.append(_root(excess, room))
    return max(found, default=1.0)


def _root(increasing: Callable[[float], float], high: float) -> float:
    low = 0.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return high


def _correlation(first_N: Floats, second_N: Floats) -> float | None:
    scale = float(first_N.std() * second_N.std())
    return None if scale == 0 else float(((first_N - first_N.mean()) * (second_N - second_N.mean())).mean()) / scale


def mcnemar(better: int, worse: int) -> float:
    """Mid-p value of McNemar's exact test (Fagerland, Lydersen and Laake 2013): pairs that differ are fair coins."""
    n, least = better + worse, min(better, worse)
    if better == worse:
        return 1.0
    logarithms = [_log_binomial(n, x) - n * math.log(2) for x in range(least + 1)]
    below = sum(map(math.exp, logarithms[:-1]))
    return min(1.0, 2 * below + math.exp(logarithms[-1]))


def _log_binomial(n: int, x: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(x + 1) - math.lgamma(n - x + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) p values for several tests: below 0.05 for none of them by chance, in 95 % of comparisons."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
