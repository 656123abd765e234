"""The first 25 minutes on a GPU: checks and measurements in blocks, the most valuable figures first. `make first-gpu`

    python3 -m tools.first_gpu                  all blocks that fit into 25 minutes; again: those that are left
    python3 -m tools.first_gpu --only mfu       these blocks, again
    python3 -m tools.first_gpu --list           the blocks, their limits, what became of them
    python3 -m tools.first_gpu --dry-run        what would be run
    python3 -m tools.first_gpu --tiny           the same program on a CPU, with tiny shapes, in place of a GPU

It needs no network and no virtual environment, and says at once what the machine lacks. Each block is a process with a
time limit, so one that crashes or hangs costs its own figure only. Logs and states: runs/first_gpu; results:
benchmarks/results/gpu. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tools.first_gpu import states
from tools.first_gpu.blocks import Block, Place, blocks
from tools.first_gpu.machine import ROOT, commit, look
from tools.first_gpu.states import State, Status

HEARTBEAT_SECONDS = 20
FAILURES = ("failed", "timed out")
LACKING = 2
"""Exit code if the machine lacks something."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    chosen = [block for block in blocks() if options.only is None or block.name in options.only]
    folder = options.folder.resolve()
    if options.list:
        print_list(chosen, folder)
        return 0
    machine = look(python=options.python, is_tiny=options.tiny)
    print(machine.describe(), flush=True)
    results = options.results or (folder / "results" if options.tiny else ROOT / "benchmarks" / "results" / "gpu")
    place = Place(machine=machine, folder=folder, results=results.resolve())
    if machine.problems and not options.dry_run:
        print("\n".join(f"missing: {problem}" for problem in machine.problems), file=sys.stderr)
        return LACKING
    for needed in () if options.dry_run else (folder, place.results):
        needed.mkdir(parents=True, exist_ok=True)
    again = options.only is not None or options.again
    end_with_its_block()
    try:
        return Session(place, seconds=60 * options.minutes, again=again, is_dry=options.dry_run).run(chosen)
    except KeyboardInterrupt:
        print("interrupted: start again to go on with this block", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [block.name for block in blocks()]
    parser = argparse.ArgumentParser(
        prog="first_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="BLOCK", help="run these, also if they are done")
    parser.add_argument("--again", action="store_true", help="run blocks that are done, too")
    parser.add_argument("--list", action="store_true", help="list the blocks and stop")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with tiny shapes: a test of this program")
    parser.add_argument("--minutes", type=float, default=25.0, help="for all blocks together (default: 25)")
    parser.add_argument("--python", help="interpreter of the blocks (default: this one, or .venv's if it has no torch)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "first_gpu", help="logs and states")
    parser.add_argument("--results", type=Path, help="folder of the CSV files (default: benchmarks/results/gpu)")
    return parser.parse_args(arguments)


def end_with_its_block() -> None:
    """Let SIGTERM, as of `timeout`, end the block too: it would hold the GPU while the next start measures."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def print_list(chosen: list[Block], folder: Path) -> None:
    for block in chosen:
        state = states.read(folder, block.name)
        became = "" if state is None else f"{state.status} {state.date}, {state.device}, {state.commit}"
        print(f"{block.name:<14}{block.seconds:>5} s, limit {block.limit} s  {block.what}  {became}".rstrip())


class Session:
    """One go at the blocks, with a budget of time."""

    def __init__(self, place: Place, *, seconds: float, again: bool, is_dry: bool) -> None:
        self.place = place
        self.ends = time.monotonic() + seconds
        self.again = again
        self.is_dry = is_dry
        self.commit = commit()

    def run(self, chosen: list[Block]) -> int:
        """Run what is left; returns the exit code: 0 if every block is done or was left out for a reason."""
        summary: list[tuple[str, str, float, str]] = []
        chosen = sorted(chosen, key=self.has_failed)  # once more, but after what has not been tried
        for number, block in enumerate(chosen):
            left = sum(later.seconds for later in chosen[number:])
            print(f"\n[{number + 1}/{len(chosen)}] {block.name}: {block.what}", flush=True)
            print(f"  {left / 60:.0f} min expected for the rest, {self.left() / 60:.0f} min in the budget", flush=True)
            summary.append((block.name, *self.attempt(block)))
        print("\nblock           status      seconds  last line")
        for name, status, seconds, words in summary:
            print(f"{name:<16}{status:<12}{seconds:>7.0f}  {words if self.is_dry else words[:120]}")
        if self.is_dry:
            return 0
        print(f"logs: {self.place.folder}, results: {self.place.results}")
        return int(any(status not in ("done", "done before", "left out") for _, status, _, _ in summary))

    def has_failed(self, block: Block) -> bool:
        """True if it was tried on this device and commit, and did not come to its end."""
        before = states.read(self.place.folder, block.name)
        return before is not None and before.is_of(self.place.machine, self.commit) and before.status in FAILURES

    def left(self) -> float:
        return self.ends - time.monotonic()

    def attempt(self, block: Block) -> tuple[str, float, str]:
        """(status, seconds, last line) of a block; its state is written unless it was not begun."""
        before = states.read(self.place.folder, block.name)
        if before is not None and before.is_final(self.place.machine, self.commit) and not self.again:
            return "done before", before.seconds, before.last_line
        words = self.words(block)
        if self.is_dry:
            return "dry run", 0.0, shlex.join(words)
        if (reason := block.missing(self.place.machine)) is not None:
            return self.note(block, "left out", 0.0, reason)
        if self.left() < block.seconds:
            return "no time", 0.0, f"{block.seconds} s are expected: start again to go on here"
        log = self.place.folder / f"{block.name}.log"
        began = time.monotonic()
        status = run_limited(words, log, seconds=min(block.limit, self.left()), environment=self.environment())
        return self.note(block, status, time.monotonic() - began, last_line(log))

    def environment(self) -> dict[str, str]:
        """Variables of the blocks: megaphi need not be installed, and tiny shapes are for the CPU."""
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.place.machine.is_tiny else {}
        return {**os.environ, "PYTHONPATH": paths, **hidden}

    def words(self, block: Block) -> list[str]:
        words = (block.tiny if self.place.machine.is_tiny else block.command)(self.place)
        is_python = words[0].startswith("-") or words[0].endswith(".py")
        return [self.place.machine.python, *words] if is_python else words

    def note(self, block: Block, status: Status, seconds: float, words: str) -> tuple[str, float, str]:
        machine = self.place.machine
        state = State(
            date=date.today().isoformat(),
            device=machine.device,
            driver=machine.driver,
            python=machine.versions.get("python", ""),
            torch=machine.versions.get("torch", ""),
            cuda=machine.versions.get("cuda", ""),
            peers=machine.versions.get("peers", ""),
            commit=self.commit,
            block=block.name,
            status=status,
            seconds=round(seconds, 1),
            last_line=words,
        )
        states.write(self.place.folder, self.place.results, state)
        print(f"  {status} after {seconds:.0f} s: {words}", flush=True)
        return status, seconds, words


def run_limited(words: list[str], log: Path, *, seconds: float, environment: dict[str, str]) -> Status:
    """Run a command in the repository's root, its output in `log`; it and what it has started end with its time."""
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, process_group=0
        )
    try:
        while (left := seconds - (time.monotonic() - began)) > 0:
            try:
                return "done" if process.wait(min(left, HEARTBEAT_SECONDS)) == 0 else "failed"
            except subprocess.TimeoutExpired:
                print(f"  {time.monotonic() - began:.0f} s: {last_line(log)[:100]}", flush=True)
        return "timed out"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_line(log: Path) -> str:
    """The last line that says something; progress bars do not."""
    lines = (line.strip() for line in reversed(log.read_text(errors="replace").splitlines()))
    return next((line for line in lines if line and "%|" not in line), "no output")


if __name__ == "__main__":
    sys.exit(main())
