"""Which source does sample n come from, and how many of that source came before it? A pure function of n.

`Blend(weights)` answers from one of two forms. A table holds a Pfair schedule: every prefix of the run is within one
sample of its exact share, for any number of sources. When the weights, read as the decimals they were written as, have
a common denominator D of at most 2^20, one period of D samples repeats for ever; with other weights it holds a run of
at most 2^20 samples. For longer runs of such weights a binary tree splits counts exactly from the root to the sources;
it knows the total, hits it exactly, and computes its own bound, which is below 2.5 samples. What a table says of a
sample does not depend on the length of the run, so such a run can be extended.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.errors import InputError

LARGEST_TABLE = 1 << 20
"""Samples; a table of this size takes a second to make and 16 MB."""
FARTHEST_DEADLINE = 1 << 40
"""Later ones count as this one, far beyond any table, so that deadlines fit in 64 bits for the lightest source."""
ENDLESS = 1 << 48
"""The horizon of a tree when no total is given: more samples than any run, so every run is a prefix of it."""


class Placement(NamedTuple):
    """Where each of B samples comes from: the source's index, and how many samples of that source came before."""

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
        self._form: _Table | _CountTree
        if self.period <= LARGEST_TABLE:
            self._form = _Table(self.shares, self.period, repeats=True)
        elif total_samples is not None and total_samples <= LARGEST_TABLE:
            self._form = _Table(self.shares, total_samples, repeats=False)
        else:
            self._form = _CountTree(self.shares, total_samples or ENDLESS)
        self.horizon = self._form.limit if isinstance(self._form, _CountTree) else None
        self.prefix_bound: float = self._form.prefix_bound

    def locate(self, sample_numbers: ArrayLike) -> Placement:
        """Source and rank of each sample number (any order, repeats allowed), in O(1) or O(log sources) each."""
        numbers_B = np.asarray(sample_numbers, dtype=np.int64)
        limit = self._form.limit
        if numbers_B.size and (numbers_B.min() < 0 or numbers_B.max() >= limit):
            raise InputError(
                f"sample numbers {numbers_B.min()} .. {numbers_B.max()} are outside this blend of {limit} samples"
                " (weights with a common denominator above 2^20 fix the length of the run: round them to 5 decimals)"
            )
        return self._form.locate(numbers_B)

    def counts(self, samples: int) -> NDArray[np.int64]:
        """Samples of each source among the first `samples`: int64 per source, summing to `samples`."""
        if not 0 <= samples <= self._form.limit:
            raise InputError(f"this blend has {self._form.limit} samples, {samples} were asked for")
        return np.array(self._form.counts(samples), dtype=np.int64)


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


class _Table:
    """The first D slots of a Pfair schedule (Baruah, Cohen, Plaxton, Varvel 1996), for ever or once.

    The j-th sample of source i may take the slots from floor(j / share_i) to ceil((j + 1) / share_i) - 1, which is just
    what |count - n share_i| < 1 at every prefix n demands; serving the earliest deadline among the samples that may run
    (ties: lower source) always succeeds. If all D share_i are whole, the schedule repeats after D samples: sample
    n = q D + t has the rank q D share_i + (rank of slot t).
    """

    prefix_bound = 1.0

    def __init__(self, shares: Sequence[Fraction], slots: int, *, repeats: bool) -> None:
        self.limit = 1 << 62 if repeats else slots
        self._period = slots
        self._source_of_slot = _earliest_deadline_first(shares, slots)
        self._slots = [np.flatnonzero(self._source_of_slot == source) for source in range(len(shares))]
        self._counts = np.array([len(slots) for slots in self._slots], dtype=np.int64)
        self._rank_of_slot = np.empty(self._period, dtype=np.int64)
        for slots_of_source in self._slots:
            self._rank_of_slot[slots_of_source] = np.arange(len(slots_of_source))

    def locate(self, numbers_B: NDArray[np.int64]) -> Placement:
        periods_B, slots_B = np.divmod(numbers_B, self._period)
        source_B = self._source_of_slot[slots_B]
        return Placement(source_B, periods_B * self._counts[source_B] + self._rank_of_slot[slots_B])

    def counts(self, samples: int) -> list[int]:
        periods, slots = divmod(samples, self._period)
        whole = [periods * int(count) for count in self._counts]
        return [base + int(np.searchsorted(part, slots)) for base, part in zip(whole, self._slots, strict=True)]


def _earliest_deadline_first(shares: Sequence[Fraction], slots: int) -> NDArray[np.int64]:
    """The source that each of the first `slots` slots serves; about a microsecond per slot, once."""
    windows = [_slots_of_samples(share, slots) for share in shares]
    release = np.concatenate([first for first, _ in windows])
    # Deadline and source in one number: the smaller, the more urgent.
    urgency = np.concatenate([end * len(shares) + source for source, (_, end) in enumerate(windows)])
    order = np.argsort(release, kind="stable")
    samples = zip(release[order].tolist(), urgency[order].tolist(), strict=True)
    next_release, next_urgency = next(samples)
    waiting: list[int] = []
    schedule = []
    for slot in range(slots):
        while next_release <= slot:
            heapq.heappush(waiting, next_urgency)
            next_release, next_urgency = next(samples, (slots, 0))
        schedule.append(heapq.heappop(waiting) % len(shares))
    return np.array(schedule, dtype=np.int64)


def _slots_of_samples(share: Fraction, slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First slot, and end, of the window of each sample of a source that may run within `slots` slots."""
    samples = math.ceil(share * slots)
    exact = object if (samples + 1) * share.denominator >= 1 << 63 else np.int64  # Python's integers have no end
    number = np.arange(samples + 1).astype(exact) * share.denominator
    first = (number[:-1] // share.numerator).astype(np.int64)
    end = np.minimum(-(-number[1:] // share.numerator), FARTHEST_DEADLINE).astype(np.int64)
    return first, end


class _CountTree:
    """A binary tree whose nodes split their samples between two children, exactly and without a table.

    A node of T samples, T_l of them for its left child, keeps the 64-bit fraction P = round(2^64 T_l / T): of its
    first m samples, left(m) = floor((P m + 2^63) / 2^64) go left. left(T) = T_l, so the totals, which are the
    largest-remainder quotas, come out exactly. Sample m goes left if left(m + 1) > left(m), and keeps left(m) as its
    number there.

    The error of a child is at most its share of its parent's error plus 1/2 (and T 2^-65 for the rounding of P). The
    tree is Huffman's, light sources deep, so an inner node holds at most 2/3 of its parent and the sum stays below 3/2.
    The quotas themselves are less than one sample off the exact shares, which makes 5/2.
    """

    def __init__(self, shares: Sequence[Fraction], total: int) -> None:
        self.limit = total
        self._sources = len(shares)
        quotas = largest_remainder(shares, total)
        self._root, nodes = _huffman(quotas)
        self._left_child = np.array([left for left, _, _, _ in nodes], dtype=np.int64)
        self._right_child = np.array([right for _, right, _, _ in nodes], dtype=np.int64)
        fractions = [((quota_left << 65) // quota + 1) >> 1 for _, _, quota_left, quota in nodes]
        self._fraction = np.array(fractions, dtype=np.uint64)
        errors = _leaf_errors(self._root, nodes, sources=len(shares))
        ends = [abs(quota - share * total) for quota, share in zip(quotas, shares, strict=True)]
        worst = max(error + end for error, end in zip(errors, ends, strict=True))
        self.prefix_bound = math.nextafter(float(worst), math.inf)

    def locate(self, numbers_B: NDArray[np.int64]) -> Placement:
        node_B = np.full(numbers_B.shape, self._root, dtype=np.int64)
        rank_B = numbers_B.copy()
        while (inner := np.nonzero(node_B >= 0))[0].size:
            node, rank = node_B[inner], rank_B[inner].astype(np.uint64)
            before = _multiply_high_rounded(self._fraction[node], rank)
            goes_left = _multiply_high_rounded(self._fraction[node], rank + np.uint64(1)) > before
            node_B[inner] = np.where(goes_left, self._left_child[node], self._right_child[node])
            rank_B[inner] = np.where(goes_left, before, rank - before)
        return Placement(~node_B, rank_B)

    def counts(self, samples: int) -> list[int]:
        counts = [0] * self._sources
        waiting = [(self._root, samples)]
        while waiting:
            node, here = waiting.pop()
            if node < 0:
                counts[~node] = here
                continue
            left = (int(self._fraction[node]) * here + (1 << 63)) >> 64
            waiting += [(int(self._left_child[node]), left), (int(self._right_child[node]), here - left)]
        return counts


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


def _multiply_high_rounded(x: NDArray[np.uint64], y: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """floor((x y + 2^63) / 2^64) from 32-bit halves: NumPy has no 128-bit integers."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    x_high, x_low, y_high, y_low = x >> half, x & mask, y >> half, y & mask
    middle = x_high * y_low + ((x_low * y_low) >> half)
    upper_middle = x_low * y_high + (middle & mask)
    carry = (upper_middle >> np.uint64(31)) & np.uint64(1)
    return x_high * y_high + (middle >> half) + (upper_middle >> half) + carry
