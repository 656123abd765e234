"""The effect of one token from the counts of two samples: estimate, interval, p value.

D_i = scale (known + weight q - a). With the sampler's probabilities: scale = 1 - pi_i, known = y S and weight = 1 - S,
where S is the probability of the rest of the trace and q the share of successes of rollouts that leave that rest
somewhere; a is the share with another token at i. Without probabilities: scale 1, known 0, weight 1, and q, a are the
shares of plain rollouts from behind and before the token; `known` is y behind the last token, with weight 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megaphi.pivotal.methods.findings import Alternative, Band, Counts, TokenEffect
from megaphi.pivotal.methods.rollout import Rollout
from megaphi.pivotal.methods.statistics.intervals import linear_difference, wilson
from megaphi.pivotal.methods.statistics.significance import p_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """The two samples behind D_i = scale (known + weight q - a)."""

    scale: float
    known: float
    weight: float
    after: Counts
    otherwise: Counts

    def interval(self, confidence: float) -> Band:
        """Low end as if every censored rollout spoke against the token, high end as if every one spoke for it."""
        low = self._interval(settled(self.after, succeeded=False), settled(self.otherwise, succeeded=True), confidence)
        high = self._interval(settled(self.after, succeeded=True), settled(self.otherwise, succeeded=False), confidence)
        return Band((low.estimate + high.estimate) / 2, low.low, high.high)

    def _interval(self, after: Counts, otherwise: Counts, confidence: float) -> Band:
        return linear_difference(
            scale=self.scale,
            known=self.known,
            weight=self.weight,
            first=wilson(after, confidence),
            second=wilson(otherwise, confidence),
        )

    def success_after(self, confidence: float) -> Band:
        """p_i = known + weight q."""
        share = wilson(self.after, confidence)
        ends = (share.estimate, share.low, share.high)
        return Band(*(self.known + self.weight * end for end in ends))

    def p_value(self, *, null_effect: float, rises: bool) -> float:
        return p_value(
            after=self.after,
            otherwise=self.otherwise,
            scale=self.scale,
            known=self.known,
            weight=self.weight,
            null_effect=null_effect,
            rises=rises,
        )


def settled(counts: Counts, *, succeeded: bool) -> Counts:
    """Counts with every censored rollout taken for a success, or for a failure."""
    more = counts.censored
    return Counts(counts.successes + more * succeeded, counts.failures + more * (not succeeded))


def counted(rollouts: Iterable[Rollout]) -> Counts:
    outcomes = [rollout.outcome for rollout in rollouts]
    return Counts(outcomes.count("success"), outcomes.count("failure"), outcomes.count("censored"))


def by_first_token(rollouts: Iterable[Rollout]) -> tuple[Alternative, ...]:
    """Most rollouts first, then by token. A rollout that was cut off before its first token took no alternative."""
    groups: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.tokens:
            groups[rollout.tokens[0]].append(rollout)
    alternatives = [Alternative(token, counted(group)) for token, group in groups.items()]
    return tuple(sorted(alternatives, key=lambda one: (-one.counts.n, one.token)))


def token_effect(
    contrast: Contrast,
    *,
    position: int,
    token: int,
    probability: float | None,
    alternatives: Sequence[Alternative],
    confidence: float,
    p: float | None,
) -> TokenEffect:
    return TokenEffect(
        position=position,
        token=token,
        probability=probability,
        effect=contrast.interval(confidence),
        after=contrast.success_after(confidence),
        otherwise=wilson(contrast.otherwise, confidence),
        p_value=p,
        after_counts=contrast.after,
        known_after=contrast.known,
        stay_after=1 - contrast.weight,
        otherwise_counts=contrast.otherwise,
        alternatives=tuple(alternatives),
    )
