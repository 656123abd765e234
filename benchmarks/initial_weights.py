"""Seconds to draw the initial weights of layers of the 14B, by one thread as before, and by as many as there are.

One process, fp32; the numbers are the same to the bit, which is checked. A run that continues a checkpoint, or starts
from one, draws nothing (tests/engine/start/test_initial_weights.py): all of `one_thread_s` is what it is spared.

    python benchmarks/initial_weights.py --layers 2 --rounds 3 --write
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import statistics
import time
from datetime import date
from pathlib import Path

from machine import machine
from results_file import append_rows

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.model.architecture import PHI4_14B
from megaphi.model.initialize import initialize_weights
from megaphi.model.language_model import build_model
from megaphi.model.padded_model import PaddedModel
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import start_world

RESULTS = Path(__file__).parent / "results" / "initial_weights.csv"
COLUMNS = "date device commit torch layers parameters threads one_thread_s threads_s ratio"


def main() -> None:
    options = _options()
    world = start_world(ParallelLayout(), seed=0)
    model = dataclasses.replace(PHI4_14B, layers=options.layers, vocabulary=options.vocabulary)
    chunks = build_model(model, world.layout, sequence_length=16, seed=None)
    threads = len(os.sched_getaffinity(0))
    alone = seconds_of(chunks, threads=threads)  # warms up: pages of the weights
    found: dict[int, list[float]] = {1: [], threads: []}
    digests = set()
    for _ in range(options.rounds):
        for number, times in found.items():
            times.append(seconds_of(chunks, threads=number))
            digests.add(digest_of(chunks))
    assert len(digests) == 1, "the numbers depend on the threads"
    one, several = (statistics.median(times) for times in found.values())
    row = [date.today().isoformat(), machine(), short_commit(), versions()["torch"], options.layers, model.parameters]
    row += [threads, f"{one:.2f}", f"{several:.2f}", f"{one / several:.2f}"]
    print(f"warm-up {alone:.2f} s; {dict(zip(COLUMNS.split(), row, strict=True))}")
    if options.write:
        _write(row)


def seconds_of(chunks: list[PaddedModel], *, threads: int) -> float:
    started = time.perf_counter()
    initialize_weights(chunks, seed=1, threads=threads)
    return time.perf_counter() - started


def digest_of(chunks: list[PaddedModel]) -> str:
    """SHA-256 of the first and last numbers of every parameter."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for parameter in chunk.parameters():
            flat = parameter.detach().view(-1)
            digest.update(flat[:4_096].numpy().tobytes() + flat[-4_096:].numpy().tobytes())
    return digest.hexdigest()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=32_768, help="tokens (the 14B's: 100,352)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"add a row to {RESULTS.name}")
    return parser.parse_args()


def _write(row: list[object]) -> None:
    append_rows(RESULTS, COLUMNS.split(), [row])


if __name__ == "__main__":
    main()
