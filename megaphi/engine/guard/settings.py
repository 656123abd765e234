"""The configuration section `guard`: the response to bad steps and to replicas that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megaphi.config import Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Response to bad steps, whose loss or gradient norm is not finite or a spike (config section `guard`).

    A bad step is recognised before its update: weights, moments and the count of updates stay as they are.
    """

    action: Literal["roll_back", "skip", "end"] = "roll_back"
    """At a bad step: leave its update out, and roll back to a checkpoint if they are many; only leave out; end."""
    window: Annotated[int, Range(minimum=4, maximum=10_000)] = 128
    """Accepted steps with whose median and deviation a step is compared, as soon as there are half as many."""
    deviations: Annotated[float, Range(minimum=0)] = 6.0
    """A spike is this many robust standard deviations (of the median) above the median; 0: nothing is a spike."""
    most_skips: Annotated[int, Range(minimum=0)] = 8
    """Bad steps that may be left out of the last `window`; one more rolls back, or ends the run."""
    steps_before: Annotated[int, Range(minimum=0)] = 16
    """Steps before the first of the bad ones whose data is left out with theirs, after a roll back."""
    most_roll_backs: Annotated[int, Range(minimum=0)] = 3
    """Roll backs in the whole run; one more ends it."""
    skip_steps: tuple[str, ...] = ()
    """Steps to leave out, such as 57,120-140: what a guarded run has left out, so that another repeats its weights."""
    replica_check_steps: Annotated[int, Range(minimum=0)] = 100
    """Steps between comparisons of the weights of all replicas, before the update; 0: never."""
