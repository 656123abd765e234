"""Results of one search of one answer: token effects with intervals and p values, the success curve, and the cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcomes of rollouts. Censored ones are neither: the share of successes lies within `bounds`."""

    successes: int = 0
    failures: int = 0
    censored: int = 0

    @property
    def n(self) -> int:
        return self.successes + self.failures + self.censored

    @property
    def bounds(self) -> tuple[float, float]:
        """Share of successes if every censored rollout had failed, and if every one had succeeded."""
        if not self.n:
            return 0.0, 1.0
        return self.successes / self.n, (self.successes + self.censored) / self.n

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.successes + other.successes, self.failures + other.failures, self.censored + other.censored)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Rollouts that took `token` in place of the trace's."""

    token: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Band:
    """An estimate and its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEffect:
    """The change of the success probability by one token, D_i = p_i - p_{i-1}."""

    position: int
    """The token is tokens[position]; p_{i-1} is the success probability at `position`, p_i at `position` + 1."""
    token: int
    probability: float | None
    effect: Band
    """D_i."""
    after: Band
    """p_i."""
    otherwise: Band
    """a_i, with another token in this place; where probabilities are unknown, p_{i-1}."""
    p_value: float | None
    """p value of |D_i| <= null_effect, from fresh rollouts only; None for a claim that was not confirmed."""
    after_counts: Counts
    """Rollouts behind `after`. Those of a forced divergence behind this token estimate the part of p_i that is not
    known: p_i = known_after + (1 - stay_after) * their share of successes."""
    known_after: float
    """Probability of the rest of the trace, times its outcome; 0 where plain rollouts were used."""
    stay_after: float
    """Probability of the rest of the trace; 0 where plain rollouts were used."""
    otherwise_counts: Counts
    alternatives: tuple[Alternative, ...]
    """By token, most rollouts first; fresh rollouts only, if the token was confirmed."""


@dataclass(frozen=True, slots=True)
class PrefixSuccess:
    """p at one position of the trace."""

    position: int
    success: Band


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """The cost of a search. Tokens are generated ones; the prompt and the shared prefix are not among them."""

    search_rollouts: int = 0
    search_tokens: int = 0
    confirm_rollouts: int = 0
    confirm_tokens: int = 0
    saved_rollouts: int = 0
    """Asked for and not generated: the memo had them, or a rollout from a shorter prefix passed there."""
    saved_tokens: int = 0
    censored: int = 0
    """Rollouts that were cut off, saved ones not counted."""

    @property
    def rollouts(self) -> int:
        return self.search_rollouts + self.confirm_rollouts

    @property
    def tokens(self) -> int:
        return self.search_tokens + self.confirm_tokens


@dataclass(frozen=True, slots=True)
class MartingaleCheck:
    """Sum of squared changes along the trace, against what a martingale allows: E[sum D_i^2] = p_0 (1 - p_0).

    One trace scatters widely; average over many (`martingale.combined`). A mean above the bound is noise reported as
    effects.
    """

    squared_changes: float
    """Sum of the squared estimated changes, the estimates' own variance subtracted: unbiased, so it may be negative."""
    noise: float
    """That variance."""
    bound: float
    """p_0 (1 - p_0), estimated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The result of one method on one trace. `discovery.discoveries` decides over all questions which effects stand."""

    method: str
    selected: tuple[int, ...]
    """Positions that the search chose; tokens there were confirmed, if the settings ask for it."""
    tokens: tuple[TokenEffect, ...]
    """Estimated effects, by position: of the selected tokens, fresh if confirmed."""
    curve: tuple[PrefixSuccess, ...]
    """By position, the ends of the trace included; from search rollouts, so for the eye and not for a claim."""
    spent: Spent
    martingale: MartingaleCheck | None
    """None where too few changes were estimated."""
    notes: tuple[str, ...] = ()
    """Departures from the method as named: unknown probabilities, a budget that ran out. Each a sentence."""
