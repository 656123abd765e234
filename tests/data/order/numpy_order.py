"""The compiled order a second time, in NumPy: what it was before it was compiled, kept as an oracle for whole arrays.

`order_reference.py` computes one sample at a time in Python's integers and shares nothing with anybody; this is fast
enough to compare a million places. `permute` has `rounds` to weaken the cipher on purpose, which the product has not.
Shape legend: B samples, in any order.
"""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np

from megaphi.data.order.blend import FARTHEST_DEADLINE, largest_remainder
from megaphi.data.order.permutation import derive_key, draw_below, stream

LARGEST_TABLE = 4_096
MULTIPLIERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))
HALF = np.uint64(32)


def shuffled(size, key):
    """The Fisher-Yates table of a small permutation."""
    words = stream(key, size)
    table = list(range(size))
    for index in range(size - 1, 0, -1):
        other = draw_below(index + 1, words)
        table[index], table[other] = table[other], table[index]
    return np.array(table, dtype=np.uint64)


def permute(size, key, positions_B, *, rounds=8):
    positions_B = np.asarray(positions_B).astype(np.uint64)
    return shuffled(size, key)[positions_B] if size <= LARGEST_TABLE else feistel(size, key, positions_B, rounds)


def feistel(size, key, positions_B, rounds):
    rows = math.isqrt(size - 1) + 1
    sides = np.uint64(rows), np.uint64(-(-size // rows))
    keys = [np.uint64(word) for word in itertools.islice(stream(key, size), rounds)]
    walked_B = one_pass(positions_B, keys, *sides)
    (outside,) = np.nonzero(walked_B >= size)
    while outside.size:
        walked_B[outside] = one_pass(walked_B[outside], keys, *sides)
        outside = outside[walked_B[outside] >= size]
    return walked_B


def one_pass(values_B, keys, rows, columns):
    left_B, right_B = np.divmod(values_B, columns)
    for odd, even in zip(keys[0::2], keys[1::2], strict=True):
        left_B = (left_B + mixed(right_B, odd, rows)) % rows
        right_B = (right_B + mixed(left_B, even, columns)) % columns
    return left_B * columns + right_B


def mixed(half_B, key, modulus):
    with np.errstate(over="ignore"):
        mixed_B = (half_B + key) * MULTIPLIERS[0]
        mixed_B ^= mixed_B >> HALF
        mixed_B *= MULTIPLIERS[1]
    return ((mixed_B >> HALF) * modulus) >> HALF


def table_blend(shares, slots, numbers_B):
    """(source, rank) of samples from one period, or one run, of `slots` samples."""
    source_of_slot = earliest_deadline_first(shares, slots)
    counts = np.bincount(source_of_slot, minlength=len(shares))
    rank_of_slot = np.empty(slots, dtype=np.int64)
    for source, count in enumerate(counts):
        rank_of_slot[source_of_slot == source] = np.arange(count)
    periods_B, slots_B = np.divmod(np.asarray(numbers_B), slots)
    source_B = source_of_slot[slots_B]
    return source_B, periods_B * counts[source_B] + rank_of_slot[slots_B]


def earliest_deadline_first(shares, slots):
    windows = [slots_of_samples(share, slots) for share in shares]
    release = np.concatenate([first for first, _ in windows])
    urgency = np.concatenate([end * len(shares) + source for source, (_, end) in enumerate(windows)])
    order = np.argsort(release, kind="stable")
    samples = zip(release[order].tolist(), urgency[order].tolist(), strict=True)
    next_release, next_urgency = next(samples)
    waiting, schedule = [], []
    for slot in range(slots):
        while next_release <= slot:
            heapq.heappush(waiting, next_urgency)
            next_release, next_urgency = next(samples, (slots, 0))
        schedule.append(heapq.heappop(waiting) % len(shares))
    return np.array(schedule, dtype=np.int64)


def slots_of_samples(share, slots):
    """First slot, and end, of the window of each sample of a source that may run within `slots` slots."""
    samples = math.ceil(share * slots)
    exact = object if (samples + 1) * share.denominator >= 1 << 63 else np.int64  # Python's integers have no end
    number = np.arange(samples + 1).astype(exact) * share.denominator
    first = (number[:-1] // share.numerator).astype(np.int64)
    end = np.minimum(-(-number[1:] // share.numerator), FARTHEST_DEADLINE).astype(np.int64)
    return first, end


def tree_blend(shares, total, numbers_B):
    """(source, rank) of samples of a run of `total`: all of them descend the tree together."""
    leaves = [(quota, source, ~source) for source, quota in enumerate(largest_remainder(shares, total)) if quota]
    heapq.heapify(leaves)
    nodes = []
    while len(leaves) > 1:
        (light, _, left), (heavy, _, right) = heapq.heappop(leaves), heapq.heappop(leaves)
        nodes.append((left, right, ((light << 65) // (light + heavy) + 1) >> 1))
        heapq.heappush(leaves, (light + heavy, len(shares) + len(nodes), len(nodes) - 1))
    left_child, right_child = (np.array([node[side] for node in nodes], dtype=np.int64) for side in (0, 1))
    fraction = np.array([node[2] for node in nodes], dtype=np.uint64)
    node_B, rank_B = np.full(len(numbers_B), leaves[0][2], dtype=np.int64), np.array(numbers_B, dtype=np.int64)
    while (inner := np.nonzero(node_B >= 0)[0]).size:
        node, rank = node_B[inner], rank_B[inner].astype(np.uint64)
        before = multiply_high_rounded(fraction[node], rank)
        goes_left = multiply_high_rounded(fraction[node], rank + np.uint64(1)) > before
        node_B[inner] = np.where(goes_left, left_child[node], right_child[node])
        rank_B[inner] = np.where(goes_left, before, rank - before)
    return ~node_B, rank_B


def multiply_high_rounded(x, y):
    """floor((x y + 2^63) / 2^64) from 32-bit halves: NumPy has no 128-bit integers."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    x_high, x_low, y_high, y_low = x >> half, x & mask, y >> half, y & mask
    middle = x_high * y_low + ((x_low * y_low) >> half)
    upper_middle = x_low * y_high + (middle & mask)
    carry = (upper_middle >> np.uint64(31)) & np.uint64(1)
    return x_high * y_high + (middle >> half) + (upper_middle >> half) + carry


def locate(source_B, rank_B, *, names, token_counts, sequence_length, block_tokens, first_samples, first_epochs, seed):
    """Rows of (source, epoch, window, first token) for arrays of sources and ranks, of the split "training"."""
    places = np.empty((len(source_B), 4), dtype=np.int64)
    for source, name in enumerate(names):
        parts, blocks = block_tokens[source] // sequence_length, token_counts[source] // block_tokens[source]
        (members,) = np.nonzero(source_B == source)
        unit = first_samples[source] + rank_B[members]
        epoch_of_member = first_epochs[source] + unit // parts // blocks
        for epoch in np.unique(epoch_of_member).tolist():
            chosen = epoch_of_member == epoch
            key = derive_key(seed, "training", name, epoch, "windows")
            block = permute(blocks, key, unit[chosen] // parts % blocks).astype(np.int64)
            window = block * parts + unit[chosen] % parts
            phase = draw_below(block_tokens[source], stream(derive_key(seed, "training", name, epoch, "phase")))
            start = (phase + window * sequence_length) % token_counts[source]
            places[members[chosen]] = np.column_stack(np.broadcast_arrays(source, epoch, window, start))
    return places
