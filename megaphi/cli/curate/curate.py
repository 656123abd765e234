"""Curate documents: a recipe of steps, run on as many processes as you like, resumed where it was.

A recipe names where documents come from, the steps that they go through, and how they are written. Its folder gets
the finished documents, those that were rejected with their reasons, counts, and a report. A run that was killed goes on
when the same command is given again; a setting that was changed does again only what depends on it.

Several processes on any machines that share the folder may do it together, started by mpirun, by an array of Slurm
jobs, by srun, or by hand with --rank and --world. With --ray one process hands the shards to a Ray cluster whose
machines share the file system: inputs and the folder must have the same paths on all of them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from megaphi.cli.sampler_option import add_server_arguments, server_keys
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.curation.pipeline.models import ModelOpener
    from megaphi.curation.pipeline.plan import CurationPlan
    from megaphi.curation.pipeline.run import CurationSummary, Executor
    from megaphi.curation.recipe import Curation
    from megaphi.parallel.rendezvous.folder_worker import FolderWorker

HELP = "raw documents to training documents, by a recipe"
EXAMPLE = """examples:
  megaphi curate my_steps.py:my_recipe --processes 8
  megaphi curate my_steps.py:my_recipe steps.too_short.minimum_words=50 --output runs/pages --dry-run
  mpirun -n 64 --hostfile hosts --bind-to none python -m megaphi curate my_steps.py:my_recipe --output /shared/pages
  megaphi curate my_steps.py:my_recipe --output /shared/pages --ray auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=user_path, metavar="RECIPE", help="a recipe's name, or file.py:function")
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field, as steps.NAME.FIELD=value")
    parser.add_argument(
        "--output", type=user_path, metavar="FOLDER", help="the folder of the run (default: the recipe's)"
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that runs a recipe: who works, and the models that steps may ask."""
    parser.add_argument("--processes", type=int, metavar="N", help="default: one per processor")
    parser.add_argument("--rank", type=int, metavar="R", help="number of this worker, from 0")
    parser.add_argument("--world", type=int, metavar="N", help="number of workers (default: from the launcher)")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="work on a Ray cluster: HOST:PORT, auto, or local (megaphi[ray])"
    )
    add_server_arguments(parser)
    parser.add_argument("--tokenizer", type=user_path, metavar="PATH", help="for a model that came without one")
    parser.add_argument(
        "--batch", type=int, default=64, metavar="N", help="sequences that a checkpoint answers together (default 64)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print steps, stages, shards, bytes, and the most that models may cost"
    )


def run(arguments: argparse.Namespace) -> int:
    run_recipe(arguments, partial(curation_of, arguments.recipe, tuple(arguments.fields), arguments.output))
    return 0


def run_recipe(arguments: argparse.Namespace, source: Callable[[], Curation]) -> bool:
    """Run the recipe that `source` gives in every process, or say what it would do; returns True if it has finished."""
    from megaphi.curation.pipeline.plan import make_plan
    from megaphi.curation.pipeline.run import curate
    from megaphi.log import set_up_logging
    from megaphi.parallel.rendezvous.folder_worker import detect_worker

    worker = detect_worker(rank=arguments.rank, world=arguments.world)
    set_up_logging(rank=worker.rank, world_size=worker.world)
    if arguments.processes is not None and arguments.processes < 1:
        raise InputError(f"--processes {arguments.processes}: must be at least 1")
    curation = source()
    if arguments.dry_run:
        print(*describe_plan(make_plan(curation)), *model_costs(curation), sep="\n")
        return False
    with _executor(arguments, worker) as executor:
        summary = curate(
            curation, source=source, executor=executor, worker=worker, open_sampler=_model_opener(arguments)
        )
    if not summary.finished:
        print(_unfinished(summary, worker))
    elif worker.rank == 0 or worker.launcher != "MPI":
        from megaphi.curation.report.report import write_report

        write_report(summary.plan)
        print(*describe_summary(summary), sep="\n")
        return True
    return False


def curation_of(recipe: str, fields: tuple[str, ...], output: str | None) -> Curation:
    """The curation that a command line asks for; called once in every process."""
    from dataclasses import replace

    from megaphi.curation.recipe import override_curation
    from megaphi.recipes.curation import load_curation

    curation = override_curation(load_curation(recipe), fields)
    return replace(curation, folder=output) if output else curation


@contextmanager
def _executor(arguments: argparse.Namespace, worker: FolderWorker) -> Iterator[Executor]:
    from megaphi.curation.pipeline.run import local_processes

    if arguments.ray is None:
        yield local_processes(arguments.processes or worker.processes or len(os.sched_getaffinity(0)))
        return
    from megaphi.curation.pipeline.ray_cluster import ray_processes

    if not worker.is_alone:
        raise InputError(f"--ray gives the shards to the cluster by itself: start one process, not {worker.world}")
    with ray_processes(arguments.ray, processes=arguments.processes) as executor:
        yield executor


def _model_opener(arguments: argparse.Namespace) -> ModelOpener:
    from megaphi.curation.pipeline.models import ModelOpener

    if arguments.batch < 1:
        raise InputError(f"--batch {arguments.batch}: must be at least 1")
    return ModelOpener(
        concurrency=arguments.concurrency,
        timeout_seconds=arguments.timeout_seconds,
        api_keys=tuple(server_keys(arguments).items()),
        tokenizer=arguments.tokenizer or "",
        batch=arguments.batch,
    )


def describe_plan(plan: CurationPlan) -> list[str]:
    """Lines about a run before it begins, for a person."""
    from megaphi.curation.pipeline.run import missing_jobs

    shards = plan.stages[0].jobs
    lines = [
        f"{plan.folder}: {plan.input_bytes:,} bytes of input in {plan.portions:,} portions, {len(shards):,} shards"
    ]
    for stage in plan.stages:
        missing = len(missing_jobs(stage))
        steps = ", ".join(plan.names_of(stage.stage)) or "no steps"
        lines.append(f"stage {stage.stage.number + 1}: {steps}: {missing:,} of {len(stage.jobs):,} shards to do")
    for part, meaning in {
        "read": plan.meaning["read"],
        **plan.meaning["steps"],
        "write": plan.meaning["write"],
    }.items():
        settings = ", ".join(f"{name}={value}" for name, value in meaning["settings"].items())
        lines.append(f"  {part}: {meaning['class']}({settings})")
    return lines


def model_costs(curation: Curation) -> list[str]:
    """A line for each step that asks a model: the most that it may cost. Reads the whole input if there are any."""
    from megaphi.curation.document import Document
    from megaphi.curation.requests.dry_run import asks_a_model, costs_of_steps

    if not any(map(asks_a_model, curation.steps)):
        return []
    outcomes = (one for portion in curation.read.portions() for one in curation.read.read(portion))
    costs = costs_of_steps(curation.steps, (one for one in outcomes if isinstance(one, Document)))
    return ["requests to models, at most (a token for every byte):", *(f"  {cost}" for cost in costs)]


def describe_summary(summary: CurationSummary) -> list[str]:
    """Lines about a finished run, for a person: a row for each step, and its reasons."""
    rows = [("step", "in", "out", "kept", "seconds", "MB/s")]
    reasons: dict[int, list[str]] = {}
    for one in summary.counts:
        if one.name == "between_stages" and not one.rejected:
            continue
        share = f"{100 * one.left.documents / one.came.documents:.1f} %" if one.came.documents else ""
        speed = f"{one.came.size / one.seconds / 1e6:.1f}" if one.seconds else ""
        rows.append(
            (one.name, f"{one.came.documents:,}", f"{one.left.documents:,}", share, f"{one.seconds:.1f}", speed)
        )
        by_count = sorted(one.rejected.items(), key=lambda item: (-item[1], item[0]))
        reasons[len(rows) - 1] = [f"    {count:,} {reason}" for reason, count in by_count]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines += ["  ".join(cells).rstrip(), *reasons.get(number, [])]
    done = f"{summary.shards_done_here:,} shards done" if summary.shards_done_here else "up to date"
    lines.append(f"{summary.folder / 'documents'}: finished in {summary.seconds:.1f} s, {done}")
    lines.append(f"{summary.folder / 'report.html'}: samples of what was rejected and kept")
    return lines


def _unfinished(summary: CurationSummary, worker: FolderWorker) -> str:
    """The message of a worker that cannot wait for the others."""
    return (
        f"{summary.folder}: worker {worker.rank} of {worker.world} ({worker.launcher}) has done its share; "
        f"{summary.missing_shards:,} shards of others are missing, and this file system has no locks to wait with: "
        "start this worker again when they have ended"
    )
