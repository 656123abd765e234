"""The order of data a second time: one sample at a time, in Python's exact integers and fractions, from the docstrings.

Slow and plain on purpose: it shares no line with `megaphi/data/{order,blend,mixture_order}.py` or csrc/index. Run as a
program it writes tests/golden/data_order.json: the golden vectors do not come from the code that they test.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden" / "data_order.json"
WORD = 1 << 64
GAMMA = 0x9E3779B97F4A7C15


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def absorb(state, word):
    return mix(((state ^ word) + GAMMA) % WORD)


def derive_key(*parts):
    state = absorb(0, 1)
    for part in parts:
        if isinstance(part, int):
            words = [1, part]
        else:
            data = part.encode()
            padded = data + b"\0" * (-len(data) % 8)
            words = [2, len(data)] + [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
        for word in words:
            state = absorb(state, word)
    return state


class Stream:
    def __init__(self, key, size=0):
        self.state = absorb(absorb(0, key), size)

    def next(self):
        self.state = (self.state + GAMMA) % WORD
        return mix(self.state)

    def below(self, bound):
        while True:
            product = (self.next() >> 32) * bound
            if product % (1 << 32) >= (1 << 32) % bound:
                return product >> 32


def permute(size, key, position):
    words = Stream(key, size)
    if size <= 4096:
        table = list(range(size))
        for i in reversed(range(1, size)):
            j = words.below(i + 1)
            table[i], table[j] = table[j], table[i]
        return table[position]
    rows = math.isqrt(size - 1) + 1
    columns = math.ceil(Fraction(size, rows))
    keys = [words.next() for _ in range(8)]
    x = position
    while True:
        left, right = divmod(x, columns)
        for number, word in enumerate(keys, start=1):
            if number % 2:
                left = (left + feistel(right, word, rows)) % rows
            else:
                right = (right + feistel(left, word, columns)) % columns
        x = left * columns + right
        if x < size:
            return x


def feistel(value, key, modulus):
    t = (value + key) * GAMMA % WORD
    z = (t ^ (t >> 32)) * 0xD6E8FEB86659FD93 % WORD
    return ((z >> 32) * modulus) >> 32


def shares_of(weights):
    exact = [Fraction(repr(weight)) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def periodic_blend(weights, samples):
    """(source, rank) of each sample: the job with the earliest deadline among those released."""
    shares = shares_of(weights)
    period = math.lcm(*(share.denominator for share in shares))
    done = [0] * len(shares)
    placements = []
    for slot in range(samples):
        # Job j of source i may run in slots floor(j / share) .. ceil((j + 1) / share) - 1; a period ends all deadlines.
        ready = [i for i, share in enumerate(shares) if math.floor(done[i] / share) <= slot]
        chosen = min(ready, key=lambda i: (math.ceil((done[i] + 1) / shares[i]), i))
        placements.append((chosen, done[chosen]))
        done[chosen] += 1
        if (slot + 1) % period == 0:
            assert done == [share * (slot + 1) for share in shares]
    return placements


def tree_blend(weights, total, numbers):
    """(source, rank) of the given samples of a run of `total`, by descending a Huffman tree of exact counts."""
    shares = shares_of(weights)
    quotas = [math.floor(share * total) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (quotas[i] - shares[i] * total, i))
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    trees = [(quota, age, age) for age, quota in enumerate(quotas) if quota]
    age = len(quotas)
    while len(trees) > 1:
        trees.sort(key=lambda tree: tree[:2])
        light, heavy = trees.pop(0), trees.pop(0)
        age += 1
        trees.append((light[0] + heavy[0], age, (light, heavy)))
    return [descend(trees[0], number) for number in numbers]


def descend(tree, number):
    quota, _, node = tree
    if isinstance(node, int):
        return node, number
    light, heavy = node
    fraction = math.floor(Fraction(light[0] << 64, quota) + Fraction(1, 2))
    before, after = (math.floor(Fraction(fraction * m, WORD) + Fraction(1, 2)) for m in (number, number + 1))
    return descend(light, before) if after > before else descend(heavy, number - before)


def locate(names, token_counts, placements, *, sequence_length, seed, split, blocks=None, beginnings=None):
    """(source, epoch, window, first token) for each (source, rank).

    `blocks`: tokens of the unit that is shuffled, per source. `beginnings`: (samples, epoch) that a source starts at.
    """
    places = []
    for source, rank in placements:
        tokens, name = token_counts[source], names[source]
        block_tokens = sequence_length if blocks is None else blocks[source]
        taken, epoch = (0, 0) if beginnings is None else beginnings[source]
        position, part = divmod(taken + rank, block_tokens // sequence_length)
        passes, position = divmod(position, tokens // block_tokens)
        epoch += passes
        block = permute(tokens // block_tokens, derive_key(seed, split, name, epoch, "windows"), position)
        phase = Stream(derive_key(seed, split, name, epoch, "phase")).below(block_tokens)
        start = phase + block * block_tokens + part * sequence_length
        places.append((source, epoch, block * (block_tokens // sequence_length) + part, start % tokens))
    return places


KEY_PARTS = [[], [0], ["0"], ["ab", "c"], ["a", "bc"], [1234, "training", "web rewrites", 7, "windows"], ["é" * 9]]
SIZES = [1, 2, 7, 4096, 4097, 10_007, 65_536, 1_000_003, (1 << 40) + 15, 1 << 62]
PERIODIC = [15.0, 15.0, 40.0, 20.0, 10.0]
UNEVEN = [0.1234567, 0.7654321, 0.3141592]
MIXTURE = {"names": ["web", "code", "books"], "token_counts": [70_001, 5_000_000, 129], "sequence_length": 64}


STAGE = {"blocks": [256, 64, 128], "beginnings": [[1_090, 3], [0, 0], [1, 70_000]]}


def golden():
    some_numbers = [0, 1, 2, 99, 12_345, 9_999_998, 9_999_999]
    placements = periodic_blend([5.0, 3.0, 2.0], 3_000)
    numbers = [0, 1, 7, 500, 2_000, 2_999]
    settings = {**MIXTURE, "placements": [placements[n] for n in numbers], "seed": 1_234, "split": "training"}
    return {
        "version": 1,
        "keys": [[parts, str(derive_key(*parts))] for parts in KEY_PARTS],
        "permutations": [permutation_vector(size, derive_key("golden", size)) for size in SIZES],
        "periodic_blend": {"weights": PERIODIC, "placements": periodic_blend(PERIODIC, 40)},
        "tree_blend": {
            "weights": UNEVEN,
            "total": 10_000_000,
            "numbers": some_numbers,
            "placements": tree_blend(UNEVEN, 10_000_000, some_numbers),
        },
        "mixture": {
            **MIXTURE,
            "weights": [5.0, 3.0, 2.0],
            "seed": 1_234,
            "split": "training",
            "numbers": numbers,
            "places": locate(**settings),
        },
        "stage": {**STAGE, "places": locate(**settings, **STAGE)},
    }


def permutation_vector(size, key):
    positions = sorted({0, 1 % size, size // 3, size // 2, size - 1})
    return {
        "size": size,
        "key": str(key),
        "positions": positions,
        "items": [permute(size, key, position) for position in positions],
    }


if __name__ == "__main__":
    rows = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in golden().items()]
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n")
