"""The martingale check: do the estimated changes sum to what success probabilities can change?

p_i is a martingale under the sampler, so E[sum D_i^2] = p_0 (1 - p_0) whatever the partition into segments. An
estimated change squares its own noise too: E[estimate^2] = D^2 + variance, which is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megaphi.pivotal.methods.findings import MartingaleCheck


@dataclass(frozen=True, slots=True)
class MartingaleSummary:
    """The check averaged over the traces of a run."""

    traces: int
    squared_changes: float
    bound: float
    standard_error: float
    """Standard error of the mean difference, from the scatter between traces."""

    @property
    def is_exceeded(self) -> bool:
        """The changes are larger than a martingale allows, by more than two standard errors."""
        return self.squared_changes - self.bound > 2 * self.standard_error


def check(
    changes: Sequence[float], variances: Sequence[float], *, beginning: float, beginning_variance: float
) -> MartingaleCheck:
    """The check of one trace.

    Args:
        changes: unbiased estimates of D over segments that together make up the trace.
        variances: unbiased estimates of their variances.
        beginning: estimate of p_0, whose p_0 (1 - p_0) is too small by its variance on average.
    """
    noise = float(np.sum(variances))
    return MartingaleCheck(
        squared_changes=float(np.sum(np.square(changes))) - noise,
        noise=noise,
        bound=beginning * (1 - beginning) + beginning_variance,
    )


def combined(checks: Sequence[MartingaleCheck]) -> MartingaleSummary | None:
    """The mean over traces; None without at least two."""
    if len(checks) < 2:
        return None
    squares, bounds = np.array([[check.squared_changes, check.bound] for check in checks]).T
    error = float(np.std(squares - bounds, ddof=1)) / math.sqrt(len(checks))
    return MartingaleSummary(len(checks), float(squares.mean()), float(bounds.mean()), error)
