"""Preference pairs of single tokens from pivotal tokens: the trace's token against an alternative.

A token that raises the success probability is accepted over the alternative that is worst; one that lowers it is
rejected for the best. A pair is made only if the accepted token is better by the margin with high posterior
probability: Beta posteriors on both sides, integrated on a grid. The alternatives' prior stands at their common mean,
because few rollouts take each of them, and the most extreme of several is extreme by luck too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.pivotal.methods.findings import Alternative, Counts, TokenEffect
from megaphi.pivotal.methods.statistics.effects import settled
from megaphi.pivotal.methods.statistics.intervals import middle
from megaphi.pivotal.methods.trace import Trace

CELLS = 1024
PRIOR = 2.0
"""Weight of the alternatives' common mean, in rollouts."""
LEAST_ROLLOUTS = 2
"""An alternative that fewer rollouts took is no side of a pair."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairReport:
    """Records as `data/packed/preference_pairs.py` reads them, and the tokens without one, by reason."""

    records: tuple[dict[str, Any], ...]
    left_out: Counter[str]


def pairs_of(
    tokens: Sequence[TokenEffect], trace: Trace, *, question: str, margin: float = 0.1, certainty: float = 0.95
) -> PairReport:
    """At most one pair for each pivotal token.

    Args:
        tokens: what `discoveries` kept.
        margin: by how much the accepted side's success probability must exceed the other's.
        certainty: least posterior probability of that.
    """
    records, left_out = [], Counter()
    for token in tokens:
        rises = token.effect.estimate > 0
        rivals = [one for one in token.alternatives if one.counts.n >= LEAST_ROLLOUTS]
        chances = [chance_of_margin(token, one, margin=margin) for one in rivals]
        if not rivals:
            left_out[f"no alternative was taken by {LEAST_ROLLOUTS} rollouts"] += 1
        elif max(chances) < certainty:
            left_out[f"no alternative is worse, or better, by {margin:g} with probability {certainty:g}"] += 1
        else:
            rival = rivals[int(np.argmax(chances))]
            records.append(_record(token, trace, rival, question, rises, max(chances)))
    return PairReport(tuple(records), left_out)


def chance_of_margin(token: TokenEffect, rival: Alternative, *, margin: float) -> float:
    """Posterior probability that the better side (by the sign of the effect) is better by the margin.

    A censored rollout counts against the pair: a failure of the accepted side, a success of the rejected one.
    """
    rises = token.effect.estimate > 0
    trace_density = _density(settled(token.after_counts, succeeded=not rises), 0.5, 0.5)
    mean = middle(token.otherwise_counts)
    alpha, beta = PRIOR * mean + 0.25, PRIOR * (1 - mean) + 0.25
    rival_density = _density(settled(rival.counts, succeeded=rises), alpha, beta)
    share = (np.arange(CELLS) + 0.5) / CELLS
    success = token.known_after + (1 - token.stay_after) * share  # p, by cell of q
    if rises:  # P(v <= p - margin)
        chance = np.interp(success - margin, share, np.cumsum(rival_density), left=0.0, right=1.0)
    else:  # P(v >= p + margin)
        chance = 1 - np.interp(success + margin, share, np.cumsum(rival_density), left=0.0, right=1.0)
    return float(trace_density @ chance)


def _density(counts: Counts, alpha: float, beta: float) -> Floats:
    """Beta posterior on the grid, summing to 1."""
    share = (np.arange(CELLS) + 0.5) / CELLS
    logarithm = (counts.successes + alpha - 1) * np.log(share) + (counts.failures + beta - 1) * np.log1p(-share)
    density = np.exp(logarithm - logarithm.max())
    return density / density.sum()


def _record(
    token: TokenEffect, trace: Trace, rival: Alternative, question: str, rises: bool, chance: float
) -> dict[str, Any]:
    ours = {"token": token.token, "n": token.after_counts.n, "successes": token.after_counts.successes}
    theirs = {"token": rival.token, "n": rival.counts.n, "successes": rival.counts.successes}
    accepted, rejected = (ours, theirs) if rises else (theirs, ours)
    return {
        "prompt": [*trace.prompt, *trace.tokens[: token.position]],
        "accepted": [accepted["token"]],
        "rejected": [rejected["token"]],
        "append_eos": False,
        "question": question,
        "position": token.position,
        "effect": token.effect.estimate,
        "interval": [token.effect.low, token.effect.high],
        "chance": chance,
        "accepted_n": accepted["n"],
        "accepted_successes": accepted["successes"],
        "rejected_n": rejected["n"],
        "rejected_successes": rejected["successes"],
    }
