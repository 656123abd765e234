"""Padding and speed of packing conversations: best-fit decreasing, first fit in arrival order, and not packing at all.

Lengths are log-normal, as those of chat data are, and cut at the row. Three things are wanted that no method gives all
of: few padded positions, no sample cut, and speed. Concatenation pads nothing and cuts samples at the edges of rows;
one sample per row cuts nothing and pads most; `pack` must come close to both. Rows are counted against the fewest that
could hold the tokens.

    python benchmarks/packing.py --samples 200000
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from results_file import append_rows

from megaphi.checkpoint.versions import short_commit
from megaphi.data.packed.packing import pack

RESULTS = Path(__file__).parent / "results" / "packing.csv"
DISTRIBUTIONS = {"short": (150, 0.7), "chat": (450, 1.0), "reasoning": (3_000, 0.9)}
"""Median tokens, and sigma of their logarithm."""
COLUMNS = (
    "date commit numpy distribution median_tokens capacity samples method padding_fraction cut_fraction"
    " rows_over_fewest samples_per_s"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="independent measurements; their median counts")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/packing.csv")
    arguments = parser.parse_args()
    rows = []
    for name, (median, sigma) in DISTRIBUTIONS.items():
        for capacity in (4_096, 16_384):
            for method, place in METHODS.items():
                row = measure(place, median, sigma, capacity, samples=arguments.samples, rounds=arguments.rounds)
                rows.append([name, median, capacity, arguments.samples, method, *row])
                print("{:10} {:>5} {:>6} {:>9,} {:13} padding {} cut {} rows {} samples/s {}".format(*rows[-1]))
    if arguments.write:
        append(rows)


def measure(
    place: Callable[[NDArray[np.int64], int], tuple[int, float]],
    median: int,
    sigma: float,
    capacity: int,
    *,
    samples: int,
    rounds: int,
) -> list[str]:
    """Padding, share of samples cut, rows over the fewest possible, and samples per second (medians)."""
    padding, cuts, excess, speed = [], [], [], []
    for seed in range(rounds):
        draw = np.random.default_rng(seed)
        lengths_N = np.clip(draw.lognormal(np.log(median), sigma, samples).astype(np.int64), 1, capacity)
        began = time.perf_counter()
        rows, cut = place(lengths_N, capacity)
        speed.append(samples / (time.perf_counter() - began))
        padding.append(1 - lengths_N.sum() / (rows * capacity))
        excess.append(rows / -(-lengths_N.sum() // capacity))
        cuts.append(cut)
    found = [statistics.median(values) for values in (padding, cuts, excess)]
    return [*(f"{value:.5f}" for value in found), f"{statistics.median(speed):.0f}" if place in PACKERS else ""]


def best_fit(lengths_N: NDArray[np.int64], capacity: int) -> tuple[int, float]:
    return pack(lengths_N, capacity=capacity).rows, 0.0


def first_fit(lengths_N: NDArray[np.int64], capacity: int) -> tuple[int, float]:
    """Each sample, as it comes, into the first row with room: a tree of maxima finds it in log(rows) steps."""
    size = 1 << (len(lengths_N) - 1).bit_length()
    tree = [capacity] * (2 * size)
    rows = 0
    for length in lengths_N.tolist():
        node = 1
        while node < size:
            node *= 2
            node += tree[node] < length
        rows = max(rows, node - size + 1)
        tree[node] -= length
        while node > 1:
            node //= 2
            tree[node] = max(tree[2 * node], tree[2 * node + 1])
    return rows, 0.0


def concatenate(lengths_N: NDArray[np.int64], capacity: int) -> tuple[int, float]:
    """One stream cut into rows: (rows, share of samples that lie in more than one)."""
    ends_N = np.cumsum(lengths_N)
    is_cut = (ends_N - lengths_N) // capacity != (ends_N - 1) // capacity
    return int(-(-ends_N[-1] // capacity)), float(is_cut.mean())


def one_per_row(lengths_N: NDArray[np.int64], capacity: int) -> tuple[int, float]:
    return len(lengths_N), 0.0


METHODS = {"best_fit": best_fit, "first_fit": first_fit, "concatenate": concatenate, "one_per_row": one_per_row}
PACKERS = (best_fit, first_fit)
"""Methods that search, so that their speed means something."""


def append(rows: list[list[object]]) -> None:
    start = [date.today().isoformat(), short_commit(), np.__version__]
    append_rows(RESULTS, COLUMNS.split(), ([*start, *row] for row in rows))


if __name__ == "__main__":
    main()
