"""Evaluate a model: benchmarks by the published protocol of Phi-4's report, or by a corrected one.

MODEL is a checkpoint, run or Hugging Face folder that our engine runs in any layout, or a server's model. The manifest
says which files hold the items of each task, with their hashes; --write-manifest makes one from a folder. Nothing is
downloaded. All answers are kept in a journal: a run that was ended goes on where it was, and one that is repeated asks
nobody. FOLDER then has results.json, TASK.jsonl with every graded response, report.md, and page.html to browse items.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaphi.cli.sampler_option import SAMPLER_HELP, add_sampler_arguments
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.evaluation.plan import EvaluationPlan

HELP = "evaluate a model on benchmarks"
EXAMPLE = """examples:
  megaphi evaluate --list-tasks
  megaphi evaluate --write-manifest benchmarks                       benchmarks/mmlu.parquet, benchmarks/math/test.jsonl
  megaphi evaluate runs/sft --tasks mmlu,gpqa,math --manifest benchmarks/manifest.json --judge downloads/phi-4 \\
      --output results/sft --dry-run
  megaphi evaluate runs/sft --tasks mmlu --manifest benchmarks/manifest.json --output results/sft --tensor 2
  megaphi evaluate runs/pretrain --tasks mmlu_base,arc_challenge_base --manifest benchmarks/manifest.json \\
      --protocol corrected --output results/base
  megaphi evaluate http://127.0.0.1:8000/v1=phi-4 --tasks math --judge http://127.0.0.1:8000/v1=phi-4 \\
      --manifest benchmarks/manifest.json --switch first-answer=off --output results/served
"""
PROTOCOLS = ("phi4-2024-11", "corrected")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=user_path, metavar="MODEL", help=SAMPLER_HELP)
    parser.add_argument("--tasks", default="", metavar="A,B", help="tasks to evaluate on (see --list-tasks)")
    parser.add_argument("--manifest", type=user_path, metavar="FILE", help="files of the tasks, with their hashes")
    parser.add_argument("--output", type=user_path, metavar="FOLDER", help="a new folder for the results")
    parser.add_argument("--list-tasks", action="store_true", help="list tasks, columns and switches, and stop")
    parser.add_argument(
        "--write-manifest", type=user_path, metavar="FOLDER", help="write FOLDER/manifest.json for its files, and stop"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="phi4-2024-11: as simple-evals in November 2024 (default); corrected: every quirk off",
    )
    parser.add_argument(
        "--switch", action="append", default=[], metavar="NAME=on|off", help="turn one quirk on or off, in all tasks"
    )
    parser.add_argument("--judge", default="", type=user_path, metavar="SAMPLER", help=f"grades: {SAMPLER_HELP}")
    parser.add_argument("--limit", type=int, metavar="N", help="items of each task at most, the first ones")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="of an answer, where a task would let it have more (phi4: 2048)"
    )
    parser.add_argument(
        "--lengths", default="8192,16384", metavar="N,N", help="tokens of long contexts (default 8192,16384)"
    )
    parser.add_argument(
        "--wording", type=user_path, metavar="FILE", help="JSON with your prompts: task -> name -> text"
    )
    parser.add_argument(
        "--contamination",
        type=user_path,
        metavar="FILE",
        help="items.jsonl of megaphi decontaminate report --manifest: scores of clean and contaminated items too",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument(
        "--journal", type=user_path, metavar="FILE", help="keeps every answer (default: FOLDER.journal.jsonl)"
    )
    parser.add_argument("--unsafe", action="store_true", help="run programs of the model where nothing isolates them")
    parser.add_argument("--dry-run", action="store_true", help="say what would be asked, and ask nobody")
    add_sampler_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.list_tasks:
        return _list_tasks()
    if arguments.write_manifest:
        from megaphi.evaluation.data_files import make_manifest
        from megaphi.evaluation.tasks import all_tasks

        print(make_manifest(Path(arguments.write_manifest), list(all_tasks())))
        return 0
    for name in ("model", "tasks", *(() if arguments.dry_run else ("output",))):
        if not getattr(arguments, name):
            raise InputError(f"{'MODEL' if name == 'model' else f'--{name}'} is missing: see megaphi evaluate --help")
    from megaphi.cli.evaluation.evaluation_run import dry_run, evaluate

    plan = _plan(arguments)
    return dry_run(plan, arguments) if arguments.dry_run else evaluate(plan, arguments)


def _plan(arguments: argparse.Namespace) -> EvaluationPlan:
    from megaphi.evaluation.plan import make_plan
    from megaphi.files import read_object

    wording = read_object(arguments.wording, what="wording of tasks") if arguments.wording else {}
    return make_plan(
        arguments.tasks.split(","),
        data=Path(arguments.manifest) if arguments.manifest else None,
        protocol=arguments.protocol,
        switches=_switches(arguments.switch),
        wording=wording,
        limit=arguments.limit,
        lengths=_lengths(arguments.lengths),
        max_tokens=arguments.max_tokens,
        has_judge=bool(arguments.judge),
        seed=arguments.seed,
    )


def _switches(given: list[str]) -> Mapping[str, bool]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if value not in ("on", "off"):
            raise InputError(f"--switch {text}: write NAME=on or NAME=off")
        found[name] = value == "on"
    return found


def _lengths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--lengths {text}: write numbers of tokens, as in 8192,16384")
    return tuple(map(int, parts))


def _list_tasks() -> int:
    from megaphi.evaluation.tasks import all_tasks

    for task in all_tasks().values():
        judged: list[Any] = [frozenset(), frozenset(switch.name for switch in task.switches)]
        needs = "" if not any(map(task.judge_requests, judged)) else "; needs --judge"
        print(f"{task.name}: {task.about}{needs}")
        if task.columns:
            print(f"    columns: {', '.join(column.replace('|', ' or ') for column in task.columns)}")
        for switch in task.switches:
            print(f"    switch {switch.name} ({switch.changes}): on, {switch.on}; off, {switch.off}")
    return 0
