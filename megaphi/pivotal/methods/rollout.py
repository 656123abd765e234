"""Requests for rollouts, and rollouts: the whole traffic between a method and the model.

A `Draw` asks for `count` rollouts in all from one prefix; asking again with a larger count costs the difference only,
because rollouts are numbered within (prefix, excluded token, purpose). A rollout that was cut off by the token limit is
censored: its outcome is unknown, so it bounds an estimate and is never a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Purpose = Literal["search", "confirm"]
"""Search rollouts choose tokens; confirm rollouts estimate the chosen ones. The two never share a rollout."""
RolloutOutcome = Literal["success", "failure", "censored"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """`count` rollouts, in all, that continue prompt + tokens[:position] of the trace.

    With `excluded=None` and purpose "search" the runner may also hand out, after those of this prefix or in their
    place, rollouts from shorter prefixes whose first tokens are the trace's up to `position`: they are fair samples
    from here too. Confirm rollouts are never handed on like this: the samples before and behind a token are to be
    independent.
    """

    position: int
    count: int
    excluded: int | None = None
    """Forced divergence: the first token is drawn from the sampler's law given that it is not this one."""
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Rollout:
    """One continuation, from the draw's position on."""

    tokens: tuple[int, ...]
    """After prompt + tokens[:position]; the first one is the alternative where a token was excluded."""
    outcome: RolloutOutcome
    is_shared: bool = False
    """Begun at a shorter prefix, for another draw of this search: no token was generated for this one."""
