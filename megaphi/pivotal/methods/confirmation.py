"""Confirmation of the tokens that a search selected, with fresh rollouts only.

With probabilities, p_i needs no plain rollouts: it is y S + (1 - S) q, and q is sampled by leaving the trace behind i
at a place drawn from its exact law, so the tokens before that place are not generated again and the known y is used.
Two stages: after the first, tokens that no longer look like half of the gap are dropped with p = 1. Stopping for
futility keeps every p value valid (it can only grow); stopping early for success would not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from megaphi.pivotal.methods.blocks import leaving_law
from megaphi.pivotal.methods.expenses import Expenses
from megaphi.pivotal.methods.findings import TokenEffect
from megaphi.pivotal.methods.rollout import Draw, Rollout
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.statistics.effects import Contrast, by_first_token, counted, token_effect
from megaphi.pivotal.methods.trace import Trace

FIRST_STAGE = 3
"""The first stage draws one in so many of the rollouts."""
FUTILE = 0.5
"""A first-stage estimate below this share of the gap ends the confirmation of a token."""

Key = tuple[int, int | None]
"""Position and excluded token of a draw."""


@dataclass(slots=True)
class _Candidate:
    """One selected token: what its two samples draw, in order."""

    position: int
    rises: bool
    scale: float
    known: float
    weight: float
    after: list[Key]
    otherwise: Key
    share: float
    """Share of the rollouts of both sides that are drawn after the token."""
    taken: dict[Key, int] = field(default_factory=dict)

    def contrast(self, rollouts: int, sampled: Mapping[Key, Sequence[Rollout]]) -> Contrast:
        """From the first `rollouts` on both sides together."""
        after, otherwise = self.sizes(rollouts)
        taken: Counter[Key] = Counter()
        outcomes: list[Rollout] = []
        for key in self.after[:after]:
            outcomes.append(sampled[key][taken[key]])
            taken[key] += 1
        return Contrast(
            scale=self.scale,
            known=self.known,
            weight=self.weight,
            after=counted(outcomes),
            otherwise=counted(sampled[self.otherwise][:otherwise]),
        )

    def sizes(self, rollouts: int) -> tuple[int, int]:
        after = round(self.share * rollouts) if self.weight else 0
        return min(after, len(self.after)), rollouts - after if self.weight else (rollouts + 1) // 2

    def needs(self, rollouts: int) -> Counter[Key]:
        after, otherwise = self.sizes(rollouts)
        return Counter(self.after[:after]) + Counter({self.otherwise: otherwise})


def confirmed(
    trace: Trace,
    settings: Settings,
    selected: Mapping[int, float],
    expenses: Expenses,
    random: np.random.Generator,
    shares: Mapping[int, float] | None = None,
) -> Generator[list[Draw], list[list[Rollout]], list[TokenEffect]]:
    """Effects of `selected` (position to the search's estimate, whose sign is the direction tested).

    A token with 1 - pi_i < gap is not drawn for: |D_i| <= 1 - pi_i refutes the claim.

    Args:
        shares: for each position the share of rollouts on the side after the token; a half where it is not given.
    """
    make = _forced if trace.has_probabilities else _plain
    total = 2 * settings.confirm
    candidates = [
        make(trace, position, change > 0, total, (shares or {}).get(position, 0.5), random)
        for position, change in sorted(selected.items())
        if not trace.has_probabilities or 1 - trace.probabilities[position] >= settings.gap
    ]
    if not candidates:
        return []
    first = max(2, total // FIRST_STAGE)
    sampled = yield from _sampled(candidates, first, expenses)
    effects, promising = {}, []
    for candidate in candidates:
        contrast = candidate.contrast(first, sampled)
        signed = contrast.interval(settings.confidence).estimate * (1 if candidate.rises else -1)
        if signed >= FUTILE * settings.gap:
            promising.append(candidate)
        else:
            effects[candidate.position] = _effect(trace, settings, candidate, contrast, sampled, p=1.0)
    if promising:
        sampled = yield from _sampled(promising, total, expenses)
    for candidate in promising:
        contrast = candidate.contrast(total, sampled)
        p = contrast.p_value(null_effect=settings.null_effect, rises=candidate.rises)
        effects[candidate.position] = _effect(trace, settings, candidate, contrast, sampled, p=p)
    return [effects[position] for position in sorted(effects)]


def _forced(
    trace: Trace, position: int, rises: bool, total: int, share: float, random: np.random.Generator
) -> _Candidate:
    stay, places, law = leaving_law(trace, position + 1)
    drawn = random.choice(places, size=total, p=law) if places.size else places
    return _Candidate(
        position=position,
        rises=rises,
        scale=1 - trace.probabilities[position],
        known=stay * trace.success,
        weight=1 - stay if places.size else 0.0,
        after=[(int(place), trace.tokens[place]) for place in drawn],
        otherwise=(position, trace.tokens[position]),
        share=share,
    )


def _plain(
    trace: Trace, position: int, rises: bool, total: int, share: float, random: np.random.Generator
) -> _Candidate:
    is_last = position + 1 == len(trace.tokens)
    return _Candidate(
        position=position,
        rises=rises,
        scale=1.0,
        known=float(trace.success) if is_last else 0.0,
        weight=0.0 if is_last else 1.0,
        after=[] if is_last else [(position + 1, None)] * total,
        otherwise=(position, None),
        share=share,
    )


def _sampled(
    candidates: Sequence[_Candidate], rollouts: int, expenses: Expenses
) -> Generator[list[Draw], list[list[Rollout]], dict[Key, list[Rollout]]]:
    """The rollouts that the candidates need; what several of them need is drawn once."""
    counts: dict[Key, int] = defaultdict(int)
    for candidate in candidates:
        for key, count in candidate.needs(rollouts).items():
            counts[key] = max(counts[key], count)
    draws = [
        Draw(position=position, count=count, excluded=excluded, purpose="confirm")
        for (position, excluded), count in counts.items()
        if count
    ]
    answers = yield draws
    expenses.received(draws, answers)
    return {(draw.position, draw.excluded): rollouts for draw, rollouts in zip(draws, answers, strict=True)}


def _effect(
    trace: Trace,
    settings: Settings,
    candidate: _Candidate,
    contrast: Contrast,
    sampled: Mapping[Key, Sequence[Rollout]],
    *,
    p: float,
) -> TokenEffect:
    token = trace.tokens[candidate.position]
    rollouts = sampled[candidate.otherwise][: contrast.otherwise.n]
    return token_effect(
        contrast,
        position=candidate.position,
        token=token,
        probability=trace.probabilities[candidate.position] if trace.has_probabilities else None,
        alternatives=[one for one in by_first_token(rollouts) if one.token != token],
        confidence=settings.confidence,
        p=p,
    )
