"""The mixture that a response proposes: the least predicted loss among the shares that were tried and can be had.

Every source's share stays between the smallest and the largest of the trials (a response says nothing beyond them), and
below what its unique tokens allow, so that no source is read more often than the user wants. A sum of exponentials is
convex, so a search from anywhere ends at the one best mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megaphi.errors import InputError, RunFailed
from megaphi.planning.mixture.response import Floats, MixingLaw, mean_response
from megaphi.planning.mixture.trial import Shares, rounded


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """The least and the largest share of each source."""

    low_S: Floats
    high_S: Floats

    def inside(self) -> Shares:
        """A mixture within the limits: as far from the least shares to the largest as their sum allows."""
        reach = (1 - self.low_S.sum()) / (self.high_S - self.low_S).sum()
        return self.low_S + reach * (self.high_S - self.low_S)


def limits_of(share_NS: Floats, most_S: Floats) -> ShareLimits:
    """Limits from the trials' shares and from the largest ones that there is text for.

    Raises:
        InputError: together the sources do not have enough text.
    """
    high_S = np.minimum(share_NS.max(axis=0), most_S)
    if high_S.sum() < 1:
        raise InputError(
            f"the sources' largest shares sum to {high_S.sum():.2f}, below 1: there is not enough text for this run;"
            " allow more epochs (--most-epochs), or shorten the run"
        )
    return ShareLimits(np.minimum(share_NS.min(axis=0), high_S), high_S)


def best_shares(laws: Sequence[MixingLaw], weight_T: Floats, limits: ShareLimits) -> Shares:
    """The shares of the least mean response within the limits."""
    from scipy.optimize import minimize

    def response(share_S: Shares) -> float:
        return float(mean_response(laws, weight_T, share_S))

    def slope(share_S: Shares) -> Floats:
        return sum((w * law.gradient(share_S) for law, w in zip(laws, weight_T, strict=True)), np.zeros(()))

    found: Any = minimize(
        response,
        limits.inside(),
        jac=slope,
        method="SLSQP",
        bounds=list(zip(limits.low_S, limits.high_S, strict=True)),
        constraints={"type": "eq", "fun": lambda share_S: share_S.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    if not found.success:
        raise RunFailed(f"no best mixture was found ({found.message}): add runs (--runs)")
    return rounded(found.x)
