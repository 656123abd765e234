"""The backward estimator: forced divergence in every block, recursion from the known outcome, fresh confirmation.

1. Blocks from the probabilities of one teacher-forced pass (`blocks`).
2. A few rollouts that leave each block; then rounds that go where they lower the variance of undecided tokens most per
   generated token. While searching, shares are shrunk towards "nothing changes" (a = p).
3. Tokens that look pivotal are confirmed by rollouts that the search never saw (`confirmation`).

Unknown probabilities are no business of this method: `bisection` needs none.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError
from megaphi.pivotal.methods.blocks import Estimates, Floats, TraceBlock, allocation, blocks_of, estimate, leaving_law
from megaphi.pivotal.methods.confirmation import confirmed
from megaphi.pivotal.methods.expenses import Expenses
from megaphi.pivotal.methods.findings import Band, Findings, MartingaleCheck, PrefixSuccess, TokenEffect
from megaphi.pivotal.methods.method import Search
from megaphi.pivotal.methods.rollout import Draw, Rollout
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.statistics import martingale
from megaphi.pivotal.methods.trace import Trace

FIRST_ROLLOUTS = 4
"""Rollouts of a block that is always left; others get this times the probability of leaving them, two at least."""
LEAST_LEAVE = 0.1
"""A block that is left more rarely is not sampled at first, and cannot change p by more than this."""
PRIOR = 1.0
"""Weight of the guess that leaving changes nothing, in rollouts."""
PIVOTAL_TOKENS = 4.0
"""Expected pivotal tokens of a trace: E[sum D^2] = p_0 (1 - p_0), so there are at most 6 at a gap of 0.2."""
NULL_SPREAD = 0.25
"""Standard deviation of the changes of all other tokens, as a share of the gap."""
LIKELY = 0.5
"""A token with this probability to be pivotal is searched no further: confirmation tells."""
SELECTED = 0.2
"""Probability of being pivotal at which a token is worth confirming when the search ends."""
LEAST_SHARE = 0.25
"""Least share of the rollouts of a confirmation for each side; what is known of p after the token needs none."""


def backward(trace: Trace, settings: Settings) -> Search:
    """The search of one trace; raises InputError where its probabilities are unknown."""
    if not trace.has_probabilities:
        raise InputError("the backward estimator needs the probability of every token of the trace: use bisection")
    random = np.random.default_rng((settings.seed, zlib.crc32(repr((trace.prompt, trace.tokens)).encode())))
    blocks, expenses = blocks_of(trace, gap=settings.gap), Expenses()
    sample = _Sample(trace, blocks, random)
    stay_K = np.array([block.stay for block in blocks])
    candidate_K = np.array([block.is_candidate for block in blocks], dtype=bool)
    notes: list[str] = []
    if settings.prompt_rollouts:
        draws = [Draw(position=0, count=settings.prompt_rollouts, purpose="search")]
        answers = yield draws
        expenses.received(draws, answers)
        sample.plain(answers[0])
    wanted_K, check = _first_rollouts(blocks), None
    while True:
        if wanted_K.any():
            draws = sample.draws(wanted_K)
            answers = yield draws
            expenses.received(draws, answers)
            sample.forced(draws, answers)
        check = _martingale(stay_K, sample, trace) if check is None else check
        estimates = estimate(stay_K, sample.successes_K, sample.n_K, outcome=trace.success, prior=PRIOR)
        pivotal_K = _pivotal(estimates, 1 - stay_K, settings.gap)
        undecided_K = candidate_K & (pivotal_K > settings.doubt) & (pivotal_K < LIKELY)
        left = settings.most_rollouts - int(sample.drawn_K.sum())
        if not undecided_K.any() or left <= 0:
            break
        spread_K = estimates.otherwise_variance_K * (sample.n_K + PRIOR / 2 + 1)
        rollouts = min(settings.round_rollouts, left)
        wanted_K = allocation(stay_K, spread_K, sample.n_K, sample.costs, undecided_K, rollouts)
        if not wanted_K.any():
            wanted_K[np.argmax(undecided_K)] = 1
    if undecided_K.any():
        notes.append(
            f"{int(undecided_K.sum())} tokens were undecided when most_rollouts={settings.most_rollouts} was reached"
        )
    selected = {
        blocks[k].positions[0]: float(estimates.change_K[k])
        for k in np.flatnonzero(candidate_K & (pivotal_K >= SELECTED)).tolist()
    }
    tokens: list[TokenEffect] = []
    if settings.confirm and selected:
        shares = {position: _share_after(trace, blocks, estimates, position) for position in selected}
        tokens = yield from confirmed(trace, settings, selected, expenses, random, shares)
    return Findings(
        method="backward",
        selected=tuple(sorted(selected)),
        tokens=tuple(tokens),
        curve=_curve(blocks, estimates, len(trace.tokens)),
        spent=expenses.spent(),
        martingale=check,
        notes=tuple(notes),
    )


class _Sample:
    """The search rollouts of every block: how many, their successes, and what they cost."""

    def __init__(self, trace: Trace, blocks: Sequence[TraceBlock], random: np.random.Generator) -> None:
        self._trace, self._blocks, self._random = trace, blocks, random
        self._block_of = {position: k for k, block in enumerate(blocks) for position in block.positions}
        self._asked: dict[int, int] = {}
        count = len(blocks)
        self.successes_K, self.n_K, self._tokens_K = np.zeros(count), np.zeros(count), np.zeros(count)
        self.drawn_K = np.zeros(count, dtype=np.int64)
        """Without those of the prompt, which are not this search's to pay for."""

    @property
    def costs(self) -> Floats:
        """Mean tokens of a rollout that leaves each block; the rest of the trace counts as one rollout."""
        rest_K = np.array([len(self._trace.tokens) - block.positions[0] for block in self._blocks], dtype=float)
        return (self._tokens_K + rest_K) / (self.n_K + 1)

    def draws(self, wanted_K: NDArray[np.int64]) -> list[Draw]:
        """Forced divergences, each at a place drawn from the law of its block."""
        added: dict[int, int] = {}
        for k in np.flatnonzero(wanted_K).tolist():
            block = self._blocks[k]
            places = self._random.choice(block.positions, size=int(wanted_K[k]), p=block.law)
            for place, count in zip(*np.unique(places, return_counts=True), strict=True):
                added[int(place)] = added.get(int(place), 0) + int(count)
        self.drawn_K += wanted_K
        return [
            Draw(
                position=place,
                count=self._asked.get(place, 0) + count,
                excluded=self._trace.tokens[place],
                purpose="search",
            )
            for place, count in added.items()
        ]

    def forced(self, draws: Sequence[Draw], answers: Sequence[Sequence[Rollout]]) -> None:
        for draw, rollouts in zip(draws, answers, strict=True):
            known = self._asked.get(draw.position, 0)
            self._asked[draw.position] = draw.count
            for rollout in rollouts[known:]:
                self._add(self._block_of[draw.position], rollout, len(rollout.tokens))

    def plain(self, rollouts: Sequence[Rollout]) -> None:
        """Each left the trace somewhere: given where, it is a fair sample of a there."""
        for rollout in rollouts:
            both = enumerate(zip(rollout.tokens, self._trace.tokens, strict=False))
            place = next((i for i, (ours, theirs) in both if ours != theirs), None)
            if place in self._block_of:
                self._add(self._block_of[place], rollout, len(rollout.tokens) - place)

    def _add(self, k: int, rollout: Rollout, tokens: int) -> None:
        """A censored rollout is half of each: the search only chooses, and confirmation bounds it."""
        self.n_K[k] += 1
        self.successes_K[k] += {"success": 1.0, "failure": 0.0, "censored": 0.5}[rollout.outcome]
        self._tokens_K[k] += tokens


def _first_rollouts(blocks: Sequence[TraceBlock]) -> NDArray[np.int64]:
    return np.array(
        [max(2, round(FIRST_ROLLOUTS * block.leave)) if block.leave >= LEAST_LEAVE else 0 for block in blocks],
        dtype=np.int64,
    )


def _pivotal(estimates: Estimates, leave_K: Floats, gap: float) -> Floats:
    """Probability that each change is at least the gap, given its estimate.

    Two kinds of tokens: `PIVOTAL_TOKENS` of all are pivotal, with changes spread evenly from the gap to 1 - pi, up and
    down; the others change by about NULL_SPREAD of the gap, normally distributed. Estimates have normal errors.
    """
    share = min(0.2, PIVOTAL_TOKENS / max(len(leave_K), 1))
    variance_K = np.maximum(estimates.change_variance_K, 1e-6)
    null_K = _density(estimates.change_K, variance_K + (NULL_SPREAD * gap) ** 2)
    sizes_KP = gap + (np.maximum(leave_K, gap) - gap)[:, None] * (np.arange(8) + 0.5) / 8
    change_K1, variance_K1 = estimates.change_K[:, None], variance_K[:, None]
    pivotal_K = (_density(change_K1 - sizes_KP, variance_K1) + _density(change_K1 + sizes_KP, variance_K1)).mean(1) / 2
    return share * pivotal_K / (share * pivotal_K + (1 - share) * null_K + 1e-300)


def _density(x: Floats, variance: Floats) -> Floats:
    return np.exp(-x * x / (2 * variance)) / np.sqrt(2 * math.pi * variance)


def _share_after(trace: Trace, blocks: Sequence[TraceBlock], estimates: Estimates, position: int) -> float:
    """Neyman's share of the side after the token, from the search: weight sqrt(q (1 - q)) against sqrt(a (1 - a))."""
    k = next(k for k, block in enumerate(blocks) if block.positions[0] == position)
    stay = leaving_law(trace, position + 1)[0]
    q = (estimates.success_K1[k + 1] - stay * trace.success) / (1 - stay) if stay < 1 else 0.5
    q, a = (min(max(share, 0.1), 0.9) for share in (q, estimates.otherwise_K[k]))
    after, otherwise = (1 - stay) * math.sqrt(q * (1 - q)), math.sqrt(a * (1 - a))
    return min(max(after / (after + otherwise), LEAST_SHARE * (1 - stay)), 1 - LEAST_SHARE)


def _curve(blocks: Sequence[TraceBlock], estimates: Estimates, length: int) -> tuple[PrefixSuccess, ...]:
    positions = [block.positions[0] for block in blocks] + [length]
    deviations = np.sqrt(estimates.success_variance_K1)
    curve = []
    for position, p, deviation in zip(positions, estimates.success_K1, deviations, strict=True):
        low, high = max(0.0, p - 1.96 * deviation), min(1.0, p + 1.96 * deviation)
        curve.append(PrefixSuccess(position, Band(float(p), float(low), float(high))))
    return tuple(curve) if positions[0] == 0 else (PrefixSuccess(0, curve[0].success), *curve)


def _martingale(stay_K: Floats, sample: _Sample, trace: Trace) -> MartingaleCheck:
    """From the first rollouts, whose numbers no outcome decided, without shrinkage.

    Blocks with fewer than two rollouts count as no change (LEAST_LEAVE).
    """
    enough_K = sample.n_K >= 2
    plain = estimate(
        np.where(enough_K, stay_K, 1.0),
        sample.successes_K,
        np.maximum(sample.n_K, 1),
        outcome=trace.success,
        prior=0.0,
        least_variance=False,
    )
    return martingale.check(
        plain.change_K.tolist(),
        plain.change_variance_K.tolist(),
        beginning=float(plain.success_K1[0]),
        beginning_variance=float(plain.success_variance_K1[0]),
    )
