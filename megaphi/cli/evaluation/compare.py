"""Compare evaluations: by how much do they differ, and could it be chance?

FOLDER is what `megaphi evaluate` wrote. The first is the one that the others are compared with, item by item over the
same items: a paired test sees smaller differences than two intervals side by side do. For each task the table says the
scores, the difference with its 95 % interval, the p value, the smallest difference that so many items can show, and
whether it is within noise. With three folders or more, --output adds a plot over their steps or tokens.

Evaluations that asked other questions, or graded them by other rules, are refused, each reason by name; --allow NAME
compares them all the same. Scores of the same task under two protocols differ by the protocol too, not by the model
alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.evaluation.results import Evaluation

HELP = "two or more evaluations: paired differences, intervals, and what is within noise"
EXAMPLE = """examples:
  megaphi compare evaluations/sft evaluations/dpo
  megaphi compare evaluations/sft evaluations/dpo --items 20 --output comparisons/dpo
  megaphi compare evaluations/step_1000 evaluations/step_2000 evaluations/step_3000 --output comparisons/run
  megaphi compare evaluations/published evaluations/corrected --allow protocol --allow switches
  megaphi compare evaluations/sft evaluations/dpo --contamination scans/benchmarks/items.jsonl
"""
NAMES = ("protocol", "judge", "switches", "rules", "wording", "files", "items", "questions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=user_path, metavar="FOLDER", help="evaluations, the baseline first")
    parser.add_argument("--tasks", default="", metavar="A,B", help="compare these tasks only")
    parser.add_argument("--score", default="", metavar="NAME", help="another score than the first of each task")
    parser.add_argument(
        "--allow", action="append", default=[], choices=NAMES, help="compare though these differ (repeatable)"
    )
    parser.add_argument(
        "--items", type=int, default=0, metavar="N", help="name the N items of each task that changed most"
    )
    parser.add_argument(
        "--contamination",
        type=user_path,
        metavar="FILE",
        help="items.jsonl of megaphi decontaminate: score without contaminated items too",
    )
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="FOLDER",
        help="write comparison.md, comparison.json, changed_items.jsonl (and scores.png)",
    )


def run(arguments: argparse.Namespace) -> int:
    from megaphi.evaluation.report.comparison import compare
    from megaphi.evaluation.report.comparison_report import comparison_lines, write_comparison

    if arguments.items < 0:
        raise InputError(f"--items {arguments.items}: give 0 or more")
    evaluations = _read(arguments.folders)
    rows = compare(
        evaluations,
        allowed=arguments.allow,
        tasks=[name.strip() for name in arguments.tasks.split(",") if name.strip()],
        score=arguments.score,
        left_out=_left_out(arguments.contamination, evaluations),
    )
    if arguments.output:
        write_comparison(Path(arguments.output), evaluations, rows, items=arguments.items)
    print(*comparison_lines(evaluations, rows, items=arguments.items), sep="\n")
    return 0


def _read(folders: list[str]) -> dict[str, Evaluation]:
    from megaphi.evaluation.result_files import read_evaluation

    places = [Path(folder).resolve() for folder in folders]
    if len(folders) < 2:
        raise InputError("name at least two evaluations to compare")
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InputError(f"{folders[number]} is given twice: an evaluation equals itself")
    return {folder: read_evaluation(Path(folder)) for folder in folders}


def _left_out(file: str | None, evaluations: dict[str, Evaluation]) -> dict[str, set[str]]:
    if file is None:
        return {}
    from megaphi.evaluation.report.contamination import contaminated_items

    evaluated: dict[str, dict[str, None]] = {}
    for one in evaluations.values():
        for task, result in one.tasks.items():
            evaluated.setdefault(task, {}).update(dict.fromkeys(answer.item for answer in result.responses))
    return contaminated_items(Path(file), evaluated)
