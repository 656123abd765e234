"""A path through a sampler's tree with known truth: what each token changes, and what each alternative would have done.

At every position the sampler draws one of a few tokens, each with a probability and the success probability behind it;
one of them, drawn by the same law, is the trace's. A rollout that leaves the trace does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megaphi.pivotal.methods.trace import Trace

FILLER = 1
"""Token of everything behind a divergence."""
TRACE_TOKEN = 2
"""Token of the trace, at every position; alternatives have the numbers behind it."""


@dataclass(frozen=True, slots=True)
class Fork:
    """One position: the tokens that the sampler may draw there in place of the trace's."""

    shares: NDArray[np.float64]
    """Probability of each alternative, given that it is not the trace's token."""
    values: NDArray[np.float64]
    """Success probability behind each alternative."""

    @property
    def otherwise(self) -> float:
        """a_i."""
        return float(self.shares @ self.values) if len(self.shares) else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownWorld:
    """Truth about one trace of L tokens."""

    trace: Trace
    success_L1: NDArray[np.float64]
    """p at every position, the outcome at the end."""
    forks: tuple[Fork, ...]
    """One for each token; without alternatives where the token was certain."""
    tail_share: tuple[float, float] = (0.7, 1.3)
    """A rollout that leaves at i is as long as the rest of the trace, times a factor between these."""
    censored_share: float = 0.0
    """Probability that a rollout is cut off before its outcome is known."""

    @property
    def changes(self) -> NDArray[np.float64]:
        """D_i, by position."""
        return np.diff(self.success_L1)

    def pivotal(self, gap: float) -> set[int]:
        """Positions of tokens that change p by at least the gap."""
        return {int(position) for position in np.flatnonzero(np.abs(self.changes) >= gap)}

    def value(self, position: int, token: int) -> float:
        """Success probability if `token` stands at `position`."""
        if token == self.trace.tokens[position]:
            return float(self.success_L1[position + 1])
        return float(self.forks[position].values[token - TRACE_TOKEN - 1])


def path_world(
    probabilities: Sequence[float],
    success: Sequence[float],
    forks: Sequence[Fork],
    *,
    prompt: tuple[int, ...] = (7,),
    censored_share: float = 0.0,
) -> KnownWorld:
    """`success` has one value more than there are tokens, and ends with 0 or 1."""
    return KnownWorld(
        trace=Trace(
            prompt=prompt,
            tokens=(TRACE_TOKEN,) * len(probabilities),
            probabilities=tuple(probabilities),
            success=success[-1] > 0.5,
        ),
        success_L1=np.array(success),
        forks=tuple(forks),
        censored_share=censored_share,
    )
