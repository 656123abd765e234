"""Means of clustered answers, functions of such means, and their intervals.

Answers to one question are not independent, nor are questions of one cluster, so the variance is that of totals of
clusters (cluster-robust, with the correction CR2 of Bell and McCaffrey 2002 and their degrees of freedom). A share near
0 or 1 has no symmetric interval: Wilson's is taken at the effective number of answers, the one of independent answers
that would have this variance. Where every cluster is one answer, right or wrong, that is Wilson's interval itself.

Where few clusters differ from the mean, their variance is hardly known, and mostly too small where it misleads: it is
multiplied by (k + 1) / k, where k = (sum u^2)^2 / sum u^4 is the number of clusters that carry it (docs/statistics.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from megaphi.pivotal.methods.findings import Band

CONFIDENCE = 0.95
Floats = NDArray[np.float64]
Clusters = Sequence[str] | NDArray[Any]
"""Name or number of each answer's cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteredEstimate:
    """An estimate with all that its interval is made from."""

    estimate: float
    variance: float
    """Variance of the estimate; 0 where no cluster differs from the mean."""
    degrees: float
    """Degrees of freedom of the variance; 0 for one cluster, infinite where the design says what the variance is."""
    answers: int
    clusters: int
    effective_clusters: float
    """1 / sum of the squared shares of the clusters: equal clusters that would weigh as evenly."""
    low: float = 0.0
    high: float = 1.0
    """Ends of the values that the estimate can have."""

    def interval(self, confidence: float = CONFIDENCE) -> Band:
        """Wilson's interval at the effective number of answers, on the scale from `low` to `high`.

        Where nothing varies the clusters count as one answer each. Of one cluster nothing is known but the range.
        """
        if self.degrees <= 0:
            return Band(self.estimate, min(self.low, self.estimate), max(self.high, self.estimate))
        tail = 0.5 + confidence / 2
        t = float(stdtrit(self.degrees, tail)) if math.isfinite(self.degrees) else NormalDist().inv_cdf(tail)
        width = self.high - self.low
        share = (self.estimate - self.low) / width
        n = self.effective_clusters
        if self.variance > 0 and 0 < share < 1:
            n = share * (1 - share) * width**2 / self.variance
        middle = (share + t * t / (2 * n)) / (1 + t * t / n)
        half = t / (1 + t * t / n) * math.sqrt(max(0.0, share * (1 - share) / n) + t * t / (4 * n * n))
        lowest = 0.0 if share <= 0 else max(0.0, middle - half)
        highest = 1.0 if share >= 1 else min(1.0, middle + half)
        return Band(self.estimate, self.low + width * lowest, self.low + width * highest)


def clustered_mean(scores: Sequence[float] | Floats, clusters: Clusters) -> ClusteredEstimate:
    """Mean over answers of scores from 0 to 1.

    Raises:
        ValueError: no answers.
    """
    values = np.asarray(scores, float)
    mean = float(values.mean()) if len(values) else math.nan
    found = estimate_of(mean, (values - mean) / max(1, len(values)), clusters)
    is_single = found.clusters == found.answers and bool(np.isin(values, (0.0, 1.0)).all())
    if not is_single or found.degrees <= 0:
        return found
    return ClusteredEstimate(
        estimate=mean,
        variance=mean * (1 - mean) / found.answers,  # known: no variance but that of a coin is to be estimated
        degrees=math.inf,
        answers=found.answers,
        clusters=found.clusters,
        effective_clusters=found.effective_clusters,
    )


def clustered_function(function: Callable[[Floats], float], scores_NK: Floats, clusters: Clusters) -> ClusteredEstimate:
    """A function of the means of K scores, such as an F1, by linearisation: its gradient times each answer's deviation.

    Args:
        function: of the K means. It may fail where nothing is to be divided by.

    Raises:
        ZeroDivisionError, ValueError: the function has no value at the means.
    """
    means_K = scores_NK.mean(0)
    gradient_K = np.array([_slope(function, means_K, place) for place in range(len(means_K))])
    low, high = _range(function, len(means_K))
    influence_N = (scores_NK - means_K) @ gradient_K / len(scores_NK)
    value = float(function(means_K))
    return estimate_of(value, influence_N, clusters, low=min(low, value), high=max(high, value))


def _slope(function: Callable[[Floats], float], means_K: Floats, place: int) -> float:
    """Difference quotient that stays within 0 and 1."""
    ends = []
    for step in (-1e-5, 1e-5):
        moved = means_K.copy()
        moved[place] = min(1.0, max(0.0, moved[place] + step))
        ends.append((moved[place], function(moved)))
    (left, low), (right, high) = ends
    return (high - low) / (right - left)


def _range(function: Callable[[Floats], float], number: int) -> tuple[float, float]:
    """Least and largest value over the corners of all means, where there is one."""
    values = [0.0]
    for corner in itertools.product((0.0, 1.0), repeat=number):
        try:
            values.append(float(function(np.array(corner))))
        except (ZeroDivisionError, ValueError):
            continue
    finite = [value for value in values if math.isfinite(value)]
    return min(finite), max(max(finite), min(finite) + 1e-9)


def estimate_of(
    value: float,
    influence_N: Floats,
    clusters: Clusters,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> ClusteredEstimate:
    """An estimate from the influence of each answer on it: to first order, what it adds to the estimate's error."""
    if not len(influence_N):
        raise ValueError("nothing was answered")
    _, numbers, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    totals_C = np.bincount(numbers, weights=influence_N, minlength=len(sizes)).astype(float)
    weights_C = sizes / len(influence_N)
    several = len(sizes) > 1
    return ClusteredEstimate(
        estimate=value,
        variance=variance_of_totals(totals_C, weights_C) if several else 0.0,
        degrees=degrees_of_freedom(sizes.astype(float)) if several else 0.0,
        answers=len(influence_N),
        clusters=len(sizes),
        effective_clusters=float(1 / (weights_C**2).sum()),
        low=low,
        high=high,
    )


def variance_of_totals(totals_C: Floats, weights_C: Floats) -> float:
    """V = (k + 1) / k  sum_c u_c^2 / (1 - w_c), for two clusters or more; 0 where none differs from the mean.

    Args:
        totals_C: u_c, the sum of each cluster's influences.
        weights_C: w_c, its share of the answers.
    """
    squares_C = totals_C**2
    if squares_C.max() <= 1e-30:
        return 0.0
    carriers = float(squares_C.sum() ** 2 / (squares_C**2).sum())
    return float((squares_C / (1 - weights_C)).sum()) * (carriers + 1) / carriers


def degrees_of_freedom(sizes_C: Floats) -> float:
    """Bell and McCaffrey's (2002) degrees of freedom of a mean's CR2 variance: tr(G)^2 / tr(G^2).

    G_cd = s_c s_d (n_c [c = d] - n_c n_d / N) with s_c = 1 / (N sqrt(1 - n_c / N)), if answers were independent. Equal
    clusters have C - 1.
    """
    total = sizes_C.sum()
    weights_C = sizes_C / total
    squared_C = 1 / (total**2 * (1 - weights_C))
    trace = 1 / total
    of_square = (squared_C**2 * sizes_C**2 * (1 - 2 * weights_C)).sum() + (squared_C * sizes_C**2).sum() ** 2 / total**2
    return max(1.0, float(trace**2 / of_square))
