"""Biases of a judge: does it score by length, and does it prefer what it reads first?

Length against score is Spearman's rank correlation over all responses; its interval is the middle of resamples of whole
prompts (bootstrap), because responses to one prompt are not independent. Long answers may belong to hard prompts, so
the share of pairs whose longer side won, which compares within prompts, stands beside it, with Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megaphi.pivotal.methods.findings import Band, Counts
from megaphi.pivotal.methods.statistics.intervals import wilson

CONFIDENCE = 0.95
RESAMPLES = 1_000


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """Pearson's correlation of the ranks; None where one side is constant."""
    first, second = (one - one.mean() for one in (ranks(left), ranks(right)))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return None if scale == 0 else float((first * second).sum() / scale)


def rank_correlation(
    left: Sequence[float], right: Sequence[float], groups: Sequence[int], *, seed: int, resamples: int = RESAMPLES
) -> Band | None:
    """Spearman's correlation with an interval that resamples whole groups; None where there is nothing to correlate."""
    if len(left) < 3:
        return None
    x, y, group = np.array(left, float), np.array(right, float), np.array(groups)
    estimate = spearman(x, y)
    if estimate is None:
        return None
    members = [np.flatnonzero(group == number) for number in np.unique(group)]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[number] for number in drawn])
        if (value := spearman(x[rows], y[rows])) is not None:
            found.append(value)
    if len(found) < resamples // 2:
        return Band(estimate, -1.0, 1.0)
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Band(estimate, min(float(low), estimate), max(float(high), estimate))


def share(successes: int, failures: int) -> Band | None:
    """A share with Wilson's interval; None of nothing."""
    return wilson(Counts(successes, failures), CONFIDENCE) if successes + failures else None
