"""Damaged and hostile inputs for every reader of strangers' bytes, for as long as one likes.

    python -m tests.fuzz                                      the short form, which is part of the suite
    python -m tests.fuzz --inputs 50000 --minutes 10          every target until it had so many, or so long
    python -m tests.fuzz --targets 'json lines' warc --inputs 5000
    python -m tests.fuzz --targets warc --repeat fuzz_findings/FILE

Exit code 1 where there is a finding: a crash, a hang, too much memory, an exception that is no InputError, a message
that is none. They are written to `fuzz_findings/`, each with the command that repeats it.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from megaphi.checkpoint.versions import short_commit
from tests.fuzz.fuzzing import Tally, fuzz, prepared
from tests.fuzz.target import Target, all_targets
from tests.fuzz.worker import Worker

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.csv"
FINDINGS = ("crash", "hang", "memory", "exception", "message")
COLUMNS = ("date", "commit", "machine", "target", "inputs", "seconds", "accepted", "refused", *FINDINGS,
           "slowest_seconds", "peak_mib", "reasons")  # fmt: skip


def main() -> int:
    targets = all_targets()
    arguments = parsed(list(targets))
    chosen = [targets[name] for name in arguments.targets]
    if arguments.repeat:
        return repeat(chosen[0], arguments.repeat)
    tallies, commit = [], short_commit()  # which its own rows would make one with changes
    width = max(len(target.name) for target in chosen)
    print(f"{'target':{width}}   inputs  accepted   refused  findings  slowest      peak  seconds")
    for target in chosen:
        inputs = arguments.inputs or target.short_inputs
        progress = Progress(inputs, arguments.minutes * 60)
        tallies.append(
            fuzz(
                target,
                inputs=inputs,
                seconds=arguments.minutes * 60,
                folder=arguments.findings,
                with_crafted=arguments.inputs > 0,
                real_files=arguments.seeds,
                seed=arguments.seed,
                watch=progress.show,
            )
        )
        progress.clear()
        print(row(tallies[-1], width), flush=True)
        if arguments.write:
            append(tallies[-1], commit)
    print(summary(tallies))
    return 1 if any(tally.findings or not tally.outcomes["accepted"] for tally in tallies) else 0


def parsed(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--targets", nargs="+", default=list(names), choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--inputs", type=int, default=0, help="of each target; as many as its short form has")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each target at most (10)")
    parser.add_argument("--seeds", type=Path, metavar="FOLDER", help="real files as further seeds, 200 of each target")
    parser.add_argument("--seed", type=int, default=0, help="other damaged inputs (0)")
    parser.add_argument("--findings", type=Path, default=Path("fuzz_findings"), help="folder that takes the findings")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="one input for the one target named")
    parser.add_argument("--write", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    return parser.parse_args()


class Progress:
    """A line on a terminal: how far a target is, and how long it will take."""

    def __init__(self, inputs: int, seconds: float) -> None:
        self._inputs, self._seconds, self._shown = inputs, seconds, 0.0

    def show(self, tally: Tally) -> None:
        if not sys.stderr.isatty() or time.monotonic() - self._shown < 0.5:
            return
        self._shown = time.monotonic()
        left = min(self._seconds - tally.seconds, tally.seconds / tally.inputs * (self._inputs - tally.inputs))
        line = f"{tally.name}: {tally.inputs:,} inputs, {len(tally.findings)} findings, {max(0, left):,.0f} s left"
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def row(tally: Tally, width: int) -> str:
    """A target's line of the table."""
    return (
        f"{tally.name:{width}} {tally.inputs:8,} {tally.outcomes['accepted']:9,} {tally.outcomes['refused']:9,}"
        f" {len(tally.findings):9,} {tally.slowest_seconds:7.2f}s {tally.peak_bytes >> 20:5,} MiB"
        f" {tally.seconds:8.1f}  {reasons(tally)}".rstrip()
    )


def summary(tallies: Sequence[Tally]) -> str:
    """The sums, and every finding."""
    total, found = sum(tally.inputs for tally in tallies), sum(len(tally.findings) for tally in tallies)
    lines = [f"{total:,} inputs, {found:,} findings"]
    lines += [
        f"{tally.name}: no input was accepted, so nothing was tried"
        for tally in tallies
        if not tally.outcomes["accepted"]
    ]
    lines += [f"{tally.name}: {line}" for tally in tallies for line in tally.findings.values()]
    return "\n".join(lines)


def reasons(tally: Tally) -> str:
    """Counts of the target's words for refusals."""
    return ", ".join(f"{reason} {count:,}" for reason, count in tally.reasons.most_common())


def append(tally: Tally, commit: str) -> None:
    """Add a target's row to the results."""
    is_new = not RESULTS.exists()
    counts = [tally.outcomes[kind] for kind in FINDINGS]
    with RESULTS.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if is_new:
            rows.writerow(COLUMNS)
        rows.writerow([
            date.today().isoformat(), commit, f"CPU, {len(os.sched_getaffinity(0))} processors", tally.name,
            tally.inputs, round(tally.seconds, 1), tally.outcomes["accepted"], tally.outcomes["refused"], *counts,
            round(tally.slowest_seconds, 2), tally.peak_bytes >> 20, reasons(tally),
        ])  # fmt: skip


def repeat(target: Target, path: Path) -> int:
    """Let a target read one file, and say what came of it."""
    prepared(target, with_crafted=False)
    worker = Worker(target)
    outcome = worker.ask(path.read_bytes())
    worker.close()
    print(f"{outcome.kind}, {outcome.seconds:.2f} s, {outcome.memory_bytes >> 20} MiB\n{outcome.detail}".rstrip())
    return 1 if outcome.is_finding else 0


if __name__ == "__main__":
    sys.exit(main())
