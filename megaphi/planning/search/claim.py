"""The cost of a plan until all tokens are seen, and the test of a claim of days.

A claim is arithmetic before it is a prediction: so many tokens in so many days need so many FLOP/s of each device,
whatever the layout, and no device computes more than its data sheet says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megaphi.model.arithmetic import flops_per_token
from megaphi.planning.search.space import PlanQuestion

DAY = 86_400.0
POWER_SHARE = 0.9
"""Share of the power limit that is drawn: OLMo 3's runs took 624 and 648 W for each H100 of 700 W (146 MWh in 234,000
hours, 681 MWh in 1,050,000), so 0.89 and 0.93."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """Price of so many tokens at a given speed, without failures and restarts."""

    days: float
    device_hours: float
    kilowatt_hours: float
    """Energy of the devices alone, without hosts and cooling."""


def cost_of(question: PlanQuestion, *, tokens: float, tokens_per_second: float) -> RunCost:
    """The whole run at so many tokens per second and device."""
    seconds = tokens / (tokens_per_second * question.devices)
    hours = seconds / 3_600 * question.devices
    return RunCost(
        days=seconds / DAY,
        device_hours=hours,
        kilowatt_hours=hours * question.device.watts * POWER_SHARE / 1_000,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimVerdict:
    """The verdict on a claim of so many tokens in so many days."""

    kind: Literal["impossible", "too fast", "possible"]
    """impossible: above the devices' peak. too fast: above the fastest plan."""
    needed: float
    """Model FLOP/s of each device, attention counted causal."""
    needed_full: float
    """The same with attention counted in full."""
    peak: float
    """FLOP/s of one device by the data sheet, in the precision of the run."""
    devices_needed: float | None
    """Devices at which the fastest plan's speed would meet the claim; none where nothing fits."""


def verdict_on(question: PlanQuestion, *, tokens: float, days: float, tokens_per_second: float | None) -> ClaimVerdict:
    """Check a claim against the peak, and against the fastest plan's tokens per second and device."""
    rate = tokens / (days * DAY) / question.devices
    length = question.run.batch.sequence_length
    needed = rate * flops_per_token(question.run.model, sequence_length=length, attention="causal")
    peak = question.device.peak * (1 if question.run.precision.fp8 == "none" else 2)
    kind = "impossible" if needed > peak else "possible" if rate <= (tokens_per_second or 0.0) else "too fast"
    return ClaimVerdict(
        kind=kind,
        needed=needed,
        needed_full=rate * flops_per_token(question.run.model, sequence_length=length, attention="full"),
        peak=peak,
        devices_needed=question.devices * rate / tokens_per_second if tokens_per_second else None,
    )
