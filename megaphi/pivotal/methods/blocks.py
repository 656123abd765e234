"""The partition of a trace into blocks, and the backward recursion over them.

A rollout from the beginning follows the trace for a while and leaves it once. Unrolled from the end,

    p_l = y prod_{i>l} pi_i + sum_{i>l} c_{l,i} a_i,    c_{l,i} = (1 - pi_i) prod_{l<j<i} pi_j,

so only the a_i, the success probabilities after leaving at i, are unknown. A token with pi_i > 1 - gap cannot change p
by gap (|D_i| <= 1 - pi_i): stretches of such tokens are merged into one block, whose place of leaving has an exact law.

Shapes: K blocks, in the order of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megaphi.pivotal.methods.trace import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TraceBlock:
    """Tokens that are left, if at all, at one of `positions`."""

    positions: tuple[int, ...]
    """Tokens with probability below 1; those between them are never left."""
    law: tuple[float, ...]
    """Probability of each position, given that the block is left."""
    stay: float
    """Probability of the whole block."""
    is_candidate: bool
    """One token that may be pivotal."""

    @property
    def leave(self) -> float:
        return 1 - self.stay


def blocks_of(trace: Trace, *, gap: float) -> list[TraceBlock]:
    """Every token with 1 - pi >= gap alone, each stretch between two of them merged; certain tokens are in none."""
    blocks: list[TraceBlock] = []
    stretch: list[int] = []
    for position, probability in enumerate(trace.probabilities):
        if 1 - probability >= gap:
            if stretch:
                blocks.append(_block(trace, stretch, is_candidate=False))
            blocks.append(_block(trace, [position], is_candidate=True))
            stretch = []
        elif probability < 1:
            stretch.append(position)
    return [*blocks, _block(trace, stretch, is_candidate=False)] if stretch else blocks


def _block(trace: Trace, positions: list[int], *, is_candidate: bool) -> TraceBlock:
    probabilities = np.array([trace.probabilities[position] for position in positions])
    stay_before = np.concatenate(([1.0], np.cumprod(probabilities)[:-1]))
    leave = stay_before * (1 - probabilities)
    return TraceBlock(tuple(positions), tuple(leave / leave.sum()), float(np.prod(probabilities)), is_candidate)


def leaving_law(trace: Trace, after: int) -> tuple[float, NDArray[np.int64], Floats]:
    """Probability S of the rest of the trace from `after` on; where it may be left, and the law of the place.

    p at `after` is y S + (1 - S) q, where q is the success probability of a rollout that leaves somewhere.
    """
    probabilities = np.array(trace.probabilities[after:])
    places = np.flatnonzero(probabilities < 1)
    leave = np.concatenate(([1.0], np.cumprod(probabilities)))[places] * (1 - probabilities[places])
    stay = float(np.prod(probabilities))
    return stay, places + after, leave / leave.sum() if places.size else leave


@dataclass(frozen=True, slots=True)
class Estimates:
    """One value for each block; p has one more, the outcome at the end."""

    otherwise_K: Floats
    """a_k."""
    otherwise_variance_K: Floats
    success_K1: Floats
    """p before each block, and at the end."""
    success_variance_K1: Floats
    change_K: Floats
    """D_k = (1 - stay_k) (p_{k+1} - a_k)."""
    change_variance_K: Floats
    """(1 - stay_k)^2 (Var p_{k+1} + Var a_k)."""


def estimate(
    stay_K: Floats, successes_K: Floats, n_K: Floats, *, outcome: float, prior: float, least_variance: bool = True
) -> Estimates:
    """Backward recursion from the known outcome.

    Args:
        prior: weight, in rollouts, of the guess a_k = p_{k+1} (most tokens change nothing). 0 gives the unbiased
            estimate, which needs a rollout in every block.
        least_variance: the variance of a share counts one more success and failure of half a rollout, so that three
            successes of three are not certain; without it, the unbiased s (n - s) / n^2 / (n - 1).
    """
    count = len(stay_K)
    leave_K = 1 - stay_K
    p, p_variance = np.empty(count + 1), np.zeros(count + 1)
    a, a_variance = np.empty(count), np.empty(count)
    p[count] = outcome
    for k in range(count - 1, -1, -1):
        s, n = successes_K[k], n_K[k]
        guess = min(max(p[k + 1], 0.02), 0.98)
        a[k] = (s + prior * guess) / (n + prior)
        if least_variance:
            soft = (s + prior * guess + 0.5) / (n + prior + 1)
            a_variance[k] = soft * (1 - soft) / (n + prior / 2 + 1)
        else:
            a_variance[k] = s * (n - s) / n**2 / (n - 1) if n > 1 else 0.25
        p[k] = stay_K[k] * p[k + 1] + leave_K[k] * a[k]
        p_variance[k] = stay_K[k] ** 2 * p_variance[k + 1] + leave_K[k] ** 2 * a_variance[k]
    change = leave_K * (p[1:] - a)
    return Estimates(a, a_variance, p, p_variance, change, leave_K**2 * (p_variance[1:] + a_variance))


def allocation(
    blocks_stay_K: Floats, spread_K: Floats, n_K: Floats, cost_K: Floats, wanted_K: NDArray[np.bool_], rollouts: int
) -> NDArray[np.int64]:
    """Rollouts to add to each block, about `rollouts` in all: least sum of Var D over the wanted blocks per token.

    Sum Var D = sum_j S_j a_j (1 - a_j) / n_j, with S_j = leave_j^2 ([j wanted] + sum_{wanted k < j} leave_k^2
    prod_{k<m<j} stay_m^2). Under a budget of generated tokens the optimum (Neyman) has n_j proportional to
    sqrt(S_j a_j (1 - a_j) / cost_j); what a block has beyond that is not taken back.

    Args:
        spread_K: a_j (1 - a_j).
    """
    leave_K = 1 - blocks_stay_K
    reach, weight_K = 0.0, np.empty(len(n_K))
    for j, stay in enumerate(blocks_stay_K):
        weight_K[j] = leave_K[j] ** 2 * (wanted_K[j] + reach)
        reach = reach * stay**2 + (leave_K[j] ** 2 if wanted_K[j] else 0.0)
    share_K = np.sqrt(weight_K * spread_K / cost_K)
    low, high = 0.0, (float(n_K.sum()) + rollouts) / max(float(share_K.max()), 1e-12)
    for _ in range(40):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(level * share_K - n_K, 0).sum() < rollouts else (low, level)
    return np.floor(np.maximum(high * share_K - n_K, 0) + 0.5).astype(np.int64)
