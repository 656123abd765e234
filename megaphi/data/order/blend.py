"""Blending: the source of sample n, and the number of earlier samples from that source, as pure functions of n.

`Blend(weights)` answers from one of two forms. A table holds a Pfair schedule: every prefix of the run is within one
sample of its exact share, for any number of sources. When the weights, read as the decimals they were written as, have
a common denominator D of at most 2^20, one period of D samples repeats for ever; with other weights it holds a run of
at most 2^20 samples. For longer runs of such weights a binary tree splits counts exactly from the root to the sources;
it knows the total, hits it exactly, and computes its own bound, which is below 2.5 samples. A table's answer does not
depend on the length of the run, so such a run can be extended.

Shares, quotas, the shape of the tree and its bound are exact fractions, worked out here; the schedule and every lookup
are compiled from csrc/index/blend.h.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.compiled.module import compiled
from megaphi.compiled.numbers import whole_numbers
from megaphi.errors import InputError

LARGEST_TABLE = 1 << 20
"""Samples; a table of this size takes a twentieth of a second to make and 8 MB."""
FARTHEST_DEADLINE = 1 << 40
"""Later deadlines are clamped to this one, far beyond any table, so that they fit in 64 bits for the lightest
source.
"""
ENDLESS = 1 << 48
"""The horizon of a tree when no total is given: more samples than any run, so every run is a prefix of it."""


class Placement(NamedTuple):
    """Origin of each of B samples: index of the source, and number of earlier samples from it."""

    source_B: NDArray[np.int64]
    rank_B: NDArray[np.int64]


class Blend:
    """Sample number -> (source, rank within the source), proportional to `weights` (positive, in any unit).

    `prefix_bound`: |counts(n)[i] - n share_i| never exceeds it (a table: stays below it) for any n and any source i,
    where share_i = weights[i] / sum(weights) exactly. `total_samples`: the length of the run, which decides the form
    for weights without a small common denominator, and the totals of the tree (largest remainder). `horizon`: the total
    that placements depend on, None for a table.
    """

    def __init__(self, weights: Sequence[float], *, total_samples: int | None = None) -> None:
        self.shares = exact_shares(weights)
        if total_samples is not None and not 1 <= total_samples <= ENDLESS:
            raise InputError(f"a blend is for 1 .. 2^48 samples, not {total_samples}")
        self.period = math.lcm(*(share.denominator for share in self.shares))
        self.horizon: int | None = None
        self.prefix_bound = 1.0
        if self.period <= LARGEST_TABLE:
            self.compiled = _table(self.shares, self.period, repeats=True)
        elif total_samples is not None and total_samples <= LARGEST_TABLE:
            self.compiled = _table(self.shares, total_samples, repeats=False)
        else:
            self.horizon = total_samples or ENDLESS
            self.compiled, self.prefix_bound = _count_tree(self.shares, self.horizon)

    def locate(self, sample_numbers: ArrayLike) -> Placement:
        """Source and rank of each sample number (any order, repeats allowed), in O(1) or O(log sources) each."""
        with self.explained():
            return Placement(*self.compiled.locate(whole_numbers(sample_numbers)))

    def counts(self, samples: int) -> NDArray[np.int64]:
        """Samples of each source among the first `samples`: int64 per source, summing to `samples`."""
        if not 0 <= samples <= self.compiled.limit:
            raise InputError(f"this blend has {self.compiled.limit} samples, {samples} were asked for")
        return np.array(self.compiled.counts(samples), dtype=np.int64)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say why a number is outside the blend."""
        try:
            yield
        except IndexError as error:
            raise InputError(
                f"{error} (weights with a common denominator above 2^20 fix the length of the run: round them to 5"
                " decimals)"
            ) from error


def exact_shares(weights: Sequence[float]) -> tuple[Fraction, ...]:
    """The weights as exact fractions of their sum, each read as the shortest decimal that spells it (0.1 is 1/10)."""
    for index, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"weight {index} of the mixture is {weight}: every weight must be a positive number")
    if not weights:
        raise InputError("a mixture needs at least one source with a weight")
    decimals = [Fraction(str(weight)) for weight in weights]
    whole = sum(decimals)
    return tuple(decimal / whole for decimal in decimals)


def largest_remainder(shares: Sequence[Fraction], total: int) -> list[int]:
    """Whole quotas that sum to `total`: the floors, and one more for the largest remainders (ties: lower index)."""
    quotas = [math.floor(share * total) for share in shares]
    remainders = [quota - share * total for quota, share in zip(quotas, shares, strict=True)]
    for index in sorted(range(len(shares)), key=remainders.__getitem__)[: total - sum(quotas)]:
        quotas[index] += 1
    return quotas


def _table(shares: Sequence[Fraction], slots: int, *, repeats: bool) -> Any:
    """The first D slots of a Pfair schedule (Baruah, Cohen, Plaxton, Varvel 1996), for ever or once.

    The j-th sample of source i may take the slots from floor(j / share_i) to ceil((j + 1) / share_i) - 1, which is
    exactly what |count - n share_i| < 1 at every prefix n demands; serving the earliest deadline among the samples that
    may run (ties: lower source) always succeeds. If all D share_i are whole, the schedule repeats after D samples:
    sample n = q D + t has the rank q D share_i + (rank of slot t).
    """
    return compiled().Blend.table([_inverse(share) for share in shares], slots, repeats)


def _inverse(share: Fraction) -> tuple[int, bytes, bytes]:
    """1 / share as a whole number and a proper fraction, whose two parts are words of any number of bytes."""
    whole, remainder = divmod(share.denominator, share.numerator)
    length = -(-share.numerator.bit_length() // 64) * 8
    fraction = remainder.to_bytes(length, "little"), share.numerator.to_bytes(length, "little")
    return min(whole, FARTHEST_DEADLINE), *fraction


def _count_tree(shares: Sequence[Fraction], total: int) -> tuple[Any, float]:
    """A binary tree whose nodes split their samples between two children, exactly and without a table.

    A node of T samples, T_l of them for its left child, keeps the 64-bit fraction P = round(2^64 T_l / T): of its
    first m samples, left(m) = floor((P m + 2^63) / 2^64) go left. left(T) = T_l, so the totals, which are the
    largest-remainder quotas, come out exactly. Sample m goes left if left(m + 1) > left(m), and keeps left(m) as its
    number there.

    The error of a child is at most its share of its parent's error plus 1/2 (and T 2^-65 for the rounding of P). The
    tree is Huffman's, light sources deep, so an inner node holds at most 2/3 of its parent and the sum stays below 3/2.
    The quotas themselves are less than one sample off the exact shares, which makes 5/2.

    Returns the tree and that bound.
    """
    quotas = largest_remainder(shares, total)
    root, nodes = _huffman(quotas)
    splits = [(node.left, node.right, ((node.left_quota << 65) // node.quota + 1) >> 1) for node in nodes]
    errors = _leaf_errors(root, nodes, sources=len(shares))
    ends = [abs(quota - share * total) for quota, share in zip(quotas, shares, strict=True)]
    worst = max(error + end for error, end in zip(errors, ends, strict=True))
    return compiled().Blend.tree(root, splits, len(shares), total), math.nextafter(float(worst), math.inf)


class _Node(NamedTuple):
    """Children are indices of nodes, or ~source for a leaf; quotas count samples of the whole run."""

    left: int
    right: int
    left_quota: int
    quota: int


def _huffman(quotas: list[int]) -> tuple[int, list[_Node]]:
    """Join the two lightest trees until one is left: (root, nodes). Sources without a sample are not in it."""
    nodes: list[_Node] = []
    trees = [(quota, source, ~source) for source, quota in enumerate(quotas) if quota]
    heapq.heapify(trees)
    while len(trees) > 1:
        (light, _, left), (heavy, _, right) = heapq.heappop(trees), heapq.heappop(trees)
        nodes.append(_Node(left, right, light, light + heavy))
        heapq.heappush(trees, (light + heavy, len(quotas) + len(nodes), len(nodes) - 1))
    return trees[0][2], nodes


def _leaf_errors(root: int, nodes: list[_Node], *, sources: int) -> list[Fraction]:
    """Largest |count of a source among the first n - n quota / total| over all n, bounded for every source."""
    errors = [Fraction(0)] * sources
    waiting = [(root, Fraction(0))]
    while waiting:
        index, error = waiting.pop()
        if index < 0:
            errors[~index] = error
            continue
        node = nodes[index]
        rounding = Fraction(1, 2) + Fraction(node.quota, 1 << 65)
        for child, quota in ((node.left, node.left_quota), (node.right, node.quota - node.left_quota)):
            waiting.append((child, error * quota / node.quota + rounding))
    return errors
