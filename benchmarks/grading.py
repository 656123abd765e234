"""Speed of grading mathematical answers: the grader against one process per answer, and against math-verify alone.

The peer is what a careful script does: a fresh interpreter with a time limit for every answer, which imports
math-verify and compares. `in_process` is math-verify without a process, a limit or a second verifier: the most that its
own comparison allows. The grader is timed after its workers have started, on answers that differ (`distinct`) and as
rollouts of a question repeat each other (`rollouts`: as many answers, of 40 results).

    python benchmarks/grading.py --answers 400
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

from results_file import append_rows

from megaphi.checkpoint.versions import short_commit
from megaphi.grading.grader import Grader
from megaphi.grading.question import MathAnswer, Question

RESULTS = Path(__file__).parent / "results" / "grading.csv"
COLUMNS = "date commit processors math_verify side processes answers answers_per_s speedup_over_fresh_process undecided"
Pair = tuple[str, str]
FRESH = """
import sys
from math_verify import LatexExtractionConfig, parse, verify
key, answer = (parse(f"${text}$", extraction_config=[LatexExtractionConfig()]) for text in sys.argv[1:])
print(verify(key, answer))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--fresh", type=int, default=10, help="answers that the slow peer is measured on")
    parser.add_argument("--rounds", type=int, default=3, help="independent measurements; their median counts")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/grading.csv")
    arguments = parser.parse_args()
    rows = []
    speeds: dict[str, list[float]] = {}
    undecided: dict[str, int] = {}
    for seed in range(arguments.rounds):
        pairs = draw_pairs(arguments.answers, seed)
        speeds.setdefault("fresh_process", []).append(_speed(fresh_processes, pairs[: arguments.fresh]))
        speeds.setdefault("in_process", []).append(_speed(in_process, pairs))
        for side, answers in (("distinct", pairs), ("rollouts", random.Random(seed).choices(pairs[:40], k=len(pairs)))):
            speed, count = graded(answers, processes=arguments.processes)
            speeds.setdefault(side, []).append(speed)
            undecided[side] = count
    slowest = statistics.median(speeds["fresh_process"])
    for side, found in speeds.items():
        speed = statistics.median(found)
        processes = arguments.processes if side in undecided else 1
        count = arguments.fresh if side == "fresh_process" else arguments.answers
        rows.append([side, processes, count, f"{speed:.2f}", f"{speed / slowest:.1f}", undecided.get(side, "")])
        print("{:14} {} processes, {:>5} answers: {:>9} answers/s, {:>7} x, undecided {}".format(*rows[-1]))
    if arguments.write:
        append(rows)


def draw_pairs(count: int, seed: int) -> list[Pair]:
    """Keys and answers as solutions of school mathematics give them; about half of the answers are right."""
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        a, b, c = draw.randint(2, 99), draw.randint(2, 99), draw.randint(2, 30)
        key, same, other = draw.choice(
            [
                (f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}", f"{b}/{a}"),
                (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{b}}} \\cdot {a}", f"{b}\\sqrt{{{a}}}"),
                (f"({a}, {b})", f"\\left({a},{b}\\right)", f"({b}, {a})"),
                (f"{a}x^2 + {b}x", f"x({a}x+{b})", f"{a}x^2 - {b}x"),
                (f"{a * 1000 + b}", f"{a * 1000 + b:,}", f"{a * 1000 - b:,}"),
                (f"\\frac{{{a}\\pi}}{{{c}}}", f"{a}\\pi/{c}", f"\\frac{{{c}\\pi}}{{{a}}}"),
                (f"{a}", f"{a}\\text{{ cm}}", f"{a + b}\\text{{ cm}}"),
                (f"{a}, -{b}", f"x={a} \\text{{ or }} x=-{b}", f"{a}, {b}"),
            ]
        )
        pairs.append((key, same if draw.random() < 0.5 else other))
    return pairs


def _speed(run: Callable[[list[Pair]], object], pairs: list[Pair]) -> float:
    """Answers per second."""
    began = time.perf_counter()
    run(pairs)
    return len(pairs) / (time.perf_counter() - began)


def fresh_processes(pairs: list[Pair]) -> None:
    for key, answer in pairs:
        subprocess.run([sys.executable, "-c", FRESH, key, answer], check=True, capture_output=True, timeout=60)


def in_process(pairs: list[Pair]) -> None:
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    for key, answer in pairs:
        wanted, given = (parse(f"${text}$", extraction_config=config) for text in (key, answer))
        verify(wanted, given)


def graded(pairs: list[Pair], *, processes: int) -> tuple[float, int]:
    """Answers per second of a grader whose workers are running, and the number of answers that are undecided."""
    items = [(Question(name=key, prompt="", key=MathAnswer(key)), f"So \\boxed{{{answer}}}.") for key, answer in pairs]
    with Grader(processes=processes) as grader:
        grader.grade(
            [(Question(name="", prompt="", key=MathAnswer(f"x+{n}")), f"${n}+x$") for n in range(processes * 4)]
        )
        began = time.perf_counter()
        verdicts = grader.grade(items)
        seconds = time.perf_counter() - began
    return len(items) / seconds, sum(verdict.outcome == "undecided" for verdict in verdicts)


def append(rows: list[list[object]]) -> None:
    stamp = [date.today().isoformat(), short_commit(), len(os.sched_getaffinity(0)), version("math-verify")]
    append_rows(RESULTS, COLUMNS.split(), ([*stamp, *row] for row in rows))


if __name__ == "__main__":
    main()
