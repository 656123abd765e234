"""Train a model: a recipe, changed field by field, on as many processes as the launcher gives.

Alone it trains in this process; with --processes N it starts N ranks on this machine; under torchrun, mpirun or srun
every rank runs the same command. A run that was stopped (Ctrl-C, SIGTERM, a crash) continues from its last checkpoint
when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.cli.job_end import ending_together, told_to_all_ranks
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig

HELP = "train a recipe"
EXAMPLE = """examples:
  megaphi train quickstart_pretrain --processes 2
  megaphi train quickstart_pretrain --processes 2 --restarts 3
  megaphi train quickstart_pretrain training.steps=50 optimizer.learning_rate=1e-3 layout.tensor=1
  megaphi train phi4_14b_pretrain --dry-run --world-size 512
  torchrun --nproc-per-node 8 -m megaphi train phi4_14b_pretrain folder=/shared/runs/phi4
  megaphi train my_recipes.py:my_run
  megaphi train runs/phi4/config.json folder=runs/phi4_again
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=user_path, metavar="RECIPE", help="a recipe's name, file.py:function, or a run's config.json"
    )
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the recipe")
    parser.add_argument("--processes", type=int, metavar="N", help="start N ranks on this machine")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="K",
        help="with --processes: continue a run that ended in error, at most K times in a row without a new checkpoint",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the whole configuration and what it needs")
    parser.add_argument("--world-size", type=int, metavar="N", help="with --dry-run: the number of ranks to plan for")
    parser.add_argument("--fields", dest="list_fields", action="store_true", help="list every field with its meaning")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.config import describe, override
    from megaphi.engine.run_config import check
    from megaphi.engine.run_tokenizer import check_tokenizer
    from megaphi.log import set_up_logging
    from megaphi.parallel.rendezvous.place import ALONE, detect
    from megaphi.recipes import load_recipe

    is_real = not (arguments.list_fields or arguments.dry_run)
    place = detect() if is_real else ALONE
    set_up_logging(rank=place.rank, world_size=place.world_size)
    with told_to_all_ranks() if is_real else nullcontext():
        configuration = override(load_recipe(arguments.recipe), arguments.fields)
    if arguments.list_fields:
        for field in describe(configuration):
            meaning = f"{field.meaning} Takes {field.accepts}.".lstrip()
            print(f"{field.path}={field.value}\n    {meaning}")
        return 0
    if arguments.dry_run:
        from megaphi.cli.dry_run import print_plan

        return print_plan(configuration, world_size=arguments.world_size or arguments.processes)
    if arguments.world_size is not None:
        raise InputError("--world-size is for --dry-run: a real run takes its size from --processes or the launcher")
    if arguments.processes is not None and place.launcher != "single":
        raise InputError(f"--processes was given to a rank that {place.launcher} had started already: leave it out")
    processes = place.world_size if arguments.processes is None else arguments.processes
    if processes < 1:
        raise InputError(f"--processes {processes}: must be at least 1")
    with told_to_all_ranks():
        checked = check(configuration, world_size=processes)
        _check_restarts(arguments, checked)
        check_tokenizer(checked)
        if checked.evaluation.every:
            from megaphi.evaluation.during_training import plan_of

            plan_of(checked.evaluation)
    if arguments.processes is not None and (processes > 1 or arguments.restarts):
        return _start_ranks(arguments, checked)
    return _train(checked)


def _check_restarts(arguments: argparse.Namespace, configuration: RunConfig) -> None:
    if arguments.restarts < 0:
        raise InputError(f"--restarts {arguments.restarts}: must be 0 or more")
    if arguments.restarts and arguments.processes is None:
        raise InputError("--restarts is for --processes; torchrun has --max-restarts, and Slurm requeues a job")
    if arguments.restarts and not configuration.start.resume:
        raise InputError("--restarts with start.resume=false: each restart would begin from scratch; leave one out")


def _start_ranks(arguments: argparse.Namespace, configuration: RunConfig) -> int:
    """Start the ranks of the job on this machine, and restart it as `--restarts` says; returns the exit code."""
    from megaphi.engine.reporting.lost_ranks import note_lost_ranks
    from megaphi.engine.retention import stored_steps
    from megaphi.log import host_name
    from megaphi.parallel.launcher import JobEnd, run_job
    from megaphi.parallel.restarts import COUNT, run_restarting

    command = [sys.executable, "-m", "megaphi", "train", arguments.recipe, *arguments.fields]
    fallback, run_folder = configuration.saving.fallback_folder, Path(configuration.folder)
    folders = [run_folder / "checkpoints", *([Path(fallback)] if fallback else [])]

    def note_killed(rank: int, text: str) -> None:
        note_lost_ranks(run_folder, text, ranks=[rank], hosts=[host_name()], ended=True)

    def start(life: int) -> JobEnd:
        variables = {COUNT: str(life)} if life else {}
        return run_job(command, processes=arguments.processes, variables=variables, on_killed=note_killed)

    def newest_step() -> int:
        return max((step for folder in folders for step in stored_steps(folder)), default=0)

    return run_restarting(start, restarts=arguments.restarts, progress=newest_step)


def _train(configuration: RunConfig) -> int:
    from megaphi.conversion.open_weights import open_weights
    from megaphi.evaluation.during_training import open_evaluation
    from megaphi.stages.train import train

    def work() -> int:
        train(configuration, open_weights=open_weights, open_evaluation=open_evaluation)
        return 0

    return ending_together(work)
