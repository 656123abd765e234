"""Student's t distribution with any number of degrees of freedom, from the incomplete beta function.

P(|T| > t) = I_x(nu / 2, 1 / 2) with x = nu / (nu + t^2) (NIST DLMF 8.17; Abramowitz and Stegun 26.7.1).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

from megaphi.pivotal.methods.statistics.intervals import beta_distribution


def two_sided_p(t: float, degrees: float) -> float:
    """P(|T| >= |t|)."""
    return beta_distribution(degrees / (degrees + t * t), degrees / 2, 0.5) if math.isfinite(t) else 0.0


@lru_cache(maxsize=4096)
def quantile(share: float, degrees: float) -> float:
    """t with P(T <= t) = share, for shares of at least a half.

    By Newton's method from the normal quantile, which lies below: the distribution is concave there, so that each step
    falls short of the root.
    """
    t = NormalDist().inv_cdf(share)
    logarithm = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    for _ in range(100):
        density = math.exp(logarithm - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (two_sided_p(t, degrees) / 2 - (1 - share)) / density
        t += step
        if abs(step) < 1e-11 * t:
            break
    return t
