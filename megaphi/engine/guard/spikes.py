"""Recognition of a bad step: its loss or gradient norm is not finite, or far above those of the accepted steps before.

    bad    if  value > median + deviations * max(1.4826 MAD, 0.001 |median|)

Median and MAD (median of the absolute deviations) are of the last accepted steps, so a spike that was left out does not
widen what comes after it. 1.4826 MAD is the standard deviation of a normal distribution. One side only: a loss that
falls is no fault. OLMo-core's optimizers that skip steps compare with mean and standard deviation instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

DEVIATION_OF_MAD = 1.4826
SMALLEST_DEVIATION = 1e-3
"""Share of the median: values that are all the same have no deviation, and the next may differ in its last bit."""

Accepted = tuple[tuple[float, ...], ...]
"""(loss, gradient norm) of accepted steps, the oldest first."""


def badness(loss: float, gradient_norm: float, accepted: Accepted, *, window: int, deviations: float) -> str | None:
    """The reason why a step is bad, or None; spikes are judged once half a window of steps was accepted."""
    measured = {"loss": loss, "gradient norm": gradient_norm}
    if strange := [name for name, value in measured.items() if not math.isfinite(value)]:
        return f"{' and '.join(strange)} {'is' if len(strange) == 1 else 'are'} not finite"
    if not deviations or len(accepted) < (window + 1) // 2:
        return None
    for (name, value), before in zip(measured.items(), zip(*accepted, strict=True), strict=True):
        above = deviations_above(value, before)
        if above > deviations:
            usual = f"{median(before):.4g}, the median of {len(before)} steps"
            return f"{name} {value:.4g} is {above:.1f} deviations above {usual}"
    return None


def deviations_above(value: float, before: Sequence[float]) -> float:
    """Robust standard deviations by which a value lies above the median of those before it."""
    middle = median(before)
    spread = DEVIATION_OF_MAD * median(abs(one - middle) for one in before)
    spread = max(spread, SMALLEST_DEVIATION * abs(middle))
    if not spread:
        return math.inf if value > middle else 0.0
    return (value - middle) / spread
