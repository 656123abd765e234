"""Train a model: a recipe, changed field by field, on as many processes as the launcher gives.

Alone it trains in this process; with --processes N it starts N ranks on this machine; under torchrun, mpirun or srun
every rank runs the same command. A run that was stopped (Ctrl-C, SIGTERM, a crash) continues from its last checkpoint
when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from megaphi.cli.job_end import ending_together, told_to_all_ranks
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig

HELP = "train a recipe"
EXAMPLE = """examples:
  megaphi train quickstart_pretrain --processes 2
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
    parser.add_argument("--dry-run", action="store_true", help="print the whole configuration and what it needs")
    parser.add_argument("--world-size", type=int, metavar="N", help="with --dry-run: the number of ranks to plan for")
    parser.add_argument("--fields", dest="list_fields", action="store_true", help="list every field with its meaning")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.config import describe, override
    from megaphi.engine.run_config import check
    from megaphi.engine.run_tokenizer import check_tokenizer
    from megaphi.log import set_up_logging
    from megaphi.parallel import launcher
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
        check_tokenizer(checked)
        if checked.evaluation.every:
            from megaphi.evaluation.during_training import plan_of

            plan_of(checked.evaluation)
    if arguments.processes is not None and processes > 1:
        command = [sys.executable, "-m", "megaphi", "train", arguments.recipe, *arguments.fields]
        return launcher.start_processes(command, processes=processes)
    return _train(checked)


def _train(configuration: RunConfig) -> int:
    from megaphi.conversion.open_weights import open_weights
    from megaphi.evaluation.during_training import open_evaluation
    from megaphi.stages.train import train

    def work() -> int:
        train(configuration, open_weights=open_weights, open_evaluation=open_evaluation)
        return 0

    return ending_together(work)
