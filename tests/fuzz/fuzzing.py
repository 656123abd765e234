"""The loop: seeds as they are, then damaged ones, until the inputs or the time are used up; findings are kept.

Input number N of a target is drawn from (seed, name, N), so every run of the same version sees the same inputs. Of the
findings with one cause the first is made smaller and written to a folder, beside the command that repeats it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutators import mutated
from tests.fuzz.target import Target
from tests.fuzz.worker import Outcome, Worker

SMALLER_SECONDS = 30.0
"""Time to make one finding smaller."""
LARGEST_SEED, MOST_SEEDS = 400_000, 200
"""Bytes of a real file, and files."""
MOST_FINDINGS = 25
"""Different causes in one target: beyond, it is ended."""


@dataclass(slots=True)
class Tally:
    """Counts over a target's inputs."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Counts of refused inputs, where the target has words for them."""
    slowest_seconds: float = 0.0
    peak_bytes: int = 0
    findings: dict[tuple[str, str], str] = field(default_factory=dict)
    """By cause, the file and a line about the first."""

    def add(self, outcome: Outcome) -> None:
        self.inputs += 1
        self.outcomes[outcome.kind] += 1
        if outcome.kind == "refused" and outcome.place:
            self.reasons[outcome.place] += 1
        self.slowest_seconds = max(self.slowest_seconds, outcome.seconds)
        self.peak_bytes = max(self.peak_bytes, outcome.memory_bytes)


def fuzz(
    target: Target,
    *,
    inputs: int,
    seconds: float,
    folder: Path,
    with_crafted: bool = True,
    real_files: Path | None = None,
    seed: int = 0,
    watch: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Try a target's seeds and damaged ones.

    Args:
        inputs: at most so many, seeds included.
        seconds: at most so long, but that all seeds are tried.
        folder: takes the findings.
        with_crafted: whether the target's crafted inputs are tried too.
        real_files: a folder with more seeds, by the target's suffixes.
        watch: called after every input.
    """
    tally, worker, began = Tally(target.name), Worker(target), time.monotonic()
    crafted, seeds = prepared(target, with_crafted=with_crafted)
    seeds += _real(target, real_files)
    try:
        for number, content in enumerate(_inputs(target, crafted, seeds, seed)):
            is_seed = number < len(crafted) + len(seeds)
            if not is_seed and (tally.inputs >= inputs or time.monotonic() - began > seconds):
                break
            outcome = worker.ask(content)
            tally.add(outcome)
            if outcome.is_finding and outcome.cause not in tally.findings:
                tally.findings[outcome.cause] = ""
                small = smaller(worker, content, outcome)
                tally.findings[outcome.cause] = keep(target, small, outcome, folder)
                if len(tally.findings) >= MOST_FINDINGS:
                    break
            tally.seconds = time.monotonic() - began
            watch(tally)
    finally:
        worker.close()
    return tally


def prepared(target: Target, *, with_crafted: bool) -> tuple[list[bytes], list[bytes]]:
    """Crafted inputs and seeds, after the imports."""
    for name in target.imports:
        importlib.import_module(name)
    return _made(target.crafted) if with_crafted else [], _made(target.seeds)


def _made(make: Callable[[], Sequence[bytes]]) -> list[bytes]:
    """Inputs, made in another process: this one shall never start a thread."""
    here, there = os.pipe()
    maker = os.fork()
    if not maker:
        try:
            with os.fdopen(there, "wb") as out:
                out.writelines(struct.pack("<Q", len(each)) + each for each in make())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(there)
    with os.fdopen(here, "rb") as made:
        found = [made.read(struct.unpack("<Q", head)[0]) for head in iter(lambda: made.read(8), b"")]
    assert os.waitpid(maker, 0)[1] == 0, "the inputs cannot be made"
    return found


def _real(target: Target, folder: Path | None) -> list[bytes]:
    """Contents of files of a folder, by a hash of their names, so that nobody chose them."""
    if folder is None or not target.suffixes:
        return []
    paths = [path for path in folder.rglob("*") if path.name.endswith(target.suffixes) and path.is_file()]
    paths = [path for path in paths if 0 < path.stat().st_size <= LARGEST_SEED]
    paths.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
    return [path.read_bytes() for path in paths[:MOST_SEEDS]]


def _inputs(target: Target, crafted: Sequence[bytes], seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    yield from crafted
    yield from seeds
    number = 0
    while True:
        yield mutated(target, seeds, random.Random(f"{seed} {target.name} {number}"))
        number += 1


def smaller(worker: Worker, content: bytes, outcome: Outcome) -> bytes:
    """The smallest input of the same cause that is found by leaving parts out."""
    end = time.monotonic() + SMALLER_SECONDS
    part = len(content) // 2
    while part and time.monotonic() < end:
        start = 0
        while start < len(content) and time.monotonic() < end:
            without = content[:start] + content[start + part :]
            if worker.ask(without).cause == outcome.cause:
                content = without
            else:
                start += part
        part //= 2
    return content


def keep(target: Target, content: bytes, outcome: Outcome, folder: Path) -> str:
    """Write an input, what came of it, and how to repeat it; return a line about it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{target.name.replace(' ', '_')}-{outcome.kind}-{hashlib.sha256(content).hexdigest()[:10]}"
    (folder / name).write_bytes(content)
    command = f"python -m tests.fuzz --targets '{target.name}' --repeat {folder / name}"
    (folder / f"{name}.txt").write_text(f"{outcome.kind}\n{outcome.detail}\n\n{command}\n")
    last = outcome.detail.strip().rpartition("\n")[2][:160]
    return f"{outcome.kind} ({len(content):,} bytes): {outcome.place} {last}\n    {command}"
