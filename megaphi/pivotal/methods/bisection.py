"""The paper's search: halve a segment of the answer as long as the success probability changes over it by the gap.

A segment is split where its cumulative log-probability has its midpoint, at half its length where probabilities are
unknown. p at a position is the share of successes of plain rollouts, asked for once; p at the end is the known outcome.
All segments of one depth are asked for at once. Two limits are the method's own: opposite changes within a segment
cancel and are never looked at, and a change seen in few rollouts may be noise (docs/pivotal.md has the rates).
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Generator, Sequence

import numpy as np

from megaphi.pivotal.methods.confirmation import confirmed
from megaphi.pivotal.methods.expenses import Expenses
from megaphi.pivotal.methods.findings import Band, Counts, Findings, MartingaleCheck, PrefixSuccess, TokenEffect
from megaphi.pivotal.methods.method import Search
from megaphi.pivotal.methods.rollout import Draw, Rollout
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.statistics import martingale
from megaphi.pivotal.methods.statistics.effects import Contrast, by_first_token, counted, token_effect
from megaphi.pivotal.methods.statistics.intervals import middle, wilson
from megaphi.pivotal.methods.trace import Trace

Segment = tuple[int, int]
"""Tokens between two positions."""


def bisection(trace: Trace, settings: Settings) -> Search:
    """As the paper describes it; `confirm=0` keeps its own claims, and it pays for nothing more."""
    return (yield from _bisection(trace, settings, "bisection", least_reach=0.0))


def bounded_bisection(trace: Trace, settings: Settings) -> Search:
    """Bisection that leaves out segments which cannot change p by the gap: |p_r - p_l| <= 1 - prod pi."""
    return (yield from _bisection(trace, settings, "bounded_bisection", least_reach=settings.gap))


def _bisection(trace: Trace, settings: Settings, name: str, *, least_reach: float) -> Search:
    surprise = cumulative_surprise(trace)
    plain = PlainSamples(trace, settings.rollouts)
    length = len(trace.tokens)
    pending: list[Segment] = [(0, length)]
    leaves: list[Segment] = []
    selected: dict[int, float] = {}
    while pending:
        if trace.has_probabilities and least_reach:
            within = [one for one in pending if 1 - np.exp(surprise[one[0]] - surprise[one[1]]) >= least_reach - 1e-12]
            leaves += [one for one in pending if one not in within]
            pending = within
        yield from plain.drawn({position for segment in pending for position in segment})
        split: list[Segment] = []
        for left, right in pending:
            change = plain.success(right) - plain.success(left)
            if abs(change) < settings.gap or right - left == 1:
                leaves.append((left, right))
                if abs(change) >= settings.gap:
                    selected[left] = change
            else:
                middle_position = split_position(surprise, left, right)
                split += [(left, middle_position), (middle_position, right)]
        pending = split
    return (yield from plain.findings(name, settings, selected, leaves))


def cumulative_surprise(trace: Trace) -> list[float]:
    """-log S(t_1..t_i | Q) at every position; the position itself where probabilities are unknown."""
    if not trace.has_probabilities:
        return [float(position) for position in range(len(trace.tokens) + 1)]
    return np.concatenate(([0.0], np.cumsum(-np.log(trace.probabilities)))).tolist()


def split_position(surprise: Sequence[float], left: int, right: int) -> int:
    """The position strictly between whose cumulative surprise is the first to reach the segment's midpoint.

    A segment without any surprise is split at half its length.
    """
    total = surprise[right] - surprise[left]
    if total <= 0:
        return (left + right) // 2
    reached = bisect_left(surprise, surprise[left] + total / 2, left + 1, right)
    return min(max(reached, left + 1), right - 1)


class PlainSamples:
    """Plain rollouts by position, each position asked for once: the memo of every search without forced divergence."""

    def __init__(self, trace: Trace, rollouts: int) -> None:
        self.trace, self.expenses, self.rollouts = trace, Expenses(), rollouts
        self.sampled: dict[int, list[Rollout]] = {}
        self._counts: dict[int, Counts] = {}

    def drawn(self, positions: set[int], count: int | None = None) -> Generator[list[Draw], list[list[Rollout]], None]:
        """Ask for what is missing; the end of the trace needs none."""
        count = count or self.rollouts
        draws = []
        for position in sorted(positions - {len(self.trace.tokens)}):
            have = self.sampled.get(position, [])
            if len(have) >= count:
                self.expenses.saved(count, sum(len(rollout.tokens) for rollout in have[:count]))
            else:
                draws.append(Draw(position=position, count=count, purpose="search"))
        if draws:
            answers = yield draws
            self.expenses.received(draws, answers)
            for draw, rollouts in zip(draws, answers, strict=True):
                self.sampled[draw.position] = list(rollouts)
                self._counts[draw.position] = counted(rollouts)

    def counts(self, position: int) -> Counts:
        return self._counts[position]

    def success(self, position: int) -> float:
        return float(self.trace.success) if position == len(self.trace.tokens) else middle(self.counts(position))

    def variance(self, position: int) -> float:
        """Unbiased variance of `success`."""
        if position == len(self.trace.tokens):
            return 0.0
        n, share = len(self.sampled[position]), self.success(position)
        return share * (1 - share) / (n - 1) if n > 1 else 0.25

    def contrast(self, position: int) -> Contrast:
        """The two samples before and after the token at `position`."""
        is_last = position + 1 == len(self.trace.tokens)
        return Contrast(
            scale=1.0,
            known=float(self.trace.success) if is_last else 0.0,
            weight=0.0 if is_last else 1.0,
            after=Counts() if is_last else self.counts(position + 1),
            otherwise=self.counts(position),
        )

    def effect(self, position: int, settings: Settings, p: float | None = None) -> TokenEffect:
        token = self.trace.tokens[position]
        return token_effect(
            self.contrast(position),
            position=position,
            token=token,
            probability=self.trace.probabilities[position] if self.trace.has_probabilities else None,
            alternatives=[one for one in by_first_token(self.sampled[position]) if one.token != token],
            confidence=settings.confidence,
            p=p,
        )

    def findings(
        self, name: str, settings: Settings, selected: dict[int, float], segments: Sequence[Segment]
    ) -> Search:
        """Fresh confirmation if the settings ask for it, else the search's own estimates without p values."""
        random = np.random.default_rng(
            (settings.seed, zlib.crc32(repr((self.trace.prompt, self.trace.tokens)).encode()))
        )
        if settings.confirm and selected:
            tokens = yield from confirmed(self.trace, settings, selected, self.expenses, random)
        else:
            tokens = [self.effect(position, settings) for position in sorted(selected)]
        notes = () if self.trace.has_probabilities else (UNKNOWN,)
        return Findings(
            method=name,
            selected=tuple(sorted(selected)),
            tokens=tuple(tokens),
            curve=self.curve(settings.confidence),
            spent=self.expenses.spent(),
            martingale=self.martingale(segments),
            notes=notes,
        )

    def curve(self, confidence: float) -> tuple[PrefixSuccess, ...]:
        outcome = float(self.trace.success)
        points = [PrefixSuccess(at, wilson(self.counts(at), confidence)) for at in sorted(self.sampled)]
        return (*points, PrefixSuccess(len(self.trace.tokens), Band(outcome, outcome, outcome)))

    def martingale(self, segments: Sequence[Segment]) -> MartingaleCheck | None:
        """Over segments that together make up the trace."""
        if not segments or any(
            end not in self.sampled and end != len(self.trace.tokens) for one in segments for end in one
        ):
            return None
        changes = [self.success(right) - self.success(left) for left, right in segments]
        variances = [self.variance(right) + self.variance(left) for left, right in segments]
        first = min(left for left, _ in segments)
        return martingale.check(
            changes, variances, beginning=self.success(first), beginning_variance=self.variance(first)
        )


UNKNOWN = "probabilities are unknown: segments were split at half their length, and effects compare plain rollouts"
